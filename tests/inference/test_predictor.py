"""Chunks of recordings: every sample once, lengths near that of the window; groups of windows of recordings."""

import numpy as np
import pytest

from spectrnn.errors import UserError
from spectrnn.inference.pipeline import group_windows
from spectrnn.inference.predictor import split_into_chunks, top_classes
from spectrnn.inference.sliding_window import Window
from spectrnn.inference.tasks import Marker


@pytest.mark.parametrize("block", [1, 7, 100, 10_000])
@pytest.mark.parametrize("length", [1, 60, 99, 100, 149, 150, 151, 199, 200, 250, 1234])
def test_chunks_cover_the_recording_once(length, block):
    samples = np.arange(length)
    blocks = [samples[start : start + block] for start in range(0, length, block)]
    chunks = list(split_into_chunks(blocks, 100))
    assert np.concatenate(chunks).tolist() == samples.tolist()
    assert {len(chunk) for chunk in chunks[:-2]} <= {100}
    if length >= 100:
        assert all(75 <= len(chunk) <= 150 for chunk in chunks[-2:])
    if length < 150:
        assert len(chunks) == 1


def test_empty_recording_has_no_chunks():
    assert list(split_into_chunks([], 100)) == []
    assert list(split_into_chunks([np.empty(0)], 100)) == []


def test_groups_of_unreadable_files_are_bounded():
    items = [(f"{number}.wav", UserError("damaged")) for number in range(100)]
    groups = list(group_windows(items, 8, 1e9))
    assert [item for group in groups for item in group] == items
    assert max(map(len, groups)) == 16


def test_groups_after_the_end_of_a_recording_are_independent_of_earlier_ones():
    lengths = [1, 3, 2, 30, 1, 1, 9, 8, 1]  # windows per recording
    items = [
        item
        for name, count in enumerate(lengths)
        for item in [*[(str(name), Window(0, 1, np.zeros(10), 0))] * count, (str(name), Marker.END)]
    ]
    groups = list(group_windows(items, 8, 1e9))
    assert [item for group in groups for item in group] == items
    assert max(sum(isinstance(content, Window) for _, content in group) for group in groups) <= 8 + 8
    starts = [index + 1 for index, group in enumerate(groups) if group[-1][1] is Marker.END]
    assert len(starts) >= 4
    for index in starts:
        rest = [item for group in groups[index:] for item in group]
        assert list(group_windows(rest, 8, 1e9)) == groups[index:]


@pytest.mark.parametrize("digits", [1, 2, 9])
def test_top_classes_are_those_of_a_stable_sort(digits):
    generator = np.random.default_rng(0)
    for size in (1, 5, 200):
        probabilities = generator.dirichlet(np.ones(size)).round(digits)
        for count in (1, 3, 300):
            expected = np.argsort(-probabilities, kind="stable")[:count]
            assert top_classes(probabilities, count).tolist() == expected.tolist()
