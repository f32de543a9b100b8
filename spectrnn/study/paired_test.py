"""Comparison of two classifiers on the same clips: paired bootstrap intervals and McNemar's test."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from spectrnn.data.clips import Clip
from spectrnn.data.splits import clip_keys
from spectrnn.errors import UserError
from spectrnn.evaluation.metrics import METRICS, accuracy, balanced_accuracy, class_counts, macro_f1, micro_f1
from spectrnn.evaluation.predictions import Predictions, with_labels
from spectrnn.evaluation.rankings import Array
from spectrnn.messages import preview

_OF_COUNTS = {"accuracy": accuracy, "balanced_accuracy": balanced_accuracy, "macro_f1": macro_f1}
_OF_LABEL_SETS = {"micro_f1": micro_f1, "macro_f1": macro_f1}
_RESAMPLES = 1000


class PairedMetric(NamedTuple):
    """A metric of two classifiers A and B on the same clips.

    Attributes:
        title: Title of the metric.
        a: Value of A.
        b: Value of B.
        difference: B minus A.
        interval: 95 % confidence interval [low, high] of the difference.
    """

    title: str
    a: float
    b: float
    difference: float
    interval: list[float]


class PairedTest(NamedTuple):
    """The result of `paired_test` for classifiers A and B.

    Attributes:
        clips: Number of clips.
        groups: Number of resampled groups; 0 if clips were resampled.
        only_a: Number of clips that only A classifies correctly.
        only_b: Number of clips that only B classifies correctly.
        p_value: p-value of `mcnemar`.
        metrics: Metrics by name, the main one first: accuracy, balanced accuracy and macro F1; micro and macro F1 with
            several labels per clip.
    """

    clips: int
    groups: int
    only_a: int
    only_b: int
    p_value: float
    metrics: dict[str, PairedMetric]

    @property
    def main(self) -> PairedMetric:
        """The main metric."""
        return next(iter(self.metrics.values()))

    def claim(self, a: str, b: str) -> str:
        """Describes the difference of the main metric, with the names of A and B."""
        points = 100 * self.main.difference
        if points == 0:
            return f"{a} and {b} are equally accurate"
        better, worse = (b, a) if points > 0 else (a, b)
        low, high = self.main.interval
        doubt = ", which may be chance" if low <= 0 <= high else ""
        return f"{better} is better than {worse} by {abs(points):.{self._digits}f} points{doubt}"

    def evidence(self, a: str, b: str) -> str:
        """Describes the interval of `claim`, the p-value, and the clips that only one classifies correctly."""
        accuracy = self.main
        low, high = (100 * end * (-1 if accuracy.difference < 0 else 1) for end in accuracy.interval)
        low, high = sorted((low + 0.0, high + 0.0))  # not -0.0
        p = format_p(self.p_value) if self.p_value < 0.001 else f"= {format_p(self.p_value)}"
        clips = "clip" if self.only_a == 1 else "clips"
        return (
            f"95 %: {low:.{self._digits}f} to {high:.{self._digits}f}; McNemar p {p}; "
            f"{self.only_a} {clips} only {a} classifies correctly, {self.only_b} only {b}"
        )

    def describe(self, a: str, b: str) -> str:
        """Describes the result in a sentence, with the names of A and B."""
        interval, rest = self.evidence(a, b).split("; ", 1)
        return f"{self.claim(a, b)} ({interval}); {rest}"

    @property
    def _digits(self) -> int:
        """Number of decimal places of percentage points."""
        return 1 if self.clips < 1000 else 2


def common_clips(a: Predictions, b: Predictions, split: str) -> tuple[Predictions, Predictions]:
    """Returns the predictions for the clips of a split that are in both tables, in the order of `a`.

    Clips are the same if path, start, end and label are. If no paths are, those in the common folder of all clips of a
    table are compared, as the dataset may have moved.

    Args:
        a: Predictions with all splits.
        b: Predictions with the same labels, in any order.
        split: Name of the split.

    Raises:
        UserError: Other labels, or no common clips.
    """
    different = sorted({*a.labels} ^ {*b.labels})
    if different and not (a.is_partial or b.is_partial):
        raise UserError(f"their labels differ: only one of them has {preview(list(map(repr, different)), 5)}")
    for keys_of in (_absolute_keys, clip_keys):
        rows_a, rows_b = (
            {
                (key, clip.label): row
                for row, (key, clip) in enumerate(zip(keys_of(part.clips), part.clips, strict=True))
                if clip.split == split
            }
            for part in (a, b)
        )
        if common := [key for key in rows_a if key in rows_b]:
            break
    else:
        raise UserError(f"they have no common clips of the {split} split")
    labels = sorted({*a.labels, *b.labels}) if different else a.labels
    of_a, of_b = a.rows([rows_a[key] for key in common]), b.rows([rows_b[key] for key in common])
    return with_labels(of_a, labels), with_labels(replace(of_b, clips=of_a.clips), labels)


def paired_test(a: Predictions, b: Predictions, seed: int = 0) -> PairedTest:
    """Compares two classifiers on the same clips.

    The interval of a difference is a percentile interval of the paired bootstrap (Efron, 1979): both classifiers get
    the same resampled groups or, if a clip has no group, clips.

    Args:
        a: Predictions of A.
        b: Predictions of B for the same clips, with the same labels.
        seed: Seed of the resampling.
    """
    targets, classes = a.targets, len(a.labels)
    functions = _OF_COUNTS if targets.ndim == 1 else _OF_LABEL_SETS
    predicted = [part.decisions for part in (a, b)]
    right_a, right_b = (part.outcome.correct for part in (a, b))
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    names, groups = np.unique([clip.group or "" for clip in a.clips], return_inverse=True)
    has_groups = len(names) > 1 and "" not in names
    units = groups if has_groups else np.arange(len(targets))  # of resampling
    size = len(names) if has_groups else len(targets)

    def values(weights: Array) -> Array:
        """Metrics of A and B, (metrics, 2), with a weight per clip, (clips,)."""
        counts = [class_counts(indices, targets, classes, weights[None]) for indices in predicted]
        return np.array([[of_counts(part)[0] for part in counts] for of_counts in functions.values()])

    generator = np.random.default_rng(seed)
    draws = (np.bincount(generator.integers(size, size=size), minlength=size) for _ in range(_RESAMPLES))
    samples = np.array([np.diff(values(drawn[units])) for drawn in draws])[..., 0]  # (resamples, metrics)
    intervals = np.percentile(samples, [2.5, 97.5], axis=0).T.tolist()
    metrics = {
        name: PairedMetric(METRICS[name].title, before, after, after - before, interval)
        for name, (before, after), interval in zip(
            functions, values(np.ones(len(targets))).tolist(), intervals, strict=True
        )
    }
    p_value = mcnemar(only_a, only_b)
    return PairedTest(len(targets), len(names) if has_groups else 0, only_a, only_b, p_value, metrics)


def mcnemar(only_a: int, only_b: int) -> float:
    """Computes the two-sided p-value of McNemar's exact test (McNemar, 1947): a binomial test with probability 1/2.

    Args:
        only_a: Number of clips that only the first classifier classifies correctly.
        only_b: Number of clips that only the second one does.
    """
    total, term, tail = only_a + only_b, 1, 0
    for count in range(min(only_a, only_b) + 1):  # integers, so that no number of clips is too large
        tail += term
        term = term * (total - count) // (count + 1)
    return min(1.0, 2 * tail / 2**total)


def format_p(p_value: float) -> str:
    """Formats a p-value: ``0.012`` or ``< 0.001``."""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _absolute_keys(clips: Sequence[Clip]) -> list[str]:
    return [f"{os.path.abspath(clip.path)} {clip.start} {clip.end}" for clip in clips]
