"""Event detection in the probabilities of a recording's windows: smoothing and hysteresis, online."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Event(NamedTuple):
    """A detected sound.

    Attributes:
        start: Start in s from the beginning of the recording.
        end: End in s.
        label: Class of the event.
        probability: Maximum of the smoothed probability.
    """

    start: float
    end: float
    label: str
    probability: float

    def to_dict(self) -> dict[str, Any]:
        """Returns start, end, label and probability."""
        return self._asdict()


class MovingAverage:
    """Centered moving average of probabilities over time; at the edges over as many steps as there are.

    Args:
        steps: Number of steps; for an even number there is one more step after the center than before it.
    """

    def __init__(self, steps: int) -> None:
        self.before, self.after = (steps - 1) // 2, steps // 2
        self.held: deque[Array] = deque()
        self.pending = 0  # held steps whose average is not known yet

    def push(self, probabilities: Array) -> Array:
        """Adds steps (n, classes), and returns the averages that are now known, (m, classes)."""
        averages = []
        for row in probabilities:
            self.held.append(row)
            self.pending += 1
            if self.pending > self.after:
                averages.append(self._next())
        return np.array(averages).reshape(-1, probabilities.shape[1])

    def finish(self) -> Array:
        """Returns the pending averages at the end of the recording, (m, classes)."""
        return np.array([self._next() for _ in range(self.pending)])

    def _next(self) -> Array:
        average: Array = np.mean(self.held, axis=0)
        self.pending -= 1
        if len(self.held) - self.pending > self.before:
            self.held.popleft()
        return average


class EventDetector:
    """Detects the events of one recording or stream.

    An event starts when the smoothed probability of its class reaches a threshold, and ends when it falls below a
    fraction of it. The detector is vectorized over thresholds, so that `count` can evaluate many of them in one pass.

    Args:
        labels: Class names.
        thresholds: Onset thresholds, (classes,), or (..., classes) to count events; infinite for a class that is not an
            event.
        smoothing_windows: Number of steps that probabilities are averaged over.
        offset_ratio: Fraction of the threshold below which an event ends.
        min_event_seconds: Minimum length of an event in s; shorter ones are dropped.
        trim_seconds: Time in s that each event is shortened by at both ends, as a window contains a sound before its
            center does.

    Attributes:
        seconds: End of the last step that was processed in s, 0 at first.
    """

    def __init__(
        self,
        labels: list[str],
        thresholds: Array,
        smoothing_windows: int,
        offset_ratio: float,
        min_event_seconds: float,
        trim_seconds: float = 0.0,
    ) -> None:
        self.labels, self.onset, self.offset = labels, thresholds, thresholds * offset_ratio
        self.lowest = thresholds.reshape(-1, thresholds.shape[-1]).min(0)
        self.min_event_seconds, self.trim_seconds = min_event_seconds, trim_seconds
        self.average = MovingAverage(smoothing_windows)
        self.spans: deque[tuple[float, float]] = deque()
        self.seconds = 0.0
        self.active, self.reported = np.zeros(thresholds.shape, bool), np.zeros(thresholds.shape, bool)
        self.start, self.peak = np.zeros(thresholds.shape), np.zeros(thresholds.shape)
        self.live = np.zeros(thresholds.shape[-1], bool)  # classes that are active at any threshold

    def push(self, spans: Array, probabilities: Array) -> list[Event]:
        """Processes the next steps.

        Args:
            spans: Start and end of each step in s, (steps, 2), without gaps.
            probabilities: Probabilities, (steps, classes).

        Returns:
            The events that have ended, in the order of their ends.
        """
        ended = self._push(spans, probabilities)
        return [event for classes, is_event in ended for event in self._events(classes[is_event])]

    def finish(self) -> list[Event]:
        """Returns the remaining events at the end of the recording."""
        return [event for classes, is_event in self._finish() for event in self._events(classes[is_event])]

    def new_onsets(self) -> list[Event]:
        """Returns the events in progress that are long enough, each once."""
        new = self.active & self._long_enough(slice(None)) & ~self.reported
        self.reported |= new
        return self._events(np.flatnonzero(new))

    def count(self, windows: Iterable[tuple[Array, Array]]) -> Array:
        """Processes a whole recording, spans and probabilities as for `push`.

        Returns:
            Number of events, int64 (..., classes). One of more than a minute counts once for each full minute, so that
            a class that is always detected has many.
        """
        counts = np.zeros(self.onset.shape, np.int64)
        for spans, probabilities in windows:
            for classes, is_event in self._push(spans, probabilities):
                counts[..., classes] += self._numbers(classes, is_event)
        for classes, is_event in self._finish():
            counts[..., classes] += self._numbers(classes, is_event)
        return counts

    def _numbers(self, classes: Array, is_event: Array) -> Array:
        return is_event * np.maximum(1, (self.seconds - self.start[..., classes]) // 60).astype(np.int64)

    def _push(self, spans: Array, probabilities: Array) -> Iterator[tuple[Array, Array]]:
        self.spans.extend(map(tuple, spans.tolist()))
        return self._process(self.average.push(probabilities))

    def _finish(self) -> Iterator[tuple[Array, Array]]:
        yield from self._process(self.average.finish())
        near = np.flatnonzero(self.live)
        yield near, self.active[..., near] & self._long_enough(near)
        self.active[:] = self.live[:] = False

    def _process(self, averages: Array) -> Iterator[tuple[Array, Array]]:
        """Yields before each step some classes (n,), and which of their valid events it ends, bool (..., n)."""
        for average in averages:
            # Of many classes few are probable, and no others change.
            near = np.flatnonzero(self.live | (average >= self.lowest))
            values, active = average[near], self.active[..., near]
            ended = active & (values < self.offset[..., near])
            yield near, ended & self._long_enough(near)
            start, self.seconds = self.spans.popleft()
            starting = ~active & (values >= self.onset[..., near])
            self.start[..., near] = np.where(starting, start, self.start[..., near])
            self.peak[..., near] = np.maximum(np.where(starting, 0.0, self.peak[..., near]), values)
            active ^= ended | starting
            self.active[..., near] = active
            self.reported[..., near] &= active
            self.live[near] = active.any(tuple(range(active.ndim - 1)))  # over the thresholds

    def _long_enough(self, classes: Array | slice) -> Array:
        return self.seconds - self.start[..., classes] - 2 * self.trim_seconds >= self.min_event_seconds

    def _events(self, classes: Array) -> list[Event]:
        """The events of some classes (n,), in the order of their starts."""
        indices = sorted(classes, key=lambda index: self.start[index])
        end, trim = self.seconds - self.trim_seconds, self.trim_seconds
        return [Event(float(self.start[i]) + trim, end, self.labels[i], float(self.peak[i])) for i in indices]
