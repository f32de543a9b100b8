"""The classifier: from a waveform to logits. Features, normalization, encoder, pooling, head and task in one module."""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from spectrnn.config.instantiate import instantiate
from spectrnn.config.types import Fraction, PositiveFloat, PositiveInt
from spectrnn.data.batches import ClipEvents
from spectrnn.errors import UserError
from spectrnn.frontend.augmentation import Augmentations
from spectrnn.frontend.features import Features
from spectrnn.frontend.masking import length_mask
from spectrnn.frontend.normalization import Normalization
from spectrnn.model.pooling import Pooling
from spectrnn.model.rnn import Encoder
from spectrnn.model.task import Task

_MAX_LABELS, _MAX_LABEL_LENGTH = 10_000, 255  # classes, as a header is limited to a few MB; characters


class Head(nn.Sequential):
    """Dropout and a linear layer: (batch, input_size) -> logits (batch, classes).

    Args:
        input_size: Size of the pooled vector.
        num_classes: Number of classes.
        dropout: Probability of an input to be dropped during training.

    Attributes:
        has_frames: Whether there are logits of frames, too.
    """

    has_frames = False

    def __init__(self, input_size: PositiveInt, num_classes: PositiveInt, dropout: Fraction) -> None:
        super().__init__(nn.Dropout(dropout), nn.Linear(input_size, num_classes))

    def frames(self, states: Tensor) -> Tensor:
        """Hidden states (batch, frames', size) -> logits of frames (batch, frames', classes), if it has them."""
        raise NotImplementedError


class FrameHead(Head):
    """A head that answers for each frame, too, by the same layer: a pooled vector is like the state of a frame.

    So labels of clips without times train it through the pooling, and those with times directly.

    Source: Kong et al., "Sound event detection of weakly labelled data with CNN-Transformer and automatic threshold
    optimization", 2020.

    Args:
        input_size: Size of the pooled vector.
        state_size: Size of a hidden state.
        num_classes: Number of classes.
        dropout: Probability of an input to be dropped during training.
        frame_loss_weight: Weight of the loss of frames, which is added to that of clips.
    """

    has_frames = True

    def __init__(
        self,
        input_size: PositiveInt,
        state_size: PositiveInt,
        num_classes: PositiveInt,
        dropout: Fraction,
        frame_loss_weight: PositiveFloat,
    ) -> None:
        super().__init__(input_size, num_classes, dropout)
        if input_size != state_size:
            pooled = f"the pooling returns {input_size} values, and the model {state_size} per frame"
            raise UserError(f"head=frames: {pooled}; pooling=attention, mean, max and last return as many")
        self.frame_loss_weight = frame_loss_weight

    def frames(self, states: Tensor) -> Tensor:
        """Hidden states (batch, frames', size) -> logits (batch, frames', classes)."""
        return self(states)


# The stages of a classifier in the order of the data flow: config key -> interface.
STAGES: dict[str, type[nn.Module]] = {
    "features": Features,
    "normalize": Normalization,
    "model": Encoder,
    "pooling": Pooling,
    "head": Head,
    "task": Task,
}


class Stages(NamedTuple):
    """The stages of a classifier, in the order of the data flow and of `STAGES`."""

    features: Features
    normalization: Normalization
    encoder: Encoder
    pooling: Pooling
    head: nn.Module
    task: Task


class Activations(NamedTuple):
    """Intermediate results of a forward pass.

    Attributes:
        features: Normalized features, (batch, frames, bins).
        feature_lengths: Number of valid frames per clip, (batch,).
        states: Hidden states of the encoder, (batch, frames', hidden).
        state_lengths: Number of valid hidden states per clip, (batch,).
        pooled: Pooled vector, (batch, pooled).
        logits: Logits, (batch, classes).
        attention: Attention weights of the pooling, (batch, heads, frames'); None for a pooling without attention.
        frame_logits: Logits of frames, (batch, frames', classes), undefined after a clip's end; None without.
    """

    features: Tensor
    feature_lengths: Tensor
    states: Tensor
    state_lengths: Tensor
    pooled: Tensor
    logits: Tensor
    attention: Tensor | None
    frame_logits: Tensor | None


