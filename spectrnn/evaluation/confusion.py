"""Confusion matrices of any number of classes, stored as the cells that have clips."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from spectrnn.evaluation.rankings import Array

NOTHING = "(nothing)"  # class of clips, with several labels per clip, in which no class sounds or is detected
_MAX_ROWS = 100  # classes up to which JSON has the whole matrix


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix, whose size is proportional to the clips: 10,000 classes have 100 million cells, most empty.

    Args:
        labels: Class names.
        cells: True class, predicted class, and a number of clips other than 0, for each cell in the order of the
            classes, int64 (cells, 3).
    """

    labels: list[str]
    cells: Array

    @classmethod
    def count(cls, predicted: Array, targets: Array, labels: list[str]) -> "Confusion":
        """Counts clips by their predicted and their true classes, both as in `Outcome`.

        With several labels per clip there is one more class, of nothing. A class that is detected correctly counts as
        such; each class that is missed counts with each that is detected in its place, or with nothing, and each class
        that is detected besides all true ones counts as detected in nothing (Heydarian et al., "MLCM: multi-label
        confusion matrix", 2022).
        """
        if targets.ndim == 2:
            cells, labels = _label_set_cells(predicted, targets), [*labels, NOTHING]
            targets, predicted = cells.T
        return cls._of_pairs(targets, predicted, np.ones(len(targets), np.int64), labels)

    @classmethod
    def from_json(cls, node: Mapping[str, Any]) -> "Confusion":
        """Restores the result of `to_json`."""
        if "cells" in node:
            return cls(node["labels"], np.array(node["cells"], np.int64).reshape(-1, 3))
        counts = np.array(node["counts"])
        rows, columns = np.nonzero(counts)
        return cls(node["labels"], np.stack([rows, columns, counts[rows, columns]], axis=1))

    @classmethod
    def _of_pairs(cls, actual: Array, predicted: Array, clips: Array, labels: list[str]) -> "Confusion":
        pairs, inverse = np.unique(actual * len(labels) + predicted, return_inverse=True)
        sums = np.zeros(len(pairs), np.int64)
        np.add.at(sums, inverse, clips)
        cells = np.stack([pairs // len(labels), pairs % len(labels), sums], axis=1)
        return cls(labels, cells[sums != 0])

    def to_json(self) -> dict[str, Any]:
        """Returns ``labels`` and ``counts``, the matrix, with many classes ``cells`` in its place, for JSON."""
        if len(self.labels) > _MAX_ROWS:
            return {"labels": self.labels, "cells": self.cells.tolist()}
        return {"labels": self.labels, "counts": self.part(np.arange(len(self.labels))).tolist()}

    def __sub__(self, other: "Confusion") -> "Confusion":
        """The difference of two matrices with the same labels."""
        signed = other.cells * [1, 1, -1]
        actual, predicted, clips = np.concatenate([self.cells, signed]).T
        return self._of_pairs(actual, predicted, clips, self.labels)

    def part(self, classes: Array) -> Array:
        """Returns the cells of some classes, ascending (n,), as a matrix int64 (n, n)."""
        position = np.full(len(self.labels), -1)
        position[classes] = np.arange(len(classes))
        rows, columns = position[self.cells[:, 0]], position[self.cells[:, 1]]
        inside = (rows >= 0) & (columns >= 0)
        matrix = np.zeros((len(classes), len(classes)), np.int64)
        matrix[rows[inside], columns[inside]] = self.cells[inside, 2]
        return matrix

    def largest_classes(self, count: int, with_diagonal: bool = False) -> Array:
        """Returns the classes with the largest sums of absolute values in row and column, ascending, (n,).

        Args:
            count: Maximum number of classes.
            with_diagonal: Whether the cells of the diagonal count, too; else only errors do.
        """
        actual, predicted, clips = self.cells.T
        sizes = np.abs(clips) * (1 if with_diagonal else actual != predicted)
        sums = sum(np.bincount(classes, sizes, len(self.labels)) for classes in (actual, predicted))
        return np.sort(np.argsort(-np.asarray(sums), kind="stable")[:count])

    def largest_errors(self, count: int) -> Array:
        """Returns the cells off the diagonal with the most clips, largest first, as in `cells`, (cells, 3)."""
        errors = self.cells[self.cells[:, 0] != self.cells[:, 1]]
        return errors[np.argsort(-errors[:, 2], kind="stable")[:count]]

    @property
    def actual(self) -> Array:
        """Number of clips of each class, (classes,)."""
        return np.bincount(self.cells[:, 0], self.cells[:, 2], len(self.labels)).astype(np.int64)

    @property
    def correct(self) -> int:
        """Number of correct clips."""
        return int(self.cells[self.cells[:, 0] == self.cells[:, 1], 2].sum())


def _label_set_cells(predicted: Array, targets: Array) -> Array:
    """True and predicted class of each cell that a clip counts in, int64 (counts, 2)."""
    nothing, cells = targets.shape[1], []
    for detected, actual in zip(predicted, targets, strict=True):
        cells += [(index, index) for index in np.flatnonzero(detected & actual).tolist()]
        missed, false = (np.flatnonzero(errors).tolist() for errors in (actual & ~detected, detected & ~actual))
        if not detected.any() and not actual.any():
            cells.append((nothing, nothing))
        elif missed or false:
            cells += [(index, other) for index in missed or [nothing] for other in false or [nothing]]
    return np.array(cells, np.int64).reshape(-1, 2)
