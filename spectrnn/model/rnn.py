"""Encoders: features (batch, frames, bins) to hidden states (batch, frames', output_size). Recurrent layers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from spectrnn.config.types import Fraction, LayerSize, NumLayers, PositiveInt
from spectrnn.frontend.streaming import StreamingModule, StreamState
from spectrnn.model import rnn_kernels
from spectrnn.model.gru_function import GRUFunction


class Encoder(StreamingModule, ABC):
    """Interface of all encoders. A subclass needs `forward` and `output_size`.

    Attributes:
        output_size: Size of a hidden state, all directions together; set by the subclass.
        num_directions: 2 if the second half of a hidden state is from the backward direction, else 1.
        time_stride: Number of frames from the center of a hidden state to that of the next one.
    """

    output_size: int
    num_directions: int = 1
    time_stride: int = 1

    @abstractmethod
    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, frames, bins), lengths (batch,) -> (batch, frames', output_size), lengths' (batch,)."""

    def step(self, x: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Processes one or more frames of a stream: (batch, frames, bins) -> (batch, frames, output_size), state."""
        raise NotImplementedError


class Cell(NamedTuple):
    """A kind of recurrent layer: PyTorch's class, the number of tensors in its state, and its functional form."""

    module_class: Callable[[int, int], nn.RNNBase]
    num_states: int
    function: Callable[..., tuple[Tensor, ...]]  # the checks of the class take a quarter of the time of two frames


def _gru(x: Tensor, state: Sequence[Tensor], *args: Any) -> tuple[Tensor, ...]:
    return torch.gru(x, state[0], *args)


_CELLS = {"gru": Cell(nn.GRU, 1, _gru), "lstm": Cell(nn.LSTM, 2, torch.lstm)}
_WEIGHTS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
_ONE_LAYER = (True, 1, 0.0, False, False, False)  # biases; layers; dropout; training; bidirectional; batch first


class RNNLayer(nn.ModuleList):
    """One recurrent layer: an ``nn.GRU`` or ``nn.LSTM`` per direction, each of which processes its input forward.

    On a GPU PyTorch's kernels are fast (cuDNN). On the CPU the layer runs in `rnn_kernels` or, without a C compiler, a
    GRU in `gru_function` and an LSTM in PyTorch's kernel (oneDNN).

    Args:
        cell: ``gru`` or ``lstm``.
        input_size: Size of a frame.
        hidden_size: Size of a direction.
        num_directions: 1 or 2.
    """

    def __init__(self, cell: Literal["gru", "lstm"], input_size: int, hidden_size: int, num_directions: int) -> None:
        super().__init__(_CELLS[cell].module_class(input_size, hidden_size) for _ in range(num_directions))
        self.cell, self.function = cell, _CELLS[cell].function
        self.use_kernels = True  # and functions of our own, which an exporter cannot trace

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frames, input_size), lengths (batch,) -> (batch, frames, directions * hidden_size)."""
        weights = [getattr(rnn, name) for rnn in self for name in _WEIGHTS]
        if self.use_kernels and rnn_kernels.KERNELS.support(x, *weights):
            dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
            if not torch.is_grad_enabled():
                return rnn_kernels.infer(self.cell, dtype, x, lengths, weights)
            states: Tensor = rnn_kernels.RNNFunction.apply(self.cell, dtype, x, lengths, *weights)
            return states
        x = x.transpose(0, 1)
        if len(self) == 1:
            return self._run([x])[0].transpose(0, 1)
        order = reversed_indices(lengths, x.shape[0])
        forward, backward = self._run([x, ReverseByLength.apply(x, order)])
        return torch.cat([forward, ReverseByLength.apply(backward, order)], dim=-1).transpose(0, 1)

    def _run(self, inputs: list[Tensor]) -> Sequence[Tensor]:
        """(frames, batch, input_size) per direction -> (frames, batch, hidden_size) per direction."""
        if self.use_kernels and self.cell == "gru" and inputs[0].device.type == "cpu":
            weights = (torch.stack([getattr(rnn, name) for rnn in self]) for name in _WEIGHTS)
            states: Tensor = GRUFunction.apply(torch.stack(inputs), *weights)
            return states.unbind()
        return [rnn(x)[0] for rnn, x in zip(self, inputs, strict=True)]

    def step(self, x: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Processes frames in a single direction: (frames, batch, input) -> (frames, batch, hidden), state."""
        weights = [getattr(self[0], name) for name in _WEIGHTS]
        x, *new_state = self.function(x, [part[None] for part in state], weights, *_ONE_LAYER)
        return x, tuple(part[0] for part in new_state)


