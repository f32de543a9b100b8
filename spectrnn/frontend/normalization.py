"""Normalization of features: over the training split, over each clip, or none."""

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from spectrnn.config.types import PositiveFloat, PositiveInt
from spectrnn.frontend.masking import NOT_STREAMABLE, length_mask, masked_mean, masked_variance


class Normalization(nn.Module, ABC):
    """The interface of all normalizations."""

    @property
    def streaming_issues(self) -> dict[str, str]:
        """Why a stream cannot be normalized, by setting: none where what becomes of a frame depends on it alone."""
        return NOT_STREAMABLE

    def fit(self, features: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Learns what it needs from the training split.

        Args:
            features: pairs of features (batch, frames, bins) and valid frames (batch,).
        """

    @abstractmethod
    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """Features (batch, frames, bins) and valid frames (batch,) -> normalized features of the same shape."""


class Identity(Normalization):
    """No normalization."""

    @property
    def streaming_issues(self) -> dict[str, str]:
        """None."""
        return {}

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """(batch, frames, bins) -> the same."""
        return x


class GlobalNormalization(Normalization):
    """Mean 0 and deviation 1 of each bin over the valid frames of the training split, kept as buffers.

    Args:
        input_size: bins of a frame.
        eps: added to the variance, so that rounding is not blown up in a bin that never moves.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, input_size: PositiveInt, eps: PositiveFloat) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("mean", torch.zeros(input_size))
        self.register_buffer("std", torch.ones(input_size))

    def fit(self, features: Iterable[tuple[Tensor, Tensor]]) -> None:
        """One pass over the features; sums are held in float64."""
        count = torch.zeros((), dtype=torch.float64, device=self.mean.device)
        total = torch.zeros_like(self.mean, dtype=torch.float64)
        squares = torch.zeros_like(total)
        for x, frames in features:
            inside = x.masked_fill(~length_mask(frames, x.shape[1])[:, :, None], 0).double()
            count += frames.sum()
            total += inside.sum((0, 1))
            squares += inside.square().sum((0, 1))
        mean = total / count
        self.mean.copy_(mean)
        self.std.copy_(((squares / count - mean.square()).clamp(min=0) + self.eps).sqrt())

    @property
    def streaming_issues(self) -> dict[str, str]:
        """None."""
        return {}

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """(batch, frames, bins) -> the same shape."""
        return (x - self.mean) / self.std


class CMVN(Normalization):
    """Cepstral mean and variance normalization: mean 0 and deviation 1 of each bin over each clip's valid frames.

    Args:
        eps: added to the variance, so that rounding is not blown up in a bin that never moves.
    """

    def __init__(self, eps: PositiveFloat) -> None:
        super().__init__()
        self.eps = eps

    @property
    def streaming_issues(self) -> dict[str, str]:
        """It needs the whole clip."""
        return {"": "takes the mean and the deviation of a whole clip; normalize=global brings its own"}

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """(batch, frames, bins) -> the same shape."""
        x = x - x[:, :1]  # a bin that never moves is then exactly 0, and not a rounding error over eps
        mask = length_mask(frames, x.shape[1])
        mean = masked_mean(x, mask, frames)
        variance = masked_variance(x, mean, mask, frames)
        return (x - mean[:, None]) / (variance + self.eps).sqrt()[:, None]
