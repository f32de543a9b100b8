"""From answers to what there is to tell of a stream, and how it is written."""

import csv
import io
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from spectrnn.detection.events import Event, EventDetector
from spectrnn.streaming.rolling import StreamPrediction


class EventUpdate(NamedTuple):
    """What there is to tell.

    Attributes:
        event: it; while it lasts, as far as it was heard.
        over: whether it has ended.
    """

    event: Event
    over: bool


class StreamDecoder:
    """From answers to what there is to tell.

    An answer speaks for the middle of the stretch that it is for: from the middle of the one before to its own.

    Args:
        labels: the classes.
        rate: of the samples that answers count, Hz.
        detector: what hears events; None to tell the most probable class of each answer.
    """

    def __init__(self, labels: list[str], rate: int, detector: EventDetector | None) -> None:
        self.labels, self.rate, self.detector = labels, rate, detector
        self.last: StreamPrediction | None = None
        self.told_until = 0.0  # s

    def push(self, answer: StreamPrediction) -> list[EventUpdate]:
        """What an answer tells."""
        self.last = answer
        return self._push(answer, (answer.start + answer.end) / 2 / self.rate)

    def finish(self) -> list[EventUpdate]:
        """What there is to tell at the end of the stream, for whose last part the last answer speaks."""
        told = self._push(self.last, self.last.end / self.rate) if self.last else []
        return told + [EventUpdate(event, True) for event in (self.detector.finish() if self.detector else [])]

    def _push(self, answer: StreamPrediction, end: float) -> list[EventUpdate]:
        span, self.told_until = (self.told_until, end), end
        probabilities = answer.probabilities.double().cpu().numpy()
        if self.detector is None:
            best = int(probabilities.argmax())
            return [EventUpdate(Event(*span, self.labels[best], float(probabilities[best])), True)]
        over = self.detector.push(np.array([span]), probabilities[None])
        return [
            *(EventUpdate(event, True) for event in over),
            *(EventUpdate(event, False) for event in self.detector.begun()),
        ]

    def line(self, answer: StreamPrediction) -> str:
        """The most probable class, for a terminal."""
        probability, best = answer.probabilities.max(0)
        return f"{answer.end / self.rate:8.1f} s  {'█' * round(20 * float(probability)):<20} {self.labels[int(best)]}"


class StreamFormat(NamedTuple):
    """How it is written.

    Attributes:
        header: the first line; None where there is none.
        line: what to write; None for nothing.
    """

    header: str | None
    line: Callable[[EventUpdate], str | None]


def _text(told: EventUpdate) -> str:
    event = told.event
    time, sign = (event.end, "-") if told.over else (event.start, "+")
    return f"{time:10.2f} s  {sign} {event.probability:.2f}  {event.label}"


def _csv(told: EventUpdate) -> str | None:
    start, end, label, probability = told.event
    return _row(f"{start:.3f}", f"{end:.3f}", label, f"{probability:.6f}") if told.over else None


def _json(told: EventUpdate) -> str:
    start, end, label, probability = told.event
    over: dict[str, Any] = {"end": round(end, 3)} if told.over else {}
    content = {"start": round(start, 3), **over, "label": label, "probability": round(probability, 6)}
    return json.dumps(content, ensure_ascii=False)


def _row(*cells: str) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()


FORMATS = {
    "text": StreamFormat(None, _text),
    "csv": StreamFormat(_row("start", "end", "label", "probability"), _csv),
    "jsonl": StreamFormat(None, _json),
}
