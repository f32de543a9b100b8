"""The results of run folders, read from their files: what a table of runs shows."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from spectrnn.errors import UserError
from spectrnn.evaluation.report.text import format_table
from spectrnn.files import atomic_write
from spectrnn.runs import CHECKPOINT, METRICS, original_overrides

ERROR = "error.txt"  # why a job of a sweep failed; a new attempt removes it


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
        value: Value of the metric; None if there is none.
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


def read_run(folder: Path) -> RunSummary:
    """Reads the summary of a run or cross-validation.

    Raises:
        UserError: A damaged file.
    """
    path = folder / METRICS
    try:
        given = original_overrides(folder) or []
        overrides = dict(override.partition("=")[::2] for override in map(str, given))
        error = (folder / ERROR).read_text(encoding="utf-8").strip() if (folder / ERROR).exists() else ""
        if not path.is_file():
            return RunSummary(folder, overrides, error)
        metrics = json.loads(path.read_text(encoding="utf-8"))
        metric = metrics.get("metric", "accuracy")
        split = next((name for name in ("pooled", "val", "test") if metric in metrics.get(name, {})), "")
        return RunSummary(
            folder,
            overrides,
            "",
            True,
            metric,
            metrics.get("higher_is_better", True),
            split,
            metrics.get(split, {}).get(metric),
            metrics.get("intervals_95", {}).get(split, {}).get(metric),
            metrics.get("train", {}).get("seconds"),
        )
    except (ValueError, AttributeError, TypeError, OSError, yaml.YAMLError) as problem:
        raise UserError(f"{path}: cannot be read as the metrics of a run ({problem!r:.200})") from problem


def find_runs(folder: Path) -> list[Path]:
    """Returns the folders of all runs and cross-validations in a folder, itself included, without the folds' own."""
    if any((folder / name).exists() for name in (METRICS, CHECKPOINT, ERROR, ".hydra")):
        return [folder]
    children = sorted((path for path in folder.iterdir() if path.is_dir()), key=_natural_order)
    return [run for child in children for run in find_runs(child)]


def differing_overrides(runs: Sequence[RunSummary]) -> list[str]:
    """Returns the keys whose values differ between runs, in the order in which they were given."""
    keys = dict.fromkeys(key for run in runs for key in run.overrides)
    return [key for key in keys if len({run.overrides.get(key) for run in runs}) > 1]


def format_runs(runs: Sequence[RunSummary]) -> str:
    """Formats a table of runs, best first: overrides that differ, metric with 95 % interval, time and folder.

    An override that a run does not have is shown as ``-``: it has the default.
    """
    keys = differing_overrides(runs)
    rows = []
    for run in sorted(runs, key=lambda run: run.rank):
        result = [run.status, "", ""]
        if run.value is not None:
            low_high = "{:.4f} to {:.4f}".format(*run.interval) if run.interval else ""
            result = [f"{run.value:.4f}", low_high, "" if run.seconds is None else format_seconds(run.seconds)]
        rows.append([*(run.overrides.get(key, "-") for key in keys), *result, str(run.folder)])
    best = min(runs, key=lambda run: run.rank)
    metric = f"{best.split} {best.metric}" if best.metric else "status"
    head = [*keys, metric, "95 % CI", "time", "folder"]
    # Text first: the first column of a table is aligned to the left.
    return format_table(head, rows)


def format_seconds(seconds: float) -> str:
    """Formats a duration: ``45 s``, ``3 min 5 s`` or ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def write_error(folder: Path, reason: str) -> None:
    """Records why a job failed."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / ERROR) as temporary:
        temporary.write_text(reason + "\n", encoding="utf-8", errors="replace")


def _natural_order(path: Path) -> tuple[int, int | str]:
    return (0, int(path.name)) if path.name.isdigit() else (1, path.name)
