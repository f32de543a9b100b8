"""The choice of clips to label: those whose class is uncertain, and that differ from each other."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from spectrnn.embeddings.table import Embeddings
from spectrnn.inference.predictor import Predictor

Array = npt.NDArray[Any]

_CANDIDATES = 20_000  # the most uncertain rows, which are in memory


class Candidates(NamedTuple):
    """Rows to choose from: number (rows,), vector (rows, size), probabilities (rows, classes), uncertainty (rows,)."""

    rows: Array
    vectors: Array
    probabilities: Array
    uncertainty: Array

    def take(self, indices: Array) -> "Candidates":
        """Returns some of them."""
        return Candidates(*(column[indices] for column in self))


def most_uncertain(embeddings: Embeddings, predictor: Predictor, count: int = _CANDIDATES) -> Candidates:
    """Returns the rows of a file of which the classifier is most uncertain, by `Task.uncertainty`."""
    kept: Candidates | None = None
    start = 0
    for block in embeddings.blocks():
        probabilities = predictor.probabilities_of(block)
        uncertainty = predictor.classifier.task.uncertainty(torch.from_numpy(probabilities)).numpy()
        rows = np.arange(start, start + len(block))
        own = Candidates(rows, np.asarray(block, np.float32), probabilities, uncertainty)
        start += len(block)
        merged = own if kept is None else Candidates(*map(np.concatenate, zip(kept, own, strict=True)))
        kept = merged.take(np.argsort(-merged.uncertainty, kind="stable")[:count])
    assert kept is not None
    return kept


def choose(vectors: Array, uncertainty: Array, count: int) -> list[int]:
    """Chooses rows that are uncertain and unlike each other.

    The first is the most uncertain one; then always the one with the largest product of its uncertainty and its
    squared distance to the nearest chosen one: the choice of k-means++ (Arthur and Vassilvitskii, 2007), weighted by
    the uncertainty and without chance. Distances are of directions, as in search.

    Args:
        vectors: Vectors, (rows, size).
        uncertainty: Uncertainty of each row, (rows,).
        count: Number of rows to choose; all if there are no more.

    Returns:
        Indices of the rows, in the order of their choice.
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions = vectors / np.maximum(norms, np.finfo(np.float32).tiny)
    distances, scores = np.full(len(vectors), np.inf), uncertainty.astype(np.float64)
    chosen: list[int] = []
    for _ in range(min(count, len(vectors))):
        scores[chosen] = -1.0  # also of rows that are equal to others
        chosen.append(int(scores.argmax()))
        products = np.einsum("ij,j->i", directions, directions[chosen[-1]])
        distances = np.minimum(distances, np.maximum(0.0, 2 - 2 * products))
        scores = uncertainty * distances
    return chosen
