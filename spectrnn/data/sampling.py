"""Draws of training clips, by which classes are balanced."""

import numpy as np


def mean_draws(targets: np.ndarray, power: float) -> np.ndarray:
    """Computes how often clips are drawn per epoch, so that classes are drawn in proportion to a power of their counts.

    Args:
        targets: Class index of each clip, int64 (clips,), or its classes, bool (clips, classes).
        power: Exponent of the number of clips of a class.

    Returns:
        Mean number of draws of each clip, float64 (clips,), whose mean is 1. Of a clip of several classes it is
        proportional to their mean; clips of no class count as a class.
    """
    if targets.ndim == 1:
        draws = np.maximum(np.bincount(targets), 1)[targets] ** (power - 1.0)
    else:
        classes = np.column_stack([targets, ~targets.any(1)])
        draws = classes @ np.maximum(classes.sum(0), 1) ** (power - 1.0) / classes.sum(1)
    return draws * (len(draws) / draws.sum())


def draw_clips(targets: np.ndarray, draws: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draws the clips of an epoch, int64 (clips,): each as often as its mean number of draws, rounded up or down.

    Systematic sampling (Madow, 1949) of the clips in random order within their classes, so that the number of draws of
    a class is its mean, rounded up or down, too.

    Args:
        targets: Targets, as for `mean_draws`.
        draws: Mean number of draws of each clip, float64 (clips,), whose mean is 1.
        generator: Source of randomness.
    """
    order = generator.permutation(len(draws))
    order = order[np.argsort((targets if targets.ndim == 1 else draws)[order], kind="stable")]
    ends = np.cumsum(draws[order])
    ends[-1] = len(order)  # which the sum is but for rounding
    counts = np.diff(np.floor(ends + generator.random()), prepend=0)
    return np.repeat(order, counts.astype(np.int64))
