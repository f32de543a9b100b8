"""Augmentations of spectrograms other than SpecAugment: random gains of the bins and stretching of their axis."""

import numpy as np
import pytest
import scipy.stats
import torch

LENGTHS = torch.full((400,), 20)


@pytest.mark.parametrize("name", ["filter", "vtlp"])
def test_clips_change_with_their_probability_and_by_the_seed_only(stage, name):
    x = torch.randn(400, 20, 16)
    assert torch.equal(stage("augment", name, p=0.0)(x, LENGTHS), x)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(stage("augment", name, p=0.5)(x, LENGTHS))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert 0.4 < (runs[0] != x).any(2).any(1).float().mean() < 0.6


def test_filter_adds_a_piecewise_linear_curve_to_all_frames_of_a_clip(stage):
    x = torch.randn(400, 20, 13)
    gain = stage("augment", "filter", num_points=4, max_gain=2, p=1.0)(x, LENGTHS) - x
    torch.testing.assert_close(gain, gain[:, :1].expand_as(gain), rtol=0, atol=1e-5)
    points = gain[:, 0, ::4].numpy()
    assert scipy.stats.kstest(points.ravel(), "uniform", (-2, 4)).pvalue > 0.01
    assert abs(np.corrcoef(points.T) - np.eye(4)).max() < 0.2  # drawn independently
    expected = np.stack([np.interp(np.arange(13), [0, 4, 8, 12], clip) for clip in points])
    np.testing.assert_allclose(gain[:, 0].numpy(), expected, atol=1e-5)


def test_vtlp_stretches_the_frequency_axis(stage):
    # A linear ramp reveals the bin that each value was taken from.
    x = torch.arange(32.0).expand(400, 20, 32)
    source = stage("augment", "vtlp", max_stretch=0.2, p=1.0)(x, LENGTHS)
    assert torch.equal(source, source[:, :1].expand_as(source))
    factor = source[:, 0, 10] / 10
    assert scipy.stats.kstest(factor.numpy(), "uniform", (0.8, 0.4)).pvalue > 0.01
    expected = (torch.arange(32) * factor[:, None]).clamp(max=31)
    torch.testing.assert_close(source[:, 0], expected, rtol=1e-4, atol=1e-4)
