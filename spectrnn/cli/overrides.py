"""Overrides that a command line implies: those of a resumed run, and of a model's dataset."""

import atexit
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from spectrnn.config.compose import load_yaml, quote_override
from spectrnn.config.paths import CONFIG_DIR
from spectrnn.errors import UserError
from spectrnn.runs import (
    CHECKPOINT,
    MODEL,
    RESUMED,
    SWEEP,
    find_model,
    find_resumable_run,
    is_cross_validation,
    original_overrides,
    sweep_overrides,
    with_run_paths,
)

# Not in train.yaml, which tune.yaml includes: Hydra allows the first only in the config of the command itself, and the
# second would create both folders, as OmegaConf resolves a value before it is replaced.
_RUN_LOGGING = "hydra/job_logging=run"
_TUNE_DIR = "hydra.run.dir='${new_folder:outputs/tune/${now:%Y-%m-%d}/${now:%H-%M-%S}}'"
_MACHINE_LOCAL_KEYS = ("cache", "download")  # keys of data that a model file must not set


def value_of(key: str, overrides: Iterable[str], default: Any) -> Any:
    """Returns the value that the last override of a key sets, or a default."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    given = [override for override in overrides if override.partition("=")[0].lstrip("+") == key]
    return OverridesParser.create().parse_override(given[-1]).value() if given else default


def tune_overrides(overrides: Sequence[str]) -> list[str]:
    """Returns the overrides of a search.

    Raises:
        UserError: A folder that contains a run, before Hydra writes its files there, and overrides for `train` only.
    """
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if key == "hydra.run.dir" and (Path(value.strip("'\"")).expanduser() / CHECKPOINT).exists():
            raise UserError(f"{override}: contains a run already; choose another folder")
        if key == "resume":
            raise UserError(f"{override}: the same command, with the search's hydra.run.dir, continues it")
        if key in ("sweep", "folds", "final"):
            raise UserError(f"{override}: tune has no {key}; only train has")
    return [_RUN_LOGGING, _TUNE_DIR, *overrides]


def train_arguments(flags: list[str], overrides: list[str], runs: bool) -> tuple[list[str], list[str]]:
    """Returns flags and overrides of a training: those given, those of what it resumes, and those of its rank.

    Args:
        flags: Flags of this command line.
        overrides: Overrides of this command line.
        runs: Whether the command runs, and does not only print its config.

    Raises:
        UserError: Nothing to resume, overrides that are not trusted, or a folder that contains another run.
    """
    resume = value_of("resume", overrides, None)
    is_sweep = "--multirun" in flags
    if resume:
        folder = find_resumable_run(str(resume))
        if (folder / SWEEP).is_file():
            flags = flags if is_sweep else [*flags, "--multirun"]
        overrides = resumed_overrides(str(resume), folder, overrides)
    elif runs and _continues_folder(overrides, is_sweep):
        overrides = [*overrides, f"hydra.output_subdir={RESUMED}"]
    if os.environ.get("RANK", "0") == "0":
        return flags, [_RUN_LOGGING, *overrides]
    # Of torchrun's processes only the first uses the run folder; the others get a temporary one.
    temporary = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    places = [f"hydra.{key}.dir={quote_override(temporary)}" for key in ("run", "sweep")]
    return flags, [*overrides, *places, "hydra.output_subdir=null", "hydra/job_logging=quiet"]


def _continues_folder(overrides: Iterable[str], is_sweep: bool) -> bool:
    """Whether the folder that a command names contains a sweep or cross-validation, which the command continues.

    Raises:
        UserError: A folder with a single run: Hydra's files must not overwrite its own.
    """
    key = "hydra.sweep.dir" if is_sweep else "hydra.run.dir"
    folder = Path(str(value_of(key, overrides, "") or "")).expanduser()
    if folder == Path():
        return False
    has_folds = is_cross_validation(folder)
    if not has_folds and any((folder / name).exists() for name in (MODEL, CHECKPOINT)):
        raise UserError(f"{key}={folder}: contains a run already; resume=RUN continues it, or choose another folder")
    if has_folds and (is_sweep or not value_of("folds", overrides, None)):
        raise UserError(
            f"{key}={folder}: contains a cross-validation; resume=RUN continues it, or choose another folder"
        )
    return has_folds or (folder / SWEEP).exists()


def resumed_overrides(resume: str, folder: Path, overrides: Iterable[str]) -> list[str]:
    """Returns the overrides of what is resumed: those that it was started with, then the new ones, in the same folder.

    Args:
        resume: Value of ``resume=``.
        folder: Folder of a run, cross-validation or sweep, as `find_resumable_run` returns it.
        overrides: Overrides of this command line.

    Raises:
        UserError: Overrides that are not trusted.
    """
    is_sweep = (folder / SWEEP).is_file()
    before, launcher = sweep_overrides(folder) if is_sweep else (original_overrides(folder) or [], [])
    own = re.compile(r"hydra\.(mode|sweep\.dir|output_subdir)=|hydra/job_logging=run$")
    before += [override for override in launcher if not own.match(override)]
    new = [override for override in overrides if not override.startswith("resume=")]
    kept = [o for o in before if not o.startswith("resume=") and o not in new]
    for override in kept:
        # The folder may not be the user's own, and such an override could import any class or configure Hydra.
        is_launcher = re.fullmatch(
            r"hydra/launcher=\w+|hydra\.(launcher\.[a-z]\w*|sweeper\.max_batch_size)=[\w-]+", override
        )
        if "_target_" in override or (override.lstrip("+~").startswith("hydra") and not is_launcher):
            raise UserError(
                f"resume={resume}: the run was started with {override!r:.200}; if you trust that, repeat it"
            )
    # Hydra writes its files before the checkpoint is read: a rejected command must not change the run's own.
    place = [f"hydra.{'sweep' if is_sweep else 'run'}.dir={quote_override(str(folder))}"]
    continued = [] if is_sweep else [f"resume={quote_override(str(folder))}"]  # the jobs of a sweep continue anyway
    kept = [_with_run_path(override, folder) for override in kept]
    return [*kept, *new, *continued, *place, f"hydra.output_subdir={RESUMED}"]


def _with_run_path(override: str, run: Path) -> str:
    """Returns an override of a run's data whose path leads to where it led from the folder the run was started in."""
    keys = r"data\.(?:rehearsal\.)*(?:root|path)|augment\.(?:background_noise|rir)\.path"
    if not re.fullmatch(rf"\+*(?:{keys})=.*", override, re.DOTALL):
        return override
    key = override.partition("=")[0]
    name = key.rpartition(".")[2]
    value = value_of(key.lstrip("+"), [override], None)
    moved = with_run_paths({name: value}, run)[name]
    return override if moved == value else f"{key}={quote_override(moved)}"


