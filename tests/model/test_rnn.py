"""Recurrent layers, compared with packed nn.GRU and nn.LSTM."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from spectrnn.errors import UserError
from spectrnn.model.rnn import Dropout, RNNEncoder
from spectrnn.native import Kernels

FRAMES = torch.tensor([23, 1, 9, 40, 40, 2])
VALID = torch.arange(40) < FRAMES[:, None]
SHAPES = [(cell, layers, both) for cell in ("gru", "lstm") for layers in (1, 2) for both in (False, True)]


def packed(reference, x, frames):
    """Outputs of PyTorch's RNN for a packed batch, zero on padding."""
    sequence = pack_padded_sequence(x, frames, batch_first=True, enforce_sorted=False)
    return pad_packed_sequence(reference(sequence)[0], batch_first=True, total_length=x.shape[1])[0]


def pair(cell, layers, both, dtype=torch.float32, size=12, hidden=16):
    """Our encoder and PyTorch's with the same weights; parameters are ordered by layer, then by direction."""
    ours = RNNEncoder(size, cell, hidden, layers, both, 0.0).to(dtype)
    library = {"gru": nn.GRU, "lstm": nn.LSTM}[cell]
    theirs = library(size, hidden, layers, batch_first=True, bidirectional=both, dtype=dtype)
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.copy_(other.uniform_(-0.4, 0.4))
    return ours, theirs


@pytest.mark.parametrize(("cell", "layers", "both"), SHAPES)
@pytest.mark.parametrize(
    ("dtype", "kernels", "tolerance"),
    [(torch.float32, True, 1e-5), (torch.float32, False, 1e-5), (torch.float64, True, 1e-12)],
    ids=["kernels", "PyTorch", "f64"],
)
@pytest.mark.parametrize("compiler", [True, False], ids=["compiler", "no_compiler"])
def test_outputs_and_gradients_equal_those_of_a_packed_rnn(
    cell, layers, both, dtype, kernels, tolerance, compiler, monkeypatch
):
    if not compiler:
        monkeypatch.setattr(Kernels, "library", None)
    ours, theirs = pair(cell, layers, both, dtype)
    for layer in ours.layers:
        layer.use_kernels = kernels
    x = torch.randn(6, 40, 12, dtype=dtype)  # also in the padding
    weigh = torch.randn(6, 40, ours.output_size, dtype=dtype) / 8
    results = []
    for module, run in ((ours, lambda y: ours(y, FRAMES)[0]), (theirs, lambda y: packed(theirs, y, FRAMES))):
        y = x.clone().requires_grad_()
        output = run(y)[VALID]
        (output * weigh[VALID]).sum().backward()
        results.append([output, y.grad, *(parameter.grad for parameter in module.parameters())])
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance)
    assert not results[0][1][~VALID].any()


@pytest.mark.parametrize(("cell", "layers", "both"), SHAPES)
def test_result_is_independent_of_the_batch(cell, layers, both):
    ours, _ = pair(cell, layers, both)
    x = torch.where(VALID[:, :, None], torch.randn(6, 40, 12), 100 * torch.randn(6, 40, 12))
    with torch.no_grad():
        together, _ = ours(x, FRAMES)
        for clip, frames in enumerate(FRAMES.tolist()):
            alone, _ = ours(x[clip : clip + 1, :frames], FRAMES[clip : clip + 1])
            torch.testing.assert_close(together[clip, :frames], alone[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("frames", [[5, 5, 5], [1, 1, 1], [1, 5, 2]])
def test_clips_of_equal_length_and_of_one_frame(frames):
    ours, theirs = pair("gru", 2, True)
    x, frames = torch.randn(3, 5, 12), torch.tensor(frames)
    valid = torch.arange(5) < frames[:, None]
    torch.testing.assert_close(ours(x, frames)[0][valid], packed(theirs, x, frames)[valid], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("option", "size"), [("gru", 128), ("bigru", 256), ("lstm", 128), ("bilstm", 256)])
def test_output_shape(stage, option, size):
    encoder = stage("model", option, {"input_size": 20})
    states, frames = encoder(torch.randn(6, 40, 20), FRAMES)
    assert states.shape == (6, 40, size)
    assert encoder.output_size == size == 128 * encoder.num_directions
    assert torch.equal(frames, FRAMES)


@pytest.mark.parametrize(("option", "gates"), [("bigru", 3), ("bilstm", 4)])
def test_number_of_parameters_equals_that_of_torch(stage, option, gates):
    encoder = stage("model", option, {"input_size": 64}, num_layers=3)
    expected = sum(2 * gates * 128 * (size + 128 + 2) for size in (64, 256, 256))
    assert sum(parameter.numel() for parameter in encoder.parameters()) == expected


def test_forward_states_depend_on_the_past_and_backward_states_on_the_future():
    encoder = RNNEncoder(12, "gru", 16, 1, True, 0.0)
    x = torch.randn(1, 20, 12, requires_grad=True)
    for half, frames in ((slice(0, 16), range(8)), (slice(16, 32), range(7, 15))):
        states, _ = encoder(x, torch.tensor([15]))
        gradient = torch.autograd.grad(states[0, 7, half].sum(), x)[0][0]
        assert gradient.any(1).nonzero().flatten().tolist() == list(frames)


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 0.999])
def test_dropout_drops_its_fraction_and_keeps_the_mean(p):
    x = torch.ones(101, 9, 333, requires_grad=True)
    y = Dropout(p).train()(x)
    assert abs(float((y == 0).float().mean()) - p) < 0.004
    torch.testing.assert_close(y[y != 0], torch.full_like(y[y != 0], 1 / (1 - p)))
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach())
    assert torch.equal(Dropout(p).eval()(x), x)


@pytest.mark.parametrize(("layers", "dropped"), [(1, False), (2, True)])
def test_dropout_applies_between_layers_in_training(layers, dropped):
    x = torch.randn(6, 40, 12)
    encoder = RNNEncoder(12, "gru", 16, layers, True, 0.5)
    evaluated = encoder.eval()(x, FRAMES)[0]
    assert torch.equal(evaluated, encoder(x, FRAMES)[0])
    trained = [encoder.train()(x, FRAMES)[0] for _ in range(2)]
    assert torch.equal(*trained) is not dropped
    assert torch.allclose(trained[0], evaluated, atol=1e-6) is not dropped


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cell": "rnn"}, "cell=rnn: should be 'gru' or 'lstm'"),
        ({"hidden_size": "abc"}, "hidden_size=abc: should be a valid integer"),
        ({"hidden_size": 0}, "hidden_size=0: should be greater than 0"),
        ({"num_layers": 0}, "num_layers=0: should be greater than 0"),
        ({"dropout": 1.0}, "dropout=1.0: should be less than 1"),
        ({"hidden": 3}, "hidden: no such key; did you mean model.hidden_size"),
    ],
)
def test_invalid_setting_is_reported_with_its_full_key(stage, settings, message):
    with pytest.raises(UserError, match=f"^model.{message}"):
        stage("model", "bigru", {"input_size": 8}, **settings)
