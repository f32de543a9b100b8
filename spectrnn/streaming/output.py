"""From the predictions for a stream to event updates, and their output formats."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from spectrnn.detection.events import Event, EventDetector
from spectrnn.inference.formats import csv_line, event_cells, event_values, json_line
from spectrnn.messages import printable
from spectrnn.streaming.rolling import StreamPrediction


class EventUpdate(NamedTuple):
    """An event that has started, up to now, or that has ended."""

    event: Event
    is_final: bool


class StreamDecoder:
    """Tracks events over the predictions for a stream.

    A prediction applies to the center of its segment: to the time from the center of the previous one to its own.

    Args:
        labels: Class names.
        sample_rate: Sample rate of the stream in Hz.
        detector: Event detector; None to report the most probable class of each prediction.
    """

    def __init__(self, labels: list[str], sample_rate: int, detector: EventDetector | None) -> None:
        self.labels, self.sample_rate, self.detector = labels, sample_rate, detector
        self.last: StreamPrediction | None = None
        self.decoded_until = 0.0  # s

    def push(self, prediction: StreamPrediction) -> list[EventUpdate]:
        """Returns the updates after the next prediction."""
        self.last = prediction
        return self._push(prediction, (prediction.start + prediction.end) / 2 / self.sample_rate)

    def finish(self) -> list[EventUpdate]:
        """Returns the updates at the end of the stream; the last prediction applies to its last part."""
        updates = self._push(self.last, self.last.end / self.sample_rate) if self.last else []
        return updates + [EventUpdate(event, True) for event in (self.detector.finish() if self.detector else [])]

    def _push(self, prediction: StreamPrediction, end: float) -> list[EventUpdate]:
        span, self.decoded_until = (self.decoded_until, end), end
        probabilities = prediction.probabilities.double().cpu().numpy()
        if self.detector is None:
            best = int(probabilities.argmax())
            return [EventUpdate(Event(*span, self.labels[best], float(probabilities[best])), True)]
        ended = self.detector.push(np.array([span]), probabilities[None])
        started = self.detector.new_onsets()
        return [EventUpdate(event, True) for event in ended] + [EventUpdate(event, False) for event in started]

    def status_line(self, prediction: StreamPrediction) -> str:
        """The most probable class, for a terminal."""
        probability, best = prediction.probabilities.max(0)
        bar = "█" * round(20 * float(probability))
        return f"{prediction.end / self.sample_rate:8.1f} s  {bar:<20} {printable(self.labels[int(best)])}"


def _text_line(update: EventUpdate) -> str:
    event = update.event
    time, sign = (event.end, "-") if update.is_final else (event.start, "+")
    return f"{time:10.2f} s  {sign} {event.probability:.2f}  {printable(event.label)}\n"


def _csv_line(update: EventUpdate) -> str:
    return csv_line(event_cells(update.event)) if update.is_final else ""


def _json_line(update: EventUpdate) -> str:
    values = event_values(update.event)
    return json_line(values if update.is_final else {key: value for key, value in values.items() if key != "end"})


# Header, and function that returns the line of an update; with their line ends, empty for no line.
FORMATS: dict[str, tuple[str, Callable[[EventUpdate], str]]] = {
    "text": ("", _text_line),
    "csv": (csv_line(Event._fields), _csv_line),
    "jsonl": ("", _json_line),
}
