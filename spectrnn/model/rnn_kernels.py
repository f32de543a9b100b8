"""GRU and LSTM layers on the CPU, with the kernels of rnn_kernels.c.

PyTorch runs a GRU on the CPU as a dozen operations per step, and its threads wait for each other after each of them.
Here the batch is divided into shards, and each direction of a shard runs on one thread from its first step to its last.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.amp import custom_bwd, custom_fwd
from torch.autograd.function import once_differentiable

from spectrnn.native import Kernels
from spectrnn.threads import divide, run_parallel

KERNELS = Kernels(Path(__file__).with_suffix(".c"))
_MIN_CLIPS = 8  # per shard, below which a thread mostly waits for the weights from memory


class Shard(NamedTuple):
    """One direction of a part of the batch.

    Attributes:
        direction: 0 for forward, 1 for backward.
        clips: Clips of the batch.
        gates: Gates of the forward pass, (clips, frames, gates * size).
        memory: Recurrent part of n of a GRU, or cells of an LSTM, (clips, frames, size).
        previous: State before each frame, (clips, frames, size).
    """

    direction: int
    clips: slice
    gates: Tensor
    memory: Tensor
    previous: Tensor


class RNNFunction(torch.autograd.Function):
    """A layer of all directions, ``RNNFunction.apply(cell, dtype, x, lengths, *weights)``.

    Takes ``gru`` or ``lstm``, the type of all products but the recurrent ones, x (batch, frames, input), lengths int64
    (batch,), and per direction weight_ih, weight_hh, bias_ih and bias_hh as ``torch.nn.GRU`` and ``torch.nn.LSTM`` have
    them. Returns states (batch, frames, directions * size), zero in padding.
    """

    @staticmethod
    # Autocast would pass tensors of different types.
    @custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]
    def forward(
        ctx: Any, cell: Literal["gru", "lstm"], dtype: torch.dtype, x: Tensor, lengths: Tensor, *weights: Tensor
    ) -> Tensor:
        """Runs the layer; shapes (batch, frames, size) as above."""
        x, lengths = x.contiguous(), lengths.clamp(max=x.shape[1])
        states, ctx.shards = _run_layer(cell, dtype, x, lengths, weights, is_training=True)
        ctx.cell, ctx.dtype = cell, dtype
        ctx.save_for_backward(x, lengths, *weights)
        return states

    @staticmethod
    @custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Computes the gradients of all inputs from that of the states, (batch, frames, directions * size)."""
        x, lengths, *weights = ctx.saved_tensors
        if ctx.shards is None:
            raise RuntimeError("the backward pass runs once, as it overwrites the gates with their gradients")
        shards: list[Shard] = ctx.shards
        ctx.shards = None
        grad = grad.contiguous()
        num_directions = len(weights) // 4
        grad_x = torch.empty_like(x) if ctx.needs_input_grad[2] else None
        recurrent = [_pad_columns(weight) for weight in weights[1::4]]
        results = run_parallel(
            [
                partial(
                    _backward,
                    ctx.cell,
                    ctx.dtype,
                    shard,
                    x,
                    lengths,
                    grad,
                    weights[4 * shard.direction] if ctx.needs_input_grad[2] else None,
                    recurrent[shard.direction],
                )
                for shard in shards
            ]
        )
        grad_weights: list[Tensor] = []
        for direction in range(num_directions):
            own = results[direction::num_directions]
            grad_weights += [sum(parts[1:], parts[0]) for parts in zip(*(result[1:] for result in own), strict=True)]
        for shard, (part, *_) in zip(shards, results, strict=True):
            if grad_x is not None and part is not None:
                (grad_x[shard.clips].add_ if shard.direction else grad_x[shard.clips].copy_)(part)
        return None, None, grad_x, None, *grad_weights


def infer(
    cell: Literal["gru", "lstm"], dtype: torch.dtype, x: Tensor, lengths: Tensor, weights: Sequence[Tensor]
) -> Tensor:
    """Runs a layer like `RNNFunction`, (batch, frames, size), and keeps nothing for a backward pass."""
    with torch.autocast("cpu", enabled=False):
        return _run_layer(
            cell, dtype, x.float().contiguous(), lengths.clamp(max=x.shape[1]), weights, is_training=False
        )[0]


