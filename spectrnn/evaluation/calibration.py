"""Temperature scaling: one number that makes probabilities as often right as they say (Guo et al., 2017)."""

import math
from collections.abc import Callable

import numpy as np

from spectrnn.evaluation.metrics import Array

MIN_TEMPERATURE, MAX_TEMPERATURE = (
    0.2,
    20.0,
)  # down to 0.2, the way back to temperature 1 loses nothing that can be seen
_PRIOR_STRENGTH = 3.0  # that 1 / T is near 1; fitted on 3 to 270 clips of real digits, it did about best on the others
_TINY = float(np.finfo(np.float32).tiny)  # a softmax in float32 says 0 of what is below
_GOLDEN = (5**0.5 - 1) / 2
_STEPS = 60  # of the golden section: they leave the twelfth digit


def fit_temperature(probabilities: Array, targets: Array) -> float:
    """The temperature that minimizes the cross-entropy.

    Dividing logits by it changes no decision, only how sure it sounds. Alone, the cross-entropy of a split on which all
    is right asks for a temperature of 0, and that of a few clips for anything. So 1 / T is believed to be near 1
    beforehand: a Gamma distribution, highest there, that weighs as much as a few clips.

    Args:
        probabilities: (clips, classes), at temperature 1.
        targets: (clips,), class indices.

    Returns:
        The temperature, from `MIN_TEMPERATURE` to `MAX_TEMPERATURE`; 1 where there is no clip, or but one class.
    """
    clips, classes = probabilities.shape
    if not clips or classes == 1:
        return 1.0
    logits = _logits(probabilities)
    labelled = logits[np.arange(clips), targets].sum()

    def unlikeliness(coldness: float) -> float:  # of 1 / T, in which it is convex
        cross_entropy = np.log(np.exp(coldness * logits).sum(1)).sum() - coldness * labelled
        return float(cross_entropy + _PRIOR_STRENGTH * (coldness - math.log(coldness)))

    return 1 / _golden_section_search(unlikeliness, 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE)


def apply_temperature(probabilities: Array, temperature: float) -> Array:
    """Probabilities (clips, classes), as they are when the logits are divided by a temperature once more."""
    powers = np.exp(_logits(probabilities) / temperature)
    return powers / powers.sum(1, keepdims=True)


def _logits(probabilities: Array) -> Array:
    """Logits whose softmax the probabilities are, float64, the highest of each clip 0: (clips, classes)."""
    logits = np.log(np.maximum(probabilities, _TINY, dtype=np.float64))
    return logits - logits.max(1, keepdims=True)


def _golden_section_search(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a convex function is lowest between two numbers: golden section (Kiefer, 1953)."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(_STEPS):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = function(right)
    return (low + high) / 2
