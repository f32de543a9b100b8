"""Encoders: features (batch, frames, bins) to hidden states (batch, frames', output_size)."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from spectrnn.config.types import Fraction, LayerSize, NumLayers, PositiveInt
from spectrnn.frontend.masking import NOT_STREAMABLE, StreamState
from spectrnn.model.gru_kernel import GRUFunction, ReverseByLength, reversed_indices


class Cell(NamedTuple):
    """A kind of recurrent layer.

    Attributes:
        library: its class.
        states: tensors that it keeps from frame to frame.
        step: calls such a layer with x (frames, batch, input_size) and as many states (batch, hidden_size). By way of
            the function below the module, whose checks take a quarter of the time of two frames.
    """

    library: Callable[[int, int], nn.RNNBase]
    states: int
    step: Callable[[nn.RNNBase, Tensor, StreamState], tuple[Tensor, StreamState]]


_ONE_LAYER = (True, 1, 0.0, False, False, False)  # with biases; no dropout, no training, one direction, frames first


def _weights(rnn: nn.RNNBase) -> list[Tensor]:
    return [rnn.weight_ih_l0, rnn.weight_hh_l0, rnn.bias_ih_l0, rnn.bias_hh_l0]  # type: ignore[list-item]


def _step_gru(rnn: nn.RNNBase, x: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
    x, hidden = torch.gru(x, state[0][None], _weights(rnn), *_ONE_LAYER)
    return x, (hidden[0],)


def _step_lstm(rnn: nn.RNNBase, x: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
    x, hidden, cell = torch.lstm(x, [state[0][None], state[1][None]], _weights(rnn), *_ONE_LAYER)
    return x, (hidden[0], cell[0])


_CELLS = {"gru": Cell(nn.GRU, 1, _step_gru), "lstm": Cell(nn.LSTM, 2, _step_lstm)}


class RNNLayer(nn.ModuleList):
    """One recurrent layer: an ``nn.GRU`` or ``nn.LSTM`` a direction, each of which reads its input forward in time.

    The library's kernels are fast where batches are padded and not packed: cuDNN on a GPU, oneDNN for the LSTM on the
    CPU. For the GRU on the CPU it has none, and the hand-written `recurrence` runs both directions together.

    Args:
        cell: ``gru`` or ``lstm``.
        input_size: of a frame.
        hidden_size: of one direction.
        num_directions: 1 or 2.
    """

    def __init__(self, cell: Literal["gru", "lstm"], input_size: int, hidden_size: int, num_directions: int) -> None:
        self.cell = _CELLS[cell]
        super().__init__(self.cell.library(input_size, hidden_size) for _ in range(num_directions))
        self.by_hand, self.hidden_size = cell == "gru", hidden_size

    def forward(self, x: Tensor) -> Tensor:
        """(num_directions, frames, batch, input_size) -> (num_directions, frames, batch, hidden_size)."""
        if self.by_hand and x.device.type == "cpu":
            names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
            states: Tensor = GRUFunction.apply(
                x, *(torch.stack([getattr(rnn, name) for rnn in self]) for name in names)
            )
            return states
        return torch.stack([rnn(of_direction)[0] for rnn, of_direction in zip(self, x, strict=True)])

    def initial_state(self, batch_size: int) -> StreamState:
        """The state before the first frame: zeros (batch, hidden_size), for the LSTM twice."""
        return tuple(torch.zeros(batch_size, self.hidden_size) for _ in range(self.cell.states))

    def step(self, x: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Goes on: x (frames, batch, input_size) -> (frames, batch, hidden_size), state. Of one direction only."""
        (rnn,) = self
        return self.cell.step(rnn, x, state)  # type: ignore[arg-type]


class Encoder(nn.Module, ABC):
    """The interface of all encoders.

    Attributes:
        output_size: of a hidden state, all directions together.
        num_directions: 1, or 2 where the last half of a hidden state has read the clip backward.
    """

    output_size: int
    num_directions: int

    @abstractmethod
    def forward(self, x: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, frames, bins), valid frames (batch,) -> (batch, frames', output_size), frames' (batch,)."""

    @property
    def streaming_issues(self) -> dict[str, str]:
        """Why it cannot go on from packet to packet, by setting; without any, it has `initial_state` and `step`."""
        return NOT_STREAMABLE if type(self).step is Encoder.step else {}

    def initial_state(self, batch_size: int) -> StreamState:
        """The state before a stream, each (batch, ...)."""
        raise NotImplementedError

    def step(self, x: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Goes on by a frame or more: (batch, frames, bins) -> (batch, frames, output_size), state."""
        raise NotImplementedError


class RNNEncoder(Encoder):
    """GRU or LSTM layers over clips of any length, without packing.

    The backward direction reads each clip reversed within its own length, so that padding comes last for both
    directions and changes nothing. Outputs and gradients equal those of a packed ``nn.GRU`` or ``nn.LSTM``.

    Args:
        input_size: bins of a frame.
        cell: ``gru`` (Cho et al. 2014) or ``lstm`` (Hochreiter & Schmidhuber 1997).
        hidden_size: of one direction.
        num_layers: stacked layers.
        bidirectional: read the clip both ways, and concatenate.
        dropout: between layers.
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
        sizes = [input_size] + [self.output_size] * (num_layers - 1)
        self.layers = nn.ModuleList(RNNLayer(cell, size, hidden_size, self.num_directions) for size in sizes)
        self.dropout = nn.Dropout(dropout)

    @property
    def _stack(self) -> list[RNNLayer]:
        return [*self.layers]

    def forward(self, x: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Runs all layers.

        Args:
            x: (batch, frames, bins).
            frames: valid frames, (batch,).

        Returns:
            Hidden states (batch, frames, output_size), of which valid frames are meaningful, and `frames` as it came.
        """
        x = x.transpose(0, 1)
        order = reversed_indices(frames, x.shape[0])
        for index, layer in enumerate(self.layers):
            if index:
                x = self.dropout(x)
            if self.num_directions == 1:
                x = layer(x[None])[0]
            else:
                forward, backward = layer(torch.stack([x, ReverseByLength.apply(x, order)]))
                x = torch.cat([forward, ReverseByLength.apply(backward, order)], dim=-1)
        return x.transpose(0, 1), frames

    @property
    def streaming_issues(self) -> dict[str, str]:
        """The backward direction."""
        backward = "reads a clip backward, from its end, which a stream does not have; model=gru or lstm reads forward"
        return {"bidirectional": backward} if self.num_directions == 2 else {}

    def initial_state(self, batch_size: int) -> StreamState:
        """Zeros (batch, hidden_size): for each layer the hidden state, and for the LSTM that of its cell behind it."""
        return tuple(part for layer in self._stack for part in layer.initial_state(batch_size))

    def step(self, x: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Goes on by a frame or more: (batch, frames, bins) -> (batch, frames, output_size), state."""
        x = x.transpose(0, 1)
        after: StreamState = ()
        per_layer = len(state) // len(self._stack)
        for index, layer in enumerate(self._stack):
            x, of_layer = layer.step(x, state[index * per_layer :][:per_layer])
            after = (*after, *of_layer)
        return x.transpose(0, 1), after
