"""Windows and their spans, against a plain loop over the whole recording."""

import numpy as np
import pytest

from spectrnn.inference.sliding_window import sliding_window_predict, windows


class Means:
    """A classifier of three classes: its probabilities tell the mean of a window."""

    sample_rate = 10

    def probabilities(self, waveforms, batch_size):
        assert len(waveforms) <= batch_size
        return np.array([[wave.mean(), len(wave), 0] for wave in waveforms])


def blocks_of(samples, sizes):
    rest = samples
    for size in sizes:
        yield rest[:size]
        rest = rest[size:]
    if len(rest):
        yield rest


def by_hand(samples, size, hop):
    starts = [*range(0, max(1, len(samples) - size + 1), hop)]
    if starts[-1] + size < len(samples):
        starts.append(len(samples) - size)
    return [(start, samples[start : start + size]) for start in starts]


@pytest.mark.parametrize("length", [1, 9, 10, 11, 23, 24, 100])
@pytest.mark.parametrize(("size", "hop"), [(10, 10), (10, 3), (10, 1), (7, 5)])
@pytest.mark.parametrize("sizes", [[], [1, 2, 30], [5, 5, 5], [24]])
def test_windows_are_those_of_the_whole_recording(length, size, hop, sizes):
    samples = np.arange(length, dtype=np.int16)
    found, expected = [*windows(blocks_of(samples, sizes), size, hop)], by_hand(samples, size, hop)
    assert [start for start, _ in found] == [start for start, _ in expected]
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(found, expected, strict=True))


@pytest.mark.parametrize("length", [4, 10, 11, 57, 100])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_spans_cover_the_recording_once(length, batch_size):
    samples = np.random.default_rng(length).integers(-9999, 9999, length).astype(np.int16)
    parts = [*sliding_window_predict(Means(), blocks_of(samples, [7, 20]), 1.0, 0.4, batch_size)]
    spans = np.concatenate([spans for spans, _ in parts])
    said = np.concatenate([said for _, said in parts])
    expected = by_hand(samples, 10, 4)
    assert spans[0, 0] == 0
    assert spans[-1, 1] == pytest.approx(length / 10)
    assert np.array_equal(spans[1:, 0], spans[:-1, 1])
    assert said[:, 0] == pytest.approx([piece.mean() / 32768 for _, piece in expected], abs=1e-6)
    for (start, piece), (begin, end) in zip(expected, spans, strict=True):
        middle = (start + len(piece) / 2) / 10
        assert begin <= middle <= end


def test_nothing_is_no_window():
    assert [*sliding_window_predict(Means(), [], 1.0, 0.4, 4)] == []
