"""Batches of clips of like length, gathered from the dataset's wave."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from spectrnn.data.audio import FULL_SCALE
from spectrnn.data.cache import WaveformCache
from spectrnn.data.samples import SampleStorage, to_device

_JITTER = 0.02  # of a clip's length when batches are drawn: mixes neighbours, for a percent or two of padding
_SPREAD = 4 / 3  # of the longest clip of a batch over its shortest, at most


class Batch(NamedTuple):
    """What a training step sees.

    Attributes:
        waveform: float32 (batch, samples) in [-1, 1), zero beyond each clip's length.
        lengths: int64 (batch,), in samples.
        targets: float32 (batch, classes), the probability of each class.
        rows: int64 (batch,), the clips' rows in the clip table, on the CPU; -1 for a clip that only stands in where
            a process has no share of a batch, and counts for nothing.
    """

    waveform: Tensor
    lengths: Tensor
    targets: Tensor
    rows: Tensor


class BucketedBatches:
    """The batches of one split: clips of like length together, the same for the same seed and epoch.

    A batch ends where it is full, or where the next clip is so short that padding would outweigh it: outliers come in
    batches of a few.

    Args:
        store: the decoded dataset.
        wave: its samples.
        rows: int64 (clips,), the rows of the split, ascending.
        targets: int64 (clips,), the class of each of these rows.
        classes: how many there are.
        batch_size: clips a batch, at most.
        max_seconds: crop longer clips to it, at random when shuffling, else in the middle; None: whole clips.
        seed: of order and crops; None: the order of length, for evaluation.
        device: where the batch goes.
        share: of each batch: the number of a process, from 0, and how many of them share the work.
    """

    def __init__(
        self,
        store: WaveformCache,
        wave: SampleStorage,
        rows: Sequence[int] | np.ndarray,
        targets: Sequence[int] | np.ndarray,
        classes: int,
        batch_size: int,
        max_seconds: float | None,
        seed: int | None,
        device: torch.device,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.share = share
        self.wave, self.classes, self.seed, self.device = wave, classes, seed, device
        self.rows, self.targets = np.asarray(rows), np.asarray(targets)
        self.starts, available = store.offsets[self.rows], store.lengths[self.rows]
        limit = np.inf if max_seconds is None else round(max_seconds * store.sample_rate)
        self.lengths = np.minimum(available, limit).astype(np.int64)
        self.slack = available - self.lengths
        self.cuts = bucket_boundaries(np.sort(self.lengths), batch_size)

    def __len__(self) -> int:
        return len(self.cuts) + 1

    def epoch(self, epoch: int = 0, done: int = 0) -> Iterator[Batch]:
        """The batches of an epoch; each clip comes once.

        Args:
            epoch: with the seed it determines the batches, their order and the crops.
            done: batches to leave out at the start.
        """
        drawn, crops = self._drawn(epoch)
        drawn, (first, step) = drawn[done:], self.share
        # A process for which a batch is too small computes its first clip for nothing, as the others wait for it.
        shares = [members[first::step] if first < len(members) else members[:1] for members in drawn]
        requests = ((self.starts[m] + crops[m], int(self.lengths[m].max())) for m in shares)
        for whole, members, samples in zip(drawn, shares, self.wave.gather(requests), strict=True):
            batch = self._batch(members, samples)
            yield batch if first < len(whole) else batch._replace(rows=torch.full_like(batch.rows, -1))

    def clips_of(self, epoch: int, number: int) -> np.ndarray:
        """The rows of a batch, counted from 1, in the clip table, all processes' shares together: int64 (batch,)."""
        return self.rows[self._drawn(epoch)[0][number - 1]]

    def _drawn(self, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Batches as indices of clips, in their order, and where each clip's crop begins."""
        if self.seed is None:
            return np.split(np.argsort(self.lengths, kind="stable"), self.cuts), self.slack // 2
        generator = np.random.default_rng((self.seed, epoch))
        jittered = self.lengths * generator.uniform(1 - _JITTER, 1 + _JITTER, len(self.lengths))
        batches = np.split(np.argsort(jittered, kind="stable"), self.cuts)
        generator.shuffle(batches)
        return batches, generator.integers(0, self.slack + 1)

    def _batch(self, members: np.ndarray, samples: Tensor) -> Batch:
        """Float, with silence beyond each clip, and what belongs to it: samples int16 (batch, samples)."""
        lengths = to_device(torch.from_numpy(self.lengths[members]), self.device)
        beyond = torch.arange(samples.shape[1], device=self.device) >= lengths[:, None]
        waveform = samples.float().div_(FULL_SCALE).masked_fill_(beyond, 0)
        one_hot = torch.nn.functional.one_hot(torch.from_numpy(self.targets[members]), self.classes).float()
        return Batch(waveform, lengths, to_device(one_hot, self.device), torch.from_numpy(self.rows[members]))


def bucket_boundaries(lengths: np.ndarray, batch_size: int) -> list[int]:
    """Where to cut clips into batches with little padding.

    Args:
        lengths: int64 (clips,), ascending.
        batch_size: clips a batch, at most.

    Returns:
        The first clip of each batch but the first.
    """
    cuts = [len(lengths)]
    while cuts[-1] > 0:  # from the longest down
        # An integer: for a fraction, all lengths would be turned into fractions each time.
        near = int(np.searchsorted(lengths, math.ceil(lengths[cuts[-1] - 1] / _SPREAD)))
        cuts.append(max(cuts[-1] - batch_size, near))
    return cuts[-2:0:-1]
