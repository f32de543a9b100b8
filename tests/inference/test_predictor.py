"""Cutting recordings into pieces: every sample once, and no piece far from the window."""

import numpy as np
import pytest

from spectrnn.errors import UserError
from spectrnn.inference.pipeline import group_windows
from spectrnn.inference.predictor import split_into_chunks
from spectrnn.inference.sliding_window import Window
from spectrnn.inference.tasks import Marker


@pytest.mark.parametrize("block", [1, 7, 100, 10_000])
@pytest.mark.parametrize("length", [1, 60, 99, 100, 149, 150, 151, 199, 200, 250, 1234])
def test_pieces_are_the_recording_in_windows(length, block):
    samples = np.arange(length)
    blocks = [samples[start : start + block] for start in range(0, length, block)]
    pieces = list(split_into_chunks(blocks, 100))
    assert np.concatenate(pieces).tolist() == samples.tolist()
    assert {len(piece) for piece in pieces[:-2]} <= {100}
    if length >= 100:
        assert all(75 <= len(piece) <= 150 for piece in pieces[-2:])
    if length < 150:
        assert len(pieces) == 1


def test_nothing_has_no_pieces():
    assert list(split_into_chunks([], 100)) == []
    assert list(split_into_chunks([np.empty(0)], 100)) == []


def test_files_that_cannot_be_read_are_told_before_the_last_of_them():
    events = [(f"{number}.wav", UserError("broken")) for number in range(100)]
    heaps = list(group_windows(events, 8, 1e9))
    assert [event for heap in heaps for event in heap] == events
    assert max(map(len, heaps)) == 16


def test_heaps_end_with_recordings_that_they_begin_with():
    """So that what follows one depends on nothing before it."""
    lengths = [1, 3, 2, 30, 1, 1, 9, 8, 1]  # windows of each recording
    parts = [
        part
        for name, count in enumerate(lengths)
        for part in [*[(str(name), Window(0, 1, np.zeros(10)))] * count, (str(name), Marker.END)]
    ]
    heaps = list(group_windows(parts, 8, 1e9))
    assert [part for heap in heaps for part in heap] == parts
    assert max(sum(isinstance(content, Window) for _, content in heap) for heap in heaps) <= 8 + 8
    clean = [index + 1 for index, heap in enumerate(heaps) if heap[-1][1] is Marker.END]
    assert len(clean) >= 4
    for index in clean:
        rest = [part for heap in heaps[index:] for part in heap]
        assert list(group_windows(rest, 8, 1e9)) == heaps[index:]
