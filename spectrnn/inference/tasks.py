"""What is made of a recording: one label, its events, or the label of each of its windows."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal, NamedTuple, Protocol

import numpy as np

from spectrnn.config.types import WindowSeconds
from spectrnn.detection.events import Array, Event, MovingAverage
from spectrnn.detection.settings import (
    DetectionConfig,
    DetectionSettings,
    resolve_hop,
    resolve_settings,
    warn_if_settings_differ,
)
from spectrnn.errors import UserError
from spectrnn.inference.predictor import Chunk, Prediction, Predictor, split_into_chunks
from spectrnn.inference.sliding_window import SlidingWindow, Window


class ClipPrediction(NamedTuple):
    """A recording's label.

    Attributes:
        prediction: the mean of what its pieces are.
        decision: the most probable label that reaches its own threshold; None where none does.
    """

    prediction: Prediction
    decision: str | None


PredictionRow = ClipPrediction | Event


class Marker(Enum):
    """Between windows: no more can be had until more sound comes; or the recording is over."""

    PAUSE = "pause"
    END = "end"


class Aggregator(Protocol):
    """What takes the windows of one recording."""

    def push(self, spans: Array, probabilities: Array) -> Sequence[PredictionRow]:
        """Takes spans (windows, 2), s, and probabilities (windows, classes); gives out the rows that are known now."""

    def finish(self) -> Sequence[PredictionRow]:
        """The rows that the recording's end ends."""


class PredictionTask(Protocol):
    """How recordings are heard, one after another."""

    def cut(self, blocks: Iterable[Chunk]) -> Iterator[Window | Marker]:
        """Cuts a recording, int16 arrays (samples,), into windows; marks pauses."""

    def reader(self) -> Aggregator:
        """What takes the windows of the next recording."""


class ClipTask:
    """One label a recording; a longer one than any clip of the training is heard in pieces of that length.

    Args:
        predictor: whose pieces they are.
        thresholds: (classes,), of tuned_thresholds; None for none.
    """

    def __init__(self, predictor: Predictor, thresholds: Array | None) -> None:
        self.predictor, self.thresholds = predictor, thresholds

    def cut(self, blocks: Iterable[Chunk]) -> Iterator[Window | Marker]:
        """As `PredictionTask`."""
        start = 0.0
        for piece in split_into_chunks(blocks, self.predictor.window):
            end = start + len(piece) / self.predictor.sample_rate
            yield Window(start, end, piece)
            start = end

    def reader(self) -> Aggregator:
        """As `PredictionTask`."""
        return _Mean(self.predictor, self.thresholds)


class _Mean:
    """The mean of probabilities, by the length of their pieces."""

    def __init__(self, predictor: Predictor, thresholds: Array | None) -> None:
        self.predictor, self.thresholds = predictor, thresholds
        self.weights = np.zeros(len(predictor.labels))

    def push(self, spans: Array, probabilities: Array) -> Sequence[PredictionRow]:
        self.weights += (spans[:, 1] - spans[:, 0]) @ probabilities
        return []

    def finish(self) -> Sequence[PredictionRow]:
        prediction = self.predictor.prediction(self.weights)
        if self.thresholds is None:
            return [ClipPrediction(prediction, None)]
        of = dict(zip(self.predictor.labels, self.thresholds, strict=True))
        reached = (label for label, value in prediction.probabilities.items() if value >= of[label])
        return [ClipPrediction(prediction, next(reached, None))]


class DetectionTask:
    """Windows that move along a recording, and the events that they tell.

    Args:
        predictor: of the recordings' rate.
        window, hop: its length, and from one to the next, s.
        detection: of events in what is said of the windows.
    """

    def __init__(self, predictor: Predictor, window: float, hop: float, detection: DetectionSettings) -> None:
        self.rate, self.labels, self.window, self.hop = predictor.sample_rate, predictor.labels, window, hop
        self.detection = detection

    def cut(self, blocks: Iterable[Chunk]) -> Iterator[Window | Marker]:
        """As `PredictionTask`."""
        windows = SlidingWindow(self.window, self.hop, self.rate)
        for block in blocks:
            yield from windows.push(block)
            yield Marker.PAUSE
        yield from windows.finish()

    def reader(self) -> Aggregator:
        """As `PredictionTask`."""
        return self.detection.detector(self.labels) or _WindowLabels(self.labels, self.detection.smoothing_windows)


class _WindowLabels:
    """The most probable label of each window."""

    def __init__(self, labels: list[str], smoothing_windows: int) -> None:
        self.labels, self.smoothed = labels, MovingAverage(smoothing_windows)
        self.spans: deque[tuple[float, float]] = deque()

    def push(self, spans: Array, probabilities: Array) -> Sequence[PredictionRow]:
        self.spans.extend(map(tuple, spans.tolist()))
        return self._rows(self.smoothed.push(probabilities))

    def finish(self) -> Sequence[PredictionRow]:
        return self._rows(self.smoothed.finish())

    def _rows(self, means: Array) -> Sequence[PredictionRow]:
        return [Event(*self.spans.popleft(), self.labels[mean.argmax()], float(mean.max())) for mean in means]


@dataclass(kw_only=True)
class ScanConfig(DetectionConfig):
    """What the config of a command says of windows and events."""

    window: Literal["model"] | WindowSeconds | None


def scanning(config: ScanConfig, predictor: Predictor) -> DetectionTask:
    """The scan that a config with a window asks for.

    Raises:
        UserError: settings that fit neither each other nor the model.
    """
    tuned_thresholds = predictor.tuned_thresholds
    if isinstance(config.window, float):
        window = config.window
    elif tuned_thresholds:
        window = tuned_thresholds.window
    else:
        raise UserError("window=model: the model file has no thresholds, and no window that they were chosen with")
    hop = resolve_hop(config, window, tuned_thresholds, window / 2)
    how = resolve_settings(config, predictor.labels, tuned_thresholds)
    if tuned_thresholds and config.threshold == "model":
        warn_if_settings_differ(window, hop, how.smoothing_windows, tuned_thresholds)
    return DetectionTask(predictor, window, hop, how)
