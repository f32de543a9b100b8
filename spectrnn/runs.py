"""Run folders: where models, checkpoints and results are stored."""

import json
import logging
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from spectrnn.errors import UserError
from spectrnn.messages import counted

log = logging.getLogger(__name__)

OUTPUTS = Path("outputs")
FOLD = "fold-"  # prefix of the folders of a cross-validation's runs
MODEL = "model.safetensors"
CHECKPOINT = "last.ckpt"
METRICS = "metrics.json"  # the last file that a training writes: a run that has it is finished
SWEEP = "multirun.yaml"  # Hydra's description of a sweep
CONFIG = "config.yaml"
ERROR = "error.txt"  # why a job of a sweep failed; a new attempt removes it
UNREADABLE = "unreadable.txt"  # the files that stopped a run; the next attempt removes it
LOCK = ".hydra/lock"  # held by the process that uses a run folder
RESUMED = ".hydra/resumed"  # where Hydra describes a resumed run, until its checkpoint has accepted the new config

# Keys of data that change neither the clips of a dataset nor its splits, besides damaged files.
_CORPUS_INDEPENDENT_KEYS = {
    *("cache", "cache_gb", "storage", "download", "max_seconds", "sample_rate", "sampling", "sampling_power"),
    *("on_error", "license", "description"),
}


class RunSummary(NamedTuple):
    """A run, or a cross-validation of several.

    Attributes:
        folder: Folder of the run.
        overrides: Values that were set on the command line, by key, as text.
        error: Why it failed; "" if it did not.
        is_finished: Whether it has finished.
        metric: Name of the metric that selects the best run.
        higher_is_better: Whether a higher value is better.
        split: Where the metric was measured: ``pooled`` over the folds, ``val``, or ``test`` without validation clips.
        value: Value of the metric; None if there is none, or if it is not finite.
        interval: 95 % confidence interval [low, high]; None if there is none.
        seconds: Training time in s; None if unknown.
    """

    folder: Path
    overrides: dict[str, str]
    error: str = ""
    is_finished: bool = False
    metric: str = ""
    higher_is_better: bool = True
    split: str = ""
    value: float | None = None
    interval: list[float] | None = None
    seconds: float | None = None

    @property
    def rank(self) -> float:
        """Sort key, of which the lowest is the best."""
        return math.inf if self.value is None else -self.value if self.higher_is_better else self.value

    @property
    def status(self) -> str:
        """One word for a table."""
        return "finished" if self.is_finished else "failed" if self.error else "unfinished"


def read_run(folder: Path, metric: str | None = None, split: str | None = None) -> RunSummary:
    """Reads the summary of a run or cross-validation.

    Args:
        folder: Folder of the run.
        metric: Name of a metric; None for the one that selects the best run.
        split: ``val`` or ``test``, which includes ``pooled``; None for the first of ``pooled``, ``val`` and ``test``.

    Raises:
        UserError: A damaged file.
    """
    path = folder / METRICS
    try:
        given = original_overrides(folder) or []
        overrides = dict(override.partition("=")[::2] for override in map(str, given))
        overrides.pop("resume", None)
        error = (folder / ERROR).read_text(encoding="utf-8").strip() if (folder / ERROR).exists() else ""
        if not path.is_file():
            return RunSummary(folder, overrides, error)
        metrics = json.loads(path.read_text(encoding="utf-8"))
        name = metric or metrics.get("metric", "accuracy")
        splits = ("pooled", "test") if split == "test" else (split,) if split else ("pooled", "val", "test")
        found = next((key for key in splits if name in metrics.get(key, {})), "")
        value = metrics.get(found, {}).get(name)
        return RunSummary(
            folder,
            overrides,
            "",
            True,
            name,
            metrics.get("higher_is_better", True),
            found,
            None if value is None or not math.isfinite(value) else float(value),
            metrics.get("intervals_95", {}).get(found, {}).get(name),
            metrics.get("train", {}).get("seconds"),
        )
    except (ValueError, AttributeError, TypeError, OSError, yaml.YAMLError) as problem:
        raise UserError(f"{path}: cannot be read as the metrics of a run ({problem!r:.200})") from problem


