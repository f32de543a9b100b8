"""Sliding windows and their spans, compared with a loop over the whole recording."""

import numpy as np
import pytest

from spectrnn.inference.sliding_window import SlidingWindow, sliding_window_predict


class MeanPredictor:
    """Predictor whose first probability is the mean of a window, and the second one its length."""

    sample_rate, has_frames = 10, False

    def probabilities(self, waveforms, batch_size):
        assert len(waveforms) <= batch_size
        return np.array([[wave.mean(), len(wave), 0] for wave in waveforms])


def split(samples, sizes):
    for size in sizes:
        yield samples[:size]
        samples = samples[size:]
    if len(samples):
        yield samples


def reference(samples, size, hop):
    """Starts and samples of all windows."""
    starts = [*range(0, max(1, len(samples) - size + 1), hop)]
    if starts[-1] + size < len(samples):
        starts.append(len(samples) - size)
    return [(start, samples[start : start + size]) for start in starts]


@pytest.mark.parametrize("length", [1, 9, 10, 11, 23, 24, 100])
@pytest.mark.parametrize(("size", "hop"), [(10, 10), (10, 3), (10, 1), (7, 5)])
@pytest.mark.parametrize("sizes", [[], [1, 2, 30], [5, 5, 5], [24]])
def test_windows_are_independent_of_blocks(length, size, hop, sizes):
    samples = np.arange(length, dtype=np.int16)
    windows = SlidingWindow(size / 10, hop / 10, 10).split(split(samples, sizes))
    expected = [window.tolist() for _, window in reference(samples, size, hop)]
    assert [window.samples.tolist() for window in windows] == expected


@pytest.mark.parametrize("length", [4, 10, 11, 57, 100])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_spans_cover_the_recording_once(length, batch_size):
    samples = np.random.default_rng(length).integers(-9999, 9999, length).astype(np.int16)
    parts = [*sliding_window_predict(MeanPredictor(), split(samples, [7, 20]), 1.0, 0.4, batch_size)]
    spans = np.concatenate([spans for spans, _ in parts])
    probabilities = np.concatenate([probabilities for _, probabilities in parts])
    expected = reference(samples, 10, 4)
    assert spans[0, 0] == 0
    assert spans[-1, 1] == pytest.approx(length / 10)
    assert np.array_equal(spans[1:, 0], spans[:-1, 1])
    assert probabilities[:, 0] == pytest.approx([window.mean() / 32768 for _, window in expected], abs=1e-6)
    assert probabilities[:, 1].tolist() == [len(window) for _, window in expected]
    for (offset, window), (start, end) in zip(expected, spans, strict=True):
        assert start <= (offset + len(window) / 2) / 10 <= end


def test_empty_recording_has_no_windows():
    assert [*sliding_window_predict(MeanPredictor(), [], 1.0, 0.4, 4)] == []
