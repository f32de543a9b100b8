"""CNN + RNN encoders: convolutions that shorten time, and see no padding, in front of recurrent layers."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from spectrnn import distributed
from spectrnn.config.types import Fraction, LayerSize, NumLayers, PositiveInt
from spectrnn.errors import reject_settings
from spectrnn.frontend.masking import length_mask
from spectrnn.model.rnn import Encoder, RNNEncoder

_NOT_CAUSAL = {"": "its convolutions look ahead; model=gru or lstm has none"}


class ConvBlock(nn.Module):
    """Convolution, batch normalization over valid frames, ReLU; a clip's result does not depend on its padding.

    Args:
        convolution: a Conv1d over (batch, channels, frames) or a Conv2d over (batch, channels, frames, bins), with an
            odd kernel and a padding of half of it.
    """

    def __init__(self, convolution: nn.Conv1d | nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution
        self.stride = convolution.stride[0]
        self.norm = MaskedBatchNorm(convolution.out_channels)

    def forward(self, x: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, channels, frames, ...), valid frames (batch,) -> the same of ceil(frames / stride)."""
        x = self.convolution(x * _mask(x, frames))
        frames = (frames - 1) // self.stride + 1
        return self.norm(x, _mask(x, frames)).relu(), frames


class MaskedBatchNorm(nn.Module):
    """Batch normalization (Ioffe & Szegedy, 2015) whose statistics are those of valid frames alone, of all processes.

    Args:
        channels: of the input.
    """

    mean: Tensor
    variance: Tensor

    _MOMENTUM, _EPSILON = 0.1, 1e-5

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(batch, channels, frames, ...) with a mask that broadcasts to it -> the same shape."""
        others = [dim for dim in range(x.dim()) if dim != 1]
        shape = [-1 if dim == 1 else 1 for dim in range(x.dim())]
        mean, variance = self.mean, self.variance
        if self.training:
            count = distributed.all_reduce_sum(mask.sum() * (x[0, 0, 0].numel()))
            mean = distributed.all_reduce_sum((x * mask).sum(others)) / count
            variance = distributed.all_reduce_sum(((x - mean.view(shape)) * mask).square().sum(others)) / count
            with torch.no_grad():
                self.mean.lerp_(mean, self._MOMENTUM)
                self.variance.lerp_(variance, self._MOMENTUM)
        scale = self.weight * (variance + self._EPSILON).rsqrt()
        return x * scale.view(shape) + (self.bias - mean * scale).view(shape)


class CRNN(Encoder):
    """A Conv2d stack over time and frequency, then recurrent layers over time.

    Args:
        input_size: bins of a frame.
        channels: of each convolution.
        kernel_size: of all, in both directions; odd.
        time_strides, frequency_strides: of each convolution.
        cell, hidden_size, num_layers, bidirectional, dropout: of the recurrent layers, as in `RNNEncoder`.
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
        super().__init__()
        _check_stack(channels, kernel_size, time_strides=time_strides, frequency_strides=frequency_strides)
        blocks, before, bins = [], 1, input_size
        for after, stride in zip(channels, zip(time_strides, frequency_strides, strict=True), strict=True):
            blocks.append(ConvBlock(nn.Conv2d(before, after, kernel_size, stride, kernel_size // 2)))
            before, bins = after, (bins - 1) // stride[1] + 1
        self.blocks = nn.ModuleList(blocks)
        self.rnn = RNNEncoder(before * bins, cell, hidden_size, num_layers, bidirectional, dropout)
        self.output_size, self.num_directions = self.rnn.output_size, self.rnn.num_directions

    @property
    def streaming_issues(self) -> dict[str, str]:
        """The convolutions, and what the recurrent layers say."""
        return _NOT_CAUSAL | self.rnn.streaming_issues

    def forward(self, x: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, frames, bins), valid frames (batch,) -> (batch, frames', output_size), frames' (batch,)."""
        x = x[:, None]
        for block in self.blocks:
            x, frames = block(x, frames)
        return self.rnn(x.transpose(1, 2).flatten(2), frames)


class Conv1dRNN(Encoder):
    """A Conv1d stack over time, with bins as channels, then recurrent layers.

    Args:
        input_size: bins of a frame.
        channels: of each convolution.
        kernel_size: frames; odd.
        time_strides: of each convolution.
        cell, hidden_size, num_layers, bidirectional, dropout: of the recurrent layers, as in `RNNEncoder`.
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
        super().__init__()
        _check_stack(channels, kernel_size, time_strides=time_strides)
        sizes = zip([input_size, *channels], channels, time_strides, strict=False)
        self.blocks = nn.ModuleList(
            ConvBlock(nn.Conv1d(before, after, kernel_size, stride, kernel_size // 2))
            for before, after, stride in sizes
        )
        self.rnn = RNNEncoder(channels[-1], cell, hidden_size, num_layers, bidirectional, dropout)
        self.output_size, self.num_directions = self.rnn.output_size, self.rnn.num_directions

    @property
    def streaming_issues(self) -> dict[str, str]:
        """The convolutions, and what the recurrent layers say."""
        return _NOT_CAUSAL | self.rnn.streaming_issues

    def forward(self, x: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, frames, bins), valid frames (batch,) -> (batch, frames', output_size), frames' (batch,)."""
        x = x.transpose(1, 2)
        for block in self.blocks:
            x, frames = block(x, frames)
        return self.rnn(x.transpose(1, 2), frames)


def _mask(x: Tensor, frames: Tensor) -> Tensor:
    """Ones on valid frames: (batch, 1, frames, 1 ...), as many dimensions as x (batch, channels, frames, ...)."""
    mask = length_mask(frames, x.shape[2]).to(x.dtype)
    return mask.view(mask.shape[0], 1, -1, *[1] * (x.dim() - 3))


def _check_stack(channels: Sequence[int], kernel_size: int, **strides: Sequence[int]) -> None:
    count = len(channels)
    reject_settings(
        channels=(count == 0 and "one or more convolutions are needed; for none take model=bigru")
        or (count > 100 and f"{count} convolutions; at most 100"),
        kernel_size=kernel_size % 2 == 0 and f"is even, and padding needs a middle; take {kernel_size + 1}",
        **{
            name: 0 < count != len(values) and f"{len(values)} strides for {count} convolutions; name one for each"
            for name, values in strides.items()
        },
    )
