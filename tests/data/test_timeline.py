"""Windows of annotated recordings, compared with loops over samples."""

import numpy as np
import pytest

from spectrnn.data.timeline import Timeline, quiet_parts

STARTS, LENGTHS = np.array([0, 1000, 1030]), np.array([1000, 30, 2000])
EVENTS = np.array(
    [(0, 100, 180, 0), (0, 150, 400, 1), (0, 990, 1000, 0), (1, 1005, 1010, 1), (2, 1500, 1600, -1), (2, 2000, 2900, 2)]
)
SETTINGS = {"num_classes": 3, "size": 100, "hop": 40, "min_overlap": 0.5, "quiet_share": 0.5, "is_complete": True}


def timeline(guard=20, declared=None, **settings):
    quiet = quiet_parts(STARTS, LENGTHS, EVENTS, guard, declared)
    return Timeline(STARTS, LENGTHS, EVENTS, quiet, **(SETTINGS | settings))


def events_per_sample(guard=0):
    """Which events sound at each sample, bool (events, samples)."""
    sounding = np.zeros((len(EVENTS), 3030), bool)
    for row, (recording, first, end, _) in zip(sounding, EVENTS, strict=True):
        bounds = STARTS[recording], STARTS[recording] + LENGTHS[recording]
        row[max(first - guard, bounds[0]) : min(end + guard, bounds[1])] = True
    return sounding


def classes_of(start, length, min_overlap=0.5):
    """Classes of a window, by counting samples."""
    counts = events_per_sample()[:, start : start + length].sum(1)
    return {
        int(label)
        for count, (_, first, end, label) in zip(counts, EVENTS, strict=True)
        if label >= 0 and count >= max(1, min_overlap * min(end - first, length))
    }


def test_grid_covers_all_recordings():
    windows = timeline().grid()
    for recording, (start, length) in enumerate(zip(STARTS, LENGTHS, strict=True)):
        own = windows.recordings == recording
        first, sizes = windows.starts[own] - start, windows.lengths[own]
        assert (sizes == min(100, length)).all()
        assert first[0] == 0
        assert first[-1] + sizes[-1] == length
        assert (np.diff(first) <= 40).all()
        assert (np.diff(first) > 0).all()


@pytest.mark.parametrize("min_overlap", [0.01, 0.3, 0.5, 1.0])
def test_targets_are_those_of_counted_samples(min_overlap):
    own = timeline(min_overlap=min_overlap)
    starts = np.concatenate([np.arange(0, 901, 7), [1000], np.arange(1030, 2931, 11)])
    recordings = np.searchsorted(STARTS, starts, "right") - 1
    windows = own.windows(recordings, starts)
    for start, length, target in zip(windows.starts, windows.lengths, own.targets(windows), strict=True):
        assert {*np.flatnonzero(target).tolist()} == classes_of(start, length, min_overlap)


def test_drawn_windows_contain_their_events_or_nothing():
    own, used, positions = timeline(), np.array([True, True, True]), [set() for _ in EVENTS]
    quiet_samples = ~events_per_sample(guard=20).any(0)
    for seed in range(200):
        windows = own.draw(used, 1.0, np.random.default_rng(seed))
        assert len(windows.starts) == 10  # five events of a class, and as many quiet ones
        targets = own.targets(windows)
        ends = STARTS[windows.recordings] + LENGTHS[windows.recordings]
        assert (windows.starts >= STARTS[windows.recordings]).all()
        assert (windows.starts + windows.lengths <= ends).all()
        for event, start, target in zip(
            np.delete(EVENTS, 4, 0)[[0, 1, 2, 3, 4]], windows.starts, targets, strict=False
        ):
            assert target[event[3]]
            positions[event[3]].add(int(start))
        for start, length, target in zip(windows.starts[5:], windows.lengths[5:], targets[5:], strict=True):
            assert quiet_samples[start : start + length].all()
            assert not target.any()
    assert min(positions[2]) < 1960
    assert max(positions[2]) > 2840  # any position with half of a window in the long event


