"""The training of a model for the report: learning curves and versions."""

import json
import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from spectrnn.runs import METRICS
from spectrnn.version import __version__


class Training(NamedTuple):
    """The training of a model.

    Attributes:
        history: Metrics of the epochs: ``epoch``, ``train`` and ``val`` of each.
        metric: Name of the metric that selects the best epoch.
        best_epoch: Epoch whose model was kept; None if unknown.
        versions: Version of each package that trained it.
    """

    history: Sequence[Mapping[str, Any]]
    metric: str
    best_epoch: int | None
    versions: Mapping[str, str]


def read_training(run: Path) -> Training | None:
    """Reads the training of a run from its metrics.json; None if there is no such file, or nothing of it in the file.

    The folder may be another one's: only numbers and text are taken from it.
    """
    try:
        content = json.loads((run / METRICS).read_text(encoding="utf-8"))
        rows = [
            {"epoch": int(row["epoch"]), **{split: _numbers(row.get(split)) for split in ("train", "val")}}
            for row in content["history"]
        ]
        versions = {str(name): str(version) for name, version in content["versions"].items()}
        return Training(rows, str(content["metric"]), int(content["best_epoch"]), versions)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _numbers(row: Any) -> dict[str, float]:
    return {str(name): float(value) for name, value in (row or {}).items() if isinstance(value, int | float)}


def learning_curves(runs: Sequence[Sequence[Training]], metric: str) -> list[dict[str, Any]]:
    """Returns the plots of a metric and of the loss over the epochs, ready for JSON.

    Args:
        runs: Trainings of each run, several if it is a cross-validation.
        metric: Name of the metric.

    Returns:
        For each plot its ``title``, and ``lines`` with the number of the ``run``, whether it is of the training split
        (``train``), ``points`` of epoch and value, and the epoch that was ``kept``.
    """
    plots = []
    for name, splits in {metric: ("val",), "loss": ("val", "train")}.items():
        lines = [
            {"run": number, "train": split == "train", "points": points, "kept": training.best_epoch}
            for number, trainings in enumerate(runs)
            for training in trainings
            for split in splits
            if (points := _points(training.history, split, name))
        ]
        if lines:
            # Only the loss has lines of both splits, or of training alone if there is no validation split.
            title = name if any(line["train"] for line in lines) else f"validation {name}"
            plots.append({"title": title.replace("_", " "), "lines": lines})
    return plots


def _points(history: Sequence[Mapping[str, Any]], split: str, name: str) -> list[list[float]]:
    """Epoch, and finite value of a metric after it."""
    values = [(row["epoch"], (row[split] or {}).get(name)) for row in history]
    return [[epoch, round(value, 5)] for epoch, value in values if value is not None and math.isfinite(value)]


def package_versions() -> dict[str, str]:
    """Returns the versions of spectrnn, torch, torchaudio and Python."""
    packages = {name: version(name) for name in ("torch", "torchaudio")}
    return {"spectrnn": __version__, **packages, "python": platform.python_version()}
