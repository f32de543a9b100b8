"""The report's tables: how right a classifier is at which confidence, length, level and group."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from spectrnn.evaluation.metrics import Array

_CONFIDENCES = 10  # bins of a reliability diagram
_QUANTILES = 8  # bins of length and level
_FEWEST = 10  # clips that a bin of length or level should hold
_MOST_GROUPS = 40  # that are listed
_NORMAL_95 = 1.959964  # deviations of a normal distribution that hold 95 % of it

TableRow = list[Any]  # as JSON has it


def wilson_interval(right: int, clips: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, 1927), which holds for few clips and at 0 and 1.

    Args:
        right: clips, of
        clips: at least 1.
    """
    share, square = right / clips, _NORMAL_95**2
    middle = (share + square / (2 * clips)) / (1 + square / clips)
    reach = _NORMAL_95 / (1 + square / clips) * math.sqrt(share * (1 - share) / clips + square / (4 * clips**2))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def reliability(confidence: Array, right: Array) -> list[TableRow]:
    """A reliability diagram (Niculescu-Mizil & Caruana, 2005).

    Args:
        confidence: (clips,), the probability of the predicted class.
        right: bool (clips,).

    Returns:
        For each bin of confidence that holds a clip: its first and last confidence, the mean of its clips', and what
        `accuracy` gives.
    """
    bins = np.minimum((confidence * _CONFIDENCES).astype(int), _CONFIDENCES - 1)
    return [
        [
            number / _CONFIDENCES,
            (number + 1) / _CONFIDENCES,
            _rounded(confidence[bins == number].mean()),
            *accuracy(right[bins == number]),
        ]
        for number in np.unique(bins).tolist()
    ]


def accuracy_by_quantile(values: Array, right: Array) -> list[TableRow]:
    """Accuracy over bins of a quantity that hold about as many clips each.

    Args:
        values: float (clips,).
        right: bool (clips,).

    Returns:
        For each bin the least and the largest value in it, and what `accuracy` gives.
    """
    count = max(1, min(_QUANTILES, len(values) // _FEWEST))
    edges = np.unique(np.quantile(values, np.linspace(0, 1, count + 1)[1:-1]))
    bins = np.searchsorted(edges, values, side="right")
    return [
        [float(values[bins == number].min()), float(values[bins == number].max()), *accuracy(right[bins == number])]
        for number in np.unique(bins).tolist()
    ]


def accuracy_by_group(groups: Sequence[str | None], right: Array) -> list[TableRow]:
    """Accuracy of each known group, the worst first: its name, and what `accuracy` gives; nothing where there is one.

    Args:
        groups: of each clip, None where it is not known.
        right: bool (clips,).
    """
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        if group is not None:
            members.setdefault(group, []).append(index)
    rows = [[group, *accuracy(right[indices])] for group, indices in members.items()]
    rows.sort(key=lambda row: (row[2], -row[1], row[0]))
    return rows[:_MOST_GROUPS] if len(rows) > 1 else []


def accuracy(right: Array) -> TableRow:
    """Right or not, bool (clips,) -> clips, accuracy, and the ends of its 95 % interval."""
    return [len(right), *map(_rounded, (right.mean(), *wilson_interval(int(right.sum()), len(right))))]


def _rounded(share: Any) -> float:
    return round(float(share), 4)