def test_quiet_windows_are_drawn_uniformly():
    own = timeline(quiet_share=0.99)
    starts = np.concatenate(
        [own.draw(np.array([True] * 3), 1.0, np.random.default_rng(seed)).starts[5:] for seed in range(40)]
    )
    quiet_samples = ~events_per_sample(guard=20).any(0)
    bounds = np.isin(np.arange(3030), [999, 1029])  # no window crosses them
    allowed = [s for s in range(2931) if quiet_samples[s : s + 100].all() and not bounds[s : s + 99].any()]
    assert {*starts.tolist()} == {*allowed}
    counts = np.bincount(starts, minlength=3030)[allowed]
    assert counts.std() < 1.5 * np.sqrt(counts.mean())  # that of a Poisson distribution is the square root


def test_other_recordings_are_not_drawn():
    windows = timeline().draw(np.array([False, False, True]), 1.0, np.random.default_rng(0))
    assert {*windows.recordings.tolist()} == {2}
    assert len(windows.starts) == 2


def test_only_declared_parts_are_quiet_if_the_rest_is_unknown():
    declared = [np.array([[600, 800]]), np.empty((0, 2), int), np.array([[1450, 1700]])]
    own = timeline(declared=declared, is_complete=False)
    assert own.quiet.tolist() == [[0, 600, 800]]  # what the sound of no class leaves of the other is too short
    windows = own.grid()
    for start, length in zip(windows.starts, windows.lengths, strict=True):
        assert classes_of(start, length) or 600 <= start <= 700
    drawn = own.draw(np.array([True] * 3), 1.0, np.random.default_rng(0)).starts[5:]
    assert ((drawn >= 600) & (drawn <= 700)).all()


def test_declared_parts_may_overlap_and_have_any_order():
    declared = [np.array([[700, 800], [450, 550], [600, 720], [500, 600], [620, 630]]), *[np.empty((0, 2), int)] * 2]
    own = timeline(declared=declared, is_complete=False)
    assert own.quiet.tolist() == [[0, 450, 800]]
    covered = {*own.grid().starts.tolist()}
    assert {start for start in range(0, 901, 40) if 450 <= start <= 700} <= covered


def test_classes_are_drawn_equally_often():
    windows = timeline(quiet_share=0.0).draw(np.array([True] * 3), 0.0, np.random.default_rng(0))
    assert len(windows.starts) == 5
    draws = [timeline(quiet_share=0.0).draw(np.array([True] * 3), 0.0, np.random.default_rng(i)) for i in range(60)]
    in_last = np.mean([(windows.recordings == 2).sum() for windows in draws])
    assert in_last == pytest.approx(5 / 3, abs=0.2)  # of the class of one event, which three classes share
    assert {(windows.recordings == 2).sum() for windows in draws} == {1, 2}


def test_without_quiet_parts_only_events_are_drawn():
    own = timeline(guard=3000)
    assert len(own.quiet) == 0
    assert len(own.draw(np.array([True] * 3), 1.0, np.random.default_rng(0)).starts) == 5


def test_random_events_of_many_recordings():
    generator = np.random.default_rng(0)
    lengths = generator.integers(50, 3000, 30)
    starts = np.cumsum(lengths) - lengths
    recordings = generator.integers(30, size=200)
    first = starts[recordings] + (generator.random(200) * (lengths[recordings] - 1)).astype(int)
    end = np.minimum(first + generator.integers(1, 500, 200), starts[recordings] + lengths[recordings])
    events = np.stack([recordings, first, end, generator.integers(-1, 3, 200)], 1)
    own = Timeline(starts, lengths, events, quiet_parts(starts, lengths, events, 10, None), **SETTINGS)
    windows = own.grid()
    pairs, found, common = own.overlaps(windows)
    expected = np.minimum((windows.starts + windows.lengths)[:, None], own.ends) - np.maximum(
        windows.starts[:, None], own.firsts
    )
    assert len(pairs) == (expected > 0).sum()
    assert (expected[pairs, found] == common).all()
