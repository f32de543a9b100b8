"""Prediction tasks: one label per recording, its events, the label of each of its windows, or embeddings."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from typing import NamedTuple, Protocol

import numpy as np

from spectrnn.data.crops import crop_hop
from spectrnn.data.labels import SEPARATOR
from spectrnn.detection.events import Array, Event, MovingAverage
from spectrnn.detection.settings import DetectionSettings
from spectrnn.inference.predictor import Chunk, LogitMean, Prediction, Predictor, split_into_chunks
from spectrnn.inference.sliding_window import SlidingWindow, Steps, Window, whole_steps, window_steps


class ClipPrediction(NamedTuple):
    """Classification of a recording as one clip.

    Attributes:
        prediction: Mean over the parts of the recording.
        decision: Most probable label that reaches its threshold, or with several labels per clip all that do, joined
            by semicolons; None if none does, or if there are no thresholds.
    """

    prediction: Prediction
    decision: str | None


class Embedding(NamedTuple):
    """Pooled vector of a part of a recording: start and end in s, and the input of the head, float32 (pooled,)."""

    start: float
    end: float
    vector: Array


PredictionRow = ClipPrediction | Event | Embedding


class Marker(Enum):
    """Marks between the windows of a recording: no more input for now, or the end of the recording."""

    FLUSH = "flush"
    END = "end"


class Aggregator(Protocol):
    """Computes the rows of one recording from the outputs of its windows."""

    def push(self, spans: Array, outputs: Array) -> Sequence[PredictionRow]:
        """Adds spans (windows, 2) in s and outputs (windows, size); returns the rows that are complete."""

    def finish(self) -> Sequence[PredictionRow]:
        """Returns the remaining rows at the end of the recording."""


class ClipTask:
    """One label per recording.

    A recording longer than any training clip is classified in parts of that length, whose logits are averaged: if
    longer training clips were cropped, in the crops of `covering_crops`, as in evaluation; else in consecutive chunks.

    Args:
        predictor: Predictor that classifies the parts.
        thresholds: Detection threshold per class, (classes,), for a decision; None for no decision.
        top_k: Number of most probable classes in a row; None for all.
    """

    def __init__(self, predictor: Predictor, thresholds: Array | None, top_k: int | None = None) -> None:
        self.predictor, self.thresholds, self.top_k = predictor, thresholds, top_k

    def split(self, blocks: Iterable[Chunk]) -> Iterator[Window]:
        """Yields the parts of a recording, given as blocks int16 (samples,)."""
        return split_into_parts(self.predictor, blocks)

    def steps(self, windows: Sequence[Window], batch_size: int) -> list[Steps]:
        """Classifies the parts; each is one step."""
        return whole_steps(self.predictor.probabilities, windows, batch_size)

    def aggregator(self) -> Aggregator:
        """Returns an aggregator for the next recording."""
        return _PartMean(self.predictor, self.thresholds, self.top_k)


def split_into_parts(predictor: Predictor, blocks: Iterable[Chunk]) -> Iterator[Window]:
    """Yields the parts that a recording, given as blocks int16 (samples,), is classified in; see `ClipTask`."""
    size, rate = predictor.window, predictor.sample_rate
    if predictor.uses_crops:  # those of `covering_crops`, with spans in proportion to the weights
        yield from SlidingWindow(size / rate, crop_hop(size) / rate, rate).split(blocks)
        return
    start = 0.0
    for chunk in split_into_chunks(blocks, size):
        end = start + len(chunk) / rate
        yield Window(start, end, chunk, start)
        start = end


class _PartMean:
    """Mean over the parts of a recording, weighted by the lengths of their spans."""

    def __init__(self, predictor: Predictor, thresholds: Array | None, top_k: int | None) -> None:
        self.predictor, self.thresholds, self.top_k = predictor, thresholds, top_k
        self.mean = LogitMean(predictor.classifier.task)

    def push(self, spans: Array, outputs: Array) -> Sequence[PredictionRow]:
        self.mean.push(outputs, spans[:, 1] - spans[:, 0])
        return []

    def finish(self) -> Sequence[PredictionRow]:
        probabilities, decision = self.mean.finish(), None
        if self.thresholds is not None:
            decision = SEPARATOR.join(self.predictor.detected(probabilities, self.thresholds)) or None
        return [ClipPrediction(self.predictor.to_prediction(probabilities, self.top_k), decision)]


class DetectionTask:
    """Events in sliding windows; without thresholds the most probable label of each window.

    Args:
        predictor: Predictor that classifies the windows.
        settings: Windows and detection settings.
    """

    def __init__(self, predictor: Predictor, settings: DetectionSettings) -> None:
        self.predictor, self.settings = predictor, settings
        self.labels, self.sample_rate = predictor.labels, predictor.sample_rate

    def split(self, blocks: Iterable[Chunk]) -> Iterator[Window | Marker]:
        """Yields the windows of a recording, given as blocks int16 (samples,), and a flush marker after each block."""
        windows = SlidingWindow(self.settings.window, self.settings.hop, self.sample_rate)
        for block in blocks:
            yield from windows.push(block)
            yield Marker.FLUSH
        yield from windows.finish()

    def steps(self, windows: Sequence[Window], batch_size: int) -> list[Steps]:
        """Classifies windows, or the frames in them; see `window_steps`."""
        return window_steps(self.predictor, windows, batch_size)

    def aggregator(self) -> Aggregator:
        """Returns an aggregator for the next recording."""
        return self.settings.detector(self.labels) or _WindowLabels(self.labels, self.settings.smoothing_windows)


class ClipEmbeddingTask:
    """One embedding per recording: the mean over its parts, as `ClipTask` has them, weighted by their spans.

    Heads are linear, so that this vector has the logits that the recording is classified by.

    Args:
        predictor: Predictor that computes the embeddings of the parts.

    Attributes:
        settings: Settings that determine the rows.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.settings: dict[str, float | None] = {"window": None, "hop": None}

    def split(self, blocks: Iterable[Chunk]) -> Iterator[Window]:
        """Yields the parts of a recording, given as blocks int16 (samples,)."""
        return split_into_parts(self.predictor, blocks)

    def steps(self, windows: Sequence[Window], batch_size: int) -> list[Steps]:
        """Computes the embeddings of windows; each is one step."""
        return whole_steps(self.predictor.embeddings, windows, batch_size)

    def aggregator(self) -> Aggregator:
        """Returns an aggregator for the next recording."""
        return _VectorMean()


