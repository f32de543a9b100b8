"""What a classifier's probabilities are worth, and how sure one can be of the figure."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_RESAMPLES = 1000
_BINS = 15  # of confidence, for the calibration error
_TINY = 1e-12


def classification_metrics(probabilities: Array, targets: Array) -> dict[str, float]:
    """The headline figures.

    Args:
        probabilities: (clips, classes), rows that sum to 1.
        targets: (clips,), class indices.

    Returns:
        accuracy, balanced_accuracy, macro_f1, loss (cross-entropy, nats), top_3 accuracy (where there are more than 3
        classes) and ece, the expected calibration error (Guo et al., 2017).
    """
    matrix = confusion_matrix(probabilities, targets)
    figures = {name: float(values[0]) for name, values in _from_confusion(matrix[None]).items()}
    figures["loss"] = float(_losses(probabilities, targets).mean())
    if probabilities.shape[1] > 3:
        top = np.argpartition(-probabilities, 2, axis=1)[:, :3]
        figures["top_3"] = float((top == targets[:, None]).any(1).mean())
    figures["ece"] = expected_calibration_error(probabilities, targets)
    return figures


def bootstrap_intervals(probabilities: Array, targets: Array, seed: int = 0) -> dict[str, list[float]]:
    """95 % bootstrap intervals (Efron, 1979) of accuracy, balanced accuracy, macro F1 and loss, clips redrawn.

    Args:
        probabilities: (clips, classes).
        targets: (clips,).
        seed: of the draws.

    Returns:
        metric -> [low, high].
    """
    generator = np.random.default_rng(seed)
    matrix = confusion_matrix(probabilities, targets)
    # Redrawing clips redraws the cells that they fall into, which is one multinomial draw a sample.
    draws = generator.multinomial(len(targets), matrix.ravel() / len(targets), size=_RESAMPLES)
    samples = _from_confusion(draws.reshape(_RESAMPLES, *matrix.shape))
    losses = _losses(probabilities, targets)
    samples["loss"] = np.array([generator.choice(losses, len(losses)).mean() for _ in range(_RESAMPLES)])
    return {name: [float(x) for x in np.percentile(values, [2.5, 97.5])] for name, values in samples.items()}


def per_class_metrics(matrix: Array, labels: list[str]) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support of each class.

    Args:
        matrix: (classes, classes), as `confusion_matrix` gives it.
        labels: the classes' names.
    """
    right, actual, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    table = {}
    for index, label in enumerate(labels):
        table[label] = {
            "precision": float(right[index] / max(predicted[index], 1)),
            "recall": float(right[index] / max(actual[index], 1)),
            "f1": float(2 * right[index] / max(actual[index] + predicted[index], 1)),
            "support": int(actual[index]),
        }
    return table


def confusion_matrix(probabilities: Array, targets: Array) -> Array:
    """Counts (classes, classes): rows are the true class, columns the predicted one."""
    classes = probabilities.shape[1]
    cells = targets * classes + probabilities.argmax(1)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def expected_calibration_error(probabilities: Array, targets: Array) -> float:
    """Expected calibration error: the mean distance of confidence from accuracy over bins of equal width."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == targets
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, confidence - right, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(targets))


def _from_confusion(matrices: Array) -> dict[str, Array]:
    """(samples, classes, classes) -> metric -> (samples,). Classes without a clip do not count in class means."""
    right = np.diagonal(matrices, axis1=1, axis2=2).astype(float)
    actual, predicted = matrices.sum(2), matrices.sum(1)
    present = actual > 0
    recall = np.where(present, right / np.maximum(actual, 1), 0)
    seen = actual + predicted > 0
    f1 = 2 * right / np.maximum(actual + predicted, 1)
    return {
        "accuracy": right.sum(1) / matrices.sum((1, 2)),
        "balanced_accuracy": recall.sum(1) / present.sum(1),
        "macro_f1": f1.sum(1) / seen.sum(1),
    }


def _losses(probabilities: Array, targets: Array) -> Array:
    return -np.log(np.maximum(probabilities[np.arange(len(targets)), targets], _TINY))
