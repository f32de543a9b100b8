"""Batches against a loop over the clips of a dataset whose samples count upwards."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spectrnn.data.batches import Batch, BucketedBatches, bucket_boundaries
from spectrnn.data.cache import WaveformCache
from spectrnn.data.sample_files import Layout, SampleFiles
from spectrnn.data.samples import GPUSamples

RATE = 100
CPU = torch.device("cpu")


def cache_of(lengths: Sequence[int]) -> WaveformCache:
    hashes = np.zeros((len(lengths), 16), np.uint8)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    samples = SampleFiles([], Layout(*np.zeros((3, 1), np.int64)), int(offsets[-1]), max(lengths))
    return WaveformCache(samples, offsets[:-1], np.asarray(lengths), RATE, hashes, [], [])


def batches_of(lengths: Sequence[int], samples: Tensor | None = None, **settings: Any) -> BucketedBatches:
    """Batches of clips; unless given, sample n of the dataset is n - 16000, from which a crop's position follows."""
    rows = settings.pop("rows", np.arange(len(lengths)))
    defaults = {"targets": rows % 3, "batch_size": 8, "max_seconds": None, "seed": 0, "device": CPU}
    cache = cache_of(lengths)
    if samples is None:
        size = sum(lengths) + max(lengths)
        assert size < 32000
        samples = torch.arange(size, dtype=torch.int16) - 16000
    return BucketedBatches(cache, GPUSamples(samples), rows, **(defaults | settings))


def crops(batches: BucketedBatches, epoch: int = 0) -> dict[int, tuple[int, int]]:
    """First sample and length of the crop by row; checks that each is contiguous, and each row occurs once."""
    found = {}
    for batch in batches.epoch(epoch):
        for row, waveform, length in zip(batch.rows.tolist(), batch.waveform, batch.lengths.tolist(), strict=True):
            samples = (waveform[:length] * 32768 + 16000).round().int()
            first = int(samples[0])
            assert samples.tolist() == list(range(first, first + length))
            assert row not in found
            found[row] = (first, length)
    return found


def rows_of(batches: BucketedBatches, epoch: int = 0) -> list[list[int]]:
    return [batch.rows.tolist() for batch in batches.epoch(epoch)]


def equal(first: Sequence[Batch], second: Sequence[Batch]) -> bool:
    pairs = zip(first, second, strict=True)
    fields = [field for field in Batch._fields if field != "events"]
    return all(torch.equal(getattr(one, name), getattr(other, name)) for one, other in pairs for name in fields)


LENGTHS = np.random.default_rng(0).integers(20, 300, 101)


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("max_seconds", [None, 1.5])
def test_epoch_contains_every_clip_once_and_cropped_to_the_maximum(seed: int | None, max_seconds: float | None):
    batches = batches_of(LENGTHS, seed=seed, max_seconds=max_seconds)
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    for epoch in range(3):
        found = crops(batches, epoch)
        assert sorted(found) == list(range(101))
        for row, (first, length) in found.items():
            assert length == (LENGTHS[row] if max_seconds is None else min(LENGTHS[row], 150))
            assert offsets[row] <= first
            assert first + length <= offsets[row + 1]


def test_waveforms_are_float_and_zero_after_each_clip():
    for batch in batches_of(LENGTHS).epoch():
        assert batch.waveform.dtype == torch.float32
        assert batch.lengths.dtype == torch.int64
        assert batch.waveform.shape == (len(batch.rows), batch.lengths.max())
        assert batch.waveform.abs().max() < 1
        for waveform, length in zip(batch.waveform, batch.lengths.tolist(), strict=True):
            assert waveform[:length].count_nonzero() >= length - 1
            assert waveform[length:].count_nonzero() == 0


def test_full_scale_is_one():
    samples = torch.tensor([-32768, 16384, 1, 32767, 0, 0], dtype=torch.int16)
    (batch,) = batches_of([2, 2], samples, seed=None).epoch()
    assert batch.waveform.tolist() == [[-1.0, 0.5], [1 / 32768, 32767 / 32768]]


