"""`last.ckpt`: all that resuming needs. It loads with weights_only, and is replaced whole or not at all."""

from pathlib import Path
from typing import Any

import torch

from spectrnn.errors import UserError
from spectrnn.files import atomic_write
from spectrnn.runs import CHECKPOINT

# What may change when a run goes on: how long and where it runs, and where its data lies.
_MUTABLE_KEYS = {
    "trainer.epochs",
    "trainer.device",
    "trainer.log_every_n_steps",
    "trainer.checkpoint_every_minutes",
    "trainer.on_nan",
    "resume",
}
_MUTABLE_KEYS |= {"data.storage", "data.cache", "data.root", "data.path", "trainer.report", "trainer.report_max_mb"}


def save(state: dict[str, Any], config: dict[str, Any], folder: Path) -> None:
    """Writes the checkpoint of a run.

    Args:
        state: of the trainer.
        config: of the run, plain containers.
        folder: of the run.

    Raises:
        UserError: the disk is full or refuses.
    """
    path = folder / CHECKPOINT
    try:
        with atomic_write(path) as temporary:
            torch.save({"state": state, "config": config}, temporary)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path}: the checkpoint cannot be written ({error}); the previous one is untouched") from error


def load(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Reads a checkpoint's trainer state.

    Args:
        folder: of the run.
        config: of the run that goes on; what decides its result must be as it was.

    Raises:
        UserError: a damaged checkpoint, or one of another config.
    """
    path = folder / CHECKPOINT
    try:
        checkpoint = torch.load(path, weights_only=True, map_location="cpu")
        before, state = checkpoint["config"], dict(checkpoint["state"])
    except Exception as error:  # torch raises a dozen kinds for a damaged archive
        raise UserError(f"{path}: cannot be read as a checkpoint ({str(error).splitlines()[0]})") from error
    changed = _differences(before, config)
    if changed:
        raise UserError(f"resume={folder}: the run was started with other settings: {'; '.join(changed)}")
    return state


def _differences(before: Any, now: Any, key: str = "") -> list[str]:
    if key in _MUTABLE_KEYS:
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        names = sorted(before.keys() | now.keys())
        return [
            line for name in names for line in _differences(before.get(name), now.get(name), f"{key}.{name}".strip("."))
        ]
    return [] if before == now else [f"{key} was {before!r} and is {now!r}"]