def read_config(folder: Path) -> dict[str, Any]:
    """Reads the resolved config of a run, or of the first fold of a cross-validation; empty if it has none yet.

    Raises:
        UserError: A damaged file.
    """
    path = next((path for path in [folder / CONFIG, *sorted(folder.glob(f"{FOLD}*/{CONFIG}"))] if path.is_file()), None)
    if path is None:
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as the config of a run ({error!r:.200})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: is not the config of a run")
    return content


def with_run_paths(data: Any, run: Path) -> Any:
    """Returns a config node ``data`` with paths that lead from the working directory to where they led in a run.

    Relative paths are stored as they were given, and Hydra stores the folder that the run was started in. A path is
    left as it is if that folder is unknown, or no longer contains it, as after a run was moved to another machine.

    Args:
        data: Config node ``data`` of the run, which is not trusted; what is not a mapping is returned.
        run: Folder of the run.
    """
    if not isinstance(data, dict):
        return data
    resolved = dict(data)
    start = _start_folder(run)
    for key in ("root", "path"):
        value = data.get(key)
        if start is not None and isinstance(value, str) and not os.path.isabs(os.path.expanduser(value)):
            moved = os.path.join(start, value)
            if os.path.exists(moved) and os.path.abspath(value) != os.path.abspath(moved):
                resolved[key] = os.path.normpath(moved)
    return resolved


