"""CNN + RNN encoders: convolutions that downsample time, independently of padding, followed by recurrent layers."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from spectrnn import distributed
from spectrnn.config.types import Fraction, LayerSize, NumLayers, PositiveInt
from spectrnn.errors import reject_settings
from spectrnn.frontend.masking import length_mask
from spectrnn.model import norm_kernels
from spectrnn.model.rnn import Encoder, RNNEncoder

_MAX_CONVOLUTIONS = 100


class ConvBlock(nn.Module):
    """Convolution, batch normalization over valid frames, ReLU; a clip's result does not depend on its padding.

    Args:
        convolution: Conv1d over (batch, channels, frames) or Conv2d over (batch, channels, frames, bins), with an odd
            kernel and a padding of half of it.
    """

    def __init__(self, convolution: nn.Conv1d | nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution
        self.stride = convolution.stride[0]
        self.norm = MaskedBatchNormReLU(convolution.out_channels)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, channels, frames, ...), zero in padding, lengths (batch,) -> the same, ceil(frames / stride)."""
        lengths_after = (lengths - 1) // self.stride + 1
        return self.norm(self.convolution(x), lengths_after), lengths_after


class MaskedBatchNormReLU(nn.Module):
    """Batch normalization (Ioffe & Szegedy, 2015) with statistics of valid frames, over all processes, and ReLU."""

    mean: Tensor
    variance: Tensor

    _EPS = 1e-5

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.momentum = 0.1  # weight of a batch in the running statistics
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))
        self.use_kernels = True  # an exporter cannot trace them

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(batch, channels, frames, ...), lengths (batch,) -> the same shape, zero in padding."""
        if self.use_kernels and norm_kernels.KERNELS.support(x, self.weight):
            momentum = self.momentum if self.training else None
            y: Tensor = norm_kernels.NormFunction.apply(
                x, lengths, self.weight, self.bias, self.mean, self.variance, momentum, self._EPS
            )
            return y
        mask = _mask(x, lengths)
        others, shape = [0, *range(2, x.dim())], [-1, *[1] * (x.dim() - 2)]
        mean, variance = self.mean, self.variance
        if self.training:
            count = distributed.all_reduce_sum(mask.sum() * x[0, 0, 0].numel())
            mean = distributed.all_reduce_sum((x * mask).sum(others)) / count
            variance = distributed.all_reduce_sum(((x - mean.view(shape)) * mask).square().sum(others)) / count
            with torch.no_grad():
                self.mean.lerp_(mean, self.momentum)
                self.variance.lerp_(variance, self.momentum)
        scale = self.weight * (variance + self._EPS).rsqrt()
        return (x * scale.view(shape) + (self.bias - mean * scale).view(shape)).relu() * mask


class ConvEncoder(Encoder):
    """Base class of CNN + RNN encoders: blocks of convolutions, then recurrent layers."""

    def __init__(self, blocks: Sequence[ConvBlock], rnn: RNNEncoder) -> None:
        super().__init__()
        self.blocks, self.rnn = nn.ModuleList(blocks), rnn
        self.output_size, self.num_directions = rnn.output_size, rnn.num_directions
        self.time_stride = math.prod(block.stride for block in blocks)
        lookahead = "its convolutions need later frames; model=gru and model=lstm do not"
        self.streaming_issues = {"": lookahead, **rnn.streaming_issues}

    def encode(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, channels, frames, ...), lengths (batch,) -> (batch, frames', output_size), lengths' (batch,)."""
        x = x * _mask(x, lengths)
        for block in self.blocks:
            x, lengths = block(x, lengths)
        return self.rnn(x.transpose(1, 2).flatten(2), lengths)


