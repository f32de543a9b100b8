"""Runs on disk: where they are, and what a later command takes over from them."""

import atexit
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from spectrnn.config.paths import CONFIG_DIR
from spectrnn.errors import UserError

OUTPUTS = Path("outputs")
MODEL = "model.safetensors"
CHECKPOINT = "last.ckpt"
_MACHINE_LOCAL_KEYS = ("cache", "download")  # of data's keys: a model file says nothing of them
RESUMED = ".hydra/resumed"  # where Hydra describes a run that goes on, until its checkpoint accepts that


def find_model(run: str) -> Path:
    """The model file that ``run=`` names.

    Args:
        run: a run's folder, a model file, or ``latest``.

    Raises:
        UserError: there is none.
    """
    if run == "latest":
        return _newest(MODEL, "run=latest")
    path = Path(run).expanduser()
    if path.is_dir():
        path = path / MODEL
        if not path.is_file():
            raise UserError(f"run={run}: the folder holds no {MODEL}")
    if not path.is_file():
        raise UserError(f"run={run}: no such run folder or model file")
    return path


def find_resumable_run(resume: str) -> Path:
    """The folder that ``resume=`` names: a run's, or ``latest``.

    Raises:
        UserError: there is nothing to go on from.
    """
    if resume == "latest":
        return _newest(CHECKPOINT, "resume=latest").parent
    folder = Path(resume).expanduser()
    # A run that was killed before its first checkpoint begins again, from what Hydra wrote of its command line.
    begun = not (folder / MODEL).exists() and _started(folder) is not None
    if not begun and not (folder / CHECKPOINT).is_file():
        kind = f"the folder holds no {CHECKPOINT}" if folder.is_dir() else "no such run folder"
        raise UserError(f"resume={resume}: {kind}, so there is nothing to go on from")
    return folder


def require_unused_run_dir(overrides: Iterable[str]) -> None:
    """Refuses a folder, named on the command line for a new run or sweep, that holds runs already.

    Hydra would write its files into it before the run itself could look.
    """
    for override in overrides:
        key, _, value = override.partition("=")
        folder = Path(value.strip("'\"")).expanduser()
        pattern = {"hydra.run.dir": "*", "hydra.sweep.dir": "*/*"}.get(key)
        if pattern and any(path.name in (MODEL, CHECKPOINT) for path in folder.glob(pattern)):
            raise UserError(f"{override}: holds a run already; resume=RUN goes on with one, or choose another folder")


def resumed_overrides(resume: str, overrides: Iterable[str]) -> list[str]:
    """The command line of a run that goes on: what started it, then what is new, in the same folder.

    Args:
        resume: as for `find_resumable_run`.
        overrides: of this command line.

    Raises:
        UserError: there is nothing to go on from, or it was started with a class of someone's own.
    """
    folder = find_resumable_run(resume)
    before = _started(folder)
    new = [override for override in overrides if not override.startswith("resume=")]
    kept = [override for override in before or [] if not override.startswith("resume=") and override not in new]
    for override in kept:
        # The folder may come from a stranger, whose command line could name any class, or configure Hydra's.
        if "_target_" in override or override.lstrip("+~").startswith("hydra"):
            raise UserError(f"resume={resume}: was started with {override!r:.200}; if you trust that, type it again")
    # Hydra writes its files before the checkpoint is asked: a refused command must not become the run's own.
    place = [f"hydra.run.dir={quote_override(str(folder))}", f"hydra.output_subdir={RESUMED}"]
    return [*kept, *new, f"resume={quote_override(str(folder))}", *place]


def _started(folder: Path) -> list[str] | None:
    """The overrides that a run was started with, as far as Hydra came to write them."""
    import yaml

    file = folder / ".hydra" / "overrides.yaml"
    return yaml.safe_load(file.read_text()) if file.is_file() else None


def rank_overrides() -> list[str]:
    """Of torchrun's processes the first holds the run's folder; Hydra gives the others one that goes when they end."""
    if os.environ.get("RANK", "0") == "0":
        return []
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    places = [f"hydra.{key}.dir={quote_override(folder)}" for key in ("run", "sweep")]
    return [*places, "hydra.output_subdir=null", "hydra/job_logging=quiet"]


def commit_resumed_config(folder: Path) -> None:
    """The checkpoint took the command line of a run that goes on: it is the run's own now."""
    for file in (folder / RESUMED).glob("*.yaml"):
        file.replace(folder / ".hydra" / file.name)


def evaluation_overrides(run: str, overrides: Iterable[str]) -> list[str]:
    """The command line of an evaluation, with the data of the model's own run where no other is chosen.

    Args:
        run: as for `find_model`.
        overrides: of this command line.

    Raises:
        UserError: there is no model, or no dataset of ours in its header where none is chosen.
    """
    from spectrnn.model.header import read_header

    path, overrides = find_model(run), list(overrides)
    config = read_header(path)["config"]
    try:
        chosen = any(override.startswith("data=") for override in overrides)
        own = [] if chosen else _data_overrides(config.get("data"))
        features = config.get("features")
        rate = features.get("sample_rate") if isinstance(features, dict) else None
        if type(rate) is not int:
            raise UserError(f"its features.sample_rate is {rate!r:.40}, which is no rate in Hz")
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return [*own, *overrides, f"data.sample_rate={rate}"]


def _data_overrides(data: Any) -> list[str]:
    """The dataset that a model file names, as one would type it.

    The file may come from a stranger. So the source is one of the options in configs/data, the keys are that option's,
    the values are plain, and the file says neither where this machine writes nor whether it downloads.
    """
    import yaml

    remedy = "name a dataset, as in data=folder data.root=..."
    nodes = {
        path.stem: yaml.safe_load(path.read_text("utf-8")) for path in sorted((CONFIG_DIR / "data").glob("*.yaml"))
    }
    target = data.get("_target_") if isinstance(data, dict) else None
    option = next((name for name, node in nodes.items() if target and node.get("_target_") == target), None)
    if option is None:
        raise UserError(f"its data is {target!r:.200}, which is no source of spectrnn; {remedy}")
    settings = {name: value for name, value in data.items() if name not in ("_target_", *_MACHINE_LOCAL_KEYS)}
    known = nodes["_common"].keys() | nodes[option].keys()
    for name, value in settings.items():
        if name not in known or not all(map(_is_plain, value if isinstance(value, list) else [value])):
            raise UserError(f"of its data, {name!r:.40} is no key of data={option}, or no plain value; {remedy}")
    return [f"data={option}", *(f"data.{name}={quote_override(value)}" for name, value in settings.items())]


def _is_plain(value: Any) -> bool:
    """Whether Hydra would take it as it is: an interpolation such as ``${oc.env:HOME}`` it would resolve."""
    return "${" not in value if isinstance(value, str) else value is None or isinstance(value, bool | int | float)


def quote_override(value: Any) -> str:
    """A value in the grammar of Hydra's overrides."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{quote_override(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(quote_override, value)) + "]"
    if isinstance(value, str):
        # Backslashes are escapes only in front of a quote, and of the closing one.
        return "'" + re.sub(r"(\\*)('|\Z)", lambda match: 2 * match[1] + match[2].replace("'", "\\'"), value) + "'"
    return json.dumps(value)


def _newest(name: str, key: str) -> Path:
    found = sorted(OUTPUTS.rglob(name), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f"{key}: no run below {OUTPUTS}/ has a {name}; train one, or name a folder")
    return found[-1]
