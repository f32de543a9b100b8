"""Label formats: how the label of a clip names classes, and the targets that follow."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from typing import ClassVar

import numpy as np

SEPARATOR = ";"  # of the classes in a label set


class LabelFormat(ABC):
    """Interface of the label formats.

    Attributes:
        min_classes: Minimum number of classes of a dataset.
    """

    min_classes: ClassVar[int]

    @abstractmethod
    def names(self, label: str, separator: str) -> list[str]:
        """Returns the classes that a label names as a data source has it, with its separator of several classes."""

    @abstractmethod
    def join(self, names: Iterable[str]) -> str:
        """Returns the normalized label that names classes."""

    @abstractmethod
    def classes(self, label: str) -> list[str]:
        """Returns the classes that a normalized label names."""

    @abstractmethod
    def is_usable(self, label: str, known: Collection[str]) -> bool:
        """Whether a clip with this label can be evaluated with the known classes."""

    @abstractmethod
    def targets(self, labels: Sequence[str], classes: Sequence[str]) -> np.ndarray:
        """Converts normalized labels of clips to targets, in the order of the classes."""


class OneLabel(LabelFormat):
    """A label is the name of one class; targets are class indices, int64 (clips,)."""

    min_classes = 2

    def names(self, label: str, separator: str) -> list[str]:
        """Returns the label, even if it has separators."""
        return [label]

    def join(self, names: Iterable[str]) -> str:
        """Returns the name; empty if there is none."""
        return "".join(names)

    def classes(self, label: str) -> list[str]:
        """Returns the label."""
        return [label]

    def is_usable(self, label: str, known: Collection[str]) -> bool:
        """Whether the label is known."""
        return label in known

    def targets(self, labels: Sequence[str], classes: Sequence[str]) -> np.ndarray:
        """Class indices, int64 (clips,)."""
        index = {name: number for number, name in enumerate(classes)}
        return np.array([index[label] for label in labels], dtype=np.int64)


class LabelSet(LabelFormat):
    """A label is any number of class names, joined by semicolons; targets are bool (clips, classes)."""

    min_classes = 1

    def names(self, label: str, separator: str) -> list[str]:
        """Returns the parts of the label without blanks around them."""
        return [name for part in label.split(separator) if (name := part.strip())]

    def join(self, names: Iterable[str]) -> str:
        """Returns the distinct names, sorted, joined by semicolons; empty if nothing sounds."""
        return SEPARATOR.join(sorted({*names}))

    def classes(self, label: str) -> list[str]:
        """Returns the names."""
        return label.split(SEPARATOR) if label else []

    def is_usable(self, label: str, known: Collection[str]) -> bool:
        """True: in a clip of other classes none of the known ones sounds."""
        return True

    def targets(self, labels: Sequence[str], classes: Sequence[str]) -> np.ndarray:
        """Whether each class is named, bool (clips, classes)."""
        index = {name: number for number, name in enumerate(classes)}
        targets = np.zeros((len(labels), len(classes)), bool)
        for row, label in zip(targets, labels, strict=True):
            row[[index[name] for name in self.classes(label) if name in index]] = True
        return targets


ONE_LABEL, LABEL_SET = OneLabel(), LabelSet()