def test_targets_are_class_indices():
    for batch in batches_of(LENGTHS).epoch():
        assert batch.targets.dtype == torch.int64
        assert batch.targets.tolist() == (batch.rows % 3).tolist()


def test_batches_of_some_rows():
    rows = np.array([3, 7, 50, 99])
    batches = batches_of(LENGTHS, rows=rows, targets=np.array([0, 2, 1, 1]), batch_size=3)
    pairs = [
        pair for batch in batches.epoch() for pair in zip(batch.rows.tolist(), batch.targets.tolist(), strict=True)
    ]
    assert sorted(pairs) == [(3, 0), (7, 2), (50, 1), (99, 1)]
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    assert crops(batches) == {row: (offsets[row], LENGTHS[row]) for row in rows}


@pytest.mark.parametrize(("clips", "size", "sizes"), [(101, 8, [5] + 12 * [8]), (64, 8, 8 * [8]), (9, 8, [1, 8])])
@pytest.mark.parametrize("seed", [None, 0])
def test_batches_of_clips_of_similar_length_are_full_but_one(clips: int, size: int, sizes: list[int], seed: int | None):
    lengths = 90 + LENGTHS[:clips] // 30  # 90 to 99
    batches = batches_of(lengths, batch_size=size, seed=seed)
    assert sorted(len(rows) for rows in rows_of(batches)) == sizes
    assert len(batches) == len(sizes)


@pytest.mark.parametrize("seed", [None, 0])
def test_outliers_are_in_separate_batches(seed: int | None):
    lengths = np.array([*range(100, 112), 10, 200, 220, 400])
    batches = batches_of(lengths, batch_size=20, seed=seed)
    for epoch in range(3):
        drawn = sorted(sorted(lengths[rows].tolist()) for rows in rows_of(batches, epoch))
        assert drawn == [[10], list(range(100, 112)), [200, 220], [400]]
    assert len(batches) == 4


def test_batches_depend_on_seed_and_epoch_only():
    first, second = (batches_of(LENGTHS, max_seconds=1.0, seed=5) for _ in range(2))
    list(second.epoch(0))  # must not affect later epochs
    assert equal(list(first.epoch(3)), list(second.epoch(3)))


@pytest.mark.parametrize(("seed", "epoch"), [(5, 4), (6, 3)])
def test_batches_and_crops_differ_between_epochs_and_seeds(seed: int, epoch: int):
    lengths = 80 + LENGTHS // 10  # 82 to 109
    batches = batches_of(lengths, max_seconds=1.0, seed=5)
    other = batches_of(lengths, max_seconds=1.0, seed=seed)
    first, second = rows_of(batches, 3), rows_of(other, epoch)
    assert len({*map(frozenset, first)} & {*map(frozenset, second)}) <= 2  # the longest clips may stay together
    assert crops(batches, 3) != crops(other, epoch)


def test_training_batches_are_not_ordered_by_length():
    lengths = [[int(batch.lengths.max()) for batch in batches_of(LENGTHS).epoch(epoch)] for epoch in range(20)]
    drift = [np.corrcoef(range(len(epoch)), epoch)[0, 1] for epoch in lengths]
    assert (
        abs(np.mean(drift)) < 5 / (14 * 20) ** 0.5
    )  # five standard deviations; if ordered by length, each is almost 1


