"""A recording of any length through a window that moves along it, in bounded memory."""

from collections.abc import Iterable, Iterator
from itertools import islice, pairwise
from typing import Any, NamedTuple

import numpy as np

from spectrnn.data.audio import FULL_SCALE
from spectrnn.detection.events import Array
from spectrnn.inference.predictor import Chunk, Predictor


class Window(NamedTuple):
    """A part of a recording that is classified at once.

    Attributes:
        start, end: the time that it speaks for, s from the recording's beginning; less than it holds where windows
            overlap.
        samples: int16 (samples,).
    """

    start: float
    end: float
    samples: Chunk


def sliding_window_predict(
    predictor: Predictor, blocks: Iterable[Chunk], window: float, hop: float, batch_size: int
) -> Iterator[tuple[Array, Array]]:
    """What a classifier says of the windows of a recording, batch after batch.

    Args:
        predictor: of the recording's rate.
        blocks: int16 arrays (samples,), which follow each other.
        window, hop: its length, and from one to the next, s; `hop` is at most `window`.
        batch_size: windows that are computed at once.

    Yields:
        The span of each window, float64 (windows, 2), as `SlidingWindow` has it, and its probabilities, float64
        (windows, classes).
    """
    found = _drawn(SlidingWindow(window, hop, predictor.sample_rate), blocks)
    while batch := list(islice(found, batch_size)):
        yield spans_of(batch), predictor.probabilities([int16_to_float(piece.samples) for piece in batch], batch_size)


def spans_of(windows: Iterable[Window]) -> Array:
    """The times that windows speak for: float64 (windows, 2), s."""
    return np.array([(window.start, window.end) for window in windows])


def int16_to_float(samples: Chunk) -> Chunk:
    """int16 (samples,) as the float32 in [-1, 1) that a classifier takes."""
    return samples.astype(np.float32) / np.float32(FULL_SCALE)


class SlidingWindow:
    """The windows of a recording whose samples come block by block.

    A window speaks for the `hop` in its middle; the first one also for all before, the last one for all behind. So
    their spans follow each other without gaps, from 0 to the recording's end.

    Args:
        window, hop: its length, and from one to the next, s; `hop` is at most `window`.
        sample_rate: of the recording, Hz.
    """

    def __init__(self, window: float, hop: float, sample_rate: int) -> None:
        self.size, self.rate = max(1, round(window * sample_rate)), sample_rate
        self.cutter = Framer(self.size, max(1, round(hop * sample_rate)))
        self.waiting: list[tuple[int, Chunk]] = []  # the last window: where its span ends depends on the next one
        self.begun = 0.0

    def push(self, block: Chunk) -> list[Window]:
        """Takes int16 (samples,), and gives out the windows that are complete and followed by another."""
        return self._spanned(self.cutter.push(block))

    def finish(self) -> list[Window]:
        """The last windows."""
        windows = self._spanned(self.cutter.finish())
        for start, samples in self.waiting:
            windows.append(Window(self.begun, (start + len(samples)) / self.rate, samples))
        self.waiting = []
        return windows

    def _spanned(self, found: list[tuple[int, Chunk]]) -> list[Window]:
        windows = []
        for (start, samples), (following, _) in pairwise([*self.waiting, *found]):
            end = (start + following + self.size) / 2 / self.rate
            windows.append(Window(self.begun, end, samples))
            self.begun = end
        self.waiting = found[-1:] or self.waiting
        return windows


class Framer:
    """Cuts windows, every `hop` samples; the last one ends with the recording, and a shorter recording is one window.

    Args:
        size: samples of a window.
        hop: from the beginning of a window to that of the next, at most `size`.
    """

    def __init__(self, size: int, hop: int) -> None:
        self.size, self.hop = size, hop
        self.held = np.zeros(0, np.int16)  # the samples from the last window on
        self.first = self.start = 0  # where they begin; where the next window does

    def push(self, block: Chunk) -> list[tuple[int, Chunk]]:
        """Takes (samples,), and gives out the complete windows: the number of the first sample, and (samples,)."""
        self.held = np.concatenate([self.held, block]) if len(self.held) else block
        cut = []
        while self.first + len(self.held) - self.start >= self.size:
            self.held, self.first = self.held[self.start - self.first :], self.start
            cut.append((self.start, self.held[: self.size]))
            self.start += self.hop
        return cut

    def finish(self) -> list[tuple[int, Chunk]]:
        """The window that ends with the recording, where the last one does not."""
        end = self.first + len(self.held)
        if self.start == 0 and end:
            return [(0, self.held)]
        return [(end - self.size, self.held[-self.size :])] if end > self.first + self.size else []


def windows(blocks: Iterable[Chunk], size: int, hop: int) -> Iterator[tuple[int, Chunk]]:
    """What a `Framer` makes of a recording: int16 arrays (samples,), which follow each other."""
    yield from _drawn(Framer(size, hop), blocks)


def _drawn(cutter: Any, blocks: Iterable[Chunk]) -> Iterator[Any]:
    for block in blocks:
        yield from cutter.push(block)
    yield from cutter.finish()
