"""Classification metrics with bootstrap confidence intervals."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from spectrnn.config.types import NonNegativeFloat
from spectrnn.errors import UserError
from spectrnn.evaluation.rankings import (
    MAX_VALUES,
    Array,
    ClassRankings,
    mean_auroc,
    mean_average_precision,
    micro_auroc,
    micro_average_precision,
)
from spectrnn.model.task import Task

_RESAMPLES = 1000
_NUM_BINS = 15  # of confidence, for the calibration error
_TINY = 1e-12
_NORMAL_95 = 1.959964  # quantile of the standard normal distribution
_MAX_RANKED = 1 << 17  # probabilities up to which a metric of rankings has an interval: each sample ranks them all
_MAX_SQUARE = 1000  # classes up to which a metric of confusion matrices has an interval: each sample is such a matrix


class Outcome(NamedTuple):
    """The answers for the clips of a split.

    Attributes:
        probabilities: Probabilities, float32 (clips, classes).
        decisions: Predicted class of each clip, int64 (clips,); with several labels per clip which classes are
            detected, bool (clips, classes).
        targets: True classes, likewise.
        seconds: Length of each clip in s, float64 (clips,); None if unknown.
        embeddings: Pooled vectors, float32 (clips, pooled); None if they were not asked for.
    """

    probabilities: Array
    decisions: Array
    targets: Array
    seconds: Array | None = None
    embeddings: Array | None = None

    @classmethod
    def of(
        cls,
        task: Task,
        probabilities: Array,
        targets: Array,
        seconds: Array | None = None,
        embeddings: Array | None = None,
    ) -> "Outcome":
        """Decides as the task does."""
        decisions = task.decide(torch.from_numpy(probabilities)).numpy(force=True)
        return cls(probabilities, decisions, targets, seconds, embeddings)

    @property
    def correct(self) -> Array:
        """Whether each clip is classified correctly, in all of its classes, bool (clips,)."""
        same = self.decisions == self.targets
        return same if same.ndim == 1 else same.all(1)


def class_indices(answer: Any) -> int | list[int]:
    """Converts a decision or a target of one clip to a class index, or with several labels per clip to their list."""
    return int(answer) if np.ndim(answer) == 0 else np.flatnonzero(answer).tolist()


class ClassCounts(NamedTuple):
    """Numbers of clips per class, for one or several samples of a split; a clip may count several times.

    Attributes:
        correct: Clips of the class that are classified correctly, (samples, classes).
        actual: Clips of the class, (samples, classes).
        predicted: Clips that are classified as the class, (samples, classes).
    """

    correct: Array
    actual: Array
    predicted: Array


class Metric(NamedTuple):
    """A metric of a split. One of the functions after `min_classes` gives it a confidence interval.

    Targets are class indices (clips,), or with several labels per clip bool (clips, classes).

    Attributes:
        function: Function of probabilities (clips, classes) and targets that returns the value; None for a metric that
            follows from `from_counts` or `from_outcome`.
        title: Title for tables, plots and pages.
        higher_is_better: Whether a higher value is better.
        is_fraction: Whether values are fractions, which pages show as percentages.
        min_classes: Minimum number of classes for which the metric is meaningful.
        from_counts: Function of `ClassCounts` that returns the values (samples,).
        from_confusion: Function of confusion matrices (samples, classes, classes) that returns the values (samples,).
            With more than 1,000 classes there is no interval.
        per_clip: Function with the arguments of `function` that returns values (clips,), whose mean is the metric.
        from_ranking: Function of `ClassRankings` and of how often each clip counts (samples, clips) that returns the
            values (samples,).
        from_outcome: Function of the outcome that returns the value, without an interval.
    """

    function: Callable[[Array, Array], float] | None
    title: str
    higher_is_better: bool = True
    is_fraction: bool = True
    min_classes: int = 1
    from_counts: Callable[[ClassCounts], Array] | None = None
    from_confusion: Callable[[Array], Array] | None = None
    per_clip: Callable[[Array, Array], Array] | None = None
    from_ranking: Callable[[ClassRankings, Array], Array] | None = None
    from_outcome: Callable[[Outcome], float] | None = None

    def value(self, outcome: Outcome) -> float:
        """Returns the value of the metric; NaN if it cannot be measured on these clips."""
        probabilities, decisions, targets, *_ = outcome
        if self.from_outcome:
            return self.from_outcome(outcome)
        if self.function:
            return float(self.function(probabilities, targets))
        assert self.from_counts
        return float(self.from_counts(class_counts(decisions, targets, probabilities.shape[1]))[0])

    @classmethod
    def of_counts(cls, function: Callable[[ClassCounts], Array], title: str, **settings: Any) -> "Metric":
        """Makes a metric from its `from_counts`."""
        return cls(None, title, from_counts=function, **settings)

    @classmethod
    def of_confusion(cls, function: Callable[[Array], Array], title: str, **settings: Any) -> "Metric":
        """Makes a metric from its `from_confusion`."""

        def value(probabilities: Array, targets: Array) -> float:
            return float(function(confusion_matrix(probabilities, targets)[None])[0])

        return cls(value, title, from_confusion=function, **settings)

    @classmethod
    def mean_over_clips(cls, function: Callable[[Array, Array], Array], title: str, **settings: Any) -> "Metric":
        """Makes a metric from its `per_clip`."""
        return cls(lambda *arguments: float(function(*arguments).mean()), title, per_clip=function, **settings)

    @classmethod
    def of_ranking(cls, function: Callable[[ClassRankings, Array], Array], title: str, **settings: Any) -> "Metric":
        """Makes a metric from its `from_ranking`."""

        def value(probabilities: Array, targets: Array) -> float:
            once = np.ones((1, len(targets)))
            return float(function(ClassRankings(probabilities, targets), once)[0])

        return cls(value, title, from_ranking=function, **settings)


def class_counts(predicted: Array, targets: Array, classes: int, weights: Array | None = None) -> ClassCounts:
    """Counts clips by class.

    Args:
        predicted: Decisions, as in `Outcome`.
        targets: Targets, as in `Outcome`.
        classes: Number of classes.
        weights: How often each clip counts in each sample, (samples, clips); None for one sample, in which each clip
            counts once.
    """
    if targets.ndim == 2:
        rows = np.ones((1, len(targets))) if weights is None else weights
        return ClassCounts(*(rows @ cells for cells in (predicted & targets, targets, predicted)))
    correct = np.flatnonzero(predicted == targets)

    def count(indices: Array, clips: Array | slice) -> Array:
        rows = [None] if weights is None else [row[clips] for row in weights]
        return np.array([np.bincount(indices, row, classes) for row in rows])

    return ClassCounts(count(targets[correct], correct), count(targets, slice(None)), count(predicted, slice(None)))


def confusion_matrix(probabilities: Array, targets: Array) -> Array:
    """Counts clips by true class (rows) and predicted class (columns), (classes, classes)."""
    classes = probabilities.shape[1]
    cells = targets * classes + probabilities.argmax(1)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def row_parts(x: Array) -> Iterator[slice]:
    """Yields slices of the rows of x (rows, columns) with few enough values each for an intermediate result."""
    size = max(1, MAX_VALUES // max(1, x.shape[1]))
    return (slice(start, start + size) for start in range(0, len(x), size))


def accuracy(counts: ClassCounts) -> Array:
    """Fraction of correct clips, (samples,)."""
    return counts.correct.sum(1) / counts.actual.sum(1)


def balanced_accuracy(counts: ClassCounts) -> Array:
    """Mean recall over the classes with clips, (samples,)."""
    return (counts.correct / np.maximum(counts.actual, 1)).sum(1) / (counts.actual > 0).sum(1)


def macro_f1(counts: ClassCounts) -> Array:
    """Mean F1 score over the classes that occur, (samples,)."""
    occurrences = counts.actual + counts.predicted
    return (2 * counts.correct / np.maximum(occurrences, 1)).sum(1) / np.maximum((occurrences > 0).sum(1), 1)


def micro_f1(counts: ClassCounts) -> Array:
    """F1 score over all pairs of a clip and a class, (samples,)."""
    return 2 * counts.correct.sum(1) / np.maximum(counts.actual.sum(1) + counts.predicted.sum(1), 1)


def cross_entropy(probabilities: Array, targets: Array) -> Array:
    """Cross-entropy of each clip in nats, (clips,); of label sets the mean over the classes."""
    if targets.ndim == 2:
        return -np.log(np.maximum(np.where(targets, probabilities, 1 - probabilities), _TINY)).mean(1)
    return -np.log(np.maximum(probabilities[np.arange(len(targets)), targets], _TINY))


def is_in_top_3(probabilities: Array, targets: Array) -> Array:
    """Whether the true class of each clip is among the three most probable ones, bool (clips,)."""
    hits = np.empty(len(targets), bool)
    for part in row_parts(probabilities):
        top = np.argpartition(-probabilities[part], 2, axis=1)[:, :3]
        hits[part] = (top == targets[part, None]).any(1)
    return hits


def expected_calibration_error(probabilities: Array, targets: Array) -> float:
    """Expected calibration error (Guo et al., 2017): mean distance of confidence and accuracy over equal-width bins.

    With several labels per clip, of the probabilities of all classes, and of how often these are right.
    """
    if targets.ndim == 2:
        return gap_of_confidence(probabilities.ravel(), targets.ravel())
    return gap_of_confidence(probabilities.max(1), probabilities.argmax(1) == targets)


def gap_of_confidence(confidence: Array, correct: Array) -> float:
    """`expected_calibration_error` from confidence (clips,), and whether each clip is correct, bool (clips,)."""
    bins = np.minimum((confidence * _NUM_BINS).astype(int), _NUM_BINS - 1)
    gaps = np.bincount(bins, confidence - correct, minlength=_NUM_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


# The only list of metrics: the trainer, tables, loggers, the model card and the report read it.
METRICS: dict[str, Metric] = {
    "accuracy": Metric.of_counts(accuracy, "accuracy"),
    "balanced_accuracy": Metric.of_counts(balanced_accuracy, "balanced accuracy"),
    "macro_f1": Metric.of_counts(macro_f1, "macro F1"),
    "loss": Metric.mean_over_clips(cross_entropy, "loss", higher_is_better=False, is_fraction=False),
    "top_3_accuracy": Metric.mean_over_clips(is_in_top_3, "top-3 accuracy", min_classes=4),
    "map": Metric.of_ranking(mean_average_precision, "mean average precision"),
    "micro_map": Metric.of_ranking(micro_average_precision, "average precision, micro"),
    "auroc": Metric.of_ranking(mean_auroc, "AUROC"),
    "micro_auroc": Metric.of_ranking(micro_auroc, "AUROC, micro"),
    "micro_f1": Metric.of_counts(micro_f1, "micro F1"),
    "ece": Metric(expected_calibration_error, "calibration error", higher_is_better=False),
}


def recall_at_false_alarms(false_alarms_per_hour: NonNegativeFloat) -> Metric:
    """Makes the metric "recall at a rate of false alarms", for a task of several labels per clip.

    It is the mean over the classes of the fraction of their clips whose probability exceeds the lowest threshold at
    which the clips without any label have at most the given rate of false alarms per class. Clips that follow each
    other count on their own, so that it is a cautious estimate for a detector, which counts events. It cannot be
    measured without such clips, or of exclusive classes.

    Args:
        false_alarms_per_hour: Maximum rate per class.
    """

    def value(outcome: Outcome) -> float:
        probabilities, _, targets, seconds, _ = outcome
        if targets.ndim == 1 or seconds is None or targets.any(1).all() or not targets.any():
            return math.nan
        quiet = ~targets.any(1)
        allowed = min(int(false_alarms_per_hour * seconds[quiet].sum() / 3600), int(quiet.sum()) - 1)
        limits = -np.partition(-probabilities[quiet], allowed, axis=0)[allowed]
        hits = ((probabilities > limits) & targets).sum(0)
        occurring = targets.any(0)
        return float((hits[occurring] / targets.sum(0)[occurring]).mean())

    return Metric(None, f"recall at {false_alarms_per_hour:g} false alarms per hour", from_outcome=value)


def metrics_of(task: Task, custom: Mapping[str, Metric] | None = None) -> dict[str, Metric]:
    """Returns the metrics that apply to a task, and custom ones, by name.

    Raises:
        UserError: A custom metric with the name of another one.
    """
    metrics = {name: METRICS[name] for name in task.metrics if task.num_classes >= METRICS[name].min_classes}
    if taken := METRICS.keys() & (custom or {}).keys():
        raise UserError(f"metrics.{min(taken)}: the name of a built-in metric; choose another one")
    return metrics | dict(custom or {})


def classification_metrics(outcome: Outcome, metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Computes metrics, by name; those that cannot be measured on these clips are left out."""
    values = {name: metric.value(outcome) for name, metric in metrics.items()}
    return {name: value for name, value in values.items() if not math.isnan(value)}


