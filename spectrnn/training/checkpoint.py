"""Checkpoints: `last.ckpt` holds everything that resuming needs. Loads with weights_only; written atomically."""

from pathlib import Path
from typing import Any

import torch

from spectrnn.errors import StorageError, UserError
from spectrnn.files import atomic_write
from spectrnn.runs import CHECKPOINT

# Keys that may change when a run is resumed: its length, where it runs and logs, and where its data is stored.
_MUTABLE_KEYS = {
    "resume",
    "final",
    "logger",
    *(f"data.{name}" for name in ("storage", "cache", "cache_gb", "root", "path", "license", "description")),
    "features.path",
    "features.cache_gb",
    "augment.background_noise.path",
    "augment.rir.path",
    *(f"trainer.{name}" for name in ("epochs", "steps", "device", "on_nan", "log_every_n_steps")),
    *(f"trainer.{name}" for name in ("checkpoint_every_minutes", "report", "report_max_mb")),
}


def save(state: dict[str, Any], config: dict[str, Any], folder: Path) -> None:
    """Writes the checkpoint of a run: the state of its trainer and its resolved config, plain containers.

    Raises:
        StorageError: A checkpoint that cannot be written, such as to a full disk.
    """
    path = folder / CHECKPOINT
    try:
        with atomic_write(path) as temporary:
            torch.save({"state": state, "config": config}, temporary)
    except (OSError, RuntimeError) as error:
        raise StorageError(
            f"{path}: the checkpoint cannot be written ({error}); the previous one is unchanged"
        ) from error


def load(folder: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """Reads the trainer state of a checkpoint; None if the run has no checkpoint yet.

    Args:
        folder: Folder of the run.
        config: Resolved config of the resumed run; keys that determine its result must be unchanged.

    Raises:
        UserError: A damaged checkpoint, or one of another config.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        checkpoint = torch.load(path, weights_only=True, map_location="cpu")
        before, state = checkpoint["config"], dict(checkpoint["state"])
    except Exception as error:  # torch raises a dozen types for a damaged archive
        raise UserError(f"{path}: cannot be read as a checkpoint ({str(error).splitlines()[0]})") from error
    require_same_config(folder, before, config)
    return state


def require_same_config(folder: Path, before: dict[str, Any], config: dict[str, Any]) -> None:
    """Rejects a config that differs from the one that a run was started with in a key that determines its result.

    Raises:
        UserError: The keys that differ, with both values.
    """
    if changed := _differences(before, config):
        raise UserError(f"resume={folder}: the run was started with other settings: {'; '.join(changed)}")


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Reads the metrics of the finished epochs of a run: ``epoch``, ``train`` and ``val`` of each.

    Raises:
        UserError: A missing or damaged checkpoint.
    """
    path = folder / CHECKPOINT
    try:
        history = torch.load(path, weights_only=True, map_location="cpu", mmap=True)["state"]["progress"]["history"]
        return [
            {"epoch": int(row["epoch"]), "train": dict(row["train"]), "val": dict(row["val"] or {})} for row in history
        ]
    except Exception as error:  # torch raises a dozen types for a damaged archive
        raise UserError(f"{path}: cannot be read as a checkpoint ({str(error).splitlines()[0]})") from error


def _differences(before: Any, now: Any, key: str = "") -> list[str]:
    if key in _MUTABLE_KEYS or before == now:
        return []
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [f"{key} was {before!r} and is {now!r}"]
    names = sorted(before.keys() | now.keys())
    return [
        change for name in names for change in _differences(before.get(name), now.get(name), f"{key}.{name}".strip("."))
    ]