def evaluation_overrides(overrides: Sequence[str]) -> list[str]:
    """Returns the overrides of a command that needs a dataset: that of the model's run, unless another one is given.

    Args:
        overrides: Overrides of this command line.

    Raises:
        UserError: No model, or a dataset in its header that is neither built in nor from a trusted package.
    """
    from spectrnn.model.header import read_header

    path = find_model(str(value_of("run", overrides, "latest")))
    trust = value_of("trust", overrides, [])
    trust = trust if isinstance(trust, list) else []
    config = read_header(path)["config"]
    try:
        is_given = any(override.startswith("data=") for override in overrides)
        own = [] if is_given else data_overrides(config.get("data"), path.parent, trust)
        features = config.get("features")
        rate = features.get("sample_rate") if isinstance(features, dict) else None
        if type(rate) is not int:
            raise UserError(f"its features.sample_rate is {rate!r:.40}, not a sample rate in Hz")
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return [*own, *overrides, f"data.sample_rate={rate}"]


def data_overrides(data: Any, run: Path, trust: Sequence[str], package: str = "data") -> list[str]:
    """Returns the overrides for the dataset that a model file in a run folder names.

    Files are not trusted. The source must be an option in configs/data, with its keys only, or a class of a trusted
    package; values must be plain; and the file sets neither where this machine writes nor whether it downloads.

    Args:
        data: Config node ``data`` of the model file.
        run: Folder of the model file.
        trust: Packages whose classes are trusted.
        package: Key that the overrides set, such as ``data.rehearsal``.

    Raises:
        UserError: A source that is not trusted, or values that are not plain.
    """
    remedy = "name a dataset, as in data=folder data.root=..."
    nodes = {path.stem: load_yaml(path) for path in (CONFIG_DIR / "data").glob("*.yaml")}
    data = with_run_paths(data if isinstance(data, dict) else {}, run)
    target = data.get("_target_")
    option = next((name for name, node in nodes.items() if target and node.get("_target_") == target), None)
    module, _, name = str(target).partition(".")
    if option is None and module not in trust:
        is_foreign = isinstance(target, str) and name and module != "spectrnn" and package == "data"
        offer = f"if you trust this file and that package, add trust=[{module:.100}]; or " if is_foreign else ""
        raise UserError(f"its data is {target!r:.200}, which is not a built-in source; {offer}{remedy}")
    settings = {name: value for name, value in data.items() if name not in ("_target_", *_MACHINE_LOCAL_KEYS)}
    rehearsal = settings.get("rehearsal") and settings.pop("rehearsal")
    known = settings.keys() if option is None else nodes["_common"].keys() | nodes[option].keys()
    for name, value in settings.items():
        items = value if isinstance(value, list) else [value]
        if name in ("columns", "labels") and isinstance(value, dict):
            items = [*value, *value.values()]
        if name not in known or not name.isidentifier() or not all(map(is_plain, items)):
            raise UserError(f"its {package}.{name:.40} is not a key of its source, or not a plain value; {remedy}")
    # A mapping as text, in which any label may be a key.
    texts = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in settings.items()}
    values = {name: quote_override(value) for name, value in texts.items()}
    if option is not None:
        values |= {"download": "false"} if "download" in nodes[option] else {}
        choice = f"data={option}" if package == "data" else f"+data@{package}={option}"
        others = data_overrides(rehearsal, run, trust, f"{package}.rehearsal") if rehearsal else []
        return [choice, *(f"{package}.{name}={value}" for name, value in values.items()), *others]
    local = {"cache": nodes["_common"]["cache"], "download": "false"}
    values |= {"_target_": quote_override(target)} | {name: value for name, value in local.items() if name in data}
    return [f"+{package}.{name}={value}" for name, value in values.items()]


def is_plain(value: Any) -> bool:
    """Whether Hydra leaves a value as it is; it would resolve an interpolation such as ``${oc.env:HOME}``."""
    return "${" not in value if isinstance(value, str) else value is None or isinstance(value, bool | int | float)
