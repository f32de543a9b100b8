"""Pooling: hidden states (batch, frames, size) to one vector a clip (batch, output_size), valid frames only."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from spectrnn.config.types import LayerSize, PositiveFloat, PositiveInt
from spectrnn.errors import reject_settings
from spectrnn.frontend.masking import NOT_STREAMABLE, StreamState, length_mask, masked_mean, masked_variance


class Pooling(nn.Module, ABC):
    """The interface of all poolings.

    Args:
        input_size: of a hidden state.
    """

    def __init__(self, input_size: PositiveInt) -> None:
        super().__init__()
        self.output_size = input_size

    @abstractmethod
    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """(batch, frames, size), valid frames (batch,) -> (batch, output_size)."""

    def attend(self, x: Tensor, frames: Tensor) -> tuple[Tensor, Tensor | None]:
        """As `forward`, and the attention weights (batch, heads, frames), whose rows sum to 1; None without attention."""
        return self(x, frames), None

    @property
    def streaming_issues(self) -> dict[str, str]:
        """Why it cannot run along with a stream, by setting; without any, it has `initial_state`, `step` and `output`."""
        return NOT_STREAMABLE if type(self).step is Pooling.step else {}

    def initial_state(self, batch_size: int) -> StreamState:
        """The state before a stream, each (batch, ...)."""
        raise NotImplementedError

    def step(self, x: Tensor, state: StreamState, frames: Tensor) -> StreamState:
        """Goes on by a frame or more: (batch, frames, size), state, frames so far with these (batch, 1) -> state."""
        raise NotImplementedError

    def output(self, state: StreamState) -> Tensor:
        """What `forward` gives for all frames so far: (batch, output_size)."""
        return state[0]


class LastPooling(Pooling):
    """The final state: forward at the last valid frame, and backward at the first.

    Args:
        input_size: of a hidden state, all directions together.
        num_directions: of the encoder, 1 or 2.
    """

    def __init__(self, input_size: PositiveInt, num_directions: PositiveInt) -> None:
        super().__init__(input_size)
        self.forward_size = input_size // num_directions

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """(batch, frames, size), valid frames (batch,) -> (batch, size)."""
        last = x.gather(1, (frames - 1)[:, None, None].expand(-1, 1, x.shape[2]))[:, 0]
        return torch.cat([last[:, : self.forward_size], x[:, 0, self.forward_size :]], dim=1)

    def initial_state(self, batch_size: int) -> StreamState:
        """The last state (batch, size)."""
        return (torch.zeros(batch_size, self.output_size),)

    def step(self, x: Tensor, state: StreamState, frames: Tensor) -> StreamState:
        """As `Pooling.step`."""
        return (x[:, -1],)


class MeanPooling(Pooling):
    """The mean over time."""

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """(batch, frames, size), valid frames (batch,) -> (batch, size)."""
        return masked_mean(x, length_mask(frames, x.shape[1]), frames)

    def initial_state(self, batch_size: int) -> StreamState:
        """The mean (batch, size)."""
        return (torch.zeros(batch_size, self.output_size),)

    def step(self, x: Tensor, state: StreamState, frames: Tensor) -> StreamState:
        """As `Pooling.step`."""
        return (state[0] + (x.mean(1) - state[0]) * (x.shape[1] / frames),)


class MaxPooling(Pooling):
    """The maximum over time."""

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """(batch, frames, size), valid frames (batch,) -> (batch, size)."""
        return x.masked_fill(~length_mask(frames, x.shape[1])[:, :, None], float("-inf")).amax(1)

    def initial_state(self, batch_size: int) -> StreamState:
        """The maximum (batch, size)."""
        return (torch.full((batch_size, self.output_size), float("-inf")),)

    def step(self, x: Tensor, state: StreamState, frames: Tensor) -> StreamState:
        """As `Pooling.step`."""
        return (torch.maximum(state[0], x.amax(1)),)


class StatsPooling(Pooling):
    """Mean and standard deviation over time.

    Source: Snyder et al., "X-vectors", 2018.

    Args:
        input_size: of a hidden state.
        eps: added to the variance, whose root has no slope at 0.
    """

    def __init__(self, input_size: PositiveInt, eps: PositiveFloat) -> None:
        super().__init__(input_size)
        self.output_size, self.eps = 2 * input_size, eps

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """(batch, frames, size), valid frames (batch,) -> (batch, 2 * size)."""
        mask = length_mask(frames, x.shape[1])
        mean = masked_mean(x, mask, frames)
        variance = masked_variance(x, mean, mask, frames)
        return torch.cat([mean, (variance + self.eps).sqrt()], dim=1)

    def initial_state(self, batch_size: int) -> StreamState:
        """Mean and variance (batch, size)."""
        return torch.zeros(batch_size, self.output_size // 2), torch.zeros(batch_size, self.output_size // 2)

    def step(self, x: Tensor, state: StreamState, frames: Tensor) -> StreamState:
        """As `Pooling.step`. Merges by Chan et al., "Updating formulae for computing sample variances", 1979."""
        (mean, variance), new = state, x.mean(1)
        share, apart = x.shape[1] / frames, new - state[0]
        within = (x - new[:, None]).square().mean(1)
        return mean + share * apart, torch.lerp(variance, within, share) + share * (1 - share) * apart.square()

    def output(self, state: StreamState) -> Tensor:
        """As `Pooling.output`."""
        return torch.cat([state[0], (state[1] + self.eps).sqrt()], dim=1)


class AttentivePooling(Pooling):
    """Self-attentive pooling: each head weighs the frames for its own slice of the hidden state.

    Source: Lin et al., "A structured self-attentive sentence embedding", 2017.

    Args:
        input_size: of a hidden state.
        num_heads: slices of it; must divide it.
        hidden_size: of the layer that scores a frame.
    """

    def __init__(self, input_size: PositiveInt, num_heads: LayerSize, hidden_size: LayerSize) -> None:
        super().__init__(input_size)
        divisors = [count for count in range(1, min(input_size, 16) + 1) if input_size % count == 0]
        reject_settings(
            num_heads=input_size % num_heads > 0
            and f"does not divide the encoder's {input_size} outputs; {', '.join(map(str, divisors))} do"
        )
        self.num_heads = num_heads
        self.score = nn.Sequential(nn.Linear(input_size, hidden_size), nn.Tanh(), nn.Linear(hidden_size, num_heads))

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """(batch, frames, size), valid frames (batch,) -> (batch, size)."""
        return self.attend(x, frames)[0]

    def attend(self, x: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, frames, size), valid frames (batch,) -> (batch, size), weights (batch, heads, frames)."""
        scores = self.score(x).transpose(1, 2)
        weights = scores.masked_fill(~length_mask(frames, x.shape[1])[:, None], float("-inf")).softmax(-1)
        # One product of all heads with all slices costs less than sorting the slices out before it.
        mixed = (weights @ x).unflatten(2, (self.num_heads, -1))
        return mixed.diagonal(dim1=1, dim2=2).transpose(1, 2).flatten(1), weights

    def initial_state(self, batch_size: int) -> StreamState:
        """Of each head the highest score (batch, heads), the weights' sum (batch, heads), the mean (batch, size)."""
        highest = torch.full((batch_size, self.num_heads), float("-inf"))
        return highest, torch.zeros(batch_size, self.num_heads), torch.zeros(batch_size, self.output_size)

    def step(self, x: Tensor, state: StreamState, frames: Tensor) -> StreamState:
        """As `Pooling.step`.

        Source: Milakov & Gimelshein, "Online normalizer calculation for softmax", 2018.
        """
        highest, total, mean = state
        scores = self.score(x)
        new = torch.maximum(highest, scores.amax(1))
        weights = (scores - new[:, None]).exp()
        before = total * (highest - new).exp()
        total = before + weights.sum(1)
        slices = (weights[..., None] * x.unflatten(2, (self.num_heads, -1))).sum(1)
        slices += before[..., None] * mean.unflatten(1, (self.num_heads, -1))
        return new, total, (slices / total[..., None]).flatten(1)

    def output(self, state: StreamState) -> Tensor:
        """As `Pooling.output`."""
        return state[2]
