"""The classifier: a waveform in, logits out. Features, normalization, encoder, pooling and head in one module."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spectrnn.config.instantiate import instantiate
from spectrnn.config.types import Fraction, PositiveInt
from spectrnn.errors import UserError
from spectrnn.frontend.augmentation import Augmentations
from spectrnn.frontend.features import LogMelSpectrogram
from spectrnn.frontend.normalization import Normalization
from spectrnn.model.pooling import Pooling
from spectrnn.model.rnn import Encoder

_MOST_LABELS, _LONGEST_LABEL = 10_000, 255  # classes, whose square an evaluation holds; characters


class Head(nn.Sequential):
    """Dropout and a linear layer: (batch, input_size) -> logits (batch, classes).

    Args:
        input_size: of the pooled vector.
        classes: how many.
        dropout: share of inputs dropped while training.
    """

    def __init__(self, input_size: PositiveInt, classes: PositiveInt, dropout: Fraction) -> None:
        super().__init__(nn.Dropout(dropout), nn.Linear(input_size, classes))


class StageSummary(NamedTuple):
    """A row of the classifier's summary: the shape that a stage gives out, and its parameters."""

    name: str
    shape: tuple[int, ...]
    parameters: int


class Classifier(nn.Module):
    """From a waveform to logits, the same in training, evaluation, prediction and export.

    Args:
        stages: the config's nodes ``features``, ``normalize``, ``model``, ``pooling`` and ``head``.
        labels: the classes, in the order of the logits.
        augment: what happens to clips while training; none by default.

    Attributes:
        longest: int64 (), samples of the longest clip that it was trained on; saved with the weights.
        temperature: float32 (), that logits are divided by, so that probabilities are as often right as they say
            (Guo et al., 2017); 1 until it is fitted; saved with the weights.

    Raises:
        UserError: a stage refuses its settings.
    """

    longest: Tensor
    temperature: Tensor

    def __init__(self, stages: Mapping[str, Any], labels: Sequence[str], augment: Augmentations | None = None) -> None:
        super().__init__()
        self.labels = validate_labels(labels)
        self.augment = augment or Augmentations([])
        with torch.device("cpu"):  # its tables are in no model file, and computed even where all else is shapes alone
            self.features: LogMelSpectrogram = instantiate(stages["features"], "features")
        self.normalize: Normalization = instantiate(
            stages["normalize"], "normalize", input_size=self.features.output_size
        )
        self.encoder: Encoder = instantiate(stages["model"], "model", input_size=self.features.output_size)
        self.pooling: Pooling = instantiate(
            stages["pooling"], "pooling", input_size=self.encoder.output_size, directions=self.encoder.directions
        )
        self.register_buffer("longest", torch.ones((), dtype=torch.int64))
        self.register_buffer("temperature", torch.ones(()))
        self.head = instantiate(stages["head"], "head", input_size=self.pooling.output_size, classes=len(self.labels))

    @property
    def sample_rate(self) -> int:
        """Of the waveforms it takes, Hz."""
        return self.features.sample_rate

    def forward(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        """Classifies clips.

        Args:
            waveform: float32 (batch, samples) in [-1, 1), zero beyond each clip's length.
            lengths: int64 (batch,), in samples.

        Returns:
            Logits (batch, classes). In evaluation a clip's do not depend on the other clips, nor on padding.
        """
        states, frames = self.encoder(*self.frontend(waveform, lengths))
        return self.head(self.pooling(states, frames))

    def probabilities(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        """What it says of clips: waveform (batch, samples), lengths (batch,) -> calibrated float32 (batch, classes)."""
        return (self(waveform, lengths).float() / self.temperature).softmax(1)

    def frontend(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Waveform (batch, samples), lengths (batch,) -> features (batch, frames, bins), valid frames (batch,).

        Always in float32: squared samples and their logarithms outrun half precision.
        """
        with torch.autocast(waveform.device.type, enabled=False):
            features, frames = self.features(waveform, lengths)
            features = self.normalize(features, frames)
            if self.training:
                features = self.augment.spectrogram(features, frames)
        return features, frames

    @torch.no_grad()
    def summary(self, seconds: float) -> list[StageSummary]:
        """The shapes that a clip of some length takes on its way, and each stage's parameters."""
        training = self.training
        self.eval()
        device = next(self.parameters()).device
        lengths = torch.tensor([round(seconds * self.sample_rate)], device=device)
        waveform = torch.zeros(1, int(lengths), device=device)
        features, frames = self.features(waveform, lengths)
        normalized = self.normalize(features, frames)
        states, shortened = self.encoder(normalized, frames)
        pooled = self.pooling(states, shortened)
        logits = self.head(pooled)
        self.train(training)
        ways = {
            "waveform": (None, waveform),
            "features": (self.features, features),
            "normalize": (self.normalize, normalized),
            "model": (self.encoder, states),
            "pooling": (self.pooling, pooled),
            "head": (self.head, logits),
        }
        return [StageSummary(name, tuple(x.shape), _parameters(stage)) for name, (stage, x) in ways.items()]


def validate_labels(labels: Any) -> list[str]:
    """The labels, if tables and terminals can show them and a classifier can tell them apart.

    Raises:
        UserError: they are no distinct, short strings without control characters, or too many.
    """
    if not isinstance(labels, Sequence) or not all(isinstance(label, str) for label in labels):
        raise UserError("labels: should be a list of strings")
    if not 1 <= len(labels) <= _MOST_LABELS or len(set(labels)) < len(labels):
        raise UserError(f"labels: should be 1 to {_MOST_LABELS:,} distinct names")
    for label in labels:
        odd = any(unicodedata.category(character) in ("Cc", "Cs") for character in label)
        if odd or not 1 <= len(label) <= _LONGEST_LABEL:
            raise UserError(f"label {label[:40]!r}: should be 1 to {_LONGEST_LABEL} characters, none for control")
    return list(labels)


def _parameters(stage: nn.Module | None) -> int:
    return sum(p.numel() for p in stage.parameters()) if stage is not None else 0
