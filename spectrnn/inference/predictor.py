"""A trained classifier for recordings of any sample rate and length."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from torch import Tensor

from spectrnn.data.batches import bucket_boundaries
from spectrnn.detection.thresholds import TunedThresholds, read_thresholds
from spectrnn.devices import log_device, pick_device
from spectrnn.model import serialization
from spectrnn.model.classifier import STAGES, Classifier
from spectrnn.model.header import read_header
from spectrnn.model.task import Task
from spectrnn.runs import find_model

_MAX_BARS = 5  # classes in a notebook
_FRAME_THRESHOLD = 0.5

Chunk = npt.NDArray[Any]  # part of a recording, (samples,)


@dataclass(frozen=True)
class Prediction:
    """Classification of a recording.

    Attributes:
        label: Most probable class.
        probability: Probability of that class.
        labels: The most probable class; of a model for several labels per clip all that reach their thresholds.
        probabilities: Probability by class, most probable first.
        path: File of the recording; None for a waveform.
        media: Function that returns ``audio`` and ``spectrogram`` as data URLs for a notebook; None for a plain table.
    """

    label: str
    probability: float
    labels: list[str]
    probabilities: dict[str, float] = field(repr=False)
    path: str | None = None
    media: Callable[[], Mapping[str, str]] | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Returns path, label, probability, labels and probabilities."""
        names = ("path", "label", "probability", "labels", "probabilities")
        return {name: getattr(self, name) for name in names}

    def _repr_html_(self) -> str:
        bars = "".join(
            f"<tr><td>{escape(label)}</td><td>{value:.3f}</td>"
            f"<td><div style='background:#3a5478;height:.7em;width:{12 * value:.2f}em'></div></td></tr>"
            for label, value in list(self.probabilities.items())[:_MAX_BARS]
        )
        html = f"<p>{escape(self.path or '')}</p><table>{bars}</table>"
        if self.media is not None:
            media = self.media()
            html += f"<img src='{media['spectrogram']}' style='width:24em;height:8em' alt='spectrogram'><br>"
            html += f"<audio controls src='{media['audio']}'></audio>"
        return html


