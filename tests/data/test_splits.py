"""Splits: predefined ones are kept, drawn ones are seeded, stratified and group-disjoint, if groups suffice."""

import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectrnn.data.clips import Clip, DataSource
from spectrnn.data.labels import LABEL_SET
from spectrnn.data.splits import (
    assign_folds,
    assign_splits,
    fold_names,
    require_classes,
    require_training_clips,
    split_checksums,
)
from spectrnn.errors import UserError

COUNTS = {"cat": 100, "dog": 40, "owl": 10}


@pytest.fixture
def assign(source: Callable[..., DataSource], tmp_path: Path) -> Callable[..., list[Clip]]:
    """`assign(clips, test_fraction=0.2, ...)` -> clip table with splits."""
    built = source("folder", root=tmp_path)

    def assigned(clips: Sequence[Clip], **settings: Any) -> list[Clip]:
        source = replace(built, **settings)
        return assign_splits(assign_folds(clips, source), source)

    return assigned


def clips_of(counts: dict[str, int], **fields: str) -> list[Clip]:
    return [
        Clip(f"{label}/{number}.wav", label, **fields) for label, count in counts.items() for number in range(count)
    ]


def grouped(seed: int, clips: int = 300, groups: int = 60) -> list[Clip]:
    """Clips of three labels in groups of different sizes, most of which have several labels."""
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


def counts(clips: Sequence[Clip], split: str) -> Counter[str]:
    return Counter(clip.label for clip in clips if clip.split == split)


def groups(clips: Sequence[Clip], split: str) -> set[str | None]:
    return {clip.group for clip in clips if clip.split == split}


# Drawn splits without groups


@pytest.mark.parametrize(("test", "val"), [(0.2, 0.1), (0.5, 0.25), (0.05, 0.0), (0.0, 0.3)])
def test_drawn_splits_are_stratified(assign: Callable, test: float, val: float):
    table = assign(clips_of(COUNTS), test_fraction=test, val_fraction=val)
    for label, count in COUNTS.items():
        tested = max(1, round(test * count)) if test else 0
        validated = max(1, round(val * (count - tested))) if val else 0
        assert counts(table, "test")[label] == tested
        assert counts(table, "val")[label] == validated
        assert counts(table, "train")[label] == count - tested - validated


def test_only_the_split_changes(assign: Callable):
    clips = [clip._replace(start=0.5, end=1.5) for clip in clips_of(COUNTS)]
    assert [clip._replace(split=None) for clip in assign(clips)] == clips


@pytest.mark.parametrize("clips", [clips_of(COUNTS), grouped(0)], ids=["clips", "groups"])
def test_splits_depend_on_the_seed_only(assign: Callable, clips: list[Clip]):
    first = assign(clips, split_seed=3)
    assert assign(clips, split_seed=3) == first
    second = assign(clips, split_seed=4)
    for split in ("val", "test"):
        assert [clip.path for clip in first if clip.split == split] != [c.path for c in second if c.split == split]
    third, fourth = (assign(clips, split_seed=seed, test_fraction=0) for seed in (3, 4))
    assert third != fourth


def test_label_with_three_clips_is_in_every_split(assign: Callable):
    for seed in range(20):
        table = assign(clips_of({"cat": 3, "dog": 200}), split_seed=seed)
        assert counts(table, "train")["cat"] == counts(table, "val")["cat"] == counts(table, "test")["cat"] == 1


def test_large_fraction_leaves_training_clips(assign: Callable):
    table = assign(clips_of({"cat": 2, "dog": 9}), test_fraction=0.9, val_fraction=0)
    assert counts(table, "test") == {"cat": 1, "dog": 8}
    assert counts(table, "train") == {"cat": 1, "dog": 1}


def test_all_clips_are_equally_likely_to_be_drawn(assign: Callable):
    tested = Counter[str]()
    for seed in range(400):
        tested.update(
            clip.path for clip in assign(clips_of({"cat": 5, "dog": 5}), split_seed=seed) if clip.split == "test"
        )
    assert len(tested) == 10
    assert all(abs(count - 80) < 5 * (400 * 0.2 * 0.8) ** 0.5 for count in tested.values())  # five standard deviations


