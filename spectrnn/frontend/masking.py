"""Masks and masked statistics: what keeps a clip's result apart from its neighbours' padding."""

import torch
from torch import Tensor


def length_mask(frames: Tensor, size: int) -> Tensor:
    """(batch,) valid frames -> bool (batch, size), true on valid ones."""
    return torch.arange(size, device=frames.device) < frames[:, None]


def masked_mean(x: Tensor, mask: Tensor, frames: Tensor) -> Tensor:
    """The mean over each clip's valid frames.

    Args:
        x: (batch, frames, bins).
        mask: bool (batch, frames).
        frames: valid frames, (batch,).

    Returns:
        (batch, bins).
    """
    return x.masked_fill(~mask[:, :, None], 0).sum(1) / frames[:, None]


def masked_variance(x: Tensor, mean: Tensor, mask: Tensor, frames: Tensor) -> Tensor:
    """The (biased) variance over valid frames: x (batch, frames, bins), mean (batch, bins) -> (batch, bins)."""
    return masked_mean((x - mean[:, None]).square(), mask, frames)


StreamState = tuple[Tensor, ...]  # what a stage keeps from packet to packet, each (batch, ...)
NOT_STREAMABLE = {"": "has no way to go on from packet to packet"}  # of a stage that says nothing of streams
