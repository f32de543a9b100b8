"""How many events there are in a recording, for many thresholds at once."""

import numpy as np

from spectrnn.inference.events import Array, Smoothed


class Tally:
    """Counts what a `Detector` would hear, at many thresholds at once, in memory that no recording's length changes.

    Args:
        thresholds: (thresholds,), each for all classes.
        classes: how many.
        smooth, release, min_seconds: of the detector.

    Attributes:
        counts: int64 (thresholds, classes), the events so far.
        seconds: of the recording so far.
    """

    def __init__(self, thresholds: Array, classes: int, smooth: int, release: float, min_seconds: float) -> None:
        self.onset, self.offset = thresholds[:, None], thresholds[:, None] * release
        self.min_seconds, self.smoothed = min_seconds, Smoothed(smooth)
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
        self.counts += ended & (self.seconds - self.start >= self.min_seconds)
        self.open &= ~ended