class StageSummary(NamedTuple):
    """A row of the classifier's summary: config key, output shape, and number of parameters of a stage."""

    name: str
    shape: tuple[int, ...]
    parameters: int


def build_stages(
    config: Mapping[str, Any],
    num_classes: int,
    build: Callable[..., Any] = instantiate,
    contents: Sequence[bytes] | Literal[False] = False,
) -> Stages:
    """Instantiates the stages of a classifier, each with the output size of the one before it.

    Args:
        config: Config with a node for each key of `STAGES`, plain containers.
        num_classes: Number of classes.
        build: Function called with a node, its key, its interface and keyword arguments. The preflight passes one that
            collects errors and returns None for a stage that cannot be built.
        contents: Contents of the files that the features need, from a model file; False if they read them.

    Raises:
        UserError: Invalid settings of a stage.
    """

    def stage(key: str, **context: Any) -> Any:
        return build(config.get(key), key, STAGES[key], **context)

    with torch.device("cpu"):  # its tables are not in a model file, and are needed even if all else is on "meta"
        features = stage("features", contents=contents)
    bins = getattr(features, "output_size", None)
    normalization = stage("normalize", input_size=bins)
    encoder = stage("model", input_size=bins)
    size, num_directions = getattr(encoder, "output_size", None), getattr(encoder, "num_directions", None)
    pooling = stage("pooling", input_size=size, num_directions=num_directions)
    head = stage("head", input_size=getattr(pooling, "output_size", None), state_size=size, num_classes=num_classes)
    return Stages(features, normalization, encoder, pooling, head, stage("task", num_classes=num_classes))


