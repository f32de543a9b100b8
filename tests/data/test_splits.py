"""Splits: seeded, stratified, group-disjoint; the dataset's own where it has them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectrnn.data.clips import Clip, DataSource
from spectrnn.data.splits import assign_splits, require_classes, require_training_clips, split_checksums
from spectrnn.errors import UserError

COUNTS = {"cat": 100, "dog": 40, "owl": 10}


@pytest.fixture
def assign(source: Callable[..., DataSource], tmp_path: Path) -> Callable[..., list[Clip]]:
    """`assign(clips, test_fraction=0.2, ...)`: the table with its splits."""

    built = source("folder", root=tmp_path)

    def assigned(clips: Sequence[Clip], **settings: Any) -> list[Clip]:
        return assign_splits(clips, replace(built, **settings))

    return assigned


def clips_of(counts: dict[str, int], **fields: str) -> list[Clip]:
    return [
        Clip(f"{label}/{number}.wav", label, **fields) for label, count in counts.items() for number in range(count)
    ]


def grouped(seed: int, clips: int = 300, groups: int = 60) -> list[Clip]:
    """Three labels; groups of different sizes, which hold clips of several labels."""
    generator = np.random.default_rng(seed)
    weights = generator.dirichlet(np.full(groups, 2.0))
    return [
        Clip(
            f"{number}.wav",
            str(generator.choice(list(COUNTS), p=[0.5, 0.3, 0.2])),
            group=f"speaker{generator.choice(groups, p=weights)}",
        )
        for number in range(clips)
    ]


def counts(clips: Sequence[Clip], part: str) -> Counter[str]:
    return Counter(clip.label for clip in clips if clip.split == part)


def groups(clips: Sequence[Clip], part: str) -> set[str | None]:
    return {clip.group for clip in clips if clip.split == part}


# Drawn clip by clip


@pytest.mark.parametrize(("test", "val"), [(0.2, 0.1), (0.5, 0.25), (0.05, 0.0), (0.0, 0.3)])
def test_every_label_is_drawn_in_proportion(assign: Callable, test: float, val: float):
    table = assign(clips_of(COUNTS), test_fraction=test, val_fraction=val)
    for label, count in COUNTS.items():
        tested = max(1, round(test * count)) if test else 0
        validated = max(1, round(val * (count - tested))) if val else 0
        assert counts(table, "test")[label] == tested
        assert counts(table, "val")[label] == validated
        assert counts(table, "train")[label] == count - tested - validated


def test_nothing_but_the_split_changes(assign: Callable):
    clips = [clip._replace(start=0.5, end=1.5) for clip in clips_of(COUNTS)]
    assert [clip._replace(split=None) for clip in assign(clips)] == clips


@pytest.mark.parametrize("clips", [clips_of(COUNTS), grouped(0)], ids=["clips", "groups"])
def test_the_same_seed_draws_the_same_and_another_seed_another(assign: Callable, clips: list[Clip]):
    first = assign(clips, split_seed=3)
    assert assign(clips, split_seed=3) == first
    second = assign(clips, split_seed=4)
    for part in ("val", "test"):
        assert [clip.path for clip in first if clip.split == part] != [c.path for c in second if c.split == part]
    third, fourth = (assign(clips, split_seed=seed, test_fraction=0) for seed in (3, 4))
    assert third != fourth


def test_every_split_has_every_label_down_to_three_clips(assign: Callable):
    for seed in range(20):
        table = assign(clips_of({"cat": 3, "dog": 200}), split_seed=seed)
        assert counts(table, "train")["cat"] == counts(table, "val")["cat"] == counts(table, "test")["cat"] == 1


def test_a_large_fraction_leaves_something_to_train_on(assign: Callable):
    table = assign(clips_of({"cat": 2, "dog": 9}), test_fraction=0.9, val_fraction=0)
    assert counts(table, "test") == {"cat": 1, "dog": 8}
    assert counts(table, "train") == {"cat": 1, "dog": 1}


def test_no_clip_is_drawn_more_often_than_another(assign: Callable):
    tested = Counter[str]()
    for seed in range(400):
        tested.update(
            clip.path for clip in assign(clips_of({"cat": 5, "dog": 5}), split_seed=seed) if clip.split == "test"
        )
    assert len(tested) == 10
    assert all(abs(count - 80) < 5 * (400 * 0.2 * 0.8) ** 0.5 for count in tested.values())  # five deviations


def test_what_is_drawn_stays_drawn_when_the_corpus_grows_moves_or_is_sorted_otherwise(assign: Callable):
    clips = clips_of({"cat": 400, "dog": 200})
    before = {clip.path: clip.split for clip in assign(clips)}
    more = [Clip(f"cat/new{number}.wav", "cat") for number in range(20)]
    after = {clip.path: clip.split for clip in assign([*more, *clips])}
    moved = [path for path, part in before.items() if after[path] != part]
    assert len(moved) <= 15  # the new clips' own share, at the borders of test and val
    elsewhere = [clip._replace(path=f"/mnt/disk/{clip.path}") for clip in reversed(clips)]
    assert {clip.path.removeprefix("/mnt/disk/"): clip.split for clip in assign(elsewhere)} == before


def test_parts_of_one_file_are_drawn_apart(assign: Callable):
    clips = [Clip("long.wav", label, start=start, end=start + 1.0) for label in COUNTS for start in range(40)]
    table = assign([clip._replace(start=float(number), end=number + 1.0) for number, clip in enumerate(clips)])
    assert counts(table, "test") == dict.fromkeys(COUNTS, 8)


def test_fingerprints_tell_a_split_that_changed(assign: Callable):
    table = assign(clips_of(COUNTS))
    before = split_checksums(table)
    assert {part: int(told.split()[0]) for part, told in before.items()} == dict(Counter(clip.split for clip in table))
    assert split_checksums(table[::-1]) == before
    assert split_checksums([clip._replace(path=f"/mnt/{clip.path}") for clip in table]) == before
    row = next(number for number, clip in enumerate(table) if clip.split == "test")
    for changed in ({"path": "cat/other.wav"}, {"start": 0.5}, {"end": 2.0}):
        after = split_checksums([*table[:row], table[row]._replace(**changed), *table[row + 1 :]])
        assert {part for part in before if after[part] != before[part]} == {"test"}


# Drawn group by group


@pytest.mark.parametrize("seed", range(10))
def test_no_group_is_in_two_splits_and_every_label_trains(assign: Callable, seed: int):
    table = assign(grouped(seed), split_seed=seed)
    parts = [groups(table, part) for part in ("train", "val", "test")]
    assert all(parts)
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert set(counts(table, "train")) == set(COUNTS)


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7])
def test_groups_are_drawn_in_proportion_too(assign: Callable, fraction: float):
    clips = grouped(0, clips=2000, groups=400)
    table = assign(clips, test_fraction=fraction, val_fraction=0)
    whole = Counter(clip.label for clip in clips)
    for label, count in counts(table, "test").items():
        assert count / whole[label] == pytest.approx(fraction, abs=0.03)


def test_a_clip_without_a_group_is_a_group(assign: Callable):
    clips = [clip._replace(group="ann") if number % 2 else clip for number, clip in enumerate(clips_of(COUNTS))]
    table = assign(clips)
    assert sum("ann" in groups(table, part) for part in ("train", "val", "test")) == 1
    assert all(None in groups(table, part) for part in ("train", "val", "test"))


@pytest.mark.parametrize("each", [3, 4, 6])
@pytest.mark.filterwarnings("error")
def test_few_clips_in_many_groups(assign: Callable, each: int):
    clips = [clip._replace(group=clip.path) for clip in clips_of({"cat": each, "dog": each})]
    for seed in range(10):
        table = assign(clips, split_seed=seed)
        assert set(counts(table, "train")) == {"cat", "dog"}
        assert {"val", "test"} <= {clip.split for clip in table}


@pytest.mark.filterwarnings("error")
def test_a_rare_label_among_groups(assign: Callable):
    clips = grouped(0) + [Clip(f"owl{number}.wav", "hen", group=f"speaker{number}") for number in range(3)]
    assert set(counts(assign(clips), "train")) == {*COUNTS, "hen"}


def test_the_only_group_of_a_label_trains(assign: Callable):
    clips = [clip for clip in grouped(0) if clip.label != "owl" or clip.group != "speaker1"]
    clips += [Clip(f"hen{number}.wav", "hen", group="speaker1") for number in range(6)]
    for seed in range(20):
        assert counts(assign(clips, split_seed=seed), "train")["hen"] == 6


def test_one_group_cannot_be_shared_out(assign: Callable):
    with pytest.raises(UserError, match=r"^data.test_fraction: .*no group-disjoint test part can be drawn"):
        assign(clips_of(COUNTS, group="ann"))
    with pytest.raises(UserError, match=r"^data.val_fraction: .*no group-disjoint val part can be drawn"):
        assign(clips_of(COUNTS, group="ann"), test_fraction=0)


def test_labels_that_are_a_group_each_cannot_be_shared_out(assign: Callable):
    with pytest.raises(UserError, match=r"no group-disjoint test part can be drawn|no training clips"):
        assign([clip._replace(group=clip.label) for clip in clips_of(COUNTS)])


# The dataset's own


def test_official_splits_stay(assign: Callable):
    own = clips_of({"cat": 30, "dog": 20}, split="train") + clips_of({"cat": 4}, split="val")
    clips = own + clips_of({"dog": 5}, split="test")
    assert assign(clips) == clips
    assert assign(clips, split_seed=7, test_fraction=0.5, val_fraction=0.5) == clips


@pytest.mark.parametrize("with_groups", [False, True])
def test_validation_is_carved_from_training_and_testing_stays(assign: Callable, with_groups: bool):
    clips = clips_of({"cat": 60, "dog": 40}, split="train") + clips_of({"cat": 7, "dog": 3}, split="test")
    if with_groups:
        clips = [clip._replace(group=f"s{number % 20}") for number, clip in enumerate(clips)]
    table = assign(clips, val_fraction=0.1)
    assert [clip for clip in table if clip.split == "test"] == clips[100:]
    assert counts(table, "val") == {"cat": 6, "dog": 4}
    if with_groups:
        assert not groups(table, "val") & groups(table, "train")


def test_no_validation_part_where_none_is_wanted(assign: Callable):
    assert set(Counter(clip.split for clip in assign(clips_of(COUNTS), val_fraction=0))) == {"train", "test"}


def test_some_clips_without_a_split_are_an_error(assign: Callable):
    clips = [*clips_of(COUNTS, split="train"), Clip("dog/lost.wav", "dog")]
    with pytest.raises(UserError, match=r"^dog/lost.wav: has no split, while 150 other clips have one$"):
        assign(clips)


@pytest.mark.parametrize("fold", [2, "2"])
def test_a_fold_tests_and_the_others_train(assign: Callable, fold: int | str):
    clips = [clip._replace(fold=str(number % 5), split="train") for number, clip in enumerate(clips_of(COUNTS))]
    table = assign(clips, fold=fold)
    assert {clip.path for clip in table if clip.split == "test"} == {clip.path for clip in clips if clip.fold == "2"}
    assert sum(counts(table, "val").values()) == 12  # a tenth of 80, 32 and 8
    with pytest.raises(UserError, match=r"^data.fold=5: no such fold; its folds are 0, 1, 2, 3, 4$"):
        assign(clips, fold=5)


def test_folds_are_chosen_by_hand(assign: Callable):
    clips = [clip._replace(fold=str(number % 3)) for number, clip in enumerate(clips_of(COUNTS))]
    with pytest.raises(UserError, match=r"^data.fold: missing; this dataset has the folds 0, 1, 2"):
        assign(clips)
    with pytest.raises(UserError, match=r"^data.fold=1: no such fold; this dataset has no folds$"):
        assign(clips_of(COUNTS), fold=1)


# Nothing to learn from


def test_a_single_class():
    with pytest.raises(UserError, match=r"^the dataset has a single class \('cat'\); a classifier needs two or more$"):
        require_classes(clips_of({"cat": 9}))


def test_a_label_with_one_clip():
    with pytest.raises(
        UserError, match=r"^label 'owl': has one clip only; record more of them or leave the label out$"
    ):
        require_classes(clips_of({"cat": 9, "owl": 1, "dog": 9}))


def test_a_label_with_too_few_clips_for_the_splits(assign: Callable):
    with pytest.raises(UserError, match=r"^label 'owl': too few clips to draw a val part; .* data.val_fraction=0$"):
        assign(clips_of({"cat": 9, "owl": 2}))
    table = assign(clips_of({"cat": 9, "owl": 2}), val_fraction=0)
    assert counts(table, "test")["owl"] == counts(table, "train")["owl"] == 1


def test_labels_that_never_train_are_named():
    clips = clips_of({"cat": 9}, split="train") + clips_of({"cat": 2, "owl": 3, "hen": 2}, split="test")
    with pytest.raises(UserError, match=r"^no training clips of 'hen', 'owl'"):
        require_training_clips(clips)