def _start_folder(run: Path) -> str | None:
    """The working directory of the command that has started a run, fold, trial or sweep; None if it is unknown."""
    run = run.absolute()
    folders = (run, run.parent, run.parent.parent)
    for file in [folder / name for folder in folders for name in (".hydra/hydra.yaml", SWEEP)]:
        with suppress(OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
            return str(content["hydra"]["runtime"]["cwd"])
    return None


def find_runs(folder: Path) -> list[Path]:
    """Returns the folders of all runs and cross-validations in a folder, itself included, without the folds' own."""
    if any((folder / name).exists() for name in (METRICS, CHECKPOINT, ERROR, ".hydra")):
        return [folder]
    children = [path for path in folder.glob("*") if path.is_dir() and not path.name.startswith(".")]
    return [run for child in sorted(children, key=_natural_order) for run in find_runs(child)]


def find_model(run: str) -> Path:
    """Returns the model file that ``run=`` names.

    Args:
        run: Run folder; model file; ``latest``, the newest model in outputs/; ``best``, the best finished run in
            outputs/ with the dataset of the latest; or a folder of runs, such as a sweep, for the best of them.

    Raises:
        UserError: No such model file.
    """
    if run == "latest":
        return _newest(MODEL, "run=latest")
    if run == "best":
        return _best_run(OUTPUTS, run, is_one_corpus=True) / MODEL
    path = Path(run).expanduser()
    if path.is_dir():
        path = path / MODEL if (path / MODEL).is_file() else _best_run(path, run, is_one_corpus=False) / MODEL
    if not path.is_file():
        raise UserError(f"run={run}: no such run folder or model file")
    return path


def find_resumable_run(resume: str) -> Path:
    """Returns the folder that ``resume=`` names.

    Args:
        resume: Folder of a run, cross-validation or sweep; or ``latest``, with which a run that belongs to a
            cross-validation or sweep is resumed as a part of it.

    Raises:
        UserError: No such folder, or one that contains nothing to resume.
    """
    if resume == "latest":
        folder = _newest(CHECKPOINT, "resume=latest").parent
        if is_cross_validation(folder.parent):
            folder = folder.parent
        return folder.parent if (folder.parent / SWEEP).exists() else folder
    folder = Path(resume).expanduser()
    if (folder / SWEEP).is_file() or is_cross_validation(folder):
        return folder
    # A run that was killed before its first checkpoint starts again with the overrides that Hydra has written.
    is_restartable = not (folder / MODEL).exists() and original_overrides(folder) is not None
    if not is_restartable and not (folder / CHECKPOINT).is_file():
        problem = f"the folder contains no {CHECKPOINT}" if folder.is_dir() else "no such run folder"
        raise UserError(f"resume={resume}: {problem}")
    return folder


def is_cross_validation(folder: Path) -> bool:
    """Whether a folder contains the runs of a cross-validation."""
    return any(folder.glob(f"{FOLD}*"))


def original_overrides(folder: Path) -> Any:
    """Returns the list of overrides that a run was started with; None if Hydra has not written it."""
    for file in (folder / ".hydra" / "overrides.yaml", folder / RESUMED / "overrides.yaml"):
        if file.is_file():
            return yaml.safe_load(file.read_text(encoding="utf-8"))
    return None


def sweep_overrides(folder: Path) -> tuple[list[str], list[str]]:
    """Returns the overrides that a sweep was started with: those of the task, and those of Hydra.

    Raises:
        UserError: A damaged file.
    """
    try:
        overrides = yaml.safe_load((folder / SWEEP).read_text(encoding="utf-8"))["hydra"]["overrides"]
        return list(map(str, overrides["task"])), list(map(str, overrides["hydra"]))
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{folder / SWEEP}: cannot be read as the description of a sweep ({error!r:.200})") from error


def commit_resumed_config(folder: Path) -> None:
    """Makes the config of a resumed run that of the run, after its checkpoint has accepted it."""
    for file in (folder / RESUMED).glob("*.yaml"):
        file.replace(folder / ".hydra" / file.name)


def _newest(name: str, key: str) -> Path:
    found = sorted(OUTPUTS.rglob(name), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f"{key}: no run in {OUTPUTS}/ contains a {name}; train one, or name a folder")
    return found[-1]


def _natural_order(path: Path) -> tuple[int, int | str]:
    return (0, int(path.name)) if path.name.isdigit() else (1, path.name)


def _best_run(folder: Path, run: str, is_one_corpus: bool) -> Path:
    """The best of the finished runs in a folder that were selected by the metric, and have the corpus, of the latest.

    Values of different metrics, or on different clips, cannot be compared.
    """
    finished = [path for path in find_runs(folder) if (path / MODEL).is_file() and (path / METRICS).is_file()]
    runs = [summary for summary in map(read_run, finished) if summary.rank < math.inf]
    if not runs and run == "best":
        raise UserError(f"run=best: no finished run in {folder}/ contains a {MODEL}; train one, or name a folder")
    if not runs:
        fold = next(folder.glob(f"{FOLD}*/{MODEL}"), None)
        remedy = f"; it is a cross-validation, so name a fold, as in run={fold.parent}" if fold else ""
        raise UserError(f"run={run}: the folder contains no {MODEL}, and no finished run that has one{remedy}")
    latest = max(runs, key=lambda summary: (summary.folder / METRICS).stat().st_mtime)
    corpus = _corpus(latest.folder)
    compared = [
        summary
        for summary in runs
        if (summary.metric, summary.split) == (latest.metric, latest.split)
        and (not is_one_corpus or _corpus(summary.folder) == corpus)
    ]
    best = min(compared, key=lambda summary: summary.rank)
    others = (
        f"; {counted(len(runs) - len(compared), 'other is', 'others are')} not comparable"
        if len(compared) < len(runs)
        else ""
    )
    measured = f"{best.split} {best.metric} {best.value:.4f}"
    log.info("run=%s is %s: %s, the best of %s%s", run, best.folder, measured, counted(len(compared), "run"), others)
    return best.folder


def _corpus(folder: Path) -> dict[str, Any]:
    """The config of the dataset of a run, as far as it determines its clips and splits."""
    data = read_config(folder).get("data") or {}
    return {key: value for key, value in data.items() if key not in _CORPUS_INDEPENDENT_KEYS}
