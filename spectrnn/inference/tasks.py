"""Prediction tasks: one label per recording, its events, or the label of each of its windows."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from typing import NamedTuple, Protocol

import numpy as np

from spectrnn.data.audio import to_float
from spectrnn.data.crops import crop_hop
from spectrnn.data.labels import SEPARATOR
from spectrnn.detection.events import Array, Event, MovingAverage
from spectrnn.detection.settings import DetectionSettings
from spectrnn.inference.predictor import Chunk, LogitMean, Prediction, Predictor, split_into_chunks
from spectrnn.inference.sliding_window import SlidingWindow, Steps, Window, window_steps


class ClipPrediction(NamedTuple):
    """Classification of a recording as one clip.

    Attributes:
        prediction: Mean over the parts of the recording.
        decision: Most probable label that reaches its threshold, or with several labels per clip all that do, joined
            by semicolons; None if none does, or if there are no thresholds.
    """

    prediction: Prediction
    decision: str | None


PredictionRow = ClipPrediction | Event


class Marker(Enum):
    """Marks between the windows of a recording: no more input for now, or the end of the recording."""

    FLUSH = "flush"
    END = "end"


class Aggregator(Protocol):
    """Computes the rows of one recording from the predictions for its windows."""

    def push(self, spans: Array, probabilities: Array) -> Sequence[PredictionRow]:
        """Adds spans (windows, 2) in s and probabilities (windows, classes); returns the rows that are complete."""

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
        size, rate = self.predictor.window, self.predictor.sample_rate
        if self.predictor.uses_crops:  # those of `covering_crops`, with spans in proportion to the weights
            yield from SlidingWindow(size / rate, crop_hop(size) / rate, rate).split(blocks)
            return
        start = 0.0
        for chunk in split_into_chunks(blocks, size):
            end = start + len(chunk) / rate
            yield Window(start, end, chunk, start)
            start = end

    def steps(self, windows: Sequence[Window], batch_size: int) -> list[Steps]:
        """Classifies the parts; each is one step."""
        spans = [np.array([[window.start, window.end]]) for window in windows]
        samples = [to_float(window.samples) for window in windows]
        return list(zip(spans, self.predictor.probabilities(samples, batch_size)[:, None], strict=True))

    def aggregator(self) -> Aggregator:
        """Returns an aggregator for the next recording."""
        return _PartMean(self.predictor, self.thresholds, self.top_k)


class _PartMean:
    """Mean over the parts of a recording, weighted by the lengths of their spans."""

    def __init__(self, predictor: Predictor, thresholds: Array | None, top_k: int | None) -> None:
        self.predictor, self.thresholds, self.top_k = predictor, thresholds, top_k
        self.mean = LogitMean(predictor.classifier.task)

    def push(self, spans: Array, probabilities: Array) -> Sequence[PredictionRow]:
        self.mean.push(probabilities, spans[:, 1] - spans[:, 0])
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


PredictionTask = ClipTask | DetectionTask


class _WindowLabels:
    """The most probable label of each window, after smoothing."""

    def __init__(self, labels: list[str], smoothing_windows: int) -> None:
        self.labels, self.average = labels, MovingAverage(smoothing_windows)
        self.spans: deque[tuple[float, float]] = deque()

    def push(self, spans: Array, probabilities: Array) -> Sequence[PredictionRow]:
        self.spans.extend(map(tuple, spans.tolist()))
        return self._rows(self.average.push(probabilities))

    def finish(self) -> Sequence[PredictionRow]:
        return self._rows(self.average.finish())

    def _rows(self, averages: Array) -> Sequence[PredictionRow]:
        return [Event(*self.spans.popleft(), self.labels[row.argmax()], float(row.max())) for row in averages]