def test_drawn_splits_hardly_change_with_more_clips_another_folder_or_order(assign: Callable):
    clips = clips_of({"cat": 400, "dog": 200})
    before = {clip.path: clip.split for clip in assign(clips)}
    more = [Clip(f"cat/new{number}.wav", "cat") for number in range(20)]
    after = {clip.path: clip.split for clip in assign([*more, *clips])}
    moved = [path for path, split in before.items() if after[path] != split]
    assert len(moved) <= 15  # as many as are drawn from the new clips, at the boundaries of test and val
    copied = [clip._replace(path=f"/mnt/disk/{clip.path}") for clip in reversed(clips)]
    assert {clip.path.removeprefix("/mnt/disk/"): clip.split for clip in assign(copied)} == before


def test_segments_of_a_file_are_drawn_separately(assign: Callable):
    clips = [Clip("long.wav", label, start=start, end=start + 1.0) for label in COUNTS for start in range(40)]
    table = assign([clip._replace(start=float(number), end=number + 1.0) for number, clip in enumerate(clips)])
    assert counts(table, "test") == dict.fromkeys(COUNTS, 8)


def test_checksums_identify_changed_splits(assign: Callable):
    table = assign(clips_of(COUNTS))
    before = split_checksums(table)
    sizes = {split: int(checksum.split()[0]) for split, checksum in before.items()}
    assert sizes == dict(Counter(clip.split for clip in table))
    assert split_checksums(table[::-1]) == before
    assert split_checksums([clip._replace(path=f"/mnt/{clip.path}") for clip in table]) == before
    row = next(number for number, clip in enumerate(table) if clip.split == "test")
    for changed in ({"path": "cat/other.wav"}, {"start": 0.5}, {"end": 2.0}):
        after = split_checksums([*table[:row], table[row]._replace(**changed), *table[row + 1 :]])
        assert {split for split in before if after[split] != before[split]} == {"test"}


# Drawn splits with groups


@pytest.mark.parametrize("seed", range(10))
def test_splits_are_group_disjoint_and_every_label_has_training_clips(assign: Callable, seed: int):
    table = assign(grouped(seed), split_seed=seed)
    found = [groups(table, split) for split in ("train", "val", "test")]
    assert all(found)
    assert sum(map(len, found)) == len(set.union(*found))
    assert set(counts(table, "train")) == set(COUNTS)


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7])
def test_group_disjoint_splits_are_stratified(assign: Callable, fraction: float):
    clips = grouped(0, clips=2000, groups=400)
    table = assign(clips, test_fraction=fraction, val_fraction=0)
    whole = Counter(clip.label for clip in clips)
    for label, count in counts(table, "test").items():
        assert count / whole[label] == pytest.approx(fraction, abs=0.03)


def test_each_clip_without_a_group_is_a_group(assign: Callable):
    clips = [clip._replace(group="ann") if number % 2 else clip for number, clip in enumerate(clips_of(COUNTS))]
    table = assign(clips)
    assert sum("ann" in groups(table, split) for split in ("train", "val", "test")) == 1
    assert all(None in groups(table, split) for split in ("train", "val", "test"))


@pytest.mark.parametrize("count", [3, 4, 6])
@pytest.mark.filterwarnings("error")
def test_few_clips_in_many_groups(assign: Callable, count: int):
    clips = [clip._replace(group=clip.path) for clip in clips_of({"cat": count, "dog": count})]
    for seed in range(10):
        table = assign(clips, split_seed=seed)
        assert set(counts(table, "train")) == {"cat", "dog"}
        assert {"val", "test"} <= {clip.split for clip in table}


@pytest.mark.filterwarnings("error")
def test_rare_label_has_training_clips(assign: Callable):
    clips = grouped(0) + [Clip(f"owl{number}.wav", "hen", group=f"speaker{number}") for number in range(3)]
    assert set(counts(assign(clips), "train")) == {*COUNTS, "hen"}


def test_only_group_of_a_label_is_in_the_training_split(assign: Callable):
    clips = [clip for clip in grouped(0) if clip.label != "owl" or clip.group != "speaker1"]
    clips += [Clip(f"hen{number}.wav", "hen", group="speaker1") for number in range(6)]
    for seed in range(20):
        assert counts(assign(clips, split_seed=seed), "train")["hen"] == 6


def speakers(count: int, clips: int = 30) -> list[Clip]:
    """Clips of two labels of each speaker."""
    table = [(f"s{speaker}", number) for speaker in range(count) for number in range(clips)]
    return [Clip(f"{group}/{number}.wav", ("cat", "dog")[number % 2], group=group) for group, number in table]


