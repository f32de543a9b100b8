"""Normalization, compared with NumPy over the valid frames."""

import subprocess
import sys

import numpy as np
import pytest
import torch

FRAMES = torch.tensor([30, 1, 12, 7])
VALID = torch.arange(30) < FRAMES[:, None]


@pytest.fixture
def features():
    """Features (4, 30, 5) whose bins differ in mean and deviation, with garbage as padding."""
    x = torch.randn(4, 30, 5) * torch.tensor([0.1, 1, 2, 5, 10]) + torch.tensor([-20.0, -10, 0, 1, 100])
    return torch.where(VALID[:, :, None], x, 1e4 * torch.randn(4, 30, 5))


def test_global_results_in_mean_0_and_deviation_1_over_the_training_split(stage):
    normalize = stage("normalize", "global", {"input_size": 5}, eps=1e-9)
    split = [(torch.randn(8, 20, 5) * 3 - 14 + torch.arange(5), torch.randint(1, 21, (8,))) for _ in range(4)]
    normalize.fit(iter(split))
    valid = torch.cat([normalize(x, frames)[torch.arange(20) < frames[:, None]] for x, frames in split])
    torch.testing.assert_close(valid.mean(0), torch.zeros(5), rtol=0, atol=1e-5)
    torch.testing.assert_close(valid.std(0, correction=0), torch.ones(5), rtol=0, atol=1e-4)


def test_global_uses_the_valid_frames_of_all_batches(stage, features):
    normalize = stage("normalize", "global", {"input_size": 5}, eps=1e-12)
    normalize.fit((features[clip : clip + 2], FRAMES[clip : clip + 2]) for clip in (0, 2))
    valid = features[VALID].double().numpy()
    expected = (features.numpy() - valid.mean(0)) / valid.std(0)
    np.testing.assert_allclose(normalize(features, FRAMES).numpy()[VALID], expected[VALID], rtol=1e-4, atol=1e-4)


def test_global_is_accurate_with_a_large_offset(stage):
    normalize = stage("normalize", "global", {"input_size": 1}, eps=1e-12)
    x = 1000 + torch.tensor([-1.0, 1.0]).repeat(100, 500)[:, :, None] / 16
    normalize.fit([(x, torch.full((100,), 1000))])
    torch.testing.assert_close(normalize(x, torch.full((100,), 1000)), (x - 1000) * 16, rtol=0, atol=1e-4)


def test_global_statistics_are_in_the_state_dict(stage, features):
    fitted, fresh = (stage("normalize", "global", {"input_size": 5}) for _ in range(2))
    fitted.fit([(features, FRAMES)])
    assert not torch.equal(fitted(features, FRAMES), fresh(features, FRAMES))
    fresh.load_state_dict(fitted.state_dict())
    assert torch.equal(fitted(features, FRAMES), fresh(features, FRAMES))


def test_global_of_a_constant_bin_is_zero(stage):
    normalize = stage("normalize", "global", {"input_size": 1})
    x = torch.full((3, 10, 1), -13.8155)
    normalize.fit([(x, torch.tensor([10, 3, 1]))])
    assert normalize(x, torch.tensor([10, 3, 1])).abs().max() < 1e-3


FIT_SHARE = """
from contextlib import suppress
import torch
from spectrnn import distributed
from spectrnn.errors import UserError
from spectrnn.frontend.normalization import GlobalNormalization

def share(rank):
    for number in range(rank, 5, 2):
        torch.manual_seed(number)
        used.append(number)
        yield torch.randn(4, 30, 5) + number, torch.tensor([30, 1, 12, 7])

for _ in range(5):  # a process must not connect to an address that another one had in an earlier group
    with suppress(UserError), distributed.process_group(torch.device("cpu")):
        raise UserError("a run of a sweep that fails, after which the next one connects again")
with distributed.process_group(torch.device("cpu")):
    rank, used = distributed.rank(), []
    shared, alone = GlobalNormalization(5, 1e-6), GlobalNormalization(5, 1e-6)
    shared.fit(share(rank))
    assert used == [[0, 2, 4], [1, 3]][rank], used
    means = distributed.all_gather(shared.mean)
distributed.world_size = lambda: 1
alone.fit(batch for first in (0, 1) for batch in share(first))
torch.testing.assert_close(shared.state_dict(), alone.state_dict())
assert torch.equal(*means) and alone.mean.min() > 1
"""


