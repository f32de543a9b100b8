"""Whether a label can be told without listening: by format, rate, length or level alone."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from spectrnn.check.issues import Issue, Level
from spectrnn.check.measure import ClipStats
from spectrnn.check.quality import decibels

_FOLDS = 5
_BINS = 24
_MIN_BIN_FRACTION = 0.02  # share of the clips from which a value has a bin of its own, such as a fixed length
_FEWEST = 10  # clips of a label; what is told of fewer is chance
_SIGMAS = 3.0  # by which the balanced accuracy must lie above the threshold


class _MetadataFeature(NamedTuple):
    """Something known of a clip without listening.

    `threshold` is of the balanced accuracy with which it tells one label from the rest (the majority gets 0.5). Format
    and rate have nothing to do with a sound. Length and level have: spoken digits are told by them with 0.64 at most.
    """

    name: str
    level: Level
    threshold: float
    values: npt.NDArray[np.float64]  # (clips, values)


def metadata_leaks(labels: Sequence[str], rows: Sequence[ClipStats]) -> list[Issue]:
    """Labels that a trivial classifier tells from the rest by one fact alone, on clips that it was not fitted to.

    The classifier is naive Bayes over histograms, one label against the rest, both weighing the same.

    Args:
        labels: of the clips.
        rows: of the clips; those with a problem do not count.
    """
    sound = [number for number, row in enumerate(rows) if row.problem is None]
    names, label = np.unique([labels[number] for number in sound], return_inverse=True)
    found = []
    for fact in _features([rows[number] for number in sound]):
        binned = [_binned(values) for values in fact.values.T]
        binned = [bins for bins in binned if bins.max(initial=0)]  # the same everywhere tells nothing
        scores = [
            (*_cross_validated_accuracy(binned, label == number), str(name))
            for number, name in enumerate(names)
            if binned and _FEWEST <= np.count_nonzero(label == number) < len(label)
        ]
        leaks = sorted((score for score in scores if score[0] - _SIGMAS * score[1] > fact.threshold), reverse=True)
        if leaks:
            text = (
                f"labels that {fact.name} alone tells from the rest, on clips held out: balanced accuracy, "
                "where the majority gets 0.50"
            )
            found.append(
                Issue(
                    fact.level,
                    f"told by {fact.name}",
                    text,
                    len(leaks),
                    [f"{name}: {score:.2f}" for score, _, name in leaks],
                )
            )
    return found


def _features(rows: Sequence[ClipStats]) -> list[_MetadataFeature]:
    containers = {name: number for number, name in enumerate(sorted({row.container for row in rows}))}

    def table(*columns: list[float]) -> npt.NDArray[np.float64]:
        return np.array(columns, dtype=np.float64).T

    return [
        _MetadataFeature(
            "format", "error", 0.55, table([containers[row.container] for row in rows], [row.channels for row in rows])
        ),
        _MetadataFeature("rate", "error", 0.55, table([row.rate for row in rows])),
        _MetadataFeature("length", "warning", 0.75, table([row.seconds for row in rows])),
        _MetadataFeature(
            "level", "warning", 0.65, table([decibels(row.peak) for row in rows], [decibels(row.rms) for row in rows])
        ),
    ]


def _binned(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """(clips,) -> the bin of each, from 0: quantiles, and a bin for every value that many clips have."""
    if not len(values):
        return np.empty(0, np.int64)
    distinct, count = np.unique(values, return_counts=True)
    common = distinct[count >= max(2, _MIN_BIN_FRACTION * len(values))]
    quantiles = np.quantile(values, np.linspace(0, 1, _BINS + 1)[1:-1])
    edges = np.unique(np.concatenate([quantiles, common, np.nextafter(common, np.inf)]))
    return np.unique(np.searchsorted(edges, values, side="right"), return_inverse=True)[1]


def _cross_validated_accuracy(
    binned: Sequence[npt.NDArray[np.int64]], mine: npt.NDArray[np.bool_]
) -> tuple[float, float]:
    """How well bins tell the clips of a label: balanced accuracy on held-out clips, and its standard error."""
    fold = np.random.default_rng(0).permutation(len(mine)) % _FOLDS
    evidence = np.zeros(len(mine))
    for number in range(_FOLDS):
        held = fold == number
        for bins in binned:
            size = bins.max() + 1
            counts = [np.bincount(bins[~held & side], minlength=size) + 1.0 / size for side in (mine, ~mine)]
            ratio = np.log(counts[0] / counts[0].sum()) - np.log(counts[1] / counts[1].sum())
            evidence[held] += ratio[bins[held]]
    right = [np.mean(evidence[mine] > 0), np.mean(evidence[~mine] <= 0)]
    variance = sum(rate * (1 - rate) / max(1, n) for rate, n in zip(right, (mine.sum(), (~mine).sum()), strict=True))
    return float(np.mean(right)), float(np.sqrt(variance)) / 2
