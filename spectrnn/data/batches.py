"""Batches of clips of similar length, gathered from the samples of the dataset."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from spectrnn.data.audio import FULL_SCALE
from spectrnn.data.cache import WaveformCache
from spectrnn.data.crops import covering_crops
from spectrnn.data.samples import SampleStorage, to_device
from spectrnn.data.sampling import draw_clips, mean_draws

_JITTER = 0.02  # relative, of lengths when sorting: mixes similar lengths for one or two percent more padding
_GPU_MULTIPLE = 8  # clips, that cuDNN's recurrent kernels for tensor cores process together
_MAX_LENGTH_RATIO = 4 / 3  # of the longest to the shortest clip of a batch


class ClipEvents(NamedTuple):
    """What sounds when in the clips of a batch, from which the targets of frames are computed.

    Attributes:
        times: Start and end of each event in samples from the start of its clip, float32 (batch, events, 2); equal for
            padding.
        classes: Class index, int64 (batch, events); -1 for a part in which it is unknown what sounds.
        weights: Weight of the clip that the event is of, float32 (batch, events); 1 unless clips are mixed.
    """

    times: Tensor
    classes: Tensor
    weights: Tensor

    def targets(self, centers: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Computes the targets of frames.

        Args:
            centers: Center of each frame in samples from the start of the clip, float32 (frames,).
            num_classes: Number of classes.

        Returns:
            Weight of each class at the center of each frame, float32 (batch, frames, classes); and whether it is known
            what sounds there, bool (batch, frames).
        """
        inside = (self.times[..., :1] <= centers) & (centers < self.times[..., 1:])  # (batch, events, frames)
        classes = self.classes.remainder(num_classes + 1)[..., None].expand_as(inside)  # the last one is the unknown
        targets = self.weights.new_zeros(len(classes), num_classes + 1, len(centers))
        targets = targets.scatter_reduce(1, classes, inside * self.weights[..., None], "amax")
        return targets[:, :-1].transpose(1, 2), targets[:, -1] == 0


class Batch(NamedTuple):
    """A batch of clips.

    Attributes:
        waveform: Waveforms in [-1, 1), float32 (batch, samples), zero after each clip's end.
        lengths: Number of samples per clip, int64 (batch,).
        targets: Class indices int64 (batch,); after `Task.encode` the training targets (batch, classes).
        rows: Rows in the clip table, int64 (batch,), on the CPU; -1 for padding on a rank without a shard.
        weights: Weight of each crop in the mean over its clip, float64 (batch,), on the CPU; 1 for a single crop.
        events: Events of the clips, for the targets of frames; None if the clips are not drawn.
    """

    waveform: Tensor
    lengths: Tensor
    targets: Tensor
    rows: Tensor
    weights: Tensor
    events: ClipEvents | None = None


class Drawn(NamedTuple):
    """The clips of an epoch, as drawn for it.

    Attributes:
        rows: Row of each clip, as for `Dataset.clip`, int64 (clips,).
        starts: First sample in the decoded dataset, int64 (clips,).
        lengths: Number of samples, int64 (clips,).
        targets: Targets, int64 (clips,) or bool (clips, classes).
        events: Clip, first sample and end from its start, and class of each event, int64 (events, 4), in the order of
            the clips; the class is -1 for a part in which it is unknown what sounds.
    """

    rows: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    targets: np.ndarray
    events: np.ndarray


