"""The GRU over time on the CPU, forward and backward by hand; and the reversal of clips within their lengths.

What the library computes step by step is done here for all steps at once wherever time allows it: the products with the
input, the slopes of the gates, the gradients of the weights. What is left in the loop are a product and a few in-place
operations a step, for both directions together. Steps lie one behind the other, (frames, directions, batch, size), so
that each is one contiguous block. Gates and weights are those of ``torch.nn.GRU``.
"""

from typing import Any

import torch
from torch import Tensor
from torch.amp import custom_bwd, custom_fwd
from torch.autograd.function import once_differentiable

# An autocast around it must not hand it halves and wholes to multiply.
_in_float32 = custom_fwd(device_type="cpu", cast_inputs=torch.float32)

aten = torch.ops.aten  # has the derivatives of sigmoid and tanh, each in one pass
Gradients = tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor]


class GRUFunction(torch.autograd.Function):
    """A layer of gated recurrent units (Cho et al., 2014).

    ``Gru.apply(x, weight_ih, weight_hh, bias_ih, bias_hh)`` takes x (directions, frames, batch, input), weights
    (directions, 3 * hidden, input or hidden) and biases (directions, 3 * hidden) with the gates r, z, n, and returns
    the states (directions, frames, batch, hidden). All directions run forward in time; the first state is zero.
    """

    @staticmethod
    @_in_float32  # type: ignore[untyped-decorator]
    def forward(ctx: Any, x: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor) -> Tensor:
        """Runs the layer."""
        directions, frames, batch, _ = x.shape
        size = weight_hh.shape[2]
        bias = torch.cat([bias_ih[:, : 2 * size] + bias_hh[:, : 2 * size], bias_ih[:, 2 * size :]], dim=1)
        rz, n = (part.contiguous() for part in _project(x, weight_ih, bias).split([2 * size, size], dim=-1))
        hidden_n = bias_hh[:, None, 2 * size :].expand(frames, directions, batch, size).contiguous()
        states = x.new_zeros(frames + 1, directions, batch, size)
        to_rz, to_n = weight_hh.transpose(1, 2).split([2 * size, size], dim=2)
        state = states[0]
        steps = zip(rz, rz[..., :size], rz[..., size:], n, hidden_n, states[1:], strict=True)
        for rz_t, r_t, z_t, n_t, hidden_n_t, state_t in steps:
            rz_t.baddbmm_(state, to_rz).sigmoid_()
            hidden_n_t.baddbmm_(state, to_n)
            n_t.addcmul_(r_t, hidden_n_t).tanh_()
            state = torch.lerp(n_t, state, z_t, out=state_t)
        ctx.save_for_backward(x, weight_ih, weight_hh, rz, n, hidden_n, states)
        return states[1:].transpose(0, 1)

    @staticmethod
    @custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        """The gradients of x and of the parameters from that of the states."""
        x, weight_ih, weight_hh, rz, n, hidden_n, states = ctx.saved_tensors
        frames, directions, batch, size = n.shape
        r, z = rz[..., :size], rz[..., size:]
        # What a gradient of 1 at a state means for the inputs of r and z, and for the hidden part of n; then, in the
        # loop, what the gradient there is means for them.
        of_gates = n.new_empty(frames, directions, batch, 3, size)
        to_n = aten.tanh_backward(1 - z, n)
        aten.sigmoid_backward.grad_input(hidden_n * to_n, r, grad_input=of_gates[..., 0, :])
        aten.sigmoid_backward.grad_input(states[:-1] - n, z, grad_input=of_gates[..., 1, :])
        torch.mul(to_n, r, out=of_gates[..., 2, :])
        of_states = gradient.transpose(0, 1).clone(memory_format=torch.contiguous_format)
        flat = of_gates.flatten(3)
        for t in range(frames - 1, 0, -1):
            of_gates[t].mul_(of_states[t].unsqueeze(2))
            of_states[t - 1].addcmul_(of_states[t], z[t]).baddbmm_(flat[t], weight_hh)
        of_gates[0].mul_(of_states[0].unsqueeze(2))

        by_direction = flat.transpose(0, 1).flatten(1, 2)
        del of_gates, flat
        of_weight_hh = by_direction.transpose(1, 2) @ states[:-1].transpose(0, 1).flatten(1, 2)
        of_bias_hh = by_direction.sum(1)
        by_direction[..., 2 * size :] = of_states.mul_(to_n).transpose(0, 1).flatten(1, 2)
        of_x, of_weight_ih, of_bias_ih = _through_projection(by_direction, x, weight_ih, ctx.needs_input_grad[0])
        return of_x, of_weight_ih, of_weight_hh, of_bias_ih, of_bias_hh


class ReverseByLength(torch.autograd.Function):
    """Reverses each clip within its own length: ``Reverse.apply(x, order)``, its own inverse and its own gradient.

    Takes x (frames, batch, size) and order, int64 (frames * batch,), the rows of x without its first dimension; gives
    (frames, batch, size). Copies whole rows, where a gather would look every element up.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor) -> Tensor:
        """Reverses."""
        ctx.save_for_backward(order)
        return x.flatten(0, 1).index_select(0, order).view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Reverses the gradient."""
        (order,) = ctx.saved_tensors
        return gradient.flatten(0, 1).index_select(0, order).view_as(gradient), None


def reversed_indices(frames: Tensor, size: int) -> Tensor:
    """The order for `ReverseByLength`, which leaves padding in place: valid frames (batch,) -> int64 (size * batch,)."""
    time = torch.arange(size, device=frames.device)[:, None]
    time = torch.where(time < frames, frames - 1 - time, time)
    return (time * frames.shape[0] + torch.arange(frames.shape[0], device=frames.device)).flatten()


def _project(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The inputs' part of the gates, all steps in one product: -> (frames, directions, batch, gates)."""
    flat = torch.baddbmm(bias[:, None], x.flatten(1, 2), weight.transpose(1, 2))
    return flat.unflatten(1, x.shape[1:3]).transpose(0, 1)


def _through_projection(
    of_gates: Tensor, x: Tensor, weight: Tensor, of_x_too: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Gradients of x, weight and bias from that of the gates (directions, frames * batch, gates)."""
    of_x = (of_gates @ weight).view_as(x) if of_x_too else None
    return of_x, of_gates.transpose(1, 2) @ x.flatten(1, 2), of_gates.sum(1)
