"""SpecAugment: bands of valid frames and of bins, no wider than they say, behind the mean of the clip."""

import pytest
import torch


def hidden(specaugment, x, frames):
    return specaugment(x, frames) != x


def runs(line):
    """How many stretches of a line (size,) are hidden."""
    return int(line[0]) + int((line[1:] & ~line[:-1]).sum())


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_specaugment_hides_one_band_of_valid_frames_no_wider_than_it_says(stage, share):
    masks = {"num_time_masks": 1, "time_mask_param": 25, "max_time_fraction": share, "num_freq_masks": 0}
    frames = torch.tensor([100, 40, 33, 7, 4, 1] * 200)
    x = torch.randn(len(frames), 100, 8)
    band = hidden(stage("augment", "specaugment", **masks), x, frames)
    assert torch.equal(band.any(2), band.all(2))
    time = band.all(2)
    assert not (time & (torch.arange(100) >= frames[:, None])).any()
    widths, edges = time.sum(1), (time[:, 1:] != time[:, :-1]).sum(1)
    assert (edges <= 2).all()  # one band
    for count in (100, 40, 33, 7, 4, 1):
        widest = min(25, int(count * share + 1e-6))
        assert set(widths[frames == count].tolist()) == set(range(widest + 1))
    assert time[frames == 40][:, :40].any(0).all()  # every frame has its turn


def test_specaugment_hides_bands_of_bins_no_wider_than_it_says(stage):
    masks = {"num_time_masks": 0, "num_freq_masks": 1, "freq_mask_param": 7}
    x, frames = torch.randn(400, 20, 30), torch.full((400,), 20)
    band = hidden(stage("augment", "specaugment", **masks), x, frames)
    assert torch.equal(band.any(1), band.all(1))
    bins = band.all(1)
    assert set(bins.sum(1).tolist()) == set(range(8))
    assert ((bins[:, 1:] != bins[:, :-1]).sum(1) <= 2).all()
    assert bins.any(0).all()  # every bin has its turn


def test_specaugment_hides_behind_the_mean_of_the_clip_in_several_bands(stage):
    frames = torch.tensor([50, 20] * 50)
    x = torch.randn(100, 50, 40) + torch.arange(100)[:, None, None]
    x[torch.arange(50) >= frames[:, None]] = 1e6
    after = stage("augment", "specaugment", time_mask_param=10, freq_mask_param=4)(x, frames)
    inside, bands = torch.arange(50) < frames[:, None], set()
    for clip in range(100):
        covered = (after[clip] != x[clip]) & inside[clip, :, None]
        mean = x[clip, : frames[clip]].mean()
        torch.testing.assert_close(after[clip][covered], mean.expand(int(covered.sum())), rtol=0, atol=1e-3)
        time, bins = covered.all(1).sum(), covered[: frames[clip]].all(0).sum()
        bands.add((runs(covered.all(1)), runs(covered[: frames[clip]].all(0))))
        assert time <= 2 * min(10, frames[clip] // 5)
        assert bins <= 2 * 4
        assert covered.sum() == time * 40 + bins * frames[clip] - time * bins
    assert {max(counts) for counts in zip(*bands, strict=True)} == {2}
    assert len(torch.unique((after != x).flatten(1), dim=0)) > 95  # each clip has bands of its own


def test_specaugment_without_bands_changes_nothing(stage):
    x = torch.randn(3, 20, 8)
    assert torch.equal(
        stage("augment", "specaugment", num_time_masks=0, num_freq_masks=0)(x, torch.tensor([20, 3, 1])), x
    )
