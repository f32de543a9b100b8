"""From the probabilities of a recording's windows, as they come, to events: smoothed, with hysteresis."""

from collections import deque
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Event(NamedTuple):
    """A sound that was heard.

    Attributes:
        start, end: s from the recording's beginning.
        label: its class.
        probability: the highest that was smoothed.
    """

    start: float
    end: float
    label: str
    probability: float


class MovingAverage:
    """The mean of each step's probabilities and those around it, of as many steps as there are at the edges.

    Args:
        steps: that a mean is taken of; of an even number the last is the further one.
    """

    def __init__(self, steps: int) -> None:
        self.before, self.after = (steps - 1) // 2, steps // 2
        self.held: deque[Array] = deque()
        self.pending = 0  # of the held steps, those whose mean waits for what comes after

    def push(self, probabilities: Array) -> Array:
        """Takes steps (n, classes), and gives out the means that are known now: (m, classes)."""
        means = []
        for row in probabilities:
            self.held.append(row)
            self.pending += 1
            if self.pending > self.after:
                means.append(self._next())
        return np.array(means).reshape(-1, probabilities.shape[1])

    def finish(self) -> Array:
        """The means that were waiting: (m, classes)."""
        means = []
        while self.pending:
            means.append(self._next())
        return np.array(means)

    def _next(self) -> Array:
        mean: Array = np.mean(self.held, axis=0)
        self.pending -= 1
        if len(self.held) - self.pending > self.before:
            self.held.popleft()
        return mean


class EventDetector:
    """Hears events: one begins where the smoothed probability of its class reaches a threshold, and ends below another.

    Args:
        labels: the classes.
        thresholds: (classes,), of each; infinite for a class that is no event.
        smoothing_windows: steps that a probability is the mean of.
        offset_ratio: share of the threshold below which an event ends.
        min_event_seconds: shorter events are dropped.
    """

    def __init__(
        self,
        labels: list[str],
        thresholds: Array,
        smoothing_windows: int,
        offset_ratio: float,
        min_event_seconds: float,
    ) -> None:
        self.labels, self.onset, self.offset = labels, thresholds, thresholds * offset_ratio
        self.min_event_seconds, self.smoothed = min_event_seconds, MovingAverage(smoothing_windows)
        self.spans: deque[tuple[float, float]] = deque()
        self.open: dict[int, Event] = {}  # by class
        self.told: set[int] = set()  # of the open ones, by `begun`

    def push(self, spans: Array, probabilities: Array) -> list[Event]:
        """Takes what follows.

        Args:
            spans: (steps, 2), where each step begins and ends, s; they follow each other without gaps.
            probabilities: (steps, classes).

        Returns:
            The events that are over now, by their ends.
        """
        self.spans.extend(map(tuple, spans.tolist()))
        return self._heard(self.smoothed.push(probabilities))

    def begun(self) -> list[Event]:
        """The events that are not over and long enough to count, each once."""
        new = [index for index, event in self.open.items() if index not in self.told and self._counts(event)]
        self.told.update(new)
        return [self.open[index] for index in new]

    def finish(self) -> list[Event]:
        """The events that the recording's end ends."""
        ended = self._heard(self.smoothed.finish())
        ended += [event for event in self.open.values() if self._counts(event)]
        self.open, self.told = {}, set()
        return ended

    def _heard(self, means: Array) -> list[Event]:
        ended = []
        for mean in means:
            start, end = self.spans.popleft()
            for index in np.flatnonzero(mean >= self.onset).tolist():
                self.open.setdefault(index, Event(start, end, self.labels[index], 0.0))
            for index, event in [*self.open.items()]:
                if mean[index] >= self.offset[index]:
                    self.open[index] = event._replace(end=end, probability=max(event.probability, float(mean[index])))
                else:
                    del self.open[index]
                    self.told.discard(index)
                    ended += [event] if self._counts(event) else []
        return ended

    def _counts(self, event: Event) -> bool:
        return event.end - event.start >= self.min_event_seconds


class MultiThresholdEventCounter:
    """Counts what a `EventDetector` would hear, at many thresholds at once, in memory that no recording's length changes.

    Args:
        thresholds: (thresholds,), each for all classes.
        classes: how many.
        smoothing_windows, offset_ratio, min_event_seconds: of the detector.

    Attributes:
        counts: int64 (thresholds, classes), the events so far.
        seconds: of the recording so far.
    """

    def __init__(
        self, thresholds: Array, classes: int, smoothing_windows: int, offset_ratio: float, min_event_seconds: float
    ) -> None:
        self.onset, self.offset = thresholds[:, None], thresholds[:, None] * offset_ratio
        self.min_event_seconds, self.smoothed = min_event_seconds, MovingAverage(smoothing_windows)
        self.spans: list[tuple[float, float]] = []
        self.open = np.zeros((len(thresholds), classes), bool)
        self.start = np.zeros(self.open.shape)
        self.counts = np.zeros(self.open.shape, np.int64)
        self.seconds = 0.0

    def push(self, spans: Array, probabilities: Array) -> None:
        """Takes what follows: spans (steps, 2), s, and probabilities (steps, classes)."""
        self.spans += map(tuple, spans.tolist())
        self._count(self.smoothed.push(probabilities))

    def finish(self) -> None:
        """The recording's end ends all events."""
        self._count(self.smoothed.finish())
        self._end(self.open)

    def _count(self, means: Array) -> None:
        for mean, (start, end) in zip(means, self.spans[: len(means)], strict=True):
            self._end(self.open & (mean < self.offset))
            begun = (mean >= self.onset) & ~self.open
            self.start[begun] = start
            self.open |= begun
            self.seconds = end
        del self.spans[: len(means)]

    def _end(self, ended: Array) -> None:
        self.counts += ended & (self.seconds - self.start >= self.min_event_seconds)
        self.open &= ~ended
