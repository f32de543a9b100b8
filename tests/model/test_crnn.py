"""CNN + RNN encoders: batch normalization over valid frames, exact downsampling, independence of padding."""

import pytest
import torch
from torch import nn

from spectrnn.errors import UserError
from spectrnn.model.crnn import ConvBlock, MaskedBatchNormReLU

FRAMES = torch.tensor([23, 1, 9, 30, 2])


def mask_of(frames, size, dims):
    return (torch.arange(size) < frames[:, None]).float().view(len(frames), 1, size, *[1] * (dims - 3))


def zero_padding(x):
    return x * mask_of(FRAMES, x.shape[2], x.dim())


def valid_of(x, frames):
    """(batch, channels, frames, ...) -> (1, channels, all valid frames, ...)."""
    return torch.cat([clip[:, :count] for clip, count in zip(x, frames.tolist(), strict=True)], dim=1)[None]


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "PyTorch"])
@pytest.mark.parametrize(("shape", "reference"), [((5, 4, 30), nn.BatchNorm1d(4)), ((5, 4, 30, 7), nn.BatchNorm2d(4))])
def test_batch_norm_equals_torch_on_valid_frames(shape, reference, kernels):
    norm = MaskedBatchNormReLU(4).train()
    norm.use_kernels = kernels
    reference.zero_grad()
    weight, bias = torch.randn(4), torch.randn(4)
    for module in (norm, reference.train()):
        module.weight.data.copy_(weight)
        module.bias.data.copy_(bias)
    mask = mask_of(FRAMES, 30, len(shape))
    x = torch.where(mask > 0, torch.randn(shape) * 3 + 5, 100 * torch.randn(shape))
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    output = norm(ours, FRAMES)
    assert not output[mask.expand_as(output) == 0].any()
    result, expected = valid_of(output, FRAMES), reference(valid_of(theirs, FRAMES)).relu()
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
    (result**3).mean().backward()
    (expected**3).mean().backward()
    for mine, other in ((ours, theirs), (norm.weight, reference.weight), (norm.bias, reference.bias)):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-5)


def test_batch_norm_uses_running_statistics_in_evaluation():
    norm, x = MaskedBatchNormReLU(4), torch.randn(5, 4, 30) * 3 + 5
    norm.train()(x, FRAMES)
    valid = valid_of(x, FRAMES)[0]
    mean = 0.1 * valid.mean(1)
    variance = 0.9 + 0.1 * valid.var(1, correction=0)
    expected = ((x - mean[:, None]) / (variance[:, None] + 1e-5).sqrt()).relu() * mask_of(FRAMES, 30, 3)
    norm.eval()
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    torch.testing.assert_close(norm(x, FRAMES), expected, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(before[name], value) for name, value in norm.state_dict().items())


def test_running_statistics_converge_to_those_of_the_data():
    norm, x = MaskedBatchNormReLU(4), torch.randn(5, 4, 30) * 3 + 5
    for _ in range(200):
        trained = norm.train()(x, FRAMES)
    torch.testing.assert_close(norm.eval()(x, FRAMES), trained, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "PyTorch"])
def test_gradients_of_batch_norm_in_evaluation_equal_those_of_torch(kernels):
    norm, reference = MaskedBatchNormReLU(4).eval(), nn.BatchNorm1d(4).eval()
    norm.use_kernels = kernels
    for name in ("weight", "bias"):
        getattr(norm, name).data.copy_(getattr(reference, name).data.uniform_(-1, 1))
    norm.mean.copy_(reference.running_mean.uniform_(-1, 1))
    norm.variance.copy_(reference.running_var.uniform_(0.5, 2))
    ours = torch.randn(5, 4, 30, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    norm(ours, FRAMES).square().sum().backward()
    (reference(theirs).relu() * mask_of(FRAMES, 30, 3)).square().sum().backward()
    for mine, other in ((ours, theirs), (norm.weight, reference.weight), (norm.bias, reference.bias)):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "PyTorch"])
