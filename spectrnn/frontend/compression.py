"""Compression of mel power: a logarithm, or per-channel energy normalization."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from spectrnn.frontend.streaming import StreamingModule, StreamState

_BLOCK = 128  # frames that one product with a triangular matrix smooths
_LEVELS = 2  # of blocks, blocks of blocks ...; beyond 128 ** 2 frames the largest matrix grows with their square


class Compression(StreamingModule, ABC):
    """Interface of all compressions."""

    streaming_issues: Mapping[str, str] = {}

    def per_value(self, power: Tensor) -> Tensor:
        """Computes, in place, what each value needs by itself, while a block of frames is in the processor's cache."""
        return power

    @abstractmethod
    def forward(self, x: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Result of `per_value` (batch, frames, bins), state -> compressed power of the same shape, next state."""


class Log(Compression):
    """Natural logarithm.

    Args:
        floor: Minimum power before the logarithm.
    """

    def __init__(self, floor: float) -> None:
        super().__init__()
        self.floor = floor

    def per_value(self, power: Tensor) -> Tensor:
        """(batch, frames, bins) -> its logarithm, in place."""
        return power.clamp_(min=self.floor).log_()

    def forward(self, x: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """(batch, frames, bins) -> unchanged, as `per_value` has computed everything."""
        return x, state


class PCEN(Compression):
    """Per-channel energy normalization: divides each bin by its recent mean, and compresses the result by a root.

        smoothed[t] = (1 - s) smoothed[t - 1] + s power[t], from smoothed[0] = power[0]
        output[t] = (power[t] / (floor + smoothed[t]) ** alpha + delta) ** r - delta ** r

    Stationary noise, and the level and the response of the recording, are reduced to a constant. Only earlier frames
    matter, so that a stream gives the same result.

    Source: Wang et al., "Trainable frontend for robust and far-field keyword spotting", 2017; the smoothing
    coefficient s by time constant: Lostanlen et al., "Per-channel energy normalization: why and how", 2019.

    Args:
        bins: Number of bins.
        alpha: Exponent of the gain control, from 0 for none to 1 for a complete one.
        delta: Offset before the root; a higher one compresses low levels more.
        r: Exponent of the root.
        time_constant: Time constant of the smoothing in frames.
        floor: Power added to the mean.
    """

    within: Tensor
    across: Tensor

    def __init__(self, bins: int, alpha: float, delta: float, r: float, time_constant: float, floor: float) -> None:
        super().__init__()
        self.bins, self.alpha, self.delta, self.r, self.floor = bins, alpha, delta, r, floor
        self.coefficient = 2 / (1 + math.hypot(1, 2 * time_constant))
        # By level: weights of the values of a block in its own sums, and of the sum of the block before it.
        lag = torch.arange(_BLOCK, dtype=torch.float64)[:, None] - torch.arange(_BLOCK)
        decays = [(1 - self.coefficient) ** (_BLOCK**level) for level in range(_LEVELS + 1)]
        within = torch.stack([_powers(decay, lag) for decay in decays[:-1]])
        across = torch.stack([decay ** torch.arange(1, _BLOCK + 1, dtype=torch.float64) for decay in decays[:-1]])
        self.register_buffer("within", within.float(), persistent=False)
        self.register_buffer("across", across.float()[:, :, None], persistent=False)
        self.last_decay = decays[-1]

    def initial_state(self, batch_size: int) -> StreamState:
        """Returns the mean at the start of a stream, (batch, bins): -1 for that of the first frame."""
        return (torch.full((batch_size, self.bins), -1.0, device=self.within.device),)

    def forward(self, x: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Power (batch, frames, bins), one frame or more, and the mean so far -> PCEN (batch, frames, bins), mean."""
        (before,) = state
        before = torch.where(before < 0, x[:, 0], before)
        # What the mean so far adds decays with each frame, as if it came with the first one.
        carried = (1 - self.coefficient) * before[:, None]
        added = torch.cat([self.coefficient * x[:, :1] + carried, self.coefficient * x[:, 1:]], 1)
        smoothed = self._sums(added, x.shape[1], 0)
        x = (x * (smoothed + self.floor) ** -self.alpha + self.delta) ** self.r - self.delta**self.r
        return x, (smoothed[:, -1],)

    def _sums(self, x: Tensor, size: int, level: int) -> Tensor:
        """Computes decaying sums over blocks of 128 ** level frames, y[n] = x[n] + decay y[n - 1]: (batch, size, bins).

        A triangular matrix gives the sums within blocks; to these, each block adds those of all blocks before it.
        Only positive numbers are added, so nothing cancels, however long the clip.
        """
        if level == _LEVELS:
            index = torch.arange(size, device=x.device).double()
            return _powers(self.last_decay, index[:, None] - index).float() @ x
        # An exporter would freeze the number of blocks if it were read from a shape, or padding if it depended on it.
        count = (size + _BLOCK - 1) // _BLOCK
        blocks = nn.functional.pad(x, (0, 0, 0, _BLOCK - 1))[:, : count * _BLOCK].unflatten(1, (-1, _BLOCK))
        sums = self.within[level] @ blocks
        before = nn.functional.pad(self._sums(sums[:, :, -1], count, level + 1), (0, 0, 1, -1))
        return (sums + self.across[level] * before[:, :, None]).flatten(1, 2)[:, :size]


def _powers(decay: float, lag: Tensor) -> Tensor:
    """Decay to the power of each lag, 0 for negative lags."""
    return torch.where(lag < 0, 0.0, decay ** lag.clamp(min=0))