def _run_layer(
    cell: str, dtype: torch.dtype, x: Tensor, lengths: Tensor, weights: Sequence[Tensor], is_training: bool
) -> tuple[Tensor, list[Shard]]:
    """Returns the states (batch, frames, directions * size), and the shards if training."""
    batch, frames, _ = x.shape
    num_directions, size = len(weights) // 4, weights[1].shape[1]
    # The recurrent bias of a GRU's n is multiplied by r, and stays apart.
    merged = 2 * size if cell == "gru" else 4 * size
    prepared = [
        (
            weight_ih.t(),
            torch.cat([bias_ih[:merged] + bias_hh[:merged], bias_ih[merged:]]),
            _pad_columns(weight_hh.t()),
            bias_hh[merged:].contiguous(),
        )
        for weight_ih, weight_hh, bias_ih, bias_hh in zip(*(weights[i::4] for i in range(4)), strict=True)
    ]
    states = x.new_empty(batch, frames, num_directions * size)
    tasks = [
        partial(_forward, cell, dtype, direction, clips, x, lengths, states, is_training, *prepared[direction])
        for clips in divide(batch, num_directions, _MIN_CLIPS)
        for direction in range(num_directions)
    ]
    return states, [shard for shard in run_parallel(tasks) if shard]


def _forward(
    cell: str,
    dtype: torch.dtype,
    direction: int,
    clips: slice,
    x: Tensor,
    lengths: Tensor,
    states: Tensor,
    is_training: bool,
    weight_ih: Tensor,
    bias: Tensor,
    weight_hh: Tensor,
    bias_n: Tensor,
) -> Shard | None:
    """Computes a shard's part of the states (batch, frames, directions * size), with transposed weights."""
    x, lengths = x[clips], lengths[clips]
    batch, frames, _ = x.shape
    size, num_gates = weight_hh.shape[0], len(bias)
    gates = _product(x.flatten(0, 1), weight_ih, dtype, bias).view(batch, frames, num_gates)
    memory, previous = x.new_empty(2, batch, frames, size) if is_training else (None, None)
    output = states[clips, :, direction * size :]
    buffer = x.new_zeros(batch * ((1 if cell == "gru" else 2) * size + weight_hh.shape[1]) + 4 * size)
    sizes = (batch, frames, size, weight_hh.shape[1], states.shape[2], direction)
    own = [bias_n] if cell == "gru" else []
    KERNELS.call(f"{cell}_forward", *sizes, weight_hh, *own, lengths, gates, memory, previous, output, buffer)
    return None if memory is None or previous is None else Shard(direction, clips, gates, memory, previous)


def _backward(
    cell: str,
    dtype: torch.dtype,
    shard: Shard,
    x: Tensor,
    lengths: Tensor,
    grad: Tensor,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
) -> tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor]:
    """Computes a shard's gradients of x, the weights and the biases from that of the states."""
    direction, clips, gates, memory, previous = shard
    x, lengths = x[clips], lengths[clips]
    batch, frames, size = previous.shape
    output_grad = grad[clips, :, direction * size :]
    buffer = x.new_zeros(batch * ((3 if cell == "gru" else 5) * size + weight_hh.shape[1]))
    sizes = (batch, frames, size, weight_hh.shape[1], grad.shape[2], direction)
    flat = gates.flatten(0, 1)
    if cell == "gru":
        KERNELS.call("gru_backward", *sizes, weight_hh, lengths, previous, output_grad, gates, memory, buffer)
    else:
        KERNELS.call("lstm_backward", *sizes, weight_hh, lengths, output_grad, memory, gates, buffer)
    grad_weight_hh, grad_bias_hh = _product(flat.t(), previous.flatten(0, 1), dtype), flat.sum(0)
    grad_bias_ih = grad_bias_hh
    if cell == "gru":  # the input's part of n is not multiplied by r
        gates[..., 2 * size :] = memory
        grad_bias_ih = torch.cat([grad_bias_hh[: 2 * size], memory.sum((0, 1))])
    grad_weight_ih = _product(flat.t(), x.flatten(0, 1), dtype)
    grad_x = None if weight_ih is None else _product(flat, weight_ih, dtype).view_as(x)
    return grad_x, grad_weight_ih, grad_weight_hh, grad_bias_ih, grad_bias_hh


def _product(a: Tensor, b: Tensor, dtype: torch.dtype, bias: Tensor | None = None) -> Tensor:
    """Product of a (n, k) and b (k, m), computed in a type, plus a bias (m,): float32 (n, m)."""
    if dtype != torch.float32:
        product = (a.to(dtype) @ b.to(dtype)).float()
        return product if bias is None else product.add_(bias)
    return a @ b if bias is None else torch.addmm(bias, a, b)


def _pad_columns(weight: Tensor) -> Tensor:
    """Appends zeros to the rows of a matrix, up to the multiple that the kernels need."""
    return nn.functional.pad(weight, (0, -weight.shape[1] % KERNELS.call("column_multiple"))).contiguous()
