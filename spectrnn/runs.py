"""Runs on disk: where they are, and what a later command takes over from them."""

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from spectrnn.errors import UserError

OUTPUTS = Path("outputs")
MODEL = "model.safetensors"
CHECKPOINT = "last.ckpt"
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


def find_unfinished(resume: str) -> Path:
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


def refuse_occupied(overrides: Iterable[str]) -> None:
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
        resume: as for `find_unfinished`.
        overrides: of this command line.
    """
    folder = find_unfinished(resume)
    kept = [override for override in _started(folder) or [] if not override.startswith("resume=")]
    new = [override for override in overrides if not override.startswith("resume=")]
    # Hydra writes its files before the checkpoint is asked: a refused command must not become the run's own.
    place = [f"hydra.run.dir={quoted(str(folder))}", f"hydra.output_subdir={RESUMED}"]
    return [*kept, *new, f"resume={quoted(str(folder))}", *place]


def _started(folder: Path) -> list[str] | None:
    """The overrides that a run was started with, as far as Hydra came to write them."""
    import yaml

    file = folder / ".hydra" / "overrides.yaml"
    return yaml.safe_load(file.read_text()) if file.is_file() else None


def overrides_of_process() -> list[str]:
    """Of torchrun's processes the first holds the run's folder; Hydra gives the others one that goes when they end."""
    if os.environ.get("RANK", "0") == "0":
        return []
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    places = [f"hydra.{key}.dir={quoted(folder)}" for key in ("run", "sweep")]
    return [*places, "hydra.output_subdir=null", "hydra/job_logging=quiet"]


def accept_resumed(folder: Path) -> None:
    """The checkpoint took the command line of a run that goes on: it is the run's own now."""
    for file in (folder / RESUMED).glob("*.yaml"):
        file.replace(folder / ".hydra" / file.name)


def evaluation_overrides(run: str, overrides: Iterable[str]) -> list[str]:
    """The command line of an evaluation, with the data of the model's own run where no other is chosen.

    Args:
        run: as for `find_model`.
        overrides: of this command line.
    """
    from spectrnn.model.header import read_header

    overrides = list(overrides)
    data = read_header(find_model(run))["config"]["data"]
    own = [] if any(override.startswith("data=") for override in overrides) else [f"+data={quoted(data)}"]
    return [*own, *overrides, f"data.sample_rate={data['sample_rate']}"]


def quoted(value: Any) -> str:
    """A value in the grammar of Hydra's overrides."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{quoted(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(quoted, value)) + "]"
    if isinstance(value, str):
        # A backslash is an escape only before a quote, or at the end of a run of them there.
        return "'" + value.replace("\\'", "\\\\'").replace("'", "\\'") + "'"
    return json.dumps(value)


def _newest(name: str, key: str) -> Path:
    found = sorted(OUTPUTS.rglob(name), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f"{key}: no run below {OUTPUTS}/ has a {name}; train one, or name a folder")
    return found[-1]