class Dropout(nn.Dropout):
    """Dropout that draws 16 bits per value on the CPU, where PyTorch draws at least 32, on one thread."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, ...) -> the same shape."""
        if not self.training or self.p == 0 or x.device.type != "cpu":
            return super().forward(x)
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
        kept = bits.view(torch.int16)[: x.numel()].view_as(x) >= round(self.p * (1 << 16)) - (1 << 15)
        return x * kept.to(x.dtype).div_(1 - self.p)


class RNNEncoder(Encoder):
    """GRU or LSTM layers for clips of any length, without packing.

    The backward direction processes each clip reversed within its own length, so that padding comes last for both
    directions and has no effect. Outputs and gradients equal those of a packed ``nn.GRU`` or ``nn.LSTM``.

    Args:
        input_size: Number of bins.
        cell: ``gru`` (Cho et al., 2014) or ``lstm`` (Hochreiter & Schmidhuber, 1997).
        hidden_size: Size of a direction.
        num_layers: Number of stacked layers.
        bidirectional: Whether to process clips in both directions, and concatenate.
        dropout: Probability of a value between layers to be dropped during training.
    """

    def __init__(
        self,
        input_size: PositiveInt,
        cell: Literal["gru", "lstm"],
        hidden_size: LayerSize,
        num_layers: NumLayers,
        bidirectional: bool,
        dropout: Fraction,
    ) -> None:
        super().__init__()
        self.num_directions = 2 if bidirectional else 1
        self.output_size = self.num_directions * hidden_size
        self.num_states = _CELLS[cell].num_states
        sizes = [input_size] + [self.output_size] * (num_layers - 1)
        self.layers = nn.ModuleList(RNNLayer(cell, size, hidden_size, self.num_directions) for size in sizes)
        self.dropout = Dropout(dropout)
        backward = "processes a clip from its end, which a stream does not have; model=gru and model=lstm do not"
        self.streaming_issues = {"bidirectional": backward} if bidirectional else {}

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, frames, bins), lengths (batch,) -> (batch, frames, output_size), unchanged lengths (batch,)."""
        for index, layer in enumerate(self.layers):
            x = layer(self.dropout(x) if index else x, lengths)
        return x, lengths

    def initial_state(self, batch_size: int) -> StreamState:
        """Returns zeros (batch, output_size): per layer the hidden state and, for the LSTM, the cell state."""
        return tuple(torch.zeros(batch_size, self.output_size) for _ in range(len(self.layers) * self.num_states))

    def step(self, x: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """See `Encoder.step`."""
        x, new_state = x.transpose(0, 1), list[Tensor]()
        for index, layer in enumerate(cast(Iterable[RNNLayer], self.layers)):
            x, layer_state = layer.step(x, state[index * self.num_states :][: self.num_states])
            new_state += layer_state
        return x.transpose(0, 1), tuple(new_state)


class ReverseByLength(torch.autograd.Function):
    """Reverses each clip within its own length: ``ReverseByLength.apply(x, order)``, its own inverse and gradient.

    Takes x (frames, batch, size) and order, int64 (frames * batch,), from `reversed_indices`, and returns x reversed.
    Copies whole rows, while a gather would index each element.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor) -> Tensor:
        """(frames, batch, size) -> the same shape; all directions use one order."""
        ctx.save_for_backward(order)
        return x.flatten(0, 1).index_select(0, order).view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Reverses the gradient."""
        (order,) = ctx.saved_tensors
        return grad.flatten(0, 1).index_select(0, order).view_as(grad), None


def reversed_indices(lengths: Tensor, size: int) -> Tensor:
    """Lengths (batch,), number of frames -> int64 (size * batch,) for `ReverseByLength`; padding is not moved."""
    time = torch.arange(size, device=lengths.device)[:, None]
    time = torch.where(time < lengths, lengths - 1 - time, time)
    return (time * lengths.shape[0] + torch.arange(lengths.shape[0], device=lengths.device)).flatten()