def test_validation_split_of_few_groups_shares_them(assign: Callable):
    table = assign(speakers(5), val_fraction=0.1)
    assert len(groups(table, "test")) == 1  # of five, so four train
    assert groups(table, "test").isdisjoint(groups(table, "train") | groups(table, "val"))
    assert counts(table, "val") == {"cat": 6, "dog": 6}  # a tenth of 60 each
    assert groups(table, "val") <= groups(table, "train")
    assert len(groups(table, "train")) == 4
    unnamed = assign([clip._replace(group=None, split="train") for clip in table if clip.split != "test"])
    assert counts(unnamed, "val") == {"cat": 6, "dog": 6}


@pytest.mark.parametrize(
    ("count", "setting", "is_disjoint"),
    [(9, "auto", False), (10, "auto", True), (3, "disjoint", True), (40, "shared", False)],
)
def test_validation_split_is_disjoint_from_10_training_groups_on(
    assign: Callable, count: int, setting: str, is_disjoint: bool
):
    table = assign([clip._replace(split="train") for clip in speakers(count)], val_groups=setting)
    assert groups(table, "val").isdisjoint(groups(table, "train")) is is_disjoint
    assert groups(table, "val") | groups(table, "train") == {f"s{number}" for number in range(count)}


def test_clips_without_a_group_count_as_training_groups(assign: Callable):
    clips = [clip._replace(split="train") for clip in speakers(4)] + clips_of({"cat": 6}, split="train")
    table = assign(clips, val_fraction=0.2)
    assert (groups(table, "val") - {None}).isdisjoint(groups(table, "train"))


@pytest.mark.parametrize(("split", "settings"), [("test", {}), ("val", {"test_fraction": 0, "val_groups": "disjoint"})])
def test_single_group_cannot_be_split(assign: Callable, split: str, settings: dict[str, Any]):
    message = f"data.{split}_fraction: all clips are of one group, so no group-disjoint {split} split exists"
    with pytest.raises(UserError, match=f"^{message}$"):
        assign(clips_of(COUNTS, group="ann"), **settings)


def test_single_group_is_validated_on_its_own_clips(assign: Callable):
    table = assign(clips_of(COUNTS, group="ann"), test_fraction=0)
    assert counts(table, "val") == {"cat": 10, "dog": 4, "owl": 1}


def test_single_group_per_label_cannot_be_split(assign: Callable):
    message = "data.test_fraction: groups are too large, so no group-disjoint test split exists"
    with pytest.raises(UserError, match=f"^{message}$"):
        assign([clip._replace(group=clip.label) for clip in clips_of(COUNTS)])


# Predefined splits and folds


def test_predefined_splits_are_kept(assign: Callable):
    clips = clips_of({"cat": 30, "dog": 20}, split="train") + clips_of({"cat": 4}, split="val")
    clips += clips_of({"dog": 5}, split="test")
    assert assign(clips) == clips
    assert assign(clips, split_seed=7, test_fraction=0.5, val_fraction=0.5) == clips


@pytest.mark.parametrize("with_groups", [False, True])
def test_validation_split_is_drawn_from_the_training_split(assign: Callable, with_groups: bool):
    clips = clips_of({"cat": 60, "dog": 40}, split="train") + clips_of({"cat": 7, "dog": 3}, split="test")
    if with_groups:
        clips = [clip._replace(group=f"s{number % 20}") for number, clip in enumerate(clips)]
    table = assign(clips, val_fraction=0.1)
    assert [clip for clip in table if clip.split == "test"] == clips[100:]
    assert counts(table, "val") == {"cat": 6, "dog": 4}
    if with_groups:
        assert not groups(table, "val") & groups(table, "train")


def test_validation_fraction_0_draws_none(assign: Callable):
    assert set(Counter(clip.split for clip in assign(clips_of(COUNTS), val_fraction=0))) == {"train", "test"}


def test_clip_without_a_split_among_others_is_reported(assign: Callable):
    clips = [*clips_of(COUNTS, split="train"), Clip("dog/lost.wav", "dog")]
    with pytest.raises(UserError, match=r"^dog/lost.wav: has no split, but 150 other clips have one$"):
        assign(clips)