class Classifier(nn.Module):
    """Maps waveforms to logits, identically in training, evaluation, prediction and export.

    Args:
        stages: Stages as `build_stages` returns them.
        labels: Class names, in the order of the logits.
        augment: Augmentation of clips during training; none by default.

    Attributes:
        max_train_samples: int64 (), number of samples of the longest training clip; saved with the weights.
        temperature: float32 () or, with several labels per clip, (classes,), calibration temperature of the logits
            (Guo et al., 2017); 1 until fitted; saved with the weights.
    """

    max_train_samples: Tensor
    temperature: Tensor

    def __init__(self, stages: Stages, labels: Sequence[str], augment: Augmentations | None = None) -> None:
        super().__init__()
        self.labels = validate_labels(labels)
        self.augment = augment or Augmentations([])
        self.features, self.normalization, self.encoder, self.pooling, self.head, self.task = stages
        self.register_buffer("max_train_samples", torch.ones((), dtype=torch.int64))
        self.register_buffer("temperature", torch.ones(self.task.calibration_shape))

    @property
    def stages(self) -> dict[str, nn.Module]:
        """The stages by config key, in the order of the data flow."""
        modules = (self.features, self.normalization, self.encoder, self.pooling, self.head, self.task)
        return dict(zip(STAGES, modules, strict=True))

    @property
    def architecture(self) -> list[str]:
        """Class names of the stages from features to pooling."""
        return [type(stage).__name__ for name, stage in self.stages.items() if name not in ("head", "task")]

    @property
    def temperatures(self) -> Tensor:
        """All calibration temperatures, float32 (1, ...); an `Ensemble` has more."""
        return self.temperature[None]

    @property
    def has_frames(self) -> bool:
        """Whether it answers for each frame, too."""
        return getattr(self.head, "has_frames", False)

    @property
    def sample_rate(self) -> int:
        """Sample rate of the waveforms in Hz."""
        return self.features.sample_rate

    def forward(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        """Classifies clips.

        Args:
            waveform: Waveforms in [-1, 1), float32 (batch, samples), zero after each clip's end.
            lengths: Number of samples per clip, int64 (batch,).

        Returns:
            Logits (batch, classes). In evaluation mode they depend neither on the other clips nor on padding.
        """
        return self.trace(waveform, lengths).logits

    def trace(self, waveform: Tensor, lengths: Tensor) -> Activations:
        """Runs the forward pass and returns all intermediate results; arguments as for `forward`."""
        features, feature_lengths = self.frontend(waveform, lengths)
        states, state_lengths = self.encoder(features, feature_lengths)
        pooled, attention = self.pooling.attend(states, state_lengths)
        logits, frame_logits = self.head(pooled), cast(Head, self.head).frames(states) if self.has_frames else None
        return Activations(features, feature_lengths, states, state_lengths, pooled, logits, attention, frame_logits)

    def frame_centers(self, count: int) -> Tensor:
        """Centers of the first frames of the encoder's output in samples from the start of a clip, float32 (count,)."""
        frames = torch.arange(count, device=self.temperature.device, dtype=torch.float32)
        features = self.features
        return frames * (self.encoder.time_stride * features.hop_size) + (features.window_size / 2 - features.padding)

    def frame_loss(self, frame_logits: Tensor, lengths: Tensor, events: ClipEvents) -> Tensor:
        """Computes the weighted loss () of the frames of which it is known what sounds.

        Args:
            frame_logits: Logits of frames, (batch, frames', classes).
            lengths: Number of valid frames per clip, (batch,).
            events: Events of the clips.
        """
        count = frame_logits.shape[1]
        targets, known = events.targets(self.frame_centers(count), len(self.labels))
        loss = self.task.frame_loss(frame_logits, targets, known & length_mask(lengths, count))
        return loss * cast(FrameHead, self.head).frame_loss_weight

    def probabilities(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        """Waveform (batch, samples), lengths (batch,) -> calibrated float32 probabilities (batch, classes)."""
        return self.probabilities_and_embeddings(waveform, lengths)[0]

    def probabilities_and_embeddings(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Returns `probabilities`, and the pooled vectors that they are of (batch, pooled), of one forward pass."""
        x = self.trace(waveform, lengths)
        return self.task.probabilities(x.logits, self.temperature), x.pooled

    def frame_probabilities(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Waveform (batch, samples), lengths (batch,) -> probabilities (batch, frames', classes), frames per clip.

        They are not calibrated, as the temperature is that of clips.
        """
        x = self.trace(waveform, lengths)
        assert x.frame_logits is not None
        return self.task.probabilities(x.frame_logits), x.state_lengths

    def frontend(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Waveform (batch, samples), lengths (batch,) -> normalized features (batch, frames, bins), lengths (batch,).

        Always in float32: squared samples and their logarithms exceed the range of half precision.
        """
        with torch.autocast(waveform.device.type, enabled=False):
            features, feature_lengths = self.features(waveform, lengths)
            features = self.normalization(features, feature_lengths)
            if self.training:
                features = self.augment.spectrogram(features, feature_lengths)
        return features, feature_lengths

    @torch.no_grad()
    def summary(self, seconds: float) -> list[StageSummary]:
        """Computes the output shape and the number of parameters of each stage for a clip of the given length in s."""
        training, device = self.training, self.temperature.device
        lengths = torch.tensor([round(seconds * self.sample_rate)], device=device)
        waveform = torch.zeros(1, int(lengths), device=device)
        x = self.eval().trace(waveform, lengths)
        self.train(training)
        outputs = (x.features, x.features, x.states, x.pooled, x.logits, x.logits)
        return [StageSummary("waveform", tuple(waveform.shape), 0)] + [
            StageSummary(name, tuple(output.shape), sum(p.numel() for p in stage.parameters()))
            for (name, stage), output in zip(self.stages.items(), outputs, strict=True)
            if name != "task"
        ]


def validate_labels(labels: Any) -> list[str]:
    """Checks that labels are distinct and that tables and terminals can show them.

    Raises:
        UserError: Labels that are not distinct, short strings without control characters, or too many of them.
    """
    if not isinstance(labels, Sequence) or not all(isinstance(label, str) for label in labels):
        raise UserError("labels: should be a list of strings")
    if not 1 <= len(labels) <= _MAX_LABELS or len(set(labels)) < len(labels):
        raise UserError(f"labels: should be 1 to {_MAX_LABELS:,} distinct names")
    for label in labels:
        invalid = any(unicodedata.category(character) in ("Cc", "Cs") for character in label)
        if invalid or not 1 <= len(label) <= _MAX_LABEL_LENGTH:
            limit = f"1 to {_MAX_LABEL_LENGTH} characters, no control characters"
            raise UserError(f"label {label[:40]!r}: should be {limit}")
    return list(labels)
