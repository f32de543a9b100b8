"""Sliding windows over recordings of any length, in bounded memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from spectrnn.data.audio import to_float
from spectrnn.detection.events import Array
from spectrnn.inference.predictor import Chunk, Predictor


class Window(NamedTuple):
    """A part of a recording that is classified as one clip.

    Attributes:
        start: Start of the span that the prediction applies to, in s from the beginning of the recording. With
            overlapping windows the span is shorter than the window.
        end: End of the span in s.
        samples: Samples of the window, int16 (samples,).
        position: Start of the samples in s.
    """

    start: float
    end: float
    samples: Chunk
    position: float


def sliding_window_predict(
    predictor: Predictor, blocks: Iterable[Chunk], window: float, hop: float, batch_size: int
) -> Iterator[tuple[Array, Array]]:
    """Classifies the windows of a recording, or the frames in them, batch by batch.

    Args:
        predictor: Predictor at the sample rate of the recording.
        blocks: Consecutive blocks of the recording, int16 (samples,) each.
        window, hop: Window and hop in s, as for `SlidingWindow`.
        batch_size: Number of windows per batch.

    Yields:
        Spans float64 (steps, 2) as `window_steps` defines them, and probabilities float64 (steps, classes).
    """
    windows = SlidingWindow(window, hop, predictor.sample_rate).split(blocks)
    while batch := list(islice(windows, batch_size)):
        yield join_steps(window_steps(predictor, batch, batch_size))


Steps = tuple[Array, Array]  # spans in s, float64 (steps, 2), and probabilities, float64 (steps, classes)


def window_steps(predictor: Predictor, windows: Sequence[Window], batch_size: int) -> list[Steps]:
    """Classifies windows: each is one step; if the classifier answers for frames, the frames in its span are."""
    if not predictor.has_frames:
        return whole_steps(predictor.probabilities, windows, batch_size)
    answers = predictor.frames([to_float(window.samples) for window in windows], batch_size)
    return [_frames_in_span(window, *frames) for window, frames in zip(windows, answers, strict=True)]


def whole_steps(
    function: Callable[[Sequence[Chunk], int], Array], windows: Sequence[Window], batch_size: int
) -> list[Steps]:
    """Applies a function such as `Predictor.probabilities` to the samples of windows, each of which is one step."""
    outputs = function([to_float(window.samples) for window in windows], batch_size)
    return [(np.array([[window.start, window.end]]), row[None]) for window, row in zip(windows, outputs, strict=True)]


def join_steps(steps: Iterable[Steps]) -> Steps:
    """Joins the steps of consecutive windows."""
    spans, probabilities = zip(*steps, strict=True)
    return np.concatenate(spans), np.concatenate(probabilities)


def _frames_in_span(window: Window, centers: Array, probabilities: Array) -> Steps:
    """The frames whose center is in the span of a window, or the next one; they divide the span midway between them."""
    centers = centers + window.position
    inside = (window.start <= centers) & (centers < window.end)
    if not inside.any():
        inside[np.abs(centers - (window.start + window.end) / 2).argmin()] = True
    centers = centers[inside]
    edges = np.array([window.start, *(centers[1:] + centers[:-1]) / 2, window.end])
    return np.stack([edges[:-1], edges[1:]], 1), probabilities[inside]


class SlidingWindow:
    """Splits a recording into overlapping windows, block by block.

    The last window ends with the recording; a shorter recording is one window. The span of a window is the hop at its
    center; the first span also covers everything before, the last one everything after. So spans are contiguous.

    Args:
        window: Length of a window in s.
        hop: Hop between windows in s, at most `window`.
        sample_rate: Sample rate of the recording in Hz.
    """

    def __init__(self, window: float, hop: float, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self.size, self.hop = max(1, round(window * sample_rate)), max(1, round(hop * sample_rate))
        self.buffer = np.zeros(0, np.int16)  # samples from the start of the last complete window
        self.offset = 0  # position of the buffer in the recording
        self.next_start = 0  # position of the next window
        self.pending: tuple[int, Chunk] | None = None  # last window: the end of its span depends on the next one
        self.span_start = 0.0

    def split(self, blocks: Iterable[Chunk]) -> Iterator[Window]:
        """Yields the windows of a recording, given as consecutive blocks int16 (samples,)."""
        for block in blocks:
            yield from self.push(block)
        yield from self.finish()

    def push(self, block: Chunk) -> list[Window]:
        """Adds a block int16 (samples,), and returns the windows that are complete and followed by another one."""
        self.buffer = np.concatenate([self.buffer, block]) if len(self.buffer) else block
        windows = []
        while self.next_start + self.size <= self.offset + len(self.buffer):
            self.buffer, self.offset = self.buffer[self.next_start - self.offset :], self.next_start
            windows += self._add(self.offset, self.buffer[: self.size])
            self.next_start += self.hop
        return windows

    def finish(self) -> list[Window]:
        """Returns the remaining windows at the end of the recording."""
        end = self.offset + len(self.buffer)
        is_incomplete = end > self.offset + self.size or (end > 0 and self.pending is None)
        last = self.buffer[-self.size :]
        windows = self._add(end - len(last), last) if is_incomplete else []
        if self.pending is not None:
            start, samples = self.pending
            windows.append(Window(self.span_start, end / self.sample_rate, samples, start / self.sample_rate))
            self.pending = None
        return windows

    def _add(self, start: int, samples: Chunk) -> list[Window]:
        """Adds a window, and returns the one before it, whose span ends midway between the centers of both."""
        before, self.pending = self.pending, (start, samples)
        if before is None:
            return []
        end = (before[0] + start + self.size) / 2 / self.sample_rate
        window = Window(self.span_start, end, before[1], before[0] / self.sample_rate)
        self.span_start = window.end
        return [window]