def bootstrap_intervals(
    outcome: Outcome,
    metrics: Mapping[str, Metric],
    seed: int = 0,
    groups: Array | None = None,
    folds: Array | None = None,
) -> dict[str, list[float]]:
    """Computes 95 % bootstrap confidence intervals (Efron, 1979) by resampling clips, or whole groups of them.

    Args:
        outcome: Answers for the clips.
        metrics: Metrics by name; those with none of the functions of `Metric` that give one get no
            interval.
        seed: Seed of the resampling.
        groups: Group of each clip, such as a speaker, (clips,); None to resample clips.
        folds: Fold of each clip, within which clips or groups are resampled, (clips,); None for a single one.

    Returns:
        Interval [low, high] by name. For a fraction of 0 or 1, which resampling does not vary, it is that of
        `wilson_interval` for as many independent clips, or groups.
    """
    generator = np.random.default_rng(seed)
    probabilities, predicted, targets, *_ = outcome
    classes, clips = probabilities.shape[1], np.arange(len(targets))
    _, first, group = np.unique(clips if groups is None else groups, return_index=True, return_inverse=True)
    fold = np.zeros_like(first) if folds is None else folds[first]  # of each group
    strata = [np.flatnonzero(fold == name) for name in np.unique(fold)]
    values = {
        name: metric.per_clip(probabilities, targets) * 1.0 for name, metric in metrics.items() if metric.per_clip
    }
    of_counts = {name: metric.from_counts for name, metric in metrics.items() if metric.from_counts}
    of_matrices = {
        name: metric.from_confusion
        for name, metric in metrics.items()
        if metric.from_confusion and classes <= _MAX_SQUARE
    }
    of_rankings = {
        name: metric.from_ranking
        for name, metric in metrics.items()
        if metric.from_ranking and probabilities.size <= _MAX_RANKED
    }
    rankings = ClassRankings(probabilities, targets)
    samples = {name: np.empty(_RESAMPLES) for name in [*values, *of_counts, *of_matrices, *of_rankings]}
    largest = max(len(targets), classes**2 if of_matrices else classes)
    size = max(1, MAX_VALUES // largest)
    for start in range(0, _RESAMPLES, size):
        part = range(start, min(start + size, _RESAMPLES))
        weights = np.empty((len(part), len(targets)))  # how often each clip was drawn
        for index, row in zip(part, weights, strict=True):
            drawn = np.concatenate([stratum[generator.integers(len(stratum), size=len(stratum))] for stratum in strata])
            row[:] = np.bincount(drawn, minlength=len(first))[group]
            for name, value in values.items():
                samples[name][index] = row @ value / row.sum()
        if of_counts:
            counts = class_counts(predicted, targets, classes, weights)
            for name, from_counts in of_counts.items():
                samples[name][part] = from_counts(counts)
        if of_matrices:
            cells = targets * classes + predicted
            rows = [np.bincount(cells, row, classes**2) for row in weights]
            matrices = np.reshape(rows, (len(part), classes, classes))
            for name, from_confusion in of_matrices.items():
                samples[name][part] = from_confusion(matrices)
        for name, from_ranking in of_rankings.items():
            samples[name][part] = from_ranking(rankings, weights)
    intervals = {name: np.percentile(samples[name], [2.5, 97.5]).tolist() for name in metrics if name in samples}
    for name, (low, high) in intervals.items():
        if metrics[name].is_fraction and low == high in (0, 1):
            intervals[name] = list(wilson_interval(round(low * len(first)), len(first)))
    return intervals


def wilson_interval(correct: int, clips: int) -> tuple[float, float]:
    """Computes the 95 % confidence interval of a proportion (Wilson, 1927), valid for few clips and at 0 and 1.

    Args:
        correct: Number of correct clips.
        clips: Number of clips, at least 1.
    """
    fraction, square = correct / clips, _NORMAL_95**2
    center = (fraction + square / (2 * clips)) / (1 + square / clips)
    spread = math.sqrt(fraction * (1 - fraction) / clips + square / (4 * clips**2))
    radius = _NORMAL_95 / (1 + square / clips) * spread
    return max(0.0, center - radius), min(1.0, center + radius)


def per_class_metrics(outcome: Outcome, labels: list[str]) -> dict[str, dict[str, float | None]]:
    """Computes precision, recall, F1 and support of each class; with up to 1,000 classes average precision and AUROC.

    These are None for a class without clips, or AUROC with nothing else.
    """
    counts = class_counts(outcome.decisions, outcome.targets, len(labels))
    correct, actual, predicted = (values[0].tolist() for values in counts)
    ranking: dict[str, Array] = {}
    if len(labels) <= _MAX_SQUARE:
        rankings, once = ClassRankings(outcome.probabilities, outcome.targets), np.ones((1, len(outcome.targets)))
        ranking = {"average_precision": rankings.average_precision(once)[0], "auroc": rankings.auroc(once)[0]}
    return {
        label: {
            "precision": float(correct[index] / max(predicted[index], 1)),
            "recall": float(correct[index] / max(actual[index], 1)),
            "f1": float(2 * correct[index] / max(actual[index] + predicted[index], 1)),
            "support": int(actual[index]),
            **{name: None if np.isnan(values[index]) else float(values[index]) for name, values in ranking.items()},
        }
        for index, label in enumerate(labels)
    }
