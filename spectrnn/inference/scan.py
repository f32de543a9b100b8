"""A recording of any length through a window that moves along it, in bounded memory."""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np

from spectrnn.data.audio import FULL_SCALE
from spectrnn.inference.events import Array
from spectrnn.inference.predictor import Piece, Predictor


def scan(
    predictor: Predictor, blocks: Iterable[Piece], window: float, hop: float, batch_size: int
) -> Iterator[tuple[Array, Array]]:
    """What a classifier says of the windows of a recording, batch after batch.

    Args:
        predictor: of the recording's rate.
        blocks: int16 arrays (samples,), which follow each other.
        window, hop: its length, and from one to the next, s; `hop` is at most `window`.
        batch_size: windows that are computed at once.

    Yields:
        The span of each window, float64 (windows, 2), and its probabilities, float64 (windows, classes). A window
        speaks for the `hop` in its middle; the first one also for all before, the last one for all behind. So spans
        follow each other without gaps, from 0 to the recording's end.
    """
    rate = predictor.sample_rate
    size = max(1, round(window * rate))
    cut = windows(blocks, size, max(1, round(hop * rate)))
    begun, held = 0.0, next(cut, None)  # the last span's end depends on whether another window follows
    while held is not None:
        batch, held = [held, *islice(cut, batch_size - 1)], next(cut, None)
        spans = np.empty((len(batch), 2))
        for span, (start, piece), after in zip(spans, batch, [*batch[1:], held], strict=True):
            end = start + len(piece) if after is None else (start + after[0] + size) / 2
            span[:] = begun, end / rate
            begun = span[1]
        pieces = [piece.astype(np.float32) / np.float32(FULL_SCALE) for _, piece in batch]
        yield spans, predictor.probabilities(pieces, batch_size)


def windows(blocks: Iterable[Piece], size: int, hop: int) -> Iterator[tuple[int, Piece]]:
    """The windows of a recording, every `hop` samples; the last one ends with it.

    Args:
        blocks: arrays (samples,), which follow each other.
        size: samples of a window; a shorter recording is one window.
        hop: from the beginning of a window to that of the next, at most `size`.

    Yields:
        The number of its first sample, and its samples (samples,).
    """
    held, first, start = np.zeros(0, np.int16), 0, 0  # samples from the last window on; where they begin; the next one
    for block in blocks:
        held = np.concatenate([held, block]) if len(held) else block
        while first + len(held) - start >= size:
            yield start, held[start - first :][:size]
            held, first = held[start - first :], start
            start += hop
    end = first + len(held)
    if start == 0 and end:
        yield 0, held
    elif end > first + size:
        yield end - size, held[end - size - first :]
