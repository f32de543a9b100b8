"""Run folders: where models and checkpoints are stored."""

from pathlib import Path
from typing import Any

import yaml

from spectrnn.errors import UserError

OUTPUTS = Path("outputs")
FOLD = "fold-"  # prefix of the folders of a cross-validation's runs
MODEL = "model.safetensors"
CHECKPOINT = "last.ckpt"
METRICS = "metrics.json"  # the last file that a training writes: a run that has it is finished
SWEEP = "multirun.yaml"  # Hydra's description of a sweep
RESUMED = ".hydra/resumed"  # where Hydra describes a resumed run, until its checkpoint has accepted the new config


def find_model(run: str) -> Path:
    """Returns the model file that ``run=`` names.

    Args:
        run: Run folder, model file, or ``latest``.

    Raises:
        UserError: No such model file.
    """
    if run == "latest":
        return _newest(MODEL, "run=latest")
    path = Path(run).expanduser()
    if path.is_dir():
        path = path / MODEL
        if not path.is_file():
            raise UserError(f"run={run}: the folder contains no {MODEL}")
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
            return yaml.safe_load(file.read_text())
    return None


def sweep_overrides(folder: Path) -> tuple[list[str], list[str]]:
    """Returns the overrides that a sweep was started with: those of the task, and those of Hydra.

    Raises:
        UserError: A damaged file.
    """
    try:
        overrides = yaml.safe_load((folder / SWEEP).read_text())["hydra"]["overrides"]
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
