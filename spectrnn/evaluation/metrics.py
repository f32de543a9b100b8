"""Classification metrics with bootstrap confidence intervals."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from spectrnn.errors import UserError
from spectrnn.model.task import Task

Array = npt.NDArray[Any]

_RESAMPLES = 1000
_NUM_BINS = 15  # of confidence, for the calibration error
_TINY = 1e-12


class Metric(NamedTuple):
    """A metric of a split. One of `from_confusion` and `per_clip` gives it a confidence interval.

    Attributes:
        function: Function of probabilities (clips, classes) and target classes (clips,) that returns the value.
        title: Title for tables, plots and pages.
        higher_is_better: Whether a higher value is better.
        is_fraction: Whether values are fractions, which pages show as percentages.
        min_classes: Minimum number of classes for which the metric is meaningful.
        from_confusion: Function of confusion matrices (samples, classes, classes) that returns the values (samples,).
        per_clip: Function with the arguments of `function` that returns values (clips,), whose mean is the metric.
    """

    function: Callable[[Array, Array], float]
    title: str
    higher_is_better: bool = True
    is_fraction: bool = True
    min_classes: int = 1
    from_confusion: Callable[[Array], Array] | None = None
    per_clip: Callable[[Array, Array], Array] | None = None

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


def confusion_matrix(probabilities: Array, targets: Array) -> Array:
    """Counts clips by true class (rows) and predicted class (columns), (classes, classes)."""
    classes = probabilities.shape[1]
    cells = targets * classes + probabilities.argmax(1)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def accuracy(matrices: Array) -> Array:
    """Fraction of correct clips, (samples,), from confusion matrices (samples, classes, classes)."""
    return np.trace(matrices, axis1=1, axis2=2) / matrices.sum((1, 2))


def balanced_accuracy(matrices: Array) -> Array:
    """Mean recall over the classes with clips, (samples,), from confusion matrices (samples, classes, classes)."""
    correct, actual = np.diagonal(matrices, axis1=1, axis2=2), matrices.sum(2)
    return (correct / np.maximum(actual, 1)).sum(1) / (actual > 0).sum(1)


def macro_f1(matrices: Array) -> Array:
    """Mean F1 score over the classes that occur, (samples,), from confusion matrices (samples, classes, classes)."""
    correct, occurrences = np.diagonal(matrices, axis1=1, axis2=2), matrices.sum(2) + matrices.sum(1)
    return (2 * correct / np.maximum(occurrences, 1)).sum(1) / (occurrences > 0).sum(1)


def cross_entropy(probabilities: Array, targets: Array) -> Array:
    """Cross-entropy of each clip in nats, (clips,)."""
    return -np.log(np.maximum(probabilities[np.arange(len(targets)), targets], _TINY))


def is_in_top_3(probabilities: Array, targets: Array) -> Array:
    """Whether the true class of each clip is among the three most probable ones, bool (clips,)."""
    top = np.argpartition(-probabilities, 2, axis=1)[:, :3]
    return (top == targets[:, None]).any(1)


def expected_calibration_error(probabilities: Array, targets: Array) -> float:
    """Expected calibration error (Guo et al., 2017): mean distance of confidence and accuracy over equal-width bins."""
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == targets
    bins = np.minimum((confidence * _NUM_BINS).astype(int), _NUM_BINS - 1)
    gaps = np.bincount(bins, confidence - correct, minlength=_NUM_BINS)
    return float(np.abs(gaps).sum() / len(targets))


# The only list of metrics: the trainer, tables, loggers, the model card and the report read it.
METRICS: dict[str, Metric] = {
    "accuracy": Metric.of_confusion(accuracy, "accuracy"),
    "balanced_accuracy": Metric.of_confusion(balanced_accuracy, "balanced accuracy"),
    "macro_f1": Metric.of_confusion(macro_f1, "macro F1"),
    "loss": Metric.mean_over_clips(cross_entropy, "loss", higher_is_better=False, is_fraction=False),
    "top_3_accuracy": Metric.mean_over_clips(is_in_top_3, "top-3 accuracy", min_classes=4),
    "ece": Metric(expected_calibration_error, "calibration error", higher_is_better=False),
}


def metrics_of(task: Task, custom: Mapping[str, Metric] | None = None) -> dict[str, Metric]:
    """Returns the metrics that apply to a task, and custom ones, by name.

    Raises:
        UserError: A custom metric with the name of another one.
    """
    metrics = {name: METRICS[name] for name in task.metrics if task.num_classes >= METRICS[name].min_classes}
    if taken := METRICS.keys() & (custom or {}).keys():
        raise UserError(f"metrics.{min(taken)}: the name of a built-in metric; choose another one")
    return metrics | dict(custom or {})


def classification_metrics(probabilities: Array, targets: Array, metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Computes metrics, by name, from probabilities (clips, classes) and class indices (clips,)."""
    return {name: float(metric.function(probabilities, targets)) for name, metric in metrics.items()}


def bootstrap_intervals(
    probabilities: Array,
    targets: Array,
    metrics: Mapping[str, Metric],
    seed: int = 0,
    groups: Array | None = None,
    folds: Array | None = None,
) -> dict[str, list[float]]:
    """Computes 95 % bootstrap confidence intervals (Efron, 1979) by resampling clips, or whole groups of them.

    Args:
        probabilities: Probabilities (clips, classes).
        targets: Class indices (clips,).
        metrics: Metrics by name; those with neither `from_confusion` nor `per_clip` get no interval.
        seed: Seed of the resampling.
        groups: Group of each clip, such as a speaker, (clips,); None to resample clips.
        folds: Fold of each clip, within which clips or groups are resampled, (clips,); None for a single one.

    Returns:
        Interval [low, high] by name.
    """
    generator = np.random.default_rng(seed)
    classes, clips = probabilities.shape[1], np.arange(len(targets))
    cells = targets * classes + probabilities.argmax(1)
    _, first, group = np.unique(clips if groups is None else groups, return_index=True, return_inverse=True)
    fold = np.zeros_like(first) if folds is None else folds[first]  # of each group
    strata = [np.flatnonzero(fold == name) for name in np.unique(fold)]
    values = {
        name: metric.per_clip(probabilities, targets) * 1.0 for name, metric in metrics.items() if metric.per_clip
    }
    matrices = np.empty((_RESAMPLES, classes, classes))
    samples = {name: np.empty(_RESAMPLES) for name in values}
    for index in range(_RESAMPLES):
        drawn = np.concatenate([stratum[generator.integers(len(stratum), size=len(stratum))] for stratum in strata])
        weights = np.bincount(drawn, minlength=len(first))[group] * 1.0  # how often each clip was drawn
        matrices[index] = np.bincount(cells, weights, minlength=classes**2).reshape(classes, classes)
        for name, value in values.items():
            samples[name][index] = weights @ value / weights.sum()
    samples |= {name: metric.from_confusion(matrices) for name, metric in metrics.items() if metric.from_confusion}
    return {name: np.percentile(samples[name], [2.5, 97.5]).tolist() for name in metrics if name in samples}


def per_class_metrics(matrix: Array, labels: list[str]) -> dict[str, dict[str, float]]:
    """Computes precision, recall, F1 and support of each class from the confusion matrix (classes, classes)."""
    correct, actual, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    return {
        label: {
            "precision": float(correct[index] / max(predicted[index], 1)),
            "recall": float(correct[index] / max(actual[index], 1)),
            "f1": float(2 * correct[index] / max(actual[index] + predicted[index], 1)),
            "support": int(actual[index]),
        }
        for index, label in enumerate(labels)
    }
