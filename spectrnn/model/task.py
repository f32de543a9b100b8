"""Tasks: the meaning of a classifier's output. Targets, loss, probabilities, decisions, and the metrics that apply."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from spectrnn.config.types import Fraction, NonNegativeFloat, PositiveInt
from spectrnn.data.labels import LABEL_SET, ONE_LABEL, LabelFormat

_DEFAULT_THRESHOLD = 0.5
_MAX_RANKED_CLASSES = 200  # of exclusive classes: of more, tables of predictions lack the small probabilities
_AUDIBLE = 0.1  # weight of a mixed clip, 20 dB below the other
_MAX_POSITIVE_WEIGHT = 20.0  # of a rare class: with more, its few clips would decide about all others


class Task(nn.Module, ABC):
    """Interface of all tasks. A task is a stage of the classifier, without parameters.

    Targets and decisions are class indices int64 (batch,) if classes exclude each other, else bool (batch, classes).

    Args:
        num_classes: Number of classes.

    Attributes:
        label_format: How the label of a clip names classes.
        fraction_correct: What the fraction of correct clips is called.
        relative_epochs: Number of epochs that training needs, relative to that of classes that exclude each other.
        metrics: Names of the metrics that apply, as in `spectrnn.evaluation.metrics.METRICS`, the main one first.
        calibration_shape: Shape of the calibration temperature.
        thresholds: Probabilities from which on classes are detected, float32 (classes,), saved with the weights; None
            if the most probable class is the decision.
    """

    label_format: ClassVar[LabelFormat]
    fraction_correct: ClassVar[str] = "accuracy"
    relative_epochs: ClassVar[float] = 1.0
    metrics: tuple[str, ...]
    thresholds: Tensor | None

    def __init__(self, num_classes: PositiveInt) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.calibration_shape: tuple[int, ...] = ()

    def fit(self, targets: Tensor, draws: Tensor) -> None:
        """Adapts the loss to the training split.

        Args:
            targets: Targets of its clips, (clips,) or (clips, classes).
            draws: Mean number of draws of each clip per epoch, float64 (clips,).
        """

    @abstractmethod
    def encode(self, targets: Tensor) -> Tensor:
        """Converts targets of a dataset to training targets float32 (batch, classes)."""

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Computes the mean loss () of logits (batch, classes) and encoded targets (batch, classes)."""

    def frame_loss(self, logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
        """Computes the mean loss () of frames: logits and targets (batch, frames, classes), of which some are known.

        Args:
            logits: Logits of frames.
            targets: Targets in [0, 1].
            known: Frames that count, bool (batch, frames).
        """
        raise NotImplementedError

    @abstractmethod
    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Returns which clips are classified correctly, bool (batch,), from logits and encoded targets."""

    @abstractmethod
    def probabilities(self, logits: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
        """Converts logits (batch, classes) to float32 probabilities (batch, classes) at a calibration temperature."""

    @abstractmethod
    def logits(self, probabilities: Tensor) -> Tensor:
        """Inverts `probabilities`: finite logits (batch, classes) that have these probabilities at temperature 1."""

    @abstractmethod
    def decide(self, probabilities: Tensor) -> Tensor:
        """Converts probabilities (batch, classes) to decisions, which are like targets."""

    @abstractmethod
    def detected(self, probabilities: Tensor, thresholds: Tensor | None) -> list[int]:
        """Returns the classes that are reported of probabilities (classes,), most probable first.

        Args:
            probabilities: Probabilities of a recording, (classes,).
            thresholds: Thresholds (classes,) in place of those of the task; None for these.
        """

    @abstractmethod
    def uncertainty(self, probabilities: Tensor) -> Tensor:
        """How near decisions are to others: probabilities (batch, classes) -> (batch,), from 0 to 1, on the border."""

    def averaged(self, others: Sequence[Self]) -> Self:
        """Returns the task of an ensemble of classifiers with this task and others."""
        return self


class SingleLabel(Task):
    """Mutually exclusive classes: softmax and cross-entropy.

    Args:
        num_classes: Number of classes.
        label_smoothing: Probability mass of each target that is spread evenly over all classes (Szegedy et al., 2016).
        class_weights: Weights of the classes in the loss: ``none``, or ``balanced`` for the inverse class frequency.
    """

    label_format = ONE_LABEL
    metrics: tuple[str, ...] = (
        "accuracy",
        "balanced_accuracy",
        "macro_f1",
        "loss",
        "top_3_accuracy",
        "map",
        "auroc",
        "ece",
    )
    weight: Tensor | None
    thresholds = None

    def __init__(
        self, num_classes: PositiveInt, label_smoothing: Fraction, class_weights: Literal["none", "balanced"]
    ) -> None:
        super().__init__(num_classes)
        self.label_smoothing, self.class_weights = label_smoothing, class_weights
        if num_classes > _MAX_RANKED_CLASSES:
            self.metrics = tuple(name for name in self.metrics if name not in ("map", "auroc"))
        self.register_buffer("weight", None, persistent=False)

    def fit(self, targets: Tensor, draws: Tensor) -> None:
        """Sets the class weights, whose mean over the training clips, as they are drawn, is 1."""
        if self.class_weights == "balanced":
            counts = torch.bincount(targets, draws, minlength=self.num_classes).round()
            self.weight = (counts.sum() / (self.num_classes * counts.clamp(min=1))).float()

    def encode(self, targets: Tensor) -> Tensor:
        """One-hot encoding: int64 (batch,) -> float32 (batch, classes)."""
        return nn.functional.one_hot(targets, self.num_classes).float()

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

    def decide(self, probabilities: Tensor) -> Tensor:
        """Most probable class: (batch, classes) -> int64 (batch,)."""
        return probabilities.argmax(1)

    def detected(self, probabilities: Tensor, thresholds: Tensor | None) -> list[int]:
        """The most probable class, of those that reach their thresholds if there are any; see `Task.detected`."""
        if thresholds is not None:
            probabilities = probabilities.masked_fill(probabilities < thresholds, -1)
        best = int(probabilities.argmax())
        return [best] if probabilities[best] >= 0 else []

    def uncertainty(self, probabilities: Tensor) -> Tensor:
        """1 less the margin between the two most probable classes: (batch, classes) -> (batch,)."""
        top = probabilities.topk(min(2, self.num_classes), 1).values
        return 1 - (top[:, 0] - top[:, 1]) if self.num_classes > 1 else torch.zeros_like(top[:, 0])


class MultiLabel(Task):
    """Classes that occur together, alone, or not at all: a sigmoid per class and binary cross-entropy.

    Args:
        num_classes: Number of classes.
        label_smoothing: Probability mass that each binary target is moved towards 1/2.
        focal_gamma: Exponent that reduces the loss of targets that are met already (Lin et al., "Focal loss for dense
            object detection", 2017); 0 for cross-entropy.
        positive_weights: Weights of the clips of a class in its loss: ``none``, or ``balanced`` for the ratio of the
            other clips to them, at most 20.
        unite_mixed: Whether a clip of `augment=mixup` has the labels of both clips in full if both are audible, which
            have a weight of at least 0.1; else in proportion to their weights.
    """

    label_format = LABEL_SET
    fraction_correct = "exact match"
    relative_epochs = 2.0  # each class has few positive clips
    metrics: tuple[str, ...] = ("map", "micro_map", "auroc", "micro_auroc", "macro_f1", "micro_f1", "loss", "ece")
    positive_weight: Tensor | None
    thresholds: Tensor

    def __init__(
        self,
        num_classes: PositiveInt,
        label_smoothing: Fraction,
        focal_gamma: NonNegativeFloat,
        positive_weights: Literal["none", "balanced"],
        unite_mixed: bool,
    ) -> None:
        super().__init__(num_classes)
        self.label_smoothing, self.focal_gamma = label_smoothing, focal_gamma
        self.positive_weights, self.unite_mixed = positive_weights, unite_mixed
        self.calibration_shape = (num_classes,)
        self.register_buffer("positive_weight", None, persistent=False)
        self.register_buffer("thresholds", torch.full((num_classes,), _DEFAULT_THRESHOLD))

    def fit(self, targets: Tensor, draws: Tensor) -> None:
        """Sets the weights of the positive clips, as they are drawn."""
        if self.positive_weights == "balanced":
            positive = draws @ targets.double()
            weight = (draws.sum() - positive) / positive.clamp(min=1)
            self.positive_weight = weight.clamp(1 / _MAX_POSITIVE_WEIGHT, _MAX_POSITIVE_WEIGHT).float()

    def encode(self, targets: Tensor) -> Tensor:
        """bool (batch, classes) -> float32 (batch, classes)."""
        return targets.float()

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Binary cross-entropy (), or focal loss, of logits and targets in [0, 1], (batch, classes)."""
        return self._losses(logits, targets).mean()

    def frame_loss(self, logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
        """Mean of the same losses over known frames, 0 if there are none; see `Task.frame_loss`."""
        losses = self._losses(logits, targets).mean(2)
        return losses.masked_fill(~known, 0).sum() / known.sum().clamp(min=1)

    def _losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        logits = logits.float()
        if self.unite_mixed:
            targets = (targets / _AUDIBLE).clamp(max=1)
        smooth = targets.lerp(torch.full_like(targets, 0.5), self.label_smoothing)
        losses = nn.functional.binary_cross_entropy_with_logits(
            logits, smooth, pos_weight=self.positive_weight, reduction="none"
        )
        if self.focal_gamma:
            losses = losses * (smooth - logits.sigmoid()).abs() ** self.focal_gamma
        return losses

    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Whether exactly the classes of the targets are detected: (batch, classes) -> bool (batch,)."""
        return ((logits > 0) == (targets > 0)).all(1)

    def probabilities(self, logits: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
        """Sigmoid of logits (batch, classes) divided by the temperature of each class, (batch, classes)."""
        return (logits.float() / temperature).sigmoid()

    def logits(self, probabilities: Tensor) -> Tensor:
        """Logits of float32 probabilities (batch, classes), those that were rounded to 0 or 1 included."""
        info = torch.finfo(torch.float32)
        probabilities = probabilities.double().clamp(info.tiny, 1 - info.eps / 2)
        return probabilities.logit().float()

    def decide(self, probabilities: Tensor) -> Tensor:
        """Classes that reach their thresholds: (batch, classes) -> bool (batch, classes)."""
        return probabilities >= self.thresholds.to(probabilities)

    def detected(self, probabilities: Tensor, thresholds: Tensor | None) -> list[int]:
        """All classes that reach their thresholds; see `Task.detected`."""
        reached = probabilities >= (self.thresholds if thresholds is None else thresholds).to(probabilities)
        order = probabilities.argsort(descending=True, stable=True)
        return [index for index in order.tolist() if reached[index]]

    def uncertainty(self, probabilities: Tensor) -> Tensor:
        """1 less the smallest distance to a threshold, of the largest on its side: (batch, classes) -> (batch,)."""
        thresholds = self.thresholds.to(probabilities)
        above = (probabilities - thresholds) / (1 - thresholds).clamp(min=1e-6)
        below = (thresholds - probabilities) / thresholds.clamp(min=1e-6)
        return 1 - torch.where(probabilities >= thresholds, above, below).amin(1)

    def averaged(self, others: Sequence[Self]) -> Self:
        """Returns a task with the mean of the thresholds."""
        options = self.label_smoothing, self.focal_gamma, self.positive_weights, self.unite_mixed
        task = type(self)(self.num_classes, *options)
        task.thresholds = torch.stack([self.thresholds, *(other.thresholds for other in others)]).mean(0)
        return task
