"""SpecAugment: bands of valid frames and of bins, of limited width, are replaced by the mean of the clip."""

import pytest
import torch


def num_bands(mask):
    """Number of contiguous bands of a mask (size,)."""
    return int(mask[0]) + int((mask[1:] & ~mask[:-1]).sum())


@pytest.mark.parametrize("max_fraction", [0.2, 1.0])
def test_one_time_mask_of_limited_width_within_the_valid_frames(stage, max_fraction):
    settings = {"num_time_masks": 1, "time_mask_param": 25, "max_time_fraction": max_fraction, "num_freq_masks": 0}
    frames = torch.tensor([100, 40, 33, 7, 4, 1] * 200)
    x = torch.randn(len(frames), 100, 8)
    masked = stage("augment", "specaugment", **settings)(x, frames) != x
    assert torch.equal(masked.any(2), masked.all(2))
    time_mask = masked.all(2)
    assert not (time_mask & (torch.arange(100) >= frames[:, None])).any()
    assert ((time_mask[:, 1:] != time_mask[:, :-1]).sum(1) <= 2).all()  # a single band
    for count in (100, 40, 33, 7, 4, 1):
        max_width = min(25, int(count * max_fraction + 1e-6))
        assert set(time_mask.sum(1)[frames == count].tolist()) == set(range(max_width + 1))
    assert time_mask[frames == 40][:, :40].any(0).all()  # every frame is masked in some clip


def test_one_frequency_mask_of_limited_width(stage):
    settings = {"num_time_masks": 0, "num_freq_masks": 1, "freq_mask_param": 7}
    x, frames = torch.randn(400, 20, 30), torch.full((400,), 20)
    masked = stage("augment", "specaugment", **settings)(x, frames) != x
    assert torch.equal(masked.any(1), masked.all(1))
    freq_mask = masked.all(1)
    assert set(freq_mask.sum(1).tolist()) == set(range(8))
    assert ((freq_mask[:, 1:] != freq_mask[:, :-1]).sum(1) <= 2).all()
    assert freq_mask.any(0).all()  # every bin is masked in some clip


def test_several_masks_are_filled_with_the_mean_of_the_clip(stage):
    frames = torch.tensor([50, 20] * 50)
    x = torch.randn(100, 50, 40) + torch.arange(100)[:, None, None]
    x[torch.arange(50) >= frames[:, None]] = 1e6
    after = stage("augment", "specaugment", time_mask_param=10, freq_mask_param=4)(x, frames)
    bands = set()
    for clip, count in enumerate(frames.tolist()):
        masked = after[clip, :count] != x[clip, :count]
        mean = x[clip, :count].mean()
        torch.testing.assert_close(after[clip, :count][masked], mean.expand(int(masked.sum())), rtol=0, atol=1e-3)
        time_mask, freq_mask = masked.all(1), masked.all(0)
        bands.add((num_bands(time_mask), num_bands(freq_mask)))
        time, bins = int(time_mask.sum()), int(freq_mask.sum())
        assert time <= 2 * min(10, count // 5)
        assert bins <= 2 * 4
        assert masked.sum() == time * 40 + bins * count - time * bins
    assert {max(counts) for counts in zip(*bands, strict=True)} == {2}
    assert len(torch.unique((after != x).flatten(1), dim=0)) > 95  # each clip has different masks


def test_no_masks_change_nothing(stage):
    x, frames = torch.randn(3, 20, 8), torch.tensor([20, 3, 1])
    assert torch.equal(stage("augment", "specaugment", num_time_masks=0, num_freq_masks=0)(x, frames), x)
