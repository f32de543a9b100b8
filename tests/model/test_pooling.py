"""Pooling, compared with a loop over clips and frames."""

import numpy as np
import pytest
import torch

from spectrnn.errors import UserError

FRAMES = torch.tensor([12, 1, 5, 30, 2])
VALID = torch.arange(30) < FRAMES[:, None]
OPTIONS = ["last", "mean", "max", "attention", "stats"]
CONTEXT = {"input_size": 8, "num_directions": 2}


@pytest.fixture
def states():
    """Hidden states (5, 30, 8), mostly negative, with large values in the padding."""
    return torch.where(VALID[:, :, None], torch.randn(5, 30, 8) - 2, 1e4 * torch.randn(5, 30, 8))


def reference(option, x):
    """Pools one clip (frames, 8) of a bidirectional encoder, without padding."""
    if option == "last":
        return np.concatenate([x[-1, :4], x[0, 4:]])
    if option == "stats":
        return np.concatenate([x.mean(0), np.sqrt(x.var(0) + 1e-5)])
    return x.mean(0) if option == "mean" else x.max(0)


@pytest.mark.parametrize("option", ["last", "mean", "max", "stats"])
def test_pooling_equals_a_loop_over_clips(stage, states, option):
    pooled = stage("pooling", option, CONTEXT)(states, FRAMES)
    for clip, frames in enumerate(FRAMES.tolist()):
        expected = reference(option, states[clip, :frames].double().numpy())
        np.testing.assert_allclose(pooled[clip].numpy(), expected, rtol=1e-5, atol=1e-5)


def test_last_pooling_of_one_direction_is_the_last_valid_frame(stage, states):
    pooled = stage("pooling", "last", {"input_size": 8, "num_directions": 1})(states, FRAMES)
    assert torch.equal(pooled, torch.stack([states[clip, frames - 1] for clip, frames in enumerate(FRAMES)]))


@pytest.mark.parametrize("heads", [1, 2, 4, 8])
def test_attention_equals_a_loop_over_clips_heads_and_frames(stage, states, heads):
    pooling = stage("pooling", "attention", CONTEXT, num_heads=heads)
    pooled, weights = pooling.attend(states, FRAMES)
    for clip, frames in enumerate(FRAMES.tolist()):
        scores = pooling.score(states[clip, :frames])  # (frames, heads)
        slices = states[clip, :frames].chunk(heads, dim=1)
        for head in range(heads):
            expected_weights = scores[:, head].exp() / scores[:, head].exp().sum()
            torch.testing.assert_close(weights[clip, head, :frames], expected_weights)
            expected = sum(expected_weights[frame] * slices[head][frame] for frame in range(frames))
            size = 8 // heads
            torch.testing.assert_close(pooled[clip, head * size : (head + 1) * size], expected, rtol=1e-4, atol=1e-5)


def test_attention_weights_sum_to_1_and_are_0_on_padding(stage, states):
    weights = stage("pooling", "attention", CONTEXT).attend(states, FRAMES)[1]
    assert weights.shape == (5, 4, 30)
    torch.testing.assert_close(weights.sum(-1), torch.ones(5, 4))
    assert not weights[~VALID[:, None].expand_as(weights)].any()
    assert (weights[VALID[:, None].expand_as(weights)] > 0).all()


@pytest.mark.parametrize("option", ["last", "mean", "max", "stats"])
def test_only_attention_has_weights(stage, states, option):
    assert stage("pooling", option, CONTEXT).attend(states, FRAMES)[1] is None


@pytest.mark.parametrize("option", OPTIONS)
def test_output_size(stage, states, option):
    pooling = stage("pooling", option, CONTEXT)
    assert pooling(states, FRAMES).shape == (5, pooling.output_size) == (5, 16 if option == "stats" else 8)


@pytest.mark.parametrize("option", OPTIONS)
def test_result_is_independent_of_the_batch(stage, states, option):
    pooling = stage("pooling", option, CONTEXT)
    together = pooling(states, FRAMES)
    for clip, frames in enumerate(FRAMES.tolist()):
        alone = pooling(states[clip : clip + 1, :frames], FRAMES[clip : clip + 1])
        torch.testing.assert_close(together[clip], alone[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("option", OPTIONS)
def test_gradients_are_finite_and_zero_on_padding(stage, option):
    x = torch.zeros(5, 30, 8, requires_grad=True)  # the square root has no gradient at a variance of 0
    stage("pooling", option, CONTEXT)(x, FRAMES).square().sum().backward()
    assert x.grad.isfinite().all()
    assert not x.grad[~VALID].any()
    y = torch.randn(5, 30, 8, requires_grad=True)
    stage("pooling", option, CONTEXT)(y, FRAMES).square().sum().backward()
    assert y.grad[VALID].any()
    assert not y.grad[~VALID].any()


@pytest.mark.parametrize(
    ("option", "settings", "message"),
    [
        ("attention", {"num_heads": 3}, "num_heads=3: does not divide the encoder's 8 outputs; 1, 2, 4, 8 do"),
        ("attention", {"num_heads": 0}, "num_heads=0: should be greater than 0"),
        ("stats", {"eps": 0}, "eps=0: should be greater than 0"),
        ("mean", {"num_heads": 2}, "num_heads: no such key"),
    ],
)
def test_invalid_setting_is_reported_with_its_full_key(stage, option, settings, message):
    with pytest.raises(UserError, match=f"^pooling.{message}"):
        stage("pooling", option, CONTEXT, **settings)
