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


class Smoothed:
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


class Detector:
    """Hears events: one begins where the smoothed probability of its class reaches a threshold, and ends below another.

    Args:
        labels: the classes.
        thresholds: (classes,), of each; infinite for a class that is no event.
        smooth: steps that a probability is the mean of.
        release: share of the threshold below which an event ends.
        min_seconds: shorter events are dropped.
    """

    def __init__(self, labels: list[str], thresholds: Array, smooth: int, release: float, min_seconds: float) -> None:
        self.labels, self.onset, self.offset = labels, thresholds, thresholds * release
        self.min_seconds, self.smoothed = min_seconds, Smoothed(smooth)
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
        return event.end - event.start >= self.min_seconds