@pytest.mark.study
@pytest.mark.slow
def test_processes_share_the_fit(tmp_path):
    (tmp_path / "fit.py").write_text(FIT_SHARE)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*launcher, tmp_path / "fit.py"], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


def test_cmn_results_in_mean_0_over_each_clip_and_deviation_1_over_the_training_split(stage, features):
    normalize = stage("normalize", "cmn", {"input_size": 5}, eps=1e-9)
    normalize.fit((features[clip : clip + 2], FRAMES[clip : clip + 2]) for clip in (0, 2))
    result = normalize(features, FRAMES)
    means = [clip[:frames].mean(0) for clip, frames in zip(result, FRAMES, strict=True)]
    torch.testing.assert_close(torch.stack(means), torch.zeros(4, 5), rtol=0, atol=1e-4)
    torch.testing.assert_close(result[VALID].square().mean(0), torch.ones(5), rtol=1e-3, atol=0)
    # A clip's level and frequency response have no effect.
    filtered = features + torch.randn(4, 1, 5)
    torch.testing.assert_close(normalize(filtered, FRAMES)[VALID], result[VALID], rtol=0, atol=1e-4)


def test_relaxed_removes_the_level_and_a_part_of_the_frequency_response(stage, features):
    normalize = stage("normalize", "relaxed", {"input_size": 5}, eps=1e-9, relaxation=0.25)
    normalize.fit([(features, FRAMES)])
    before = normalize(features, FRAMES)
    level, response = torch.randn(4, 1, 1), torch.randn(4, 1, 5)
    response -= response.mean(2, keepdim=True)
    after = normalize(features + level + response, FRAMES)
    expected = (before + 0.25 * response / normalize.std)[VALID]
    torch.testing.assert_close(after[VALID], expected, rtol=0, atol=1e-4)


def test_cmvn_results_in_mean_0_and_deviation_1_over_each_clip(stage, features):
    result = stage("normalize", "cmvn", eps=0.5)(features, FRAMES)
    for clip, frames in enumerate(FRAMES.tolist()):
        valid = features[clip, :frames].double().numpy()
        expected = (valid - valid.mean(0)) / np.sqrt(valid.var(0) + 0.5)
        np.testing.assert_allclose(result[clip, :frames].numpy(), expected, rtol=1e-3, atol=1e-4)


def test_cmvn_of_a_single_frame_is_zero(stage, features):
    assert (stage("normalize", "cmvn")(features, FRAMES)[1, :1] == 0).all()


@pytest.mark.parametrize("bins", [1, 3, 64])
@pytest.mark.parametrize("frames", [7, 97, 98, 300])
def test_cmvn_of_a_constant_bin_is_zero(stage, bins, frames):
    # As in digital silence: a rounding error of the mean must not be divided by a deviation of almost 0.
    silence = torch.full((2, frames + 13, bins), np.log(1e-6))
    result = stage("normalize", "cmvn")(silence, torch.tensor([frames, frames + 13]))
    assert result[0, :frames].abs().max() < 1e-5


@pytest.mark.parametrize("option", ["global", "cmn", "relaxed", "cmvn", "none"])
def test_normalization_does_not_depend_on_padding(stage, features, option):
    results = []
    for padding in (features, torch.where(VALID[:, :, None], features, 0.0)):
        normalize = stage("normalize", option, {"input_size": 5})
        normalize.fit([(padding, FRAMES)])
        results.append(normalize(padding, FRAMES)[VALID])
    assert torch.equal(*results)


def test_none_does_not_change_features(stage, features):
    normalize = stage("normalize", "none")
    normalize.fit([(features, FRAMES)])
    assert torch.equal(normalize(features, FRAMES), features)