class _VectorMean:
    """Mean of the vectors of a recording's parts, weighted by the lengths of their spans; a single part keeps its."""

    def __init__(self) -> None:
        self.count, self.total, self.end = 0, np.zeros(()), 0.0

    def push(self, spans: Array, outputs: Array) -> Sequence[PredictionRow]:
        self.single = outputs[0]
        self.total = self.total + (spans[:, 1] - spans[:, 0]) @ outputs.astype(np.float64)
        self.count, self.end = self.count + len(outputs), float(spans[-1, 1])
        return []

    def finish(self) -> Sequence[PredictionRow]:
        vector = self.single if self.count == 1 else (self.total / self.end).astype(np.float32)
        return [Embedding(0.0, self.end, vector)]


class WindowEmbeddingTask:
    """One embedding per sliding window; the last window ends with the recording.

    Args:
        predictor: Predictor that computes the embeddings.
        window, hop: Window and hop in s, as for `SlidingWindow`.

    Attributes:
        settings: Settings that determine the rows.
    """

    def __init__(self, predictor: Predictor, window: float, hop: float) -> None:
        self.predictor, self.sample_rate = predictor, predictor.sample_rate
        self.settings: dict[str, float | None] = {"window": window, "hop": hop}
        self.window, self.hop = window, hop

    def split(self, blocks: Iterable[Chunk]) -> Iterator[Window]:
        """Yields the windows of a recording, given as blocks int16 (samples,)."""
        return self._windows().split(blocks)

    def steps(self, windows: Sequence[Window], batch_size: int) -> list[Steps]:
        """Computes the embeddings of windows; each is one step."""
        return whole_steps(self.predictor.embeddings, windows, batch_size)

    def aggregator(self) -> Aggregator:
        """Returns an aggregator for the next recording."""
        windows = self._windows()
        return _WindowVectors(windows.size, windows.hop, self.sample_rate)

    def _windows(self) -> SlidingWindow:
        return SlidingWindow(self.window, self.hop, self.sample_rate)


class _WindowVectors:
    """Vectors with start and end of their whole windows in s, which the spans of `SlidingWindow` are parts of."""

    def __init__(self, size: int, hop: int, sample_rate: int) -> None:
        self.size, self.hop, self.sample_rate = size, hop, sample_rate
        self.start = 0  # of the next row in samples
        self.last: tuple[float, Array] | None = None  # end of its span, and vector

    def push(self, spans: Array, outputs: Array) -> Sequence[PredictionRow]:
        rows = []
        for end, vector in zip(spans[:, 1].tolist(), outputs, strict=True):
            if self.last:
                times = self.start / self.sample_rate, (self.start + self.size) / self.sample_rate
                rows.append(Embedding(*times, self.last[1]))
                self.start += self.hop
            self.last = end, vector
        return rows

    def finish(self) -> Sequence[PredictionRow]:
        if self.last is None:
            return []
        end, vector = self.last
        start = max(0, round(end * self.sample_rate) - self.size)
        return [Embedding(start / self.sample_rate, end, vector)]


PredictionTask = ClipTask | DetectionTask | ClipEmbeddingTask | WindowEmbeddingTask


class _WindowLabels:
    """The most probable label of each window, after smoothing."""

    def __init__(self, labels: list[str], smoothing_windows: int) -> None:
        self.labels, self.average = labels, MovingAverage(smoothing_windows)
        self.spans: deque[tuple[float, float]] = deque()

    def push(self, spans: Array, outputs: Array) -> Sequence[PredictionRow]:
        self.spans.extend(map(tuple, spans.tolist()))
        return self._rows(self.average.push(outputs))

    def finish(self) -> Sequence[PredictionRow]:
        return self._rows(self.average.finish())

    def _rows(self, averages: Array) -> Sequence[PredictionRow]:
        return [Event(*self.spans.popleft(), self.labels[row.argmax()], float(row.max())) for row in averages]
