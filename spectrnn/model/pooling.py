"""Pooling: hidden states (batch, frames, size) to one vector per clip (batch, output_size), over valid frames only."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from spectrnn.config.types import LayerSize, PositiveFloat, PositiveInt
from spectrnn.errors import reject_settings
from spectrnn.frontend.masking import length_mask, masked_mean, masked_moments
from spectrnn.frontend.streaming import StreamingModule, StreamState


class Pooling(StreamingModule, ABC):
    """Interface of all poolings. A subclass needs `forward`.

    Args:
        input_size: Size of a hidden state.

    Attributes:
        output_size: Size of the pooled vector; that of a hidden state unless a subclass sets another.
    """

    def __init__(self, input_size: PositiveInt) -> None:
        super().__init__()
        self.output_size = input_size

    @abstractmethod
    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Hidden states (batch, frames, size), lengths (batch,) -> pooled vectors (batch, output_size)."""

    def attend(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
        """`forward` and attention weights (batch, heads, frames), which sum to 1 per head; None without attention."""
        return self(x, lengths), None

    def initial_state(self, batch_size: int) -> StreamState:
        """Returns the state at the start of a stream, by default zeros (batch, output_size)."""
        return (torch.zeros(batch_size, self.output_size),)

    def step(self, x: Tensor, state: StreamState, count: Tensor) -> StreamState:
        """Processes one or more frames of a stream: hidden states (batch, frames, size) and state -> new state.

        `count` (batch, 1) is the number of frames since the start of the stream, including these.
        """
        raise NotImplementedError

    def output(self, state: StreamState) -> Tensor:
        """Returns the pooled vectors (batch, output_size) of all frames so far, by default the first tensor."""
        return state[0]


class LastPooling(Pooling):
    """The final state of each direction: forward at the last valid frame, backward at the first.

    Args:
        input_size: Size of a hidden state, all directions together.
        num_directions: Number of directions of the encoder, 1 or 2.
    """

    streaming_issues: Mapping[str, str] = {}

    def __init__(self, input_size: PositiveInt, num_directions: PositiveInt) -> None:
        super().__init__(input_size)
        self.forward_size = input_size // num_directions

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frames, size), lengths (batch,) -> (batch, size)."""
        last = x.gather(1, (lengths - 1)[:, None, None].expand(-1, 1, x.shape[2]))[:, 0]
        return torch.cat([last[:, : self.forward_size], x[:, 0, self.forward_size :]], dim=1)

    def step(self, x: Tensor, state: StreamState, count: Tensor) -> StreamState:
        """Keeps the last hidden state, (batch, size)."""
        return (x[:, -1],)


class MeanPooling(Pooling):
    """Mean over time."""

    streaming_issues: Mapping[str, str] = {}

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frames, size), lengths (batch,) -> (batch, size)."""
        return masked_mean(x, lengths)

    def step(self, x: Tensor, state: StreamState, count: Tensor) -> StreamState:
        """Updates the mean, (batch, size)."""
        return (state[0] + (x.mean(1) - state[0]) * (x.shape[1] / count),)


