"""Metrics of clips that are ranked by the probability of each class: average precision and AUROC."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

MAX_VALUES = 1 << 20  # of an intermediate result, which is computed in parts if it is larger


def is_of_class(targets: Array, index: int) -> Array:
    """Whether each clip is of a class, bool (clips,), from targets as in `metrics.Outcome`."""
    return targets == index if targets.ndim == 1 else targets[:, index]


class ClassRankings:
    """The clips of a split, ranked by the probability of each class.

    Args:
        probabilities: Probabilities (clips, classes).
        targets: Targets, as in `metrics.Outcome`.

    Attributes:
        num_classes: Number of classes.
    """

    def __init__(self, probabilities: Array, targets: Array) -> None:
        self._probabilities, self._targets, self.num_classes = probabilities, targets, probabilities.shape[1]

    def average_precision(self, weights: Array) -> Array:
        """Average precision of each class, in samples in which clips count several times.

        It is the sum of the precision at each threshold times the increase of the recall there, without interpolation.

        Args:
            weights: How often each clip counts, (samples, clips); of `micro`, the clips of all its pairs.

        Returns:
            (samples, classes); NaN for a class without clips in a sample.
        """
        return self._of_each_class(_average_precision, weights)

    def auroc(self, weights: Array) -> Array:
        """Area under the receiver operating characteristic of each class; see `average_precision`.

        NaN for a class that no, or every, clip of a sample has.
        """
        return self._of_each_class(_auroc, weights)

    def _of_each_class(self, function: Callable[[Array, Array], Array], weights: Array) -> Array:
        values = np.full((len(weights), self.num_classes), np.nan)
        clips = len(self._targets)
        size = max(1, MAX_VALUES // clips)
        for start in range(0, len(weights), size):
            part = slice(start, start + size)
            own = np.repeat(weights[part], clips // weights.shape[1], 1)
            for index, ranking in self._orders:
                values[part, index] = function(*ranking.counts(own))
        return values

    @cached_property
    def _orders(self) -> list[tuple[int, "_Ranking"]]:
        """The ranking of each class with clips."""
        occurring = np.unique(self._targets) if self._targets.ndim == 1 else np.flatnonzero(self._targets.any(0))
        return [
            (index, _Ranking(self._probabilities[:, index], is_of_class(self._targets, index)))
            for index in occurring.tolist()
        ]

    @cached_property
    def micro(self) -> "ClassRankings":
        """The ranking of all pairs of a clip and a class by their probability, as of a single class."""
        targets = self._targets
        if targets.ndim == 1:
            targets = targets[:, None] == np.arange(self.num_classes)
        return ClassRankings(self._probabilities.reshape(-1, 1), targets.reshape(-1, 1))


class _Ranking:
    """Clips in the order of their scores (clips,), highest first, with whether each is positive, bool (clips,)."""

    def __init__(self, scores: Array, positive: Array) -> None:
        self._order = np.argsort(-scores, kind="stable")
        self._positive = positive[self._order]
        # Clip of each distinct score.
        self._last = np.flatnonzero(np.append(np.diff(scores[self._order]) != 0, True))

    def counts(self, weights: Array) -> tuple[Array, Array]:
        """Numbers of positive and negative clips at or above each score, (samples, scores), with weights per clip."""
        ordered = weights[:, self._order]
        hits = np.cumsum(ordered * self._positive, 1)[:, self._last]
        return hits, np.cumsum(ordered, 1)[:, self._last] - hits


def _average_precision(hits: Array, alarms: Array) -> Array:
    with np.errstate(invalid="ignore"):
        precision = np.nan_to_num(hits / (hits + alarms))
        return (precision * np.diff(hits, prepend=0)).sum(1) / hits[:, -1]


def _auroc(hits: Array, alarms: Array) -> Array:
    steps = np.diff(alarms, prepend=0)
    with np.errstate(invalid="ignore"):
        area = (steps * (hits - np.diff(hits, prepend=0) / 2)).sum(1)
        return area / (hits[:, -1] * alarms[:, -1])


def _mean_over_classes(values: Array) -> Array:
    """Mean over the classes that have a value, (samples, classes) -> (samples,); 0 if none has one."""
    found = ~np.isnan(values)
    return np.where(found, values, 0).sum(1) / np.maximum(found.sum(1), 1)


def mean_average_precision(rankings: ClassRankings, weights: Array) -> Array:
    """Mean average precision over the classes with clips, (samples,)."""
    return _mean_over_classes(rankings.average_precision(weights))


def mean_auroc(rankings: ClassRankings, weights: Array) -> Array:
    """Mean area under the receiver operating characteristic over the classes with and without clips, (samples,)."""
    return _mean_over_classes(rankings.auroc(weights))


def micro_average_precision(rankings: ClassRankings, weights: Array) -> Array:
    """Average precision of all pairs of a clip and a class, (samples,)."""
    return _mean_over_classes(rankings.micro.average_precision(weights))


def micro_auroc(rankings: ClassRankings, weights: Array) -> Array:
    """Area under the receiver operating characteristic of all pairs of a clip and a class, (samples,)."""
    return _mean_over_classes(rankings.micro.auroc(weights))
