"""The map of the clips in the report: their pooled vectors, projected to a plane."""

from typing import Any

import numpy as np
import torch

from spectrnn.evaluation.rankings import Array

_MAX_CLIPS = 5000
_SEED = 0  # of the sample of clips
_STEPS = 2000  # of the coordinates, along the longer side


def clip_map(embeddings: Array | None) -> dict[str, Any] | None:
    """Projects clips to a plane, ready for JSON.

    Args:
        embeddings: Pooled vectors, float32 (clips, pooled), in the order of the list of clips; None if unknown.

    Returns:
        ``points``: the number of a clip in the list and its coordinates, integers from 0 to 2,000 of the same scale on
        both axes, for all clips or a random sample of 5,000; ``variance``, the fractions of the variance along the
        axes; ``size`` of the vectors. None if there is nothing to draw.
    """
    if embeddings is None or len(embeddings) < 3 or embeddings.shape[1] < 2:
        return None
    numbers = np.arange(len(embeddings))
    if len(numbers) > _MAX_CLIPS:
        numbers = np.sort(np.random.default_rng(_SEED).choice(numbers, _MAX_CLIPS, replace=False))
    places, variance = principal_components(embeddings[numbers])
    places = places - places.min(0)
    steps = np.rint(places * (_STEPS / (places.max() or 1))).astype(int)
    return {
        "variance": variance,
        "size": embeddings.shape[1],
        "points": np.column_stack([numbers, steps]).tolist(),
    }


def principal_components(vectors: Array) -> tuple[Array, list[float]]:
    """Computes the first two principal components of vectors (clips, size), in a fixed orientation.

    Returns:
        Coordinates float64 (clips, 2), and the fractions of the variance along the axes.
    """
    x = torch.from_numpy(vectors).double()
    x = x - x.mean(0)
    variances, axes = torch.linalg.eigh(x.T @ x)  # ascending
    first = axes[:, -2:].flip(1)
    largest = first.gather(0, first.abs().argmax(0, keepdim=True))  # positive, as either sign is an axis
    fractions = variances[-2:].flip(0).clamp(min=0) / variances.sum().clamp(min=torch.finfo().tiny)
    return (x @ (first * largest.sign())).numpy(), [round(fraction, 4) for fraction in fractions.tolist()]
