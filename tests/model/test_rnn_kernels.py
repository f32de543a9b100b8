"""The kernels of recurrent layers on the CPU: sizes, threads, non-finite values."""

import pytest
import torch
from torch import nn

from spectrnn.model import rnn_kernels
from spectrnn.model.rnn_kernels import RNNFunction

LIBRARY = {"gru": nn.GRU, "lstm": nn.LSTM}


@pytest.fixture(autouse=True)
def _needs_a_compiler():
    if not rnn_kernels.KERNELS.support(torch.zeros(1)):
        pytest.skip("needs a C compiler (cc)")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def gradients(function, x, weights, grad):
    x = x.clone().requires_grad_()
    states = function(x)
    return [states.detach(), *torch.autograd.grad(states, [x, *weights], grad)]


def compare(cell, batch, frames, size, bidirectional=False):
    library = LIBRARY[cell](5, size, batch_first=True, bidirectional=bidirectional)
    x, grad = torch.randn(batch, frames, 5), torch.randn(batch, frames, size * (1 + bidirectional))
    lengths, weights = torch.full((batch,), frames), [*library.parameters()]
    ours = gradients(lambda y: RNNFunction.apply(cell, torch.float32, y, lengths, *weights), x, weights, grad)
    theirs = gradients(lambda y: library(y)[0], x, weights, grad)
    assert torch.equal(ours[0], rnn_kernels.infer(cell, torch.float32, x, lengths, weights))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
    return ours


@pytest.mark.parametrize("cell", LIBRARY)
@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5, 6, 7, 13])
def test_any_batch_size_equals_torch(cell, batch):
    compare(cell, batch, 7, 24)


@pytest.mark.parametrize("cell", LIBRARY)
@pytest.mark.parametrize("size", [1, 3, 16, 33, 64, 100])
def test_any_hidden_size_equals_torch(cell, size):
    compare(cell, 4, 7, size)


@pytest.mark.parametrize("cell", LIBRARY)
@pytest.mark.usefixtures("two_threads")
def test_shards_on_threads_equal_torch_and_are_deterministic(cell):
    torch.manual_seed(0)
    first = compare(cell, 37, 9, 20, bidirectional=True)
    torch.manual_seed(0)
    second = compare(cell, 37, 9, 20, bidirectional=True)
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


@pytest.mark.parametrize("cell", LIBRARY)
def test_large_inputs_saturate(cell):
    library = LIBRARY[cell](1, 4, batch_first=True)
    x, lengths = torch.tensor([[[1e30], [-1e30]]]), torch.tensor([2])
    states = RNNFunction.apply(cell, torch.float32, x, lengths, *library.parameters())
    torch.testing.assert_close(states, library(x)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("cell", LIBRARY)
def test_nan_reaches_the_later_states_of_its_clip_only(cell):
    x = torch.zeros(2, 3, 5)
    x[0, 1, 0] = torch.nan
    states = RNNFunction.apply(cell, torch.float32, x, torch.tensor([3, 3]), *LIBRARY[cell](5, 8).parameters())
    assert states[1].isfinite().all()
    assert states[0, 0].isfinite().all()
    assert states[0, 1:].isnan().all()


def test_padding_is_zero_and_has_no_gradient():
    lengths = torch.tensor([2, 5])
    x = torch.randn(2, 5, 5, requires_grad=True)
    states = RNNFunction.apply("gru", torch.float32, x, lengths, *nn.GRU(5, 8, bidirectional=True).parameters())
    assert not states[0, 2:].any()
    states.sum().backward()
    assert not x.grad[0, 2:].any()
    assert x.grad[0, :2].any()


def test_a_second_backward_pass_is_refused():
    x = torch.randn(1, 3, 5, requires_grad=True)
    states = RNNFunction.apply("gru", torch.float32, x, torch.tensor([3]), *nn.GRU(5, 8).parameters())
    states.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="the backward pass runs once"):
        states.sum().backward()


@pytest.mark.parametrize("cell", LIBRARY)
def test_autocast_computes_products_in_bf16_and_returns_float32(cell):
    library = LIBRARY[cell](5, 16, batch_first=True, bidirectional=True)
    x, lengths, weights = torch.randn(3, 9, 5), torch.tensor([9, 4, 1]), [*library.parameters()]
    exact = RNNFunction.apply(cell, torch.float32, x, lengths, *weights)
    with torch.autocast("cpu", torch.bfloat16):
        states = RNNFunction.apply(cell, torch.bfloat16, x, lengths, *weights)
    assert states.dtype == torch.float32
    assert 1e-6 < float((states - exact).detach().abs().max()) < 0.02
    half = torch.autograd.grad(states.square().sum(), weights)
    for mine, other in zip(half, torch.autograd.grad(exact.square().sum(), weights), strict=True):
        torch.testing.assert_close(mine, other, rtol=0.1, atol=0.1)


def test_lengths_beyond_the_frames_are_limited():
    x, weights = torch.randn(2, 4, 5), [*nn.GRU(5, 8).parameters()]
    limited, exact = (RNNFunction.apply("gru", torch.float32, x, torch.tensor([4, end]), *weights) for end in (9, 4))
    assert torch.equal(limited, exact)