@pytest.mark.parametrize("fold", [2, "2"])
def test_chosen_fold_is_the_test_split(assign: Callable, fold: int | str):
    clips = [clip._replace(fold=str(number % 5), split="train") for number, clip in enumerate(clips_of(COUNTS))]
    table = assign(clips, fold=fold)
    assert {clip.path for clip in table if clip.split == "test"} == {clip.path for clip in clips if clip.fold == "2"}
    assert sum(counts(table, "val").values()) == 12  # a tenth of 80, 32 and 8
    with pytest.raises(UserError, match=r"^data.fold=5: no such fold; its folds are 0, 1, 2, 3, 4$"):
        assign(clips, fold=5)


def test_missing_or_needless_fold_is_reported(assign: Callable):
    clips = [clip._replace(fold=str(number % 3)) for number, clip in enumerate(clips_of(COUNTS))]
    with pytest.raises(UserError, match=r"^data.fold: missing; choose the fold to test on: 0, 1, 2$"):
        assign(clips)
    with pytest.raises(UserError, match=r"^data.fold=1: no such fold; this dataset has no folds$"):
        assign(clips_of(COUNTS), fold=1)


# Datasets that are unfit for training


def test_single_class_is_rejected():
    with pytest.raises(UserError, match=r"^the dataset has a single class \('cat'\); a classifier needs two or more$"):
        require_classes(clips_of({"cat": 9}))


def test_label_with_a_single_clip_is_rejected():
    with pytest.raises(
        UserError, match=r"^label 'owl': has a single clip; record more, or leave it out by data.labels={owl: null}$"
    ):
        require_classes(clips_of({"cat": 9, "owl": 1, "dog": 9}))


def test_label_with_too_few_clips_for_the_splits_is_rejected(assign: Callable):
    message = (
        "label 'owl': too few clips to draw a val split; every split needs one, so record more, remove the label, or "
        "set data.val_fraction=0"
    )
    with pytest.raises(UserError, match=f"^{message}$"):
        assign(clips_of({"cat": 9, "owl": 2}))
    table = assign(clips_of({"cat": 9, "owl": 2}), val_fraction=0)
    assert counts(table, "test")["owl"] == counts(table, "train")["owl"] == 1


def test_labels_without_training_clips_are_rejected():
    clips = clips_of({"cat": 9}, split="train") + clips_of({"cat": 2, "owl": 3, "hen": 2}, split="test")
    with pytest.raises(UserError, match=r"^no training clips of 'hen', 'owl': all are in other splits$"):
        require_training_clips(clips)


def folds_of(clips: Sequence[Clip]) -> dict[str, list[Clip]]:
    return {name: [clip for clip in clips if clip.fold == name] for name in fold_names(clips)}


def test_drawn_folds_are_stratified(assign):
    folds = folds_of(assign(clips_of(COUNTS), folds=5, fold=1))
    assert [Counter(clip.label for clip in fold) for fold in folds.values()] == [{"cat": 20, "dog": 8, "owl": 2}] * 5
    assert [*folds] == ["1", "2", "3", "4", "5"]


def test_drawn_folds_do_not_depend_on_order_or_fold(assign):
    clips = clips_of(COUNTS)
    first, second = assign(clips, folds=4, fold=1), assign(clips[::-1], folds=4, fold=3)[::-1]
    assert [clip.fold for clip in first] == [clip.fold for clip in second]
    assert [clip.fold for clip in first] != [clip.fold for clip in assign(clips, folds=4, fold=1, split_seed=5)]


@pytest.mark.parametrize("seed", range(5))
def test_drawn_folds_are_group_disjoint_and_stratified(assign, seed):
    clips = grouped(seed)
    folds = folds_of(assign(clips, folds=5, fold=1))
    groups = [{clip.group for clip in fold} for fold in folds.values()]
    assert sum(map(len, groups)) == len({clip.group for clip in clips})
    for label, total in Counter(clip.label for clip in clips).items():
        shares = [sum(clip.label == label for clip in fold) / total for fold in folds.values()]
        assert max(shares) < 0.35
        assert min(shares) > 0.08


def test_every_fold_gets_a_group(assign):
    sizes = [50, 40, 1, 1]  # by size alone, the two small groups would be in the same fold
    clips = [Clip(f"{g}/{n}.wav", "ab"[n % 2], group=str(g)) for g, size in enumerate(sizes) for n in range(2 * size)]
    groups = {clip.fold: clip.group for clip in assign(clips, folds=4, fold=1, val_fraction=0)}
    assert sorted(groups.values()) == ["0", "1", "2", "3"]


