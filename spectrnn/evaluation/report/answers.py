"""What the report says of each clip: its labels, the prediction, and whether that is correct. The rest asks this."""

from typing import NamedTuple

import numpy as np

from spectrnn.evaluation.metrics import Array


class Answers(NamedTuple):
    """The labels and predictions of clips.

    Attributes:
        actual: True classes of each clip.
        predicted: Predicted classes of each clip.
        correct: Whether each clip is correct, bool (clips,).
        confidence: Probability of the prediction of each clip, (clips,).
    """

    actual: list[list[int]]
    predicted: list[list[int]]
    correct: Array
    confidence: Array

    @classmethod
    def single_label(cls, probabilities: Array, targets: Array) -> "Answers":
        """The most probable class of each clip, from probabilities (clips, classes) and true classes (clips,)."""
        predicted = probabilities.argmax(1)
        actual = [[label] for label in targets.tolist()]
        answers = [[label] for label in predicted.tolist()]
        return cls(actual, answers, predicted == targets, probabilities.max(1))

    def order(self) -> Array:
        """Clips in the order of interest: the most confident errors first, the least confident correct ones last."""
        return np.lexsort((np.where(self.correct, self.confidence, -self.confidence), self.correct))
