"""What is made of a recording: one label, its events, or the label of each of its windows."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from typing import NamedTuple, Protocol

import numpy as np

from spectrnn.inference.detection import Detection
from spectrnn.inference.events import Array, Event, Smoothed
from spectrnn.inference.predictor import Piece, Prediction, Predictor, cut
from spectrnn.inference.scan import Window, Windows


class Labelled(NamedTuple):
    """A recording's label.

    Attributes:
        prediction: the mean of what its pieces are.
        decision: the most probable label that reaches its own threshold; None where none does.
    """

    prediction: Prediction
    decision: str | None


Row = Labelled | Event


class Mark(Enum):
    """Between windows: no more can be had until more sound comes; or the recording is over."""

    PAUSE = "pause"
    END = "end"


class Reader(Protocol):
    """What takes the windows of one recording."""

    def push(self, spans: Array, probabilities: Array) -> Sequence[Row]:
        """Takes spans (windows, 2), s, and probabilities (windows, classes); gives out the rows that are known now."""

    def finish(self) -> Sequence[Row]:
        """The rows that the recording's end ends."""


class Hearing(Protocol):
    """How recordings are heard, one after another."""

    def cut(self, blocks: Iterable[Piece]) -> Iterator[Window | Mark]:
        """Cuts a recording, int16 arrays (samples,), into windows; marks pauses."""

    def reader(self) -> Reader:
        """What takes the windows of the next recording."""


class Whole:
    """One label a recording; a longer one than any clip of the training is heard in pieces of that length.

    Args:
        predictor: whose pieces they are.
        thresholds: (classes,), of decisions; None for none.
    """

    def __init__(self, predictor: Predictor, thresholds: Array | None) -> None:
        self.predictor, self.thresholds = predictor, thresholds

    def cut(self, blocks: Iterable[Piece]) -> Iterator[Window | Mark]:
        """As `Hearing`."""
        start = 0.0
        for piece in cut(blocks, self.predictor.window):
            end = start + len(piece) / self.predictor.sample_rate
            yield Window(start, end, piece)
            start = end

    def reader(self) -> Reader:
        """As `Hearing`."""
        return _Mean(self.predictor, self.thresholds)


class _Mean:
    """The mean of probabilities, by the length of their pieces."""

    def __init__(self, predictor: Predictor, thresholds: Array | None) -> None:
        self.predictor, self.thresholds = predictor, thresholds
        self.weights = np.zeros(len(predictor.labels))

    def push(self, spans: Array, probabilities: Array) -> Sequence[Row]:
        self.weights += (spans[:, 1] - spans[:, 0]) @ probabilities
        return []

    def finish(self) -> Sequence[Row]:
        prediction = self.predictor.prediction(self.weights)
        if self.thresholds is None:
            return [Labelled(prediction, None)]
        of = dict(zip(self.predictor.labels, self.thresholds, strict=True))
        reached = (label for label, value in prediction.probabilities.items() if value >= of[label])
        return [Labelled(prediction, next(reached, None))]


class Scanning:
    """Windows that move along a recording, and the events that they tell.

    Args:
        predictor: of the recordings' rate.
        window, hop: its length, and from one to the next, s.
        detection: of events in what is said of the windows.
    """

    def __init__(self, predictor: Predictor, window: float, hop: float, detection: Detection) -> None:
        self.rate, self.labels, self.window, self.hop = predictor.sample_rate, predictor.labels, window, hop
        self.detection = detection

    def cut(self, blocks: Iterable[Piece]) -> Iterator[Window | Mark]:
        """As `Hearing`."""
        windows = Windows(self.window, self.hop, self.rate)
        for block in blocks:
            yield from windows.push(block)
            yield Mark.PAUSE
        yield from windows.finish()

    def reader(self) -> Reader:
        """As `Hearing`."""
        return self.detection.detector(self.labels) or _EachWindow(self.labels, self.detection.smooth)


class _EachWindow:
    """The most probable label of each window."""

    def __init__(self, labels: list[str], smooth: int) -> None:
        self.labels, self.smoothed = labels, Smoothed(smooth)
        self.spans: deque[tuple[float, float]] = deque()

    def push(self, spans: Array, probabilities: Array) -> Sequence[Row]:
        self.spans.extend(map(tuple, spans.tolist()))
        return self._rows(self.smoothed.push(probabilities))

    def finish(self) -> Sequence[Row]:
        return self._rows(self.smoothed.finish())

    def _rows(self, means: Array) -> Sequence[Row]:
        return [Event(*self.spans.popleft(), self.labels[mean.argmax()], float(mean.max())) for mean in means]
