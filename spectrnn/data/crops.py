"""Overlapping crops that cover a clip that is longer than the clips of the training."""

from typing import NamedTuple

import numpy as np


class Crops(NamedTuple):
    """Crops of clips.

    Attributes:
        clips: Index of the clip of each crop, int64 (crops,), ascending.
        offsets: First sample of each crop in its clip, int64 (crops,), ascending within a clip.
        weights: Weight of each crop in the mean over its clip, float64 (crops,): the fraction of the clip that is
            closer to the center of this crop than to that of another one.
    """

    clips: np.ndarray
    offsets: np.ndarray
    weights: np.ndarray


def covering_crops(lengths: np.ndarray, size: int) -> Crops:
    """Covers clips by crops: the first at the start, each further one by `crop_hop` later, the last at the end.

    So the crops are known while a recording is read, whose length is unknown, as in `inference.sliding_window`. A clip
    that is not longer than a crop is one crop.

    Args:
        lengths: Number of samples of each clip, int64 (clips,), at least 1.
        size: Number of samples of a crop.
    """
    hop, excess = crop_hop(size), np.maximum(lengths - size, 0)
    counts = 1 + -(-excess // hop)
    clips = np.repeat(np.arange(len(lengths)), counts)
    firsts, lasts = np.cumsum(counts) - counts, np.cumsum(counts) - 1
    offsets = np.minimum((np.arange(len(clips)) - firsts[clips]) * hop, excess[clips])
    ends = (offsets + np.roll(offsets, -1) + size) / 2  # midway between the centers of a crop and the next one
    ends[lasts] = lengths
    starts = np.roll(ends, 1)
    starts[firsts] = 0
    return Crops(clips, offsets, (ends - starts) / lengths[clips])


def crop_hop(size: int) -> int:
    """Number of samples between the starts of crops of `size` samples: half a crop."""
    return max(1, size // 2)
