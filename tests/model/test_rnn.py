"""Recurrent layers, held against packed nn.GRU and nn.LSTM."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from spectrnn.errors import UserError
from spectrnn.model.rnn import RNNEncoder

FRAMES = torch.tensor([23, 1, 9, 40, 40, 2])
INSIDE = torch.arange(40) < FRAMES[:, None]
SHAPES = [(cell, layers, both) for cell in ("gru", "lstm") for layers in (1, 2) for both in (False, True)]


def packed(reference, x, frames):
    """The outputs of torch's own RNN over a packed batch, zero on padding."""
    sequence = pack_padded_sequence(x, frames, batch_first=True, enforce_sorted=False)
    return pad_packed_sequence(reference(sequence)[0], batch_first=True, total_length=x.shape[1])[0]


def pair(cell, layers, both, dtype=torch.float32, size=12, hidden=16):
    """Ours and torch's, with the same weights: parameters come in the order of layers, then of num_directions."""
    ours = RNNEncoder(size, cell, hidden, layers, both, 0.0).to(dtype)
    library = {"gru": nn.GRU, "lstm": nn.LSTM}[cell]
    theirs = library(size, hidden, layers, batch_first=True, bidirectional=both, dtype=dtype)
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.copy_(other.uniform_(-0.4, 0.4))
    return ours, theirs


@pytest.mark.parametrize(("cell", "layers", "both"), SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=["f32", "f64"])
def test_outputs_and_gradients_equal_those_of_a_packed_rnn(cell, layers, both, dtype, tolerance):
    ours, theirs = pair(cell, layers, both, dtype)
    x = torch.randn(6, 40, 12, dtype=dtype)  # its padding is garbage
    weigh = torch.randn(6, 40, ours.output_size, dtype=dtype) / 8
    results = []
    for module, run in ((ours, lambda y: ours(y, FRAMES)[0]), (theirs, lambda y: packed(theirs, y, FRAMES))):
        y = x.clone().requires_grad_()
        output = run(y)[INSIDE]
        (output * weigh[INSIDE]).sum().backward()
        results.append([output, y.grad, *(parameter.grad for parameter in module.parameters())])
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance)
    assert not results[0][1][~INSIDE].any()  # what lies in the padding has no say


@pytest.mark.parametrize(("cell", "layers", "both"), SHAPES)
def test_a_clip_alone_gives_what_it_gives_in_a_batch(cell, layers, both):
    ours, _ = pair(cell, layers, both)
    x = torch.where(INSIDE[:, :, None], torch.randn(6, 40, 12), 100 * torch.randn(6, 40, 12))
    with torch.no_grad():
        together, _ = ours(x, FRAMES)
        for clip, frames in enumerate(FRAMES.tolist()):
            alone, _ = ours(x[clip : clip + 1, :frames], FRAMES[clip : clip + 1])
            torch.testing.assert_close(together[clip, :frames], alone[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("frames", [[5, 5, 5], [1, 1, 1], [1, 5, 2]])
def test_batches_of_equal_and_of_tiny_clips(frames):
    ours, theirs = pair("gru", 2, True)
    x, frames = torch.randn(3, 5, 12), torch.tensor(frames)
    inside = torch.arange(5) < frames[:, None]
    torch.testing.assert_close(ours(x, frames)[0][inside], packed(theirs, x, frames)[inside], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("option", "size"), [("gru", 128), ("bigru", 256), ("lstm", 128), ("bilstm", 256)])
def test_output_size_and_frames(stage, option, size):
    encoder = stage("model", option, {"input_size": 20})
    states, frames = encoder(torch.randn(6, 40, 20), FRAMES)
    assert states.shape == (6, 40, size)
    assert encoder.output_size == size == 128 * encoder.num_directions
    assert torch.equal(frames, FRAMES)


@pytest.mark.parametrize(("option", "gates"), [("bigru", 3), ("bilstm", 4)])
def test_parameters_are_as_many_as_in_torch(stage, option, gates):
    encoder = stage("model", option, {"input_size": 64}, num_layers=3)
    expected = sum(2 * gates * 128 * (size + 128 + 2) for size in (64, 256, 256))
    assert sum(parameter.numel() for parameter in encoder.parameters()) == expected


def test_forward_states_know_only_the_past_and_backward_states_only_the_future():
    encoder = RNNEncoder(12, "gru", 16, 1, True, 0.0)
    x = torch.randn(1, 20, 12, requires_grad=True)
    states, _ = encoder(x, torch.tensor([15]))
    for half, seen in ((slice(0, 16), range(8)), (slice(16, 32), range(7, 15))):
        gradient = torch.autograd.grad(states[0, 7, half].sum(), x, retain_graph=True)[0][0]
        assert gradient.any(1).nonzero().flatten().tolist() == list(seen)


def test_dropout_lies_between_layers_and_only_in_training():
    x = torch.randn(6, 40, 12)
    for layers, dropped in ((1, False), (2, True)):
        encoder = RNNEncoder(12, "gru", 16, layers, True, 0.5)
        evaluated = encoder.eval()(x, FRAMES)[0]
        assert torch.equal(evaluated, encoder(x, FRAMES)[0])
        trained = [encoder.train()(x, FRAMES)[0] for _ in range(2)]
        assert torch.equal(*trained) is not dropped
        assert torch.allclose(trained[0], evaluated, atol=1e-6) is not dropped


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"cell": "rnn"}, "model.cell=rnn: should be 'gru' or 'lstm'"),
        ({"hidden_size": "abc"}, "model.hidden_size=abc: should be a valid integer"),
        ({"hidden_size": 0}, "model.hidden_size=0: should be greater than 0"),
        ({"num_layers": 0}, "model.num_layers=0: should be greater than 0"),
        ({"dropout": 1.0}, "model.dropout=1.0: should be less than 1"),
        ({"hidden": 3}, "model.hidden: no such key; did you mean model.hidden_size"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_their_full_key(stage, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        stage("model", "bigru", {"input_size": 8}, **settings)
