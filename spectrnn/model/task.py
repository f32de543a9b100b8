"""Tasks: the meaning of a classifier's output. Target encoding, loss, probabilities, and the metrics that apply."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from spectrnn.config.types import Fraction, PositiveInt


class Task(nn.Module, ABC):
    """Interface of all tasks. A task is a stage of the classifier; it has no parameters and saves no buffers.

    Args:
        num_classes: Number of classes.

    Attributes:
        metrics: Names of the metrics that apply, as in `spectrnn.evaluation.metrics.METRICS`.
    """

    metrics: ClassVar[tuple[str, ...]]

    def __init__(self, num_classes: PositiveInt) -> None:
        super().__init__()
        self.num_classes = num_classes

    def fit(self, class_counts: Tensor) -> None:
        """Adapts the loss to the training split.

        Args:
            class_counts: Number of training clips per class and epoch, as they are drawn, int64 (classes,).
        """

    @abstractmethod
    def encode(self, classes: Tensor) -> Tensor:
        """Converts class indices int64 (batch,) to training targets float32 (batch, classes)."""

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Computes the mean loss () of logits (batch, classes) and encoded targets (batch, classes)."""

    @abstractmethod
    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Returns which clips are classified correctly, bool (batch,), from logits and encoded targets."""

    @abstractmethod
    def probabilities(self, logits: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
        """Converts logits (batch, classes) to float32 probabilities (batch, classes) at a calibration temperature."""

    @abstractmethod
    def logits(self, probabilities: Tensor) -> Tensor:
        """Inverts `probabilities`: finite logits (batch, classes) that have these probabilities at temperature 1."""


class SingleLabel(Task):
    """Mutually exclusive classes: softmax and cross-entropy.

    Args:
        num_classes: Number of classes.
        label_smoothing: Probability mass of each target that is spread evenly over all classes (Szegedy et al., 2016).
        class_weights: Weights of the classes in the loss: ``none``, or ``balanced`` for the inverse class frequency.
    """

    metrics = ("accuracy", "balanced_accuracy", "macro_f1", "loss", "top_3_accuracy", "ece")
    weight: Tensor | None

    def __init__(
        self, num_classes: PositiveInt, label_smoothing: Fraction, class_weights: Literal["none", "balanced"]
    ) -> None:
        super().__init__(num_classes)
        self.label_smoothing, self.class_weights = label_smoothing, class_weights
        self.register_buffer("weight", None, persistent=False)

    def fit(self, class_counts: Tensor) -> None:
        """Sets the class weights, whose mean over the training clips is 1."""
        if self.class_weights == "balanced":
            self.weight = (class_counts.sum() / (self.num_classes * class_counts.clamp(min=1))).float()

    def encode(self, classes: Tensor) -> Tensor:
        """One-hot encoding: int64 (batch,) -> float32 (batch, classes)."""
        return nn.functional.one_hot(classes, self.num_classes).float()

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy () of logits (batch, classes) and target probabilities (batch, classes)."""
        return nn.functional.cross_entropy(logits.float(), targets, self.weight, label_smoothing=self.label_smoothing)

    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compares the most probable class of logits and targets (batch, classes): bool (batch,)."""
        return logits.argmax(1) == targets.argmax(1)

    def probabilities(self, logits: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
        """Softmax of logits (batch, classes) divided by the temperature (Guo et al., 2017): (batch, classes)."""
        return (logits.float() / temperature).softmax(1)

    def logits(self, probabilities: Tensor) -> Tensor:
        """Logarithm of float32 probabilities (batch, classes), those that underflowed to 0 included."""
        return probabilities.clamp(min=torch.finfo(torch.float32).tiny).log()
