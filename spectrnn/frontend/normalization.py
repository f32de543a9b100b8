"""Normalization of features: over the training split, over each clip, or none."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from spectrnn import distributed
from spectrnn.config.types import PositiveFloat, PositiveInt, Probability
from spectrnn.frontend.masking import length_mask, masked_mean, masked_moments
from spectrnn.frontend.streaming import StreamingModule


class Normalization(StreamingModule, ABC):
    """Interface of all normalizations; one that normalizes each frame independently supports streaming by `forward`."""

    def fit(self, features: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Fits the normalization to the training split (collective).

        Args:
            features: This process's share of the batches: features (batch, frames, bins) and lengths (batch,).
        """

    @abstractmethod
    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Features (batch, frames, bins), lengths (batch,) -> normalized features of the same shape."""


class Identity(Normalization):
    """No normalization."""

    streaming_issues: Mapping[str, str] = {}

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frames, bins) -> unchanged."""
        return x


class GlobalNormalization(Normalization):
    """Normalizes each bin to mean 0 and standard deviation 1 over the training split.

    Args:
        input_size: Number of bins.
        eps: Value added to the variance, so that rounding errors in a constant bin are not amplified.
    """

    streaming_issues: Mapping[str, str] = {}
    mean: Tensor
    std: Tensor

    def __init__(self, input_size: PositiveInt, eps: PositiveFloat) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("mean", torch.zeros(input_size))
        self.register_buffer("std", torch.ones(input_size))

    def fit(self, features: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Computes mean and standard deviation of the valid frames in one pass, with float64 sums."""
        sums = torch.zeros(3, len(self.mean), dtype=torch.float64, device=self.mean.device)
        for x, lengths in features:
            valid = x.masked_fill(~length_mask(lengths, x.shape[1])[:, :, None], 0).double()
            sums += torch.stack([valid.sum((0, 1)), valid.square().sum((0, 1)), lengths.sum().expand_as(self.mean)])
        total, squares, count = distributed.all_reduce_sum(sums)
        mean = total / count
        self.mean.copy_(mean)
        self.std.copy_(((squares / count - mean.square()).clamp(min=0) + self.eps).sqrt())

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frames, bins) -> (batch, frames, bins)."""
        return (x - self.mean) / self.std


class CMVN(Normalization):
    """Cepstral mean and variance normalization: mean 0 and standard deviation 1 of each bin over each clip.

    Args:
        eps: Value added to the variance, so that rounding errors in a constant bin are not amplified.
    """

    streaming_issues: Mapping[str, str] = {"": "needs the mean of the whole clip; normalize=global does not"}

    def __init__(self, eps: PositiveFloat) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frames, bins) -> (batch, frames, bins)."""
        x = x - x[:, :1]  # so that a constant bin is exactly 0, and not a rounding error divided by eps
        mean, variance = masked_moments(x, lengths)
        return (x - mean[:, None]) / (variance + self.eps).sqrt()[:, None]


class CMN(GlobalNormalization):
    """Cepstral mean normalization: removes the mean of each bin over a clip, then normalizes over the training split.

    This removes the level and the frequency response of a recording, and with it that of its voice or source. If the
    removal is relaxed, a part of the response stays, but none of the level.

    Source: after Kim et al., "Domain generalization with relaxed instance frequency-wise normalization", 2022.

    Args:
        input_size, eps: As for `GlobalNormalization`.
        relaxation: Fraction of the difference of a bin's mean from that of all bins that stays; 0 is classical.
    """

    streaming_issues: Mapping[str, str] = CMVN.streaming_issues

    def __init__(self, input_size: PositiveInt, eps: PositiveFloat, relaxation: Probability) -> None:
        super().__init__(input_size, eps)
        self.relaxation = relaxation

    def fit(self, features: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Computes mean and standard deviation of the valid frames after the removal."""
        super().fit((self._remove_mean(x, lengths), lengths) for x, lengths in features)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frames, bins) -> (batch, frames, bins)."""
        return super().forward(self._remove_mean(x, lengths), lengths)

    def _remove_mean(self, x: Tensor, lengths: Tensor) -> Tensor:
        mean = masked_mean(x, lengths)
        return x - torch.lerp(mean, mean.mean(1, keepdim=True), self.relaxation)[:, None]
