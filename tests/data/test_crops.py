"""Crops that cover clips, compared with a loop over all samples."""

import numpy as np
import pytest

from spectrnn.data.crops import covering_crops

LENGTHS = np.array([1, 9, 10, 11, 14, 15, 16, 20, 21, 99, 100])


@pytest.mark.parametrize("size", [1, 2, 9, 10, 100])
def test_crops_cover_clips_from_start_to_end(size: int):
    clips, offsets, _ = covering_crops(LENGTHS, size)
    assert np.unique(clips).tolist() == list(range(len(LENGTHS)))
    for clip, length in enumerate(LENGTHS):
        own = offsets[clips == clip]
        assert own[0] == 0
        assert own[-1] == max(0, length - size)
        assert (np.diff(own) > 0).all()
        assert (np.diff(own) <= max(1, size / 2)).all()
        assert len(own) == 1 + np.ceil(max(0, length - size) / max(1, size // 2))


@pytest.mark.parametrize("size", [2, 9, 10])
def test_weight_is_the_fraction_of_the_clip_that_is_closest_to_the_center(size: int):
    clips, offsets, weights = covering_crops(LENGTHS, size)
    for clip, length in enumerate(LENGTHS):
        centers = offsets[clips == clip] + min(size, length) / 2
        positions = (np.arange(1000 * length) + 0.5) / 1000
        closest = np.searchsorted((centers[1:] + centers[:-1]) / 2, positions)
        expected = np.bincount(closest, minlength=len(centers)) / len(positions)
        np.testing.assert_allclose(weights[clips == clip], expected, atol=1e-3)


def test_clip_that_is_not_longer_than_a_crop_is_one_crop():
    clips, offsets, weights = covering_crops(np.array([7, 10]), 10)
    assert clips.tolist() == [0, 1]
    assert offsets.tolist() == [0, 0]
    assert weights.tolist() == [1.0, 1.0]


def test_no_clips_have_no_crops():
    assert [len(values) for values in covering_crops(np.zeros(0, np.int64), 10)] == [0, 0, 0]
