"""A trained classifier, ready for recordings of any rate and length."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import soxr
import torch

from spectrnn.data.audio import to_mono
from spectrnn.data.batches import bucket_boundaries
from spectrnn.detection.thresholds import TunedThresholds, read_thresholds
from spectrnn.devices import pick_device
from spectrnn.model import serialization as model_file
from spectrnn.model.classifier import Classifier
from spectrnn.runs import find_model

_BATCH_SIZE = 64  # pieces of one recording

Chunk = npt.NDArray[Any]  # (samples,) of a recording


class Prediction(NamedTuple):
    """What a classifier makes of a recording.

    Attributes:
        label: the most probable class.
        probability: of that class.
        probabilities: of every class, the most probable first.
    """

    label: str
    probability: float
    probabilities: dict[str, float]


class Predictor:
    """A trained classifier, ready for waveforms of any rate and length.

    A recording longer than any clip that the classifier was trained on is classified in pieces of that clip's length,
    and its probabilities are the mean of theirs.

    Args:
        classifier: in evaluation mode.
        tuned_thresholds: thresholds that were chosen for it; None where none were.
    """

    def __init__(self, classifier: Classifier, tuned_thresholds: TunedThresholds | None = None) -> None:
        self.classifier, self.window, self.tuned_thresholds = (
            classifier,
            int(classifier.max_train_samples),
            tuned_thresholds,
        )
        self.labels, self.sample_rate = classifier.labels, classifier.sample_rate
        self.device = classifier.max_train_samples.device

    def predict(self, waveform: Any, sample_rate: int) -> Prediction:
        """Classifies one recording.

        Args:
            waveform: floats in [-1, 1), an array or tensor of shape (samples,), (channels, samples) or
                (samples, channels); the shorter side is taken for the channels.
            sample_rate: of the waveform, Hz.

        Raises:
            ValueError: the waveform is empty, or of another shape.
        """
        samples = np.asarray(waveform.detach().cpu() if isinstance(waveform, torch.Tensor) else waveform)
        if not np.issubdtype(samples.dtype, np.floating):
            raise ValueError(f"floats in [-1, 1) are needed, not {samples.dtype}; divide int16 by 32768")
        samples = samples.astype(np.float32)
        if samples.ndim not in (1, 2) or not samples.size:
            raise ValueError(f"a waveform of shape (samples,) or (channels, samples) is needed, not {samples.shape}")
        if samples.ndim == 2 and samples.shape[0] < samples.shape[1]:
            samples = samples.T
        samples = to_mono(samples)
        if sample_rate != self.sample_rate:
            samples = soxr.resample(samples, sample_rate, self.sample_rate)
        pieces = list(split_into_chunks([samples], self.window))
        lengths = np.array([len(piece) for piece in pieces])
        return self.prediction(lengths @ self.probabilities(pieces, _BATCH_SIZE))

    def probabilities(self, waveforms: Sequence[Chunk], batch_size: int) -> npt.NDArray[np.float64]:
        """Classifies pieces at the classifier's own rate, those of like length together.

        Args:
            waveforms: float32 arrays (samples,).
            batch_size: of them that are computed at once, at most.

        Returns:
            float64 (waveforms, classes).
        """
        found = np.zeros((len(waveforms), len(self.labels)))
        lengths = np.array([len(waveform) for waveform in waveforms], dtype=np.int64)
        order = lengths.argsort(kind="stable")
        for rows in np.split(order, bucket_boundaries(lengths[order], batch_size)) if waveforms else []:
            found[rows] = self._classified([waveforms[row] for row in rows])
        return found

    @torch.inference_mode()
    def _classified(self, waveforms: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        batch = torch.zeros(len(waveforms), int(lengths.max()))
        for row, waveform in zip(batch, waveforms, strict=True):
            row[: len(waveform)] = torch.from_numpy(waveform)
        return self.classifier.probabilities(batch.to(self.device), lengths.to(self.device)).cpu().numpy()

    def prediction(self, weights: npt.NDArray[np.float64]) -> Prediction:
        """The classes in their order: weights (classes,), in proportion to the probabilities."""
        probabilities = weights / weights.sum()
        ranked = {self.labels[index]: float(probabilities[index]) for index in (-probabilities).argsort(kind="stable")}
        label = next(iter(ranked))
        return Prediction(label, ranked[label], ranked)


def split_into_chunks(blocks: Iterable[Chunk], window: int) -> Iterator[Chunk]:
    """Cuts a recording into pieces.

    Args:
        blocks: arrays (samples,), which follow each other.
        window: samples of a piece; the last two may be shorter, or the last one longer, by half.
    """
    held: Chunk | None = None
    for block in blocks:
        held = block if held is None else np.concatenate([held, block])
        while len(held) >= 2 * window:
            yield held[:window]
            held = held[window:]
    if held is not None and len(held):
        yield from np.array_split(held, max(1, round(len(held) / window)))


def load(run_or_file: str | Path = "latest", device: str = "auto") -> Predictor:
    """Loads a trained classifier.

    Args:
        run_or_file: a run's folder, a model file, or ``latest``.
        device: ``auto``, ``cpu``, ``cuda``, ...

    Raises:
        UserError: there is no such model, or its file is damaged.
    """
    path = find_model(str(run_or_file))
    classifier, _ = model_file.load(path, pick_device(device))
    return Predictor(classifier, read_thresholds(path))
