"""Labels that are predictable from file metadata alone: format, sample rate, duration or level."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spectrnn.check.analysis import Issue, Level
from spectrnn.check.measure import ClipStats
from spectrnn.check.quality import decibels

_FOLDS = 5
_BINS = 24
_MIN_BIN_FRACTION = 0.02  # fraction of the clips from which a value has a bin of its own, such as a fixed duration
_MIN_CLIPS = 10  # clips per label; fewer are not significant
_SIGMAS = 3.0  # standard errors by which the balanced accuracy must exceed its threshold


def metadata_issues(classes: Sequence[Sequence[str]], stats: Sequence[ClipStats]) -> list[Issue]:
    """Finds labels that one metadata feature alone predicts on held-out clips.

    The classifier is naive Bayes over histograms, one label against the rest, with equal priors.

    Args:
        classes: Classes that the label of each clip names.
        stats: Measurements of the clips; those that cannot be read are ignored.
    """
    readable = [row for row, clip in enumerate(stats) if clip.error is None]
    clips = [stats[row] for row in readable]
    members: dict[str, list[int]] = {}
    for index, row in enumerate(readable):
        for name in classes[row]:
            members.setdefault(name, []).append(index)
    containers = {name: number for number, name in enumerate(sorted({clip.container for clip in clips}))}
    features: list[tuple[str, Level, float, list[list[float]]]] = [  # threshold of the balanced accuracy; values
        ("format", "error", 0.55, [[containers[c.container] for c in clips], [c.channels for c in clips]]),
        ("sample rate", "error", 0.55, [[c.rate for c in clips]]),
        # Unlike the former, these are related to the content: they predict spoken digits with up to 0.64.
        ("duration", "warning", 0.75, [[c.seconds for c in clips]]),
        ("level", "warning", 0.65, [[decibels(c.peak) for c in clips], [decibels(c.rms) for c in clips]]),
    ]
    issues = []
    for feature, level, threshold, values in features:
        bins = [_bin(np.array(column, dtype=np.float64)) for column in values]
        bins = [indices for indices in bins if indices.max(initial=0)]  # a constant predicts nothing
        found = []
        for name, rows in sorted(members.items()):
            if bins and _MIN_CLIPS <= len(rows) < len(clips):
                accuracy, error = _cross_validated_accuracy(bins, np.isin(np.arange(len(clips)), rows))
                if accuracy - _SIGMAS * error > threshold:
                    found.append((accuracy, name))
        examples = [f"{name}: {accuracy:.2f}" for accuracy, name in sorted(found, reverse=True)]
        text = f"labels that are predictable from {feature} alone (balanced accuracy on held-out clips, chance 0.50)"
        issues.append(Issue(level, f"predictable from {feature}", text, len(found), examples))
    return issues


def _bin(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """(clips,) -> bin of each, from 0: quantiles, and a bin for each value of many clips."""
    if not len(values):
        return np.empty(0, np.int64)
    distinct, count = np.unique(values, return_counts=True)
    common = distinct[count >= max(2, _MIN_BIN_FRACTION * len(values))]
    quantiles = np.quantile(values, np.linspace(0, 1, _BINS + 1)[1:-1])
    edges = np.unique(np.concatenate([quantiles, common, np.nextafter(common, np.inf)]))
    return np.unique(np.searchsorted(edges, values, side="right"), return_inverse=True)[1]


def _cross_validated_accuracy(
    bins: Sequence[npt.NDArray[np.int64]], is_label: npt.NDArray[np.bool_]
) -> tuple[float, float]:
    """Balanced accuracy on held-out clips of bins (clips,) against a label (clips,), and its standard error."""
    fold = np.random.default_rng(0).permutation(len(is_label)) % _FOLDS
    log_odds = np.zeros(len(is_label))
    for number in range(_FOLDS):
        held_out = fold == number
        for indices in bins:
            size = indices.max() + 1
            count = np.bincount(indices[~held_out & is_label], minlength=size) + 1.0 / size
            rest = np.bincount(indices[~held_out & ~is_label], minlength=size) + 1.0 / size
            ratio = np.log(count / count.sum()) - np.log(rest / rest.sum())
            log_odds[held_out] += ratio[indices[held_out]]
    correct = np.array([np.mean(log_odds[is_label] > 0), np.mean(log_odds[~is_label] <= 0)])
    sizes = np.array([is_label.sum(), (~is_label).sum()])
    return float(correct.mean()), float(np.sqrt((correct * (1 - correct) / np.maximum(1, sizes)).sum())) / 2
