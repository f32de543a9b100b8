"""Temperature scaling of probabilities (Guo et al., 2017), and decision thresholds."""

from collections.abc import Callable

import numpy as np
import torch

from spectrnn.evaluation.metrics import expected_calibration_error, gap_of_confidence, row_parts
from spectrnn.evaluation.rankings import Array
from spectrnn.model.task import Task

# From 0.2 on, converting probabilities back to temperature 1 loses no visible precision.
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.2, 20.0
# In clips. Fitted on 3 to 270 clips of real digits, this value was among the best on the remaining ones.
_PRIOR_STRENGTH = 3.0
_TINY = float(np.finfo(np.float32).tiny)  # a float32 softmax underflows to 0 below it
_MAX_LOGITS = 1 << 24  # that a fit uses, of evenly spaced clips: its one parameter needs no more
_STEPS = 60  # of the bisection, down to the precision of float64
_FOLDS = 10  # of the cross-validation of thresholds
_THRESHOLDS = 1 / (1 + np.exp(-np.linspace(-6, 6, 241)))  # that all classes may share


def fit_temperatures(probabilities: Array, targets: Array) -> Array:
    """Fits the temperature of a task: of exclusive classes one (), with several labels per clip one per class.

    Args:
        probabilities: Probabilities (clips, classes) at temperature 1.
        targets: Targets, as in `Outcome`.

    Returns:
        float64 () or (classes,).
    """
    if targets.ndim == 1:
        return np.array(fit_temperature(probabilities, targets))
    binary = (np.stack([1 - column, column], 1) for column in probabilities.T)
    return np.array([fit_temperature(pair, own.astype(np.int64)) for pair, own in zip(binary, targets.T, strict=True)])


def fit_thresholds(probabilities: Array, targets: Array) -> Array:
    """Returns thresholds that maximize the macro F1 score: one for all classes, or one per class.

    One per class fits these clips better, but from few clips generalizes worse: a cross-validation decides.

    Args:
        probabilities: Probabilities (clips, classes).
        targets: Whether each clip is of each class, bool (clips, classes).

    Returns:
        float64 (classes,).
    """
    folds = np.random.default_rng(0).permutation(len(targets)) % _FOLDS

    def held_out_f1(fit: Callable[[Array, Array], Array]) -> float:
        detected = np.zeros_like(targets)
        for fold in range(min(_FOLDS, len(targets))):
            own = folds == fold
            detected[own] = probabilities[own] >= fit(probabilities[~own], targets[~own])
        return float(_macro_f1((detected & targets).sum(0), detected.sum(0), targets.sum(0)))

    return max((_common_threshold, _thresholds_per_class), key=held_out_f1)(probabilities, targets)


def _macro_f1(hits: Array, detected: Array, positive: Array) -> Array:
    """Counts (..., classes) -> mean F1 score (...) of the classes with clips."""
    f1 = 2 * hits / np.maximum(1, detected + positive)
    return f1.mean(-1, where=np.broadcast_to(positive > 0, f1.shape)) if positive.any() else f1.mean(-1)


def _common_threshold(probabilities: Array, targets: Array) -> Array:
    """Returns the same threshold for each class, (classes,): of several best ones, the one closest to 1/2."""

    def counts(scores: Array) -> Array:
        """How many scores are not below each threshold, (thresholds,)."""
        return len(scores) - np.searchsorted(np.sort(scores), _THRESHOLDS)

    columns = list(zip(probabilities.T, targets.T, strict=True))
    detected = np.stack([counts(scores) for scores, _ in columns], 1)
    hits = np.stack([counts(scores[positive]) for scores, positive in columns], 1)
    f1 = _macro_f1(hits, detected, targets.sum(0))
    best = _THRESHOLDS[f1 >= f1.max() - 1e-12]
    return np.full(len(columns), best[np.abs(best - 0.5).argmin()])


def _thresholds_per_class(probabilities: Array, targets: Array) -> Array:
    """Returns the threshold of each class that maximizes its F1 score, (classes,); 1/2 for a class without clips.

    It is in the middle between two neighbouring probabilities; of several best ones, the one closest to 1/2.
    """
    return np.array([_best_threshold(*column) for column in zip(probabilities.T, targets.T, strict=True)])


def _best_threshold(scores: Array, positive: Array) -> float:
    if not positive.any():
        return 0.5
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order].astype(np.float64), np.cumsum(positive[order])
    last = np.flatnonzero(np.diff(ranked, append=-1.0))  # clip of each distinct score
    f1 = 2 * hits[last] / (last + 1 + positive.sum())
    # All clips up to a score are detected by a threshold between it and the next lower one.
    middle = (ranked[last] + np.append(ranked[last[1:]], 0.0)) / 2
    best = middle[f1 >= f1.max() - 1e-12]
    return float(best[np.abs(best - 0.5).argmin()])


def fit_temperature(probabilities: Array, targets: Array) -> float:
    """Fits the temperature that minimizes the regularized cross-entropy.

    Without regularization, a split without errors would give temperature 0, and one of a few clips an arbitrary value.
    A Gamma prior on 1 / T with mode 1, worth a few clips, regularizes it.

    Args:
        probabilities: Probabilities (clips, classes) at temperature 1.
        targets: Class indices (clips,).

    Returns:
        The temperature, between `MIN_TEMPERATURE` and `MAX_TEMPERATURE`; 1 without clips or with a single class.
    """
    clips, classes = probabilities.shape
    if not clips or classes == 1:
        return 1.0
    if probabilities.size > _MAX_LOGITS:
        sample = np.linspace(0, clips - 1, max(1, _MAX_LOGITS // classes)).round().astype(np.int64)
        probabilities, targets, clips = probabilities[sample], targets[sample], len(sample)
    logits = _logits(probabilities)
    target_logits = logits[np.arange(clips), targets].sum()

    def slope(inverse_temperature: float) -> float:  # of the negative log posterior, which is convex
        powers = np.exp(inverse_temperature * logits)
        expected_logits = ((powers * logits).sum(1) / powers.sum(1)).sum()
        return float(expected_logits - target_logits + _PRIOR_STRENGTH * (1 - 1 / inverse_temperature))

    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 1 / high


def apply_temperature(task: Task, probabilities: Array, temperature: Array) -> Array:
    """Probabilities (clips, classes) as if their logits were divided by a (further) temperature, () or (classes,)."""
    logits = task.logits(torch.from_numpy(probabilities))
    return task.probabilities(logits, torch.as_tensor(temperature, dtype=torch.float32)).numpy()


def calibration_error_at(task: Task, probabilities: Array, targets: Array, temperature: Array) -> float:
    """`expected_calibration_error` of `apply_temperature`, in parts: it needs few of its values at a time."""
    if targets.ndim == 2:
        return expected_calibration_error(apply_temperature(task, probabilities, temperature), targets)
    confidence, correct = np.empty(len(targets)), np.empty(len(targets), bool)
    for part in row_parts(probabilities):
        divided = apply_temperature(task, probabilities[part], temperature)
        confidence[part], correct[part] = divided.max(1), divided.argmax(1) == targets[part]
    return gap_of_confidence(confidence, correct)


def _logits(probabilities: Array) -> Array:
    """Logits of probabilities, float64 (clips, classes), with a maximum of 0 per clip."""
    logits = np.log(np.maximum(probabilities, _TINY, dtype=np.float64))
    return logits - logits.max(1, keepdims=True)
