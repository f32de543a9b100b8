"""What the report says of each clip: its labels, the prediction, and whether that is correct. The rest asks this."""

from typing import NamedTuple

import numpy as np

from spectrnn.evaluation.metrics import Outcome, class_indices
from spectrnn.evaluation.rankings import Array


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
    def of(cls, outcome: Outcome) -> "Answers":
        """Returns the answers of an evaluation; the confidence of several decisions is that of the least certain."""
        probabilities = outcome.probabilities
        confidence = probabilities.max(1)
        if outcome.targets.ndim == 2:
            confidence = np.where(outcome.decisions, probabilities, 1 - probabilities).min(1)
        actual, predicted = (
            [np.atleast_1d(class_indices(answer)).astype(int).tolist() for answer in answers]
            for answers in (outcome.targets, outcome.decisions)
        )
        return cls(actual, predicted, outcome.correct, confidence)

    def pairs(self, outcome: Outcome) -> tuple[Array, Array]:
        """Returns the probabilities that a reliability diagram shows, and whether each came true.

        These are of the prediction of each clip; with several labels per clip of each pair of a clip and a class, as in
        `expected_calibration_error`.
        """
        if outcome.targets.ndim == 2:
            return outcome.probabilities.ravel(), outcome.targets.ravel()
        return self.confidence, self.correct

    def order(self) -> Array:
        """Clips in the order of interest: the most confident errors first, the least confident correct ones last."""
        return np.lexsort((np.where(self.correct, self.confidence, -self.confidence), self.correct))
