"""Temperature scaling of probabilities (Guo et al., 2017)."""

import numpy as np

from spectrnn.evaluation.metrics import Array, gap_of_confidence, row_parts

# From 0.2 on, converting probabilities back to temperature 1 loses no visible precision.
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.2, 20.0
# In clips. Fitted on 3 to 270 clips of real digits, this value was among the best on the remaining ones.
_PRIOR_STRENGTH = 3.0
_TINY = float(np.finfo(np.float32).tiny)  # a float32 softmax underflows to 0 below it
_MAX_LOGITS = 1 << 24  # that a fit uses, of evenly spaced clips: its one parameter needs no more
_STEPS = 60  # of the bisection, down to the precision of float64


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


def apply_temperature(probabilities: Array, temperature: float) -> Array:
    """Probabilities (clips, classes) as if their logits were divided by a (further) temperature."""
    powers = np.exp(_logits(probabilities) / temperature)
    return powers / powers.sum(1, keepdims=True)


def calibration_error_at(probabilities: Array, targets: Array, temperature: float) -> float:
    """`expected_calibration_error` of `apply_temperature`, in parts: it needs few of its values at a time."""
    confidence, correct = np.empty(len(targets)), np.empty(len(targets), bool)
    for part in row_parts(probabilities):
        divided = apply_temperature(probabilities[part], temperature)
        confidence[part], correct[part] = divided.max(1), divided.argmax(1) == targets[part]
    return gap_of_confidence(confidence, correct)


def _logits(probabilities: Array) -> Array:
    """Logits of probabilities, float64 (clips, classes), with a maximum of 0 per clip."""
    logits = np.log(np.maximum(probabilities, _TINY, dtype=np.float64))
    return logits - logits.max(1, keepdims=True)