def test_nan_is_not_hidden_by_batch_norm(kernels):
    norm = MaskedBatchNormReLU(4).eval()
    norm.use_kernels = kernels
    x = torch.randn(5, 4, 30)
    x[3, 2, 7] = torch.nan
    output = norm(x, FRAMES)
    assert output[3, 2, 7].isnan()
    assert output.isnan().sum() == 1


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d])
def test_conv_block_equals_convolution_of_each_clip_alone(kind, kernel, stride):
    convolution = kind(3, 4, kernel, stride, kernel // 2)
    block = ConvBlock(convolution).eval()
    x = zero_padding(100 * torch.randn(5, 3, 30, *[8] * (kind is nn.Conv2d)))
    result, frames = block(x, FRAMES)
    for clip, count in enumerate(FRAMES.tolist()):
        expected = convolution(x[clip : clip + 1, :, :count]).relu()[0] / (1 + 1e-5) ** 0.5
        assert frames[clip] == expected.shape[1]
        torch.testing.assert_close(result[clip, :, : frames[clip]], expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(("kind", "reference"), [(nn.Conv1d, nn.BatchNorm1d(4)), (nn.Conv2d, nn.BatchNorm2d(4))])
def test_conv_block_in_training_normalizes_over_valid_outputs(kind, reference):
    convolution = kind(3, 4, 3, 2, 1)
    x = zero_padding(100 * torch.randn(5, 3, 30, *[8] * (kind is nn.Conv2d)))
    alone = [convolution(clip[None, :, :count])[0] for clip, count in zip(x, FRAMES.tolist(), strict=True)]
    expected = reference.train()(torch.cat(alone, dim=1)[None]).relu()
    result, frames = ConvBlock(convolution).train()(x, FRAMES)
    torch.testing.assert_close(valid_of(result, frames), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("option", ["crnn", "conv1d_rnn"])
def test_padding_has_no_effect_on_training(stage, option):
    encoder = stage("model", option, {"input_size": 15}, hidden_size=8, dropout=0.0).train()
    inside = torch.arange(30) < FRAMES[:, None]
    x = torch.randn(5, 30, 15)
    results = []
    for padding in (0.0, 100.0):
        padded = torch.where(inside[:, :, None], x, padding).requires_grad_()
        states, frames = encoder(padded, FRAMES)
        valid = states[torch.arange(states.shape[1]) < frames[:, None]]
        (valid**2).sum().backward()
        assert padded.grad[inside].any()
        assert not padded.grad[~inside].any()
        results += [valid, padded.grad]
    torch.testing.assert_close(results[:2], results[2:], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("option", ["crnn", "conv1d_rnn"])
@pytest.mark.parametrize("strides", [[1, 2], [2, 3], [1, 1]])
def test_encoder_downsamples_time_independently_of_the_batch(stage, option, strides):
    settings = {"channels": [6, 5], "time_strides": strides, "hidden_size": 8}
    if option == "crnn":
        settings["frequency_strides"] = [2, 2]
    encoder = stage("model", option, {"input_size": 15}, **settings).eval()
    x = 10 * torch.randn(5, 30, 15)
    states, frames = encoder(x, FRAMES)
    size = FRAMES
    for stride in strides:
        size = (size + stride - 1) // stride
    assert torch.equal(frames, size)
    assert states.shape == (5, int(size.max()), encoder.output_size) == (5, int(size.max()), 16)
    for clip, count in enumerate(FRAMES.tolist()):
        alone, length = encoder(x[clip : clip + 1, :count], FRAMES[clip : clip + 1])
        assert alone.shape[1] == length == frames[clip]
        torch.testing.assert_close(states[clip, : frames[clip]], alone[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("bins", [1, 15, 64])
def test_all_frames_and_bins_reach_the_rnn(stage, bins):
    settings = {"channels": [4, 6], "time_strides": [1, 2], "frequency_strides": [2, 3], "hidden_size": 8}
    encoder = stage("model", "crnn", {"input_size": bins}, **settings)
    x = torch.randn(2, 20, bins, requires_grad=True)
    states, _ = encoder.eval()(x, torch.tensor([20, 11]))
    states[0].sum().backward()
    assert x.grad[0].any(1).all()
    assert x.grad[0].any(0).float().mean() > 0.9  # a stride may skip the last bin


@pytest.mark.parametrize(("bidirectional", "directions"), [(False, 1), (True, 2)])
def test_number_of_directions(stage, bidirectional, directions):
    encoder = stage("model", "crnn", {"input_size": 16}, bidirectional=bidirectional, hidden_size=8)
    assert (encoder.output_size, encoder.num_directions) == (8 * directions, directions)


@pytest.mark.parametrize(
    ("option", "settings", "message"),
    [
        ("crnn", {"kernel_size": 4}, "kernel_size=4: is even, but padding needs a center; use 5"),
        ("conv1d_rnn", {"kernel_size": 2}, "kernel_size=2: is even, but padding needs a center; use 3"),
        ("crnn", {"channels": []}, r"channels=\[\]: one or more convolutions are needed"),
        ("conv1d_rnn", {"channels": []}, r"channels=\[\]: one or more convolutions are needed"),
        ("crnn", {"time_strides": [1]}, r"time_strides=\[1\]: should have one stride per convolution \(3\), not 1"),
        (
            "crnn",
            {"frequency_strides": [2, 2]},
            r"frequency_strides=\[2, 2\]: should have one stride per convolution \(3\), not 2",
        ),
        (
            "conv1d_rnn",
            {"time_strides": [1, 2, 2]},
            r"time_strides=\[1, 2, 2\]: should have one stride per convolution \(2\), not 3",
        ),
        ("crnn", {"time_strides": [1, 0]}, "time_strides=.*: should be greater than 0"),
        ("conv1d_rnn", {"channels": 128}, "channels=128: should be a list"),
    ],
)
def test_invalid_setting_is_reported_with_its_full_key(stage, option, settings, message):
    with pytest.raises(UserError, match=f"^model.{message}"):
        stage("model", option, {"input_size": 16}, **settings)