class CRNN(ConvEncoder):
    """Conv2d stack over time and frequency, then recurrent layers over time.

    Args:
        input_size: Number of bins.
        channels: Number of output channels of each convolution.
        kernel_size: Size of all kernels in both dimensions; odd.
        time_strides: Stride in frames of each convolution.
        frequency_strides: Stride in bins of each convolution.
        cell, hidden_size, num_layers, bidirectional, dropout: Recurrent layers, as for `RNNEncoder`.
    """

    def __init__(
        self,
        input_size: PositiveInt,
        channels: Sequence[LayerSize],
        kernel_size: LayerSize,
        time_strides: Sequence[LayerSize],
        frequency_strides: Sequence[LayerSize],
        cell: Literal["gru", "lstm"],
        hidden_size: LayerSize,
        num_layers: NumLayers,
        bidirectional: bool,
        dropout: Fraction,
    ) -> None:
        _check_stack(channels, kernel_size, time_strides=time_strides, frequency_strides=frequency_strides)
        blocks, size, bins = [], 1, input_size
        for after, stride in zip(channels, zip(time_strides, frequency_strides, strict=True), strict=True):
            blocks.append(ConvBlock(nn.Conv2d(size, after, kernel_size, stride, kernel_size // 2)))
            size, bins = after, (bins - 1) // stride[1] + 1
        super().__init__(blocks, RNNEncoder(size * bins, cell, hidden_size, num_layers, bidirectional, dropout))

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, frames, bins), lengths (batch,) -> (batch, frames', output_size), lengths' (batch,)."""
        # Strides of channels_last, in which convolutions and normalization are fastest.
        return self.encode(x[..., None].permute(0, 3, 1, 2), lengths)


class Conv1dRNN(ConvEncoder):
    """Conv1d stack over time, with bins as channels, then recurrent layers.

    Args:
        input_size: Number of bins.
        channels: Number of output channels of each convolution.
        kernel_size: Size of all kernels in frames; odd.
        time_strides: Stride in frames of each convolution.
        cell, hidden_size, num_layers, bidirectional, dropout: Recurrent layers, as for `RNNEncoder`.
    """

    def __init__(
        self,
        input_size: PositiveInt,
        channels: Sequence[LayerSize],
        kernel_size: LayerSize,
        time_strides: Sequence[LayerSize],
        cell: Literal["gru", "lstm"],
        hidden_size: LayerSize,
        num_layers: NumLayers,
        bidirectional: bool,
        dropout: Fraction,
    ) -> None:
        _check_stack(channels, kernel_size, time_strides=time_strides)
        blocks = [
            ConvBlock(nn.Conv1d(before, after, kernel_size, stride, kernel_size // 2))
            for before, after, stride in zip([input_size, *channels], channels, time_strides, strict=False)
        ]
        super().__init__(blocks, RNNEncoder(channels[-1], cell, hidden_size, num_layers, bidirectional, dropout))

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, frames, bins), lengths (batch,) -> (batch, frames', output_size), lengths' (batch,)."""
        return self.encode(x.transpose(1, 2), lengths)


def _mask(x: Tensor, lengths: Tensor) -> Tensor:
    """Ones in valid frames, (batch, 1, frames, 1 ...), with as many dimensions as x (batch, channels, frames, ...)."""
    mask = length_mask(lengths, x.shape[2]).to(x.dtype)
    return mask.view(mask.shape[0], 1, -1, *[1] * (x.dim() - 3))


def _check_stack(channels: Sequence[int], kernel_size: int, **strides: Sequence[int]) -> None:
    count = len(channels)
    reject_settings(
        ("channels", count == 0, "one or more convolutions are needed; model=bigru has none"),
        ("channels", count > _MAX_CONVOLUTIONS, f"{count} convolutions; at most {_MAX_CONVOLUTIONS}"),
        ("kernel_size", kernel_size % 2 == 0, f"is even, but padding needs a center; use {kernel_size + 1}"),
        *(
            (name, 0 < count != len(values), f"should have one stride per convolution ({count}), not {len(values)}")
            for name, values in strides.items()
        ),
    )