class MaxPooling(Pooling):
    """Maximum over time."""

    streaming_issues: Mapping[str, str] = {}

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frames, size), lengths (batch,) -> (batch, size)."""
        return x.masked_fill(~length_mask(lengths, x.shape[1])[:, :, None], float("-inf")).amax(1)

    def initial_state(self, batch_size: int) -> StreamState:
        """Returns minus infinity, (batch, size)."""
        return (torch.full((batch_size, self.output_size), float("-inf")),)

    def step(self, x: Tensor, state: StreamState, count: Tensor) -> StreamState:
        """Updates the maximum, (batch, size)."""
        return (torch.maximum(state[0], x.amax(1)),)


class StatsPooling(Pooling):
    """Mean and standard deviation over time.

    Source: Snyder et al., "X-vectors", 2018.

    Args:
        input_size: Size of a hidden state.
        eps: Value added to the variance, as the square root has no gradient at 0.
    """

    streaming_issues: Mapping[str, str] = {}

    def __init__(self, input_size: PositiveInt, eps: PositiveFloat) -> None:
        super().__init__(input_size)
        self.output_size, self.eps = 2 * input_size, eps

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frames, size), lengths (batch,) -> (batch, 2 * size)."""
        return self.output(masked_moments(x, lengths))

    def initial_state(self, batch_size: int) -> StreamState:
        """Returns mean and variance 0, (batch, size) each."""
        return torch.zeros(batch_size, self.output_size // 2), torch.zeros(batch_size, self.output_size // 2)

    def step(self, x: Tensor, state: StreamState, count: Tensor) -> StreamState:
        """Merges the moments as Chan et al., "Updating formulae for computing sample variances", 1979."""
        (mean, variance), new_mean = state, x.mean(1)
        weight, difference = x.shape[1] / count, new_mean - mean
        new_variance = (x - new_mean[:, None]).square().mean(1)
        merged = torch.lerp(variance, new_variance, weight) + weight * (1 - weight) * difference.square()
        return mean + weight * difference, merged

    def output(self, state: StreamState) -> Tensor:
        """Mean and variance (batch, size) -> mean and standard deviation (batch, 2 * size)."""
        mean, variance = state
        return torch.cat([mean, (variance + self.eps).sqrt()], dim=1)


class AttentivePooling(Pooling):
    """Self-attentive pooling: each head weights the frames for its own slice of the hidden state.

    Source: Lin et al., "A structured self-attentive sentence embedding", 2017.

    Args:
        input_size: Size of a hidden state.
        num_heads: Number of heads; must divide `input_size`.
        hidden_size: Size of the layer that scores frames.
    """

    streaming_issues: Mapping[str, str] = {}

    def __init__(self, input_size: PositiveInt, num_heads: LayerSize, hidden_size: LayerSize) -> None:
        super().__init__(input_size)
        divisors = ", ".join(str(n) for n in range(1, min(input_size, 16) + 1) if input_size % n == 0)
        message = f"does not divide the encoder's {input_size} outputs; {divisors} do"
        reject_settings(("num_heads", input_size % num_heads, message))
        self.num_heads = num_heads
        self.score = nn.Sequential(nn.Linear(input_size, hidden_size), nn.Tanh(), nn.Linear(hidden_size, num_heads))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frames, size), lengths (batch,) -> (batch, size)."""
        return self.attend(x, lengths)[0]

    def attend(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, frames, size), lengths (batch,) -> (batch, size), attention weights (batch, heads, frames)."""
        scores = self.score(x).transpose(1, 2)
        weights = scores.masked_fill(~length_mask(lengths, x.shape[1])[:, None], float("-inf")).softmax(-1)
        # One product of all heads with all slices is faster than separating the slices first.
        products = (weights @ x).unflatten(2, (self.num_heads, -1))
        return products.diagonal(dim1=1, dim2=2).transpose(1, 2).flatten(1), weights

    def initial_state(self, batch_size: int) -> StreamState:
        """Returns the pooled vector (batch, size), maximum score and sum of weights (batch, heads) of no frame."""
        zeros = torch.zeros(batch_size, self.num_heads)
        return torch.zeros(batch_size, self.output_size), zeros - float("inf"), zeros

    def step(self, x: Tensor, state: StreamState, count: Tensor) -> StreamState:
        """Updates the softmax as Milakov & Gimelshein, "Online normalizer calculation for softmax", 2018."""
        pooled, maximum, total = state
        scores = self.score(x)
        new_maximum = torch.maximum(maximum, scores.amax(1))
        weights = (scores - new_maximum[:, None]).exp()
        rescaled = total * (maximum - new_maximum).exp()
        total = rescaled + weights.sum(1)
        sums = (weights[..., None] * x.unflatten(2, (self.num_heads, -1))).sum(1)
        sums += rescaled[..., None] * pooled.unflatten(1, (self.num_heads, -1))
        return (sums / total[..., None]).flatten(1), new_maximum, total