class Predictor:
    """Classifies waveforms of any length, at the sample rate of its classifier.

    Args:
        classifier: Classifier in evaluation mode.
        tuned_thresholds: Detection thresholds tuned for it; None if there are none.
        uses_crops: Whether longer training clips were cropped.

    Attributes:
        labels: Class names.
        sample_rate: Sample rate of the classifier in Hz.
        window: Number of samples of the longest training clip.
        thresholds: Thresholds of the classifier's task, (classes,); None if its classes exclude each other.
        has_frames: Whether the classifier answers for each frame, too: then events are detected from frames.
        frame_seconds: Time between these frames in s; None without.
        step_thresholds: Thresholds of what events are detected from, `thresholds` or those of frames; None likewise.
    """

    def __init__(
        self, classifier: Classifier, tuned_thresholds: TunedThresholds | None = None, uses_crops: bool = False
    ) -> None:
        self.classifier, self.tuned_thresholds, self.uses_crops = classifier, tuned_thresholds, uses_crops
        self.labels, self.sample_rate = classifier.labels, classifier.sample_rate
        self.window, self.device = int(classifier.max_train_samples), classifier.max_train_samples.device
        thresholds = classifier.task.thresholds
        self.thresholds = None if thresholds is None else thresholds.double().numpy(force=True)
        self.has_frames = classifier.has_frames
        self.frame_seconds: float | None = None
        if self.has_frames:
            first, second = classifier.frame_centers(2).tolist()
            self.frame_seconds = (second - first) / self.sample_rate
        self.step_thresholds = np.full(len(self.labels), _FRAME_THRESHOLD) if self.has_frames else self.thresholds

    @torch.inference_mode()
    def probabilities(self, waveforms: Sequence[Chunk], batch_size: int) -> npt.NDArray[np.float64]:
        """Classifies waveforms at the sample rate of the classifier, in batches of similar length.

        Args:
            waveforms: Waveforms in [-1, 1), float32 (samples,) each.
            batch_size: Maximum number of waveforms per batch.

        Returns:
            Probabilities, float64 (waveforms, classes).
        """
        outputs = np.zeros((len(waveforms), len(self.labels)))
        for rows, batch, lengths in self._batches(waveforms, batch_size):
            outputs[rows] = self.classifier.probabilities(batch, lengths).numpy(force=True)
        return outputs

    @torch.inference_mode()
    def embeddings(self, waveforms: Sequence[Chunk], batch_size: int) -> npt.NDArray[np.float32]:
        """Computes pooled vectors, the input of the head, float32 (waveforms, pooled); arguments as `probabilities`."""
        outputs = np.zeros((len(waveforms), self.classifier.pooling.output_size), np.float32)
        for rows, batch, lengths in self._batches(waveforms, batch_size):
            outputs[rows] = self.classifier.trace(batch, lengths).pooled.float().numpy(force=True)
        return outputs

    @torch.inference_mode()
    def probabilities_of(self, embeddings: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Applies the head to embeddings (clips, pooled): probabilities (clips, classes)."""
        pooled = torch.from_numpy(np.array(embeddings, np.float32)).to(self.device)
        classifier = self.classifier
        probabilities = classifier.task.probabilities(classifier.head(pooled), classifier.temperature)
        return probabilities.double().numpy(force=True)

    @torch.inference_mode()
    def frames(
        self, waveforms: Sequence[Chunk], batch_size: int
    ) -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
        """Classifies the frames of waveforms; arguments as for `probabilities`.

        Returns:
            Center of each frame in s from the start of its waveform, (frames,), and probabilities (frames, classes).
        """
        found: dict[int, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]] = {}
        for rows, batch, lengths in self._batches(waveforms, batch_size):
            probabilities, counts = self.classifier.frame_probabilities(batch, lengths)
            centers = self.classifier.frame_centers(probabilities.shape[1]).double().cpu().numpy() / self.sample_rate
            for row, own, count in zip(rows, probabilities.double().cpu().numpy(), counts.tolist(), strict=True):
                found[row] = centers[:count], own[:count]
        return [found[row] for row in range(len(waveforms))]

    def _batches(
        self, waveforms: Sequence[Chunk], batch_size: int
    ) -> Iterator[tuple[npt.NDArray[np.int64], Tensor, Tensor]]:
        """Yields the rows of a batch, its waveforms (batch, samples), and their lengths (batch,)."""
        sizes = np.array([len(waveform) for waveform in waveforms], dtype=np.int64)
        order = sizes.argsort(kind="stable")
        boundaries = bucket_boundaries(sizes[order], batch_size, self.device)
        for rows in np.split(order, boundaries) if waveforms else []:
            lengths = torch.from_numpy(sizes[rows])
            batch = torch.zeros(len(rows), int(lengths.max()))
            for row, index in zip(batch, rows, strict=True):
                row[: sizes[index]] = torch.from_numpy(waveforms[index])
            yield rows, batch.to(self.device), lengths.to(self.device)

    def to_prediction(self, probabilities: npt.NDArray[np.float64], count: int | None = None) -> Prediction:
        """Ranks the classes by their probabilities (classes,); a count limits the result to the most probable ones."""
        ranking = top_classes(probabilities, len(self.labels) if count is None else count)
        ranked = {self.labels[index]: float(probabilities[index]) for index in ranking}
        label = next(iter(ranked))
        return Prediction(label, ranked[label], self.detected(probabilities), ranked)

    def detected(
        self, probabilities: npt.NDArray[np.float64], thresholds: npt.NDArray[np.float64] | None = None
    ) -> list[str]:
        """Names the detected classes of probabilities (classes,), at thresholds (classes,) or those of the model."""
        values, limits = torch.from_numpy(probabilities), None if thresholds is None else torch.from_numpy(thresholds)
        return [self.labels[index] for index in self.classifier.task.detected(values, limits)]


def top_classes(probabilities: npt.NDArray[Any], count: int) -> npt.NDArray[np.int64]:
    """Returns the most probable classes, most probable first and the first of equal ones, (classes,) -> (count,)."""
    count = min(count, len(probabilities))
    smallest = np.partition(probabilities, -count)[-count]  # sorting all classes would take longer
    candidates = np.flatnonzero(probabilities >= smallest)
    return candidates[np.argsort(-probabilities[candidates], kind="stable")[:count]]


class LogitMean:
    """Probabilities of the weighted mean of the logits of a recording's parts; a single part keeps its probabilities.

    Args:
        task: Task of the classifier.
    """

    def __init__(self, task: Task) -> None:
        self.task, self.count, self.weight, self.total = task, 0, 0.0, np.zeros(())

    def push(self, probabilities: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> None:
        """Adds parts: probabilities (parts, classes) and weights (parts,) in any unit."""
        self.single = probabilities[0]
        self.total = self.total + weights @ self.task.logits(torch.from_numpy(probabilities)).numpy()
        self.count, self.weight = self.count + len(weights), self.weight + weights.sum()

    def finish(self) -> npt.NDArray[np.float64]:
        """Returns the probabilities of the recording (classes,)."""
        if self.count == 1:
            return self.single
        mean = torch.from_numpy(self.total[None] / self.weight)
        return self.task.probabilities(mean)[0].double().numpy()


def split_into_chunks(blocks: Iterable[Chunk], size: int) -> Iterator[Chunk]:
    """Splits a recording into chunks.

    Args:
        blocks: Consecutive blocks of the recording, (samples,) each.
        size: Number of samples per chunk; the last two may be shorter, or the last one longer, by half.
    """
    pending: Chunk | None = None
    for block in blocks:
        pending = block if pending is None else np.concatenate([pending, block])
        while len(pending) >= 2 * size:
            yield pending[:size]
            pending = pending[size:]
    if pending is not None and len(pending):
        yield from np.array_split(pending, max(1, round(len(pending) / size)))


def load(run: str | Path = "latest", device: str = "auto", trust: Sequence[str] = ()) -> Predictor:
    """Loads a trained classifier.

    Args:
        run: Run folder, model file, ``latest``, ``best``, or a folder of runs, as for `runs.find_model`.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        trust: Packages, besides spectrnn, whose classes the model file may instantiate.

    Raises:
        UserError: No such model, a damaged file, or stages from packages that are not trusted.
    """
    path, picked = find_model(str(run)), pick_device(device)
    log_device(picked)
    classifier, trained = serialization.load(path, picked, trust)
    return Predictor(classifier, read_thresholds(path), _used_crops(classifier, trained))


def model_hash(path: Path) -> str:
    """Returns 16 hexadecimal digits of the SHA-256 hash of a model file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def embedding_hash(path: Path) -> str:
    """Returns 16 hexadecimal digits of a SHA-256 hash of what determines the embeddings by a model file.

    These are config and weights of the stages up to the pooling, and how long recordings are divided. Temperature,
    thresholds, head and labels may change.
    """
    config = read_header(path)["config"]
    settings = [config[name] for name in STAGES if name not in ("head", "task")]
    digest = hashlib.sha256(json.dumps([*settings, _max_seconds(config)], sort_keys=True).encode())
    with safe_open(path, "np") as file:
        for name in sorted(file.keys()):
            if name != "temperature" and not name.startswith(("head.", "task.")):
                digest.update(f"{name} {file.get_slice(name).get_shape()}".encode())
                digest.update(file.get_tensor(name).tobytes())
    return digest.hexdigest()[:16]


def _used_crops(classifier: Classifier, trained: Mapping[str, Any]) -> bool:
    """Whether training clips were cropped to ``data.max_seconds`` of the config in the model file, not trusted."""
    limit = _max_seconds(trained)
    samples = int(classifier.max_train_samples)
    return isinstance(limit, int | float) and abs(limit * classifier.sample_rate - samples) <= 0.5


def _max_seconds(trained: Mapping[str, Any]) -> Any:
    data = trained.get("data")
    return data.get("max_seconds") if isinstance(data, Mapping) else None