class BucketedBatches:
    """The batches of a split, of clips of similar length; deterministic given seed and epoch.

    A batch ends when it is full, or when the next clip is so short that padding would dominate: outliers come in small
    batches.

    If classes are balanced, an epoch has as many clips as without: some several times, each with a crop of its own, and
    others in some epochs only.

    Args:
        cache: Decoded dataset.
        samples: Samples of the cache.
        rows: Rows of the split, int64 (clips,), ascending.
        targets: Class index of each row, int64 (clips,).
        batch_size: Maximum number of clips per batch.
        max_seconds: Longer clips are cropped, at random if there is a seed, else in the middle; None for no limit.
        seed: Seed of order and crops; None for the order of length, for evaluation.
        device: Device of the batches.
        shard: Rank and number of processes that share each batch.
        cover: Whether longer clips are covered by the crops of `covering_crops` instead; only without a seed. All but
            the first crop of each clip are in separate batches, so that they do not change those of shorter clips.
        sampling_power: Exponent of the number of clips of a class, to which the number of draws from it per epoch is
            proportional: 1 for each clip once, 0 for the same number from all classes; below 1 only with a seed.
        draw: Function of an epoch that draws its clips, of similar lengths in each epoch; None for those of `rows`.

    Attributes:
        draws: Mean number of draws of each clip, or of all of its crops, per epoch, float64 (clips,).
    """

    def __init__(
        self,
        cache: WaveformCache,
        samples: SampleStorage,
        rows: Sequence[int] | np.ndarray,
        targets: Sequence[int] | np.ndarray,
        batch_size: int,
        max_seconds: float | None,
        seed: int | None,
        device: torch.device,
        shard: tuple[int, int] = (0, 1),
        cover: bool = False,
        sampling_power: float = 1.0,
        draw: Callable[[int], Drawn] | None = None,
    ) -> None:
        assert not (cover and seed is not None)
        assert seed is not None or sampling_power == 1
        self.samples, self.seed, self.device, self.shard, self.draw = samples, seed, device, shard, draw
        self.rows, self.targets = np.asarray(rows), np.asarray(targets)
        starts, available = cache.offsets[self.rows], cache.lengths[self.rows]
        limit = int(available.max(initial=1)) if max_seconds is None else round(max_seconds * cache.sample_rate)
        self.seconds = available / cache.sample_rate  # of each row
        lengths = np.minimum(available, limit)
        self.clips, self.weights, self.max_offset = np.arange(len(starts)), np.ones(len(starts)), available - lengths
        self.is_natural = sampling_power == 1
        self.draws = np.ones(len(starts)) if self.is_natural else mean_draws(self.targets, sampling_power)
        typical = self._sample(np.random.default_rng(0))  # all epochs have the same number of batches
        self.boundaries = bucket_boundaries(np.sort(lengths[typical]), batch_size, device)
        if cover:
            crops = covering_crops(available, limit)
            order = np.argsort(crops.offsets > 0, kind="stable")
            self.clips, offsets, self.weights = (values[order] for values in crops)
            starts, lengths, self.max_offset = starts[self.clips] + offsets, lengths[self.clips], np.zeros_like(offsets)
            self.boundaries += range(len(self.rows), len(order), batch_size)
        self.starts, self.lengths = starts, lengths
        if draw is not None:
            self._draw(0)
            self.boundaries = bucket_boundaries(np.sort(self.lengths), batch_size, device)

    def __len__(self) -> int:
        return len(self.boundaries) + 1

    def epoch(self, epoch: int = 0, skip: int = 0) -> Iterator[Batch]:
        """Yields the batches of an epoch: each clip once, as often as it is drawn, or all of its crops.

        Args:
            epoch: Number of the epoch; with the seed it determines the batches, their order and the crops.
            skip: Number of batches to skip.
        """
        self._draw(epoch)
        batches, offsets = self._shuffle(epoch)
        batches, offsets, (rank, world_size) = batches[skip:], offsets[skip:], self.shard
        # A rank without a shard of a small batch processes its first clip uncounted, as the other ranks wait for it.
        own = [slice(rank, None, world_size) if rank < len(members) else slice(1) for members in batches]
        shards, offsets = ([values[part] for values, part in zip(x, own, strict=True)] for x in (batches, offsets))
        requests = ((self.starts[m] + o, int(self.lengths[m].max())) for m, o in zip(shards, offsets, strict=True))
        for whole, members, samples in zip(batches, shards, self.samples.gather(requests), strict=True):
            lengths = to_device(torch.from_numpy(self.lengths[members]), self.device)
            padding = torch.arange(samples.shape[1], device=self.device) >= lengths[:, None]
            waveform = samples.float().div_(FULL_SCALE).masked_fill_(padding, 0)
            clips, weights = self.clips[members], torch.from_numpy(self.weights[members])
            targets = to_device(torch.from_numpy(self.targets[clips]), self.device)
            rows = torch.from_numpy(self.rows[clips] if rank < len(whole) else np.full(len(members), -1))
            yield Batch(waveform, lengths, targets, rows, weights, self._events(clips))

    def rows_of_batch(self, epoch: int, number: int) -> np.ndarray:
        """Rows in the clip table of a batch, counted from 1, over all shards, int64 (batch,)."""
        self._draw(epoch)
        return self.rows[self.clips[self._shuffle(epoch)[0][number - 1]]]

    def _draw(self, epoch: int) -> None:
        if self.draw is not None:
            self.rows, self.starts, self.lengths, self.targets, events = self.draw(epoch)
            self.events = np.append(events, [[0, 0, 0, -1]], 0)  # the last one is padding
            self.event_bounds = np.searchsorted(events[:, 0], np.arange(len(self.rows) + 1))
            self.clips, self.weights, self.draws = np.arange(len(self.rows)), *np.ones((2, len(self.rows)))
            self.max_offset = np.zeros(len(self.rows), np.int64)

    def _events(self, clips: np.ndarray) -> ClipEvents | None:
        if self.draw is None:
            return None
        first, end = self.event_bounds[clips], self.event_bounds[clips + 1]
        index = first[:, None] + np.arange((end - first).max(initial=1))
        events = to_device(torch.from_numpy(self.events[np.where(index < end[:, None], index, -1)]), self.device)
        times = events[..., 1:3].float()
        return ClipEvents(times, events[..., 3], torch.ones_like(times[..., 0]))

    def _sample(self, generator: np.random.Generator) -> np.ndarray:
        """The clips of an epoch, int64 (clips,)."""
        if self.is_natural:
            return np.arange(len(self.rows))
        return draw_clips(self.targets, self.draws, generator)

    def _shuffle(self, epoch: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The batches, in order, as indices of crops; and the offset of each crop that is not fixed."""
        if self.seed is None:
            batches = np.split(np.argsort(self.lengths, kind="stable"), self.boundaries)
            return batches, [self.max_offset[members] // 2 for members in batches]
        generator = np.random.default_rng((self.seed, epoch))
        drawn = self._sample(generator)
        jittered = self.lengths[drawn] * generator.uniform(1 - _JITTER, 1 + _JITTER, len(drawn))
        batches = np.split(np.argsort(jittered, kind="stable"), self.boundaries)
        generator.shuffle(batches)
        offsets = generator.integers(0, self.max_offset[drawn] + 1)
        return [drawn[members] for members in batches], [offsets[members] for members in batches]


def bucket_boundaries(lengths: np.ndarray, batch_size: int, device: torch.device) -> list[int]:
    """Divides clips into batches with little padding.

    Args:
        lengths: Lengths of the clips, int64 (clips,), ascending.
        batch_size: Maximum number of clips per batch.
        device: Device of the batches; on a GPU, batches that are not full have a multiple of 8 clips if possible.

    Returns:
        Index of the first clip of each batch but the first.
    """
    multiple = _GPU_MULTIPLE if device.type == "cuda" else 1
    boundaries = [len(lengths)]
    while (end := boundaries[-1]) > 0:  # from the longest clip down
        # An integer, as searching for a float would convert all lengths each time.
        shortest = math.ceil(lengths[end - 1] / _MAX_LENGTH_RATIO)
        start = max(end - batch_size, int(np.searchsorted(lengths, shortest)))
        if start > max(0, end - batch_size) and end - start >= multiple:  # the shortest clips go to the next batch
            start += (end - start) % multiple
        boundaries.append(start)
    return boundaries[-2:0:-1]
