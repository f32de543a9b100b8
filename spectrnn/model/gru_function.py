"""A GRU layer on the CPU of PyTorch's operations, with manual forward and backward passes, for want of a C compiler.

Everything that does not depend on the previous step is computed for all steps at once: the products with the input, the
derivatives of the gates, the gradients of the weights. What remains in the loop is one product and a few in-place
operations per step, for both directions together. Tensors are (frames, directions, batch, size), so that each step is a
contiguous block. Gates and weights are those of ``torch.nn.GRU``.
"""

from typing import Any

import torch
from torch import Tensor
from torch.amp import custom_bwd, custom_fwd
from torch.autograd.function import once_differentiable

aten = torch.ops.aten  # has the derivatives of sigmoid and tanh as single operations


class GRUFunction(torch.autograd.Function):
    """A layer of gated recurrent units (Cho et al., 2014).

    ``GRUFunction.apply(x, weight_ih, weight_hh, bias_ih, bias_hh)`` takes x (directions, frames, batch, input), weights
    (directions, 3 * hidden, input or hidden) and biases (directions, 3 * hidden) with the gates r, z, n, and returns
    states (directions, frames, batch, hidden). All directions are processed forward; the initial state is zero.
    """

    @staticmethod
    # Autocast would pass tensors of different types.
    @custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]
    def forward(ctx: Any, x: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor) -> Tensor:
        """Runs the layer; shapes (directions, frames, batch, size) as above."""
        directions, frames, batch, _ = x.shape
        size = weight_hh.shape[2]
        bias = torch.cat([bias_ih[:, : 2 * size] + bias_hh[:, : 2 * size], bias_ih[:, 2 * size :]], dim=1)
        gates = torch.baddbmm(bias[:, None], x.flatten(1, 2), weight_ih.transpose(1, 2))
        gates = gates.unflatten(1, (frames, batch)).transpose(0, 1)
        rz, n = (part.contiguous() for part in gates.split([2 * size, size], dim=-1))
        del gates
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
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Computes the gradients of all inputs from that of the states, (directions, frames, batch, hidden)."""
        x, weight_ih, weight_hh, rz, n, hidden_n, states = ctx.saved_tensors
        frames, directions, batch, size = n.shape
        r, z = rz[..., :size], rz[..., size:]
        # First the derivatives of a state with respect to the inputs of r and z and the hidden part of n; in the loop
        # they are multiplied by the gradient of the state.
        grad_gates = n.new_empty(frames, directions, batch, 3, size)
        to_n = aten.tanh_backward(1 - z, n)
        aten.sigmoid_backward.grad_input(hidden_n * to_n, r, grad_input=grad_gates[..., 0, :])
        aten.sigmoid_backward.grad_input(states[:-1] - n, z, grad_input=grad_gates[..., 1, :])
        torch.mul(to_n, r, out=grad_gates[..., 2, :])
        grad_states = grad.transpose(0, 1).clone(memory_format=torch.contiguous_format)
        flat = grad_gates.flatten(3)
        for t in range(frames - 1, 0, -1):
            grad_gates[t].mul_(grad_states[t].unsqueeze(2))
            grad_states[t - 1].addcmul_(grad_states[t], z[t]).baddbmm_(flat[t], weight_hh)
        grad_gates[0].mul_(grad_states[0].unsqueeze(2))

        by_direction = flat.transpose(0, 1).flatten(1, 2)
        del grad_gates, flat
        grad_weight_hh = by_direction.transpose(1, 2) @ states[:-1].transpose(0, 1).flatten(1, 2)
        grad_bias_hh = by_direction.sum(1)
        by_direction[..., 2 * size :] = grad_states.mul_(to_n).transpose(0, 1).flatten(1, 2)
        grad_x = (by_direction @ weight_ih).view_as(x) if ctx.needs_input_grad[0] else None
        grad_weight_ih = by_direction.transpose(1, 2) @ x.flatten(1, 2)
        return grad_x, grad_weight_ih, grad_weight_hh, by_direction.sum(1), grad_bias_hh
