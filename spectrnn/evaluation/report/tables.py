"""Tables of the report: accuracy by confidence, length, level and group."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spectrnn.evaluation.metrics import wilson_interval
from spectrnn.evaluation.rankings import Array

_CONFIDENCE_BINS = 10  # of the reliability diagram
_QUANTILE_BINS = 8  # of length and level
_MIN_CLIPS = 10  # per bin of length or level
_MAX_GROUPS = 40

TableRow = list[Any]  # ready for JSON


def reliability(confidence: Array, correct: Array) -> list[TableRow]:
    """Computes a reliability diagram (Niculescu-Mizil & Caruana, 2005).

    Args:
        confidence: Probability of the predicted class, (clips,).
        correct: Whether each clip is correct, bool (clips,).

    Returns:
        For each bin with clips: its limits, the mean confidence, and the columns of `accuracy_row`.
    """
    bins = np.minimum((confidence * _CONFIDENCE_BINS).astype(int), _CONFIDENCE_BINS - 1)
    rows = []
    for index in np.unique(bins).tolist():
        limits, members = [index / _CONFIDENCE_BINS, (index + 1) / _CONFIDENCE_BINS], bins == index
        rows.append([*limits, _rounded(confidence[members].mean()), *accuracy_row(correct[members])])
    return rows


def accuracy_by_quantile(values: Array, correct: Array) -> list[TableRow]:
    """Computes the accuracy over bins of a quantity with about the same number of clips.

    Args:
        values: Quantity, float (clips,).
        correct: Whether each clip is correct, bool (clips,).

    Returns:
        For each bin its smallest and largest value, and the columns of `accuracy_row`.
    """
    count = max(1, min(_QUANTILE_BINS, len(values) // _MIN_CLIPS))
    edges = np.unique(np.quantile(values, np.linspace(0, 1, count + 1)[1:-1]))
    bins = np.searchsorted(edges, values, side="right")
    members = [bins == index for index in np.unique(bins).tolist()]
    return [[float(values[m].min()), float(values[m].max()), *accuracy_row(correct[m])] for m in members]


def accuracy_by_group(groups: Sequence[str | None], correct: Array) -> list[TableRow]:
    """Computes the accuracy of each group, the lowest first; nothing if there is only one.

    Args:
        groups: Group of each clip, None if unknown.
        correct: Whether each clip is correct, bool (clips,).

    Returns:
        For each group its name, and the columns of `accuracy_row`.
    """
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        if group is not None:
            members.setdefault(group, []).append(index)
    rows = [[group, *accuracy_row(correct[indices])] for group, indices in members.items()]
    rows.sort(key=lambda row: (row[2], -row[1], row[0]))
    return rows[:_MAX_GROUPS] if len(rows) > 1 else []


def class_scores(row: Mapping[str, Any]) -> list[float | None]:
    """Precision, recall and F1 of a class from its row of the metrics; None for a class without clips."""
    return [row[name] if row["support"] else None for name in ("precision", "recall", "f1")]


def accuracy_row(correct: Array) -> TableRow:
    """Number of clips, accuracy, and its 95 % interval, from bool (clips,)."""
    return [len(correct), *map(_rounded, (correct.mean(), *wilson_interval(int(correct.sum()), len(correct))))]


def _rounded(fraction: Any) -> float:
    return round(float(fraction), 4)
