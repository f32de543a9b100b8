"""Masks and masked statistics, which keep a clip's result independent of padding."""

import torch
from torch import Tensor


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """Lengths (batch,) -> bool (batch, size), true for valid positions."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def masked_mean(x: Tensor, lengths: Tensor) -> Tensor:
    """Computes the mean over valid frames: x (batch, frames, bins), lengths (batch,) -> (batch, bins)."""
    return x.masked_fill(~length_mask(lengths, x.shape[1])[:, :, None], 0).sum(1) / lengths[:, None]


def masked_moments(x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Computes mean and biased variance over valid frames, (batch, bins) each; arguments as for `masked_mean`."""
    mean = masked_mean(x, lengths)
    return mean, masked_mean((x - mean[:, None]).square(), lengths)