def test_one_group_is_left_out(assign):
    clips = grouped(0, groups=4)
    assigned = assign(clips, folds="groups", fold="speaker2", val_fraction=0)
    assert {clip.group for clip in assigned if clip.split == "test"} == {"speaker2"}
    assert fold_names(assigned) == ["speaker0", "speaker1", "speaker2", "speaker3"]


def test_folds_replace_predefined_splits(assign):
    clips = clips_of(COUNTS, split="train")
    assigned = assign(clips, folds=3, fold=2, val_fraction=0)
    assert {clip.fold for clip in assigned if clip.split == "test"} == {"2"}
    with pytest.raises(UserError, match=r"data\.fold: missing; choose the fold to test on: 1, 2, 3"):
        assign(clips, folds=3)


@pytest.mark.parametrize(
    ("folds", "clips", "message"),
    [
        (11, clips_of(COUNTS), "data.folds=11: a class has 10 clips; at most 10 folds"),
        (5, grouped(0, groups=3), "data.folds=5: the clips are of 3 groups; at most 3 folds"),
        ("groups", clips_of(COUNTS), "data.folds=groups: cat/0.wav has no group; set data.group, or a column group"),
    ],
    ids=["clips", "groups", "no groups"],
)
def test_folds_that_cannot_be_drawn_are_rejected(assign, folds, clips, message):
    with pytest.raises(UserError) as error:
        assign(clips, folds=folds, fold=1)
    assert str(error.value) == message


def test_folds_are_in_the_order_of_their_numbers():
    assert fold_names([Clip("a", "a", fold=name) for name in ("10", "2", "b", "1", "a")]) == ["1", "2", "10", "a", "b"]


def test_memory_of_drawn_groups_is_not_that_of_groups_times_labels(assign):
    clips = [Clip(f"{number}.wav", f"species {number // 3}", group=str(number % 2250)) for number in range(9000)]
    tracemalloc.start()
    assigned = assign(clips, test_fraction=0.2, val_fraction=0.2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2250 * 3000 * 8 / 2
    splits: dict[str | None, set[str | None]] = {}
    for clip in assigned:
        splits.setdefault(clip.group, set()).add(clip.split)
    assert all(len(names) == 1 for names in splits.values())
    assert 0.15 < len([clip for clip in assigned if clip.split == "test"]) / len(clips) < 0.4


def label_sets(seed, clips=400, groups=0):
    """Clips of zero to three labels, some of them rare."""
    generator = np.random.default_rng(seed)
    table = []
    for number in range(clips):
        drawn = generator.random(6) < np.array([0.5, 0.3, 0.2, 0.1, 0.05, 0.03])
        group = f"place{generator.integers(groups)}" if groups else None
        table.append(Clip(f"{number}.wav", ";".join(np.array(list("abcdef"))[drawn]), group=group))
    return table


@pytest.mark.parametrize("groups", [0, 60])
@pytest.mark.parametrize("seed", range(3))
def test_splits_of_label_sets_have_their_share_of_each_class(source, tmp_path, seed, groups):
    settings = replace(source("folder", root=tmp_path), split_seed=seed, test_fraction=0.25)
    clips = assign_splits(label_sets(seed, groups=groups), settings, LABEL_SET)
    tested, others = ({c.group for c in clips if (c.split == "test") == is_test} for is_test in (True, False))
    assert not tested & others - {None}
    for name in ["", *"abcdef"]:
        own = [clip for clip in clips if name in (LABEL_SET.classes(clip.label) or [""])]
        share = sum(clip.split == "test" for clip in own) / len(own)
        assert share == pytest.approx(0.25, abs=0.02 + (0.15 if groups else 0.6 / len(own))), name


def test_folds_of_label_sets_have_their_share_of_each_class(source, tmp_path):
    clips = assign_folds(label_sets(0), replace(source("folder", root=tmp_path), folds=4), LABEL_SET)
    for name in ["", *"abcdef"]:
        counts = Counter(clip.fold for clip in clips if name in (LABEL_SET.classes(clip.label) or [""]))
        assert len(counts) == 4
        assert max(counts.values()) - min(counts.values()) <= max(2, 0.2 * counts.total()), name


def test_one_class_is_enough_for_label_sets():
    clips = [Clip("a.wav", "cat"), Clip("b.wav", ""), Clip("c.wav", "cat")]
    require_classes(clips, LABEL_SET)
    with pytest.raises(UserError, match="the dataset has no classes: all of its labels are empty"):
        require_classes([clips[1]], LABEL_SET)
