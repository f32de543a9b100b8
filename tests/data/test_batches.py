"""Batches against a plain loop over the clips of a store whose samples count upwards."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spectrnn.data.batches import Batch, BucketedBatches
from spectrnn.data.cache import WaveformCache
from spectrnn.data.samples import InMemorySamples

RATE = 100
CPU = torch.device("cpu")


def store_of(lengths: Sequence[int]) -> WaveformCache:
    digests = np.zeros((len(lengths), 16), np.uint8)
    return WaveformCache(Path("nowhere"), np.concatenate([[0], np.cumsum(lengths)]), RATE, digests, [])


def wave_of(store: WaveformCache) -> InMemorySamples:
    """Sample number n of the dataset is n - 16000: the first sample of a crop tells where it was cut."""
    size = int(store.offsets[-1] + store.lengths.max())
    assert size < 32000
    return InMemorySamples(torch.arange(size, dtype=torch.int16) - 16000, CPU)


def batches_of(lengths: Sequence[int], **settings: Any) -> BucketedBatches:
    rows = settings.pop("rows", np.arange(len(lengths)))
    defaults = {"targets": rows % 3, "classes": 3, "batch_size": 8, "max_seconds": None, "seed": 0, "device": CPU}
    store = store_of(lengths)
    return BucketedBatches(store, wave_of(store), rows, **(defaults | settings))


def cuts(batches: BucketedBatches, epoch: int = 0) -> dict[int, tuple[int, int]]:
    """Row -> first sample and length of what an epoch shows of the clip; checks that it is a piece of the dataset."""
    found = {}
    for batch in batches.epoch(epoch):
        for row, wave, length in zip(batch.rows.tolist(), batch.waveform, batch.lengths.tolist(), strict=True):
            samples = (wave[:length] * 32768 + 16000).round().int()
            first = int(samples[0])
            assert samples.tolist() == list(range(first, first + length))
            assert row not in found
            found[row] = (first, length)
    return found


def rows_of(batches: BucketedBatches, epoch: int = 0) -> list[list[int]]:
    return [batch.rows.tolist() for batch in batches.epoch(epoch)]


def equal(first: Sequence[Batch], second: Sequence[Batch]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


LENGTHS = np.random.default_rng(0).integers(20, 300, 101)


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("max_seconds", [None, 1.5])
def test_every_clip_comes_once_an_epoch_and_whole_or_cropped(seed: int | None, max_seconds: float | None):
    batches = batches_of(LENGTHS, seed=seed, max_seconds=max_seconds)
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    for epoch in range(3):
        found = cuts(batches, epoch)
        assert sorted(found) == list(range(101))
        for row, (first, length) in found.items():
            assert length == (LENGTHS[row] if max_seconds is None else min(LENGTHS[row], 150))
            assert offsets[row] <= first
            assert first + length <= offsets[row + 1]


def test_a_batch_is_float_and_zero_beyond_each_clip():
    for batch in batches_of(LENGTHS).epoch():
        assert batch.waveform.dtype == torch.float32
        assert batch.lengths.dtype == torch.int64
        assert batch.waveform.shape == (len(batch.rows), batch.lengths.max())
        assert batch.waveform.abs().max() < 1
        for wave, length in zip(batch.waveform, batch.lengths.tolist(), strict=True):
            assert wave[:length].count_nonzero() >= length - 1
            assert wave[length:].count_nonzero() == 0


def test_full_scale_is_one():
    wave = InMemorySamples(torch.tensor([-32768, 16384, 1, 32767, 0, 0], dtype=torch.int16), CPU)
    (batch,) = BucketedBatches(store_of([2, 2]), wave, [0, 1], [0, 1], 2, 2, None, None, CPU).epoch()
    assert batch.waveform.tolist() == [[-1.0, 0.5], [1 / 32768, 32767 / 32768]]


def test_targets_are_one_hot():
    for batch in batches_of(LENGTHS).epoch():
        expected = np.eye(3, dtype=np.float32)[batch.rows % 3]
        assert batch.targets.dtype == torch.float32
        assert batch.targets.tolist() == expected.tolist()


def test_some_rows_of_the_table_with_targets_of_their_own():
    rows = np.array([3, 50, 7, 99])
    batches = batches_of(LENGTHS, rows=rows, targets=np.array([0, 1, 2, 1]), batch_size=3)
    seen = {
        row: int(target.argmax())
        for batch in batches.epoch()
        for row, target in zip(batch.rows.tolist(), batch.targets, strict=True)
    }
    assert seen == {3: 0, 50: 1, 7: 2, 99: 1}
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    assert cuts(batches) == {row: (offsets[row], LENGTHS[row]) for row in rows}


@pytest.mark.parametrize(("clips", "size", "sizes"), [(101, 8, [5] + 12 * [8]), (64, 8, 8 * [8]), (9, 8, [1, 8])])
@pytest.mark.parametrize("seed", [None, 0])
def test_batches_of_clips_of_like_length_are_full_but_for_one(
    clips: int, size: int, sizes: list[int], seed: int | None
):
    lengths = 90 + LENGTHS[:clips] // 30  # 90 to 99
    batches = batches_of(lengths, batch_size=size, seed=seed)
    assert sorted(len(rows) for rows in rows_of(batches)) == sizes
    assert len(batches) == len(sizes)


@pytest.mark.parametrize("seed", [None, 0])
def test_outliers_come_in_batches_of_their_own(seed: int | None):
    lengths = np.array([*range(100, 112), 10, 200, 220, 400])
    batches = batches_of(lengths, batch_size=20, seed=seed)
    for epoch in range(3):
        drawn = sorted(sorted(lengths[rows].tolist()) for rows in rows_of(batches, epoch))
        assert drawn == [[10], list(range(100, 112)), [200, 220], [400]]
    assert len(batches) == 4


def test_the_same_seed_and_epoch_give_the_same_batches():
    first, second = (batches_of(LENGTHS, max_seconds=1.0, seed=5) for _ in range(2))
    list(second.epoch(0))  # what was drawn before does not matter
    assert equal(list(first.epoch(3)), list(second.epoch(3)))


@pytest.mark.parametrize(("seed", "epoch"), [(5, 4), (6, 3)])
def test_another_epoch_or_seed_gives_other_batches_and_crops(seed: int, epoch: int):
    lengths = 80 + LENGTHS // 10  # 82 to 109
    batches = batches_of(lengths, max_seconds=1.0, seed=5)
    other = batches_of(lengths, max_seconds=1.0, seed=seed)
    first, second = rows_of(batches, 3), rows_of(other, epoch)
    assert len({*map(frozenset, first)} & {*map(frozenset, second)}) <= 2  # the very longest may stay together
    assert cuts(batches, 3) != cuts(other, epoch)


def test_training_sees_short_and_long_batches_in_any_order():
    lengths = [[int(batch.lengths.max()) for batch in batches_of(LENGTHS).epoch(epoch)] for epoch in range(20)]
    drift = [np.corrcoef(range(len(epoch)), epoch)[0, 1] for epoch in lengths]
    assert abs(np.mean(drift)) < 5 / (14 * 20) ** 0.5  # five deviations; in the order of length each is nearly one


def test_evaluation_goes_by_length_and_crops_in_the_middle():
    batches = batches_of(LENGTHS, max_seconds=1.0, seed=None)
    order = [length for rows in rows_of(batches) for length in np.minimum(LENGTHS[rows], 100)]
    assert order == sorted(order)
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    found = cuts(batches)
    assert found == {row: (offsets[row] + max(0, n - 100) // 2, min(n, 100)) for row, n in enumerate(LENGTHS)}
    assert equal(list(batches.epoch(0)), list(batches.epoch(1)))


def test_training_crops_are_uniform_from_the_first_to_the_last_sample():
    lengths = [54, 50, 40]
    batches = batches_of(lengths, max_seconds=0.5)
    starts = Counter(cuts(batches, epoch)[0][0] for epoch in range(1000))
    assert sorted(starts) == [0, 1, 2, 3, 4]
    assert all(abs(count - 200) < 5 * (1000 * 0.2 * 0.8) ** 0.5 for count in starts.values())  # five deviations
    assert {cuts(batches, epoch)[1] for epoch in range(20)} == {(54, 50)}
    assert {cuts(batches, epoch)[2] for epoch in range(20)} == {(104, 40)}


def padding(batches: BucketedBatches, epoch: int = 0) -> float:
    """The share of a whole epoch's samples that lie beyond their clips."""
    held = [(batch.waveform.numel(), int(batch.lengths.sum())) for batch in batches.epoch(epoch)]
    return 1 - sum(used for _, used in held) / sum(size for size, _ in held)


def test_little_is_padded_where_lengths_are_as_in_life():
    lengths = np.random.default_rng(0).lognormal(np.log(100), 0.5, 6000).round().astype(int) + 1  # 1 s, 0.2 to 6 s
    store = store_of(lengths)
    wave = InMemorySamples(torch.zeros(lengths.sum() + lengths.max(), dtype=torch.int16), CPU)
    batches = BucketedBatches(store, wave, np.arange(6000), np.zeros(6000, int), 2, 64, None, 0, CPU)
    at_random = np.random.default_rng(0).permutation(lengths)[: 93 * 64].reshape(93, 64)
    assert 1 - at_random.mean() / at_random.max(axis=1).mean() > 0.5  # what shuffling alone would cost
    assert all(padding(batches, epoch) < 0.05 for epoch in range(3))
    assert padding(BucketedBatches(store, wave, np.arange(6000), np.zeros(6000, int), 2, 64, None, None, CPU)) < 0.04


def test_clips_shorter_than_the_crop_are_neither_cut_nor_repeated():
    assert cuts(batches_of([30, 5, 1], max_seconds=10.0)) == {0: (0, 30), 1: (30, 5), 2: (35, 1)}
