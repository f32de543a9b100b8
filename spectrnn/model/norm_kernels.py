"""Batch normalization over valid frames and ReLU on the CPU, with the kernels of norm_kernels.c.

As separate operations, they would read and write a feature map some twenty times per training step, which takes longer
than the convolution that computes it.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.amp import custom_bwd, custom_fwd
from torch.autograd.function import once_differentiable

from spectrnn import distributed
from spectrnn.native import Kernels
from spectrnn.threads import divide, run_parallel

KERNELS = Kernels(Path(__file__).with_suffix(".c"))


class NormFunction(torch.autograd.Function):
    """``NormFunction.apply(x, lengths, weight, bias, mean, variance, momentum, eps)``; zero in padding.

    Takes x (batch, channels, frames, ...), lengths int64 (batch,), and parameters and running statistics (channels,).
    With a momentum, the statistics are those of the batch over all processes, and the running ones are updated; with
    None, the running ones are used.
    """

    @staticmethod
    @custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]
    def forward(
        ctx: Any,
        x: Tensor,
        lengths: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_variance: Tensor,
        momentum: float | None,
        eps: float,
    ) -> Tensor:
        """(batch, channels, frames, ...) -> the same shape."""
        rows = x.movedim(1, -1).contiguous()
        valid = lengths.clamp(0, rows.shape[1]) * rows[0, 0, ..., 0].numel()
        mean, variance, count = running_mean.double(), running_variance.double(), 1.0
        if momentum is not None:
            sums = torch.cat([_sums("norm_sums", valid, rows), valid.sum().double().expand(1, weight.shape[0])])
            total, squares, counts = distributed.all_reduce_sum(sums)
            count = float(counts[0])
            mean, variance = total / count, (squares / count - (total / count).square()).clamp(min=0)
            running_mean.lerp_(mean.float(), momentum)
            running_variance.lerp_(variance.float(), momentum)
        inverse_std = (variance + eps).rsqrt()
        scale = weight * inverse_std
        y = torch.empty_like(rows)
        _apply("norm_forward", valid, [rows], [scale, bias - mean * scale], y)
        ctx.save_for_backward(rows, y, valid, scale, mean, inverse_std)
        ctx.count = count if momentum is not None else None
        return y.movedim(-1, 1)

    @staticmethod
    @custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Computes the gradients of x (batch, channels, frames, ...), weight and bias (channels,)."""
        rows, y, valid, scale, mean, inverse_std = ctx.saved_tensors
        grad = grad.movedim(1, -1).contiguous()
        sums = _sums("norm_grad_sums", valid, rows, y, grad)
        grad_bias, grad_weight = sums[0], inverse_std * (sums[1] - mean * sums[0])
        slope = offset = torch.zeros_like(mean)
        if ctx.count is not None:  # the statistics depend on x, over all processes
            total, products = distributed.all_reduce_sum(sums)
            slope = -scale * inverse_std.square() * (products - mean * total) / ctx.count
            offset = -scale * total / ctx.count - slope * mean
        grad_x = torch.empty_like(rows)
        _apply("norm_backward", valid, [rows, y, grad], [scale, slope, offset], grad_x)
        return grad_x.movedim(-1, 1), None, grad_weight.float(), grad_bias.float(), None, None, None, None


def _sums(name: str, valid: Tensor, *inputs: Tensor) -> Tensor:
    """Sums over the valid rows of inputs (batch, ..., channels): float64 (2, channels)."""
    parts = divide(len(valid))
    sums = torch.zeros(len(parts), 2, inputs[0].shape[-1], dtype=torch.float64)
    run_parallel([partial(_call, name, clips, valid, inputs, [part]) for clips, part in zip(parts, sums, strict=True)])
    return sums.sum(0)


def _apply(name: str, valid: Tensor, inputs: Sequence[Tensor], coefficients: Sequence[Tensor], output: Tensor) -> None:
    """Computes an output (batch, ..., channels) from inputs of its shape, and coefficients (channels,)."""
    values = [coefficient.float() for coefficient in coefficients]
    run_parallel([partial(_call, name, clips, valid, inputs, [*values, output[clips]]) for clips in divide(len(valid))])


def _call(name: str, clips: slice, valid: Tensor, inputs: Sequence[Tensor], others: Sequence[Tensor]) -> None:
    """Runs a kernel on a part of the batch."""
    valid, parts = valid[clips], [x[clips] for x in inputs]
    channels = inputs[0].shape[-1]
    rows = inputs[0][0].numel() // channels
    KERNELS.call(name, len(valid), rows, channels, valid, *parts, *others)