def test_evaluation_is_ordered_by_length_and_crops_in_the_middle():
    batches = batches_of(LENGTHS, max_seconds=1.0, seed=None)
    order = [length for rows in rows_of(batches) for length in np.minimum(LENGTHS[rows], 100)]
    assert order == sorted(order)
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    found = crops(batches)
    assert found == {row: (offsets[row] + max(0, n - 100) // 2, min(n, 100)) for row, n in enumerate(LENGTHS)}
    assert equal(list(batches.epoch(0)), list(batches.epoch(1)))


def test_longer_clips_are_covered_and_batches_of_shorter_ones_stay_the_same():
    covered = list(batches_of(LENGTHS, max_seconds=1.0, seed=None, cover=True).epoch())
    single = list(batches_of(LENGTHS, max_seconds=1.0, seed=None).epoch())
    assert [batch.rows.tolist() for batch in covered[: len(single)]] == [batch.rows.tolist() for batch in single]
    extra = covered[len(single) :]
    assert {len(batch.rows) for batch in extra[:-1]} == {8}
    assert all((batch.lengths == 100).all() for batch in extra)
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    found: dict[int, list[tuple[int, int]]] = {row: [] for row in range(101)}
    for batch in covered:
        assert batch.targets.tolist() == (batch.rows % 3).tolist()
        for row, waveform, length in zip(batch.rows.tolist(), batch.waveform, batch.lengths.tolist(), strict=True):
            first = round(float(waveform[0]) * 32768 + 16000) - offsets[row]
            found[row].append((first, length))
    for row, crops_of_clip in found.items():
        starts = [*range(0, max(1, LENGTHS[row] - 99), 50)]
        if starts[-1] + 100 < LENGTHS[row]:
            starts.append(LENGTHS[row] - 100)
        assert crops_of_clip == [(start, min(LENGTHS[row], 100)) for start in starts]


@pytest.mark.parametrize("max_seconds", [None, 3.0])
def test_batches_of_clips_that_are_short_enough_do_not_change(max_seconds: float | None):
    single, covered = (
        list(batches_of(LENGTHS, max_seconds=max_seconds, seed=None, cover=cover).epoch()) for cover in (False, True)
    )
    assert equal(single, covered)


@pytest.mark.parametrize("world_size", [2, 3])
def test_shards_divide_the_crops(world_size: int):
    whole = batches_of(LENGTHS, max_seconds=1.0, seed=None, cover=True)
    shards = [
        batches_of(LENGTHS, max_seconds=1.0, seed=None, cover=True, shard=(rank, world_size))
        for rank in range(world_size)
    ]
    for batch, *parts in zip(whole.epoch(), *(shard.epoch() for shard in shards), strict=True):
        drawn = [
            (row, float(waveform[0]), weight)
            for part in parts
            for row, waveform, weight in zip(part.rows.tolist(), part.waveform, part.weights.tolist(), strict=True)
            if row >= 0
        ]
        rows, weights = batch.rows.tolist(), batch.weights.tolist()
        assert sorted(drawn) == sorted(zip(rows, batch.waveform[:, 0].tolist(), weights, strict=True))


def test_training_crops_are_uniformly_distributed():
    lengths = [54, 50, 40]
    batches = batches_of(lengths, max_seconds=0.5)
    starts = Counter(crops(batches, epoch)[0][0] for epoch in range(1000))
    assert sorted(starts) == [0, 1, 2, 3, 4]
    assert all(
        abs(count - 200) < 5 * (1000 * 0.2 * 0.8) ** 0.5 for count in starts.values()
    )  # five standard deviations
    assert {crops(batches, epoch)[1] for epoch in range(20)} == {(54, 50)}
    assert {crops(batches, epoch)[2] for epoch in range(20)} == {(104, 40)}


def padding(batches: BucketedBatches, epoch: int = 0) -> float:
    """Fraction of the samples of an epoch that are padding."""
    sizes = [(batch.waveform.numel(), int(batch.lengths.sum())) for batch in batches.epoch(epoch)]
    return 1 - sum(used for _, used in sizes) / sum(size for size, _ in sizes)


def test_padding_is_small_for_realistic_lengths():
    lengths = np.random.default_rng(0).lognormal(np.log(100), 0.5, 6000).round().astype(int) + 1  # 1 s, 0.2 to 6 s
    samples = torch.zeros(lengths.sum() + lengths.max(), dtype=torch.int16)
    shuffled = np.random.default_rng(0).permutation(lengths)[: 93 * 64].reshape(93, 64)
    assert 1 - shuffled.mean() / shuffled.max(axis=1).mean() > 0.5  # without buckets
    batches = batches_of(lengths, samples, batch_size=64)
    assert all(padding(batches, epoch) < 0.05 for epoch in range(3))
    assert padding(batches_of(lengths, samples, batch_size=64, seed=None)) < 0.04


def test_rows_of_batch_names_the_clips_of_a_batch():
    batches = batches_of(LENGTHS)
    for epoch in range(2):
        for number, rows in enumerate(rows_of(batches, epoch), 1):
            assert batches.rows_of_batch(epoch, number).tolist() == rows


def test_skipped_batches_do_not_change_the_others():
    batches = batches_of(LENGTHS, max_seconds=1.0)
    assert equal(list(batches.epoch(2, skip=4)), list(batches.epoch(2))[4:])


@pytest.mark.parametrize("world_size", [2, 3])
def test_shards_divide_each_batch(world_size: int):
    lengths = np.array([*range(100, 112), 10, 200, 220, 400])  # of batches of 12, 1, 2 and 1 clips
    whole = [batch.rows.tolist() for batch in batches_of(lengths, batch_size=20).epoch()]
    shards = [batches_of(lengths, batch_size=20, shard=(rank, world_size)) for rank in range(world_size)]
    for rows, *parts in zip(whole, *(shard.epoch() for shard in shards), strict=True):
        assert sorted(row for part in parts for row in part.rows.tolist() if row >= 0) == sorted(rows)
        assert all(len(part.lengths) for part in parts)  # a rank without a shard has a clip that does not count


def test_clips_shorter_than_the_maximum_are_not_changed():
    assert crops(batches_of([30, 5, 1], max_seconds=10.0)) == {0: (0, 30), 1: (30, 5), 2: (35, 1)}


@pytest.mark.parametrize("batch_size", [20, 64])
def test_batches_for_a_gpu_have_a_multiple_of_8_clips_if_possible(batch_size: int):
    lengths = np.sort(np.random.default_rng(0).integers(100, 1000, 333))
    sizes = {}
    for device in ("cpu", "cuda"):
        starts = [0, *bucket_boundaries(lengths, batch_size, torch.device(device)), len(lengths)]
        sizes[device] = np.diff(starts)
        assert sizes[device].min() > 0
        assert sizes[device].max() <= batch_size
        assert all(lengths[end - 1] <= lengths[start] * 4 / 3 for start, end in pairwise(starts))
    assert all(size % 8 == 0 or size == batch_size for size in sizes["cuda"][1:])  # the first one is what remains
    assert any(size % 8 and size != batch_size for size in sizes["cpu"][1:])
    assert len(sizes["cuda"]) <= len(sizes["cpu"]) + 1


def test_outliers_are_in_batches_of_their_own_on_a_gpu_too():
    lengths = np.array([10, 11, 12, 100, 1000, 1100, 1200])
    assert bucket_boundaries(lengths, 64, torch.device("cuda")) == [3, 4]


COUNTS = {0: 60, 1: 30, 2: 9, 3: 2}
classes = np.random.default_rng(1).permutation(np.repeat(list(COUNTS), list(COUNTS.values())))


def drawn(batches: BucketedBatches, epoch: int) -> Counter[int]:
    """Number of draws by row."""
    return Counter(row for rows in rows_of(batches, epoch) for row in rows)


@pytest.mark.parametrize("power", [0.0, 0.3, 0.5, 1.0])
def test_classes_are_drawn_in_proportion_to_the_power_of_their_counts(power: float):
    batches = batches_of(LENGTHS, targets=classes, sampling_power=power)
    total = sum(count**power for count in COUNTS.values())
    rows = Counter[int]()
    for epoch in range(60):
        draws = drawn(batches, epoch)
        assert draws.total() == 101
        rows += draws
        of_class = Counter({label: sum(draws[row] for row in np.flatnonzero(classes == label)) for label in COUNTS})
        for label, count in COUNTS.items():
            assert abs(of_class[label] - 101 * count**power / total) < 1 + 1e-9
            mean = 101 * count**power / total / count
            assert {draws[row] for row in np.flatnonzero(classes == label)} <= {int(mean), int(mean) + 1}
    for row, label in enumerate(classes.tolist()):  # all clips of a class are drawn equally often
        mean = 101 * COUNTS[label] ** power / total / COUNTS[label]
        fraction = mean - int(mean)
        assert abs(rows[row] - 60 * mean) <= 5 * (60 * fraction * (1 - fraction)) ** 0.5 + 1e-9
        assert batches.draws[row] == pytest.approx(mean)


def test_natural_sampling_draws_no_random_numbers():
    # The draws of an epoch as they were before there was another way.
    generator, batches = np.random.default_rng((3, 7)), batches_of(LENGTHS, max_seconds=1.0, seed=3)
    lengths = np.minimum(LENGTHS, 100)
    jittered = lengths * generator.uniform(0.98, 1.02, 101)
    expected = np.split(np.argsort(jittered, kind="stable"), bucket_boundaries(np.sort(lengths), 8, CPU))
    generator.shuffle(expected)
    assert rows_of(batches, 7) == [members.tolist() for members in expected]
    starts = np.cumsum(LENGTHS) - LENGTHS + generator.integers(0, LENGTHS - lengths + 1)
    assert {row: start for row, (start, _) in crops(batches, 7).items()} == dict(enumerate(starts.tolist()))


def test_number_of_batches_is_the_same_in_all_epochs():
    # The rare class is long, the frequent one short.
    lengths = np.where(classes == 3, 300, 40 + classes)
    batches = batches_of(lengths, targets=classes, sampling_power=0)
    assert {len(rows_of(batches, epoch)) for epoch in range(5)} == {len(batches)}
    assert max(len(rows) for rows in rows_of(batches)) == 8
    assert padding(batches) < 0.15


def test_each_draw_of_a_clip_has_a_crop_of_its_own():
    batches = batches_of([300] * 3 + [290] * 2, targets=[0, 0, 0, 0, 1], max_seconds=0.5, sampling_power=0)
    starts = [
        float(x)
        for batch in batches.epoch()
        for x, row in zip(batch.waveform[:, 0], batch.rows, strict=True)
        if row == 4
    ]
    assert len(starts) == len(set(starts)) >= 2


@pytest.mark.parametrize("power", [0.0, 0.5])
def test_drawn_batches_depend_on_seed_and_epoch_only_and_can_be_skipped(power: float):
    settings = {"targets": classes, "max_seconds": 1.0, "sampling_power": power}
    first, second = (batches_of(LENGTHS, seed=5, **settings) for _ in range(2))
    assert equal(list(first.epoch(3)), list(second.epoch(3)))
    assert equal(list(first.epoch(3, skip=4)), list(first.epoch(3))[4:])
    assert drawn(first, 3) != drawn(first, 4)
    assert drawn(first, 3) != drawn(batches_of(LENGTHS, seed=6, **settings), 3)
    assert first.rows_of_batch(3, 2).tolist() == rows_of(first, 3)[1]


@pytest.mark.parametrize("world_size", [2, 3])
def test_shards_divide_each_drawn_batch(world_size: int):
    settings = {"targets": classes, "max_seconds": 1.0, "sampling_power": 0}
    shards = [batches_of(LENGTHS, shard=(rank, world_size), **settings) for rank in range(world_size)]
    for whole, *parts in zip(batches_of(LENGTHS, **settings).epoch(), *(s.epoch() for s in shards), strict=True):
        pairs = [
            sorted(
                (row, *waveform[:20].tolist())
                for row, waveform in zip(b.rows.tolist(), b.waveform, strict=True)
                if row >= 0
            )
            for b in (whole, *parts)
        ]
        assert sorted(chain(*pairs[1:])) == pairs[0]
