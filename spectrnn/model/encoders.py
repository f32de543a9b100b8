"""Encoders: features (batch, frames, bins) to hidden states (batch, frames', output_size)."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from spectrnn.config import Count, Depth, Fraction, Size
from spectrnn.model.recurrence import Gru, Reverse, reversal


class Layer(nn.ModuleList):
    """One recurrent layer: an ``nn.GRU`` or ``nn.LSTM`` a direction, each of which reads its input forward in time.

    The library's kernels are fast where batches are padded and not packed: cuDNN on a GPU, oneDNN for the LSTM on the
    CPU. For the GRU on the CPU it has none, and the hand-written `recurrence` runs both directions together.

    Args:
        cell: ``gru`` or ``lstm``.
        input_size: of a frame.
        hidden_size: of one direction.
        directions: 1 or 2.
    """

    def __init__(self, cell: Literal["gru", "lstm"], input_size: int, hidden_size: int, directions: int) -> None:
        library = {"gru": nn.GRU, "lstm": nn.LSTM}[cell]
        super().__init__(library(input_size, hidden_size) for _ in range(directions))
        self.by_hand = cell == "gru"

    def forward(self, x: Tensor) -> Tensor:
        """(directions, frames, batch, input_size) -> (directions, frames, batch, hidden_size)."""
        if self.by_hand and x.device.type == "cpu":
            names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
            states: Tensor = Gru.apply(x, *(torch.stack([getattr(rnn, name) for rnn in self]) for name in names))
            return states
        return torch.stack([rnn(of_direction)[0] for rnn, of_direction in zip(self, x, strict=True)])


class Encoder(nn.Module, ABC):
    """The interface of all encoders.

    Attributes:
        output_size: of a hidden state, all directions together.
        directions: 1, or 2 where the last half of a hidden state has read the clip backward.
    """

    output_size: int
    directions: int

    @abstractmethod
    def forward(self, x: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, frames, bins), valid frames (batch,) -> (batch, frames', output_size), frames' (batch,)."""


class Recurrent(Encoder):
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
        input_size: Count,
        cell: Literal["gru", "lstm"],
        hidden_size: Size,
        num_layers: Depth,
        bidirectional: bool,
        dropout: Fraction,
    ) -> None:
        super().__init__()
        self.directions = 2 if bidirectional else 1
        self.output_size = self.directions * hidden_size
        sizes = [input_size] + [self.output_size] * (num_layers - 1)
        self.layers = nn.ModuleList(Layer(cell, size, hidden_size, self.directions) for size in sizes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Runs all layers.

        Args:
            x: (batch, frames, bins).
            frames: valid frames, (batch,).

        Returns:
            Hidden states (batch, frames, output_size), of which valid frames are meaningful, and `frames` as it came.
        """
        x = x.transpose(0, 1)
        order = reversal(frames, x.shape[0])
        for index, layer in enumerate(self.layers):
            if index:
                x = self.dropout(x)
            if self.directions == 1:
                x = layer(x[None])[0]
            else:
                forward, backward = layer(torch.stack([x, Reverse.apply(x, order)]))
                x = torch.cat([forward, Reverse.apply(backward, order)], dim=-1)
        return x.transpose(0, 1), frames
