"""Training, validation and test splits: predefined, or drawn stratified and group-disjoint."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spectrnn.data.clips import SPLITS, Clip, DataSource, common_folder
from spectrnn.data.labels import ONE_LABEL, LabelFormat
from spectrnn.errors import UserError
from spectrnn.messages import counted, preview

# Of fewer training groups, a disjoint validation split costs a large part, and its few groups say little.
MIN_TRAINING_GROUPS = 10


def assign_splits(clips: Sequence[Clip], source: DataSource, label_format: LabelFormat = ONE_LABEL) -> list[Clip]:
    """Assigns a split to every clip.

    Predefined splits are kept. With ``data.fold`` the clips of the fold are the test split and the others the training
    split; with ``data.fold=none`` all clips are the training split. Otherwise a test split of `data.test_fraction` is
    drawn. A validation split is drawn from the training clips if there is none. Drawn splits are seeded by
    `data.split_seed`, stratified by class, and group-disjoint, but for a validation split with `data.val_groups=shared`
    or, with auto, of few groups. Clips without groups, or of shared ones, are drawn by a hash of their key: adding or
    removing a clip moves hardly any other.

    Raises:
        UserError: A split that cannot be drawn, or an unknown fold.
    """
    splits = _predefined_splits(clips, source)
    if splits is None:
        splits = np.full(len(clips), "train", dtype=object)
        _sample(clips, splits, "test", source.test_fraction, source.split_seed, True, label_format)
    if "val" not in splits:
        training = [clip for clip, split in zip(clips, splits, strict=True) if split == "train"]
        is_disjoint = source.val_groups == "disjoint"
        if source.val_groups == "auto":
            is_disjoint = len({*_group_names(training)}) >= MIN_TRAINING_GROUPS
        _sample(clips, splits, "val", source.val_fraction, source.split_seed + 1, is_disjoint, label_format)
    return [clip._replace(split=split) for clip, split in zip(clips, splits, strict=True)]


def assign_folds(clips: Sequence[Clip], source: DataSource, label_format: LabelFormat = ONE_LABEL) -> list[Clip]:
    """Assigns the folds of `data.folds`: drawn, stratified by class and group-disjoint, or one per group.

    Clips without groups are drawn by a hash of their key, as splits are.

    Raises:
        UserError: Folds that cannot be drawn.
    """
    if source.folds is None:
        return list(clips)
    if source.folds == "groups":
        if missing := next((clip for clip in clips if clip.group is None), None):
            raise UserError(f"data.folds=groups: {missing.path} has no group; set data.group, or a column group")
        return [clip._replace(fold=clip.group) for clip in clips]
    pairs = _ClassPairs.of_clips(clips, label_format)
    if any(clip.group is not None for clip in clips):
        folds = _deal_groups(pairs, _group_names(clips), source.folds, source.split_seed)
    else:
        folds = _deal_clips(pairs, clip_scores(clips, source.split_seed), source.folds)
    return [clip._replace(fold=str(fold + 1)) for clip, fold in zip(clips, folds.tolist(), strict=True)]


def fold_names(clips: Sequence[Clip]) -> list[str]:
    """Returns the names of the folds of a clip table, numbers in their order."""
    names = {clip.fold for clip in clips if clip.fold is not None}
    return sorted(names, key=lambda name: (0, int(name), "") if name.isdecimal() else (1, 0, name))


class _ClassPairs(NamedTuple):
    """Pairs of a clip and a class that its label names; a clip of which nothing is named is of the class "".

    Attributes:
        clips: Index of the clip, ascending, int64 (pairs,).
        classes: Index of the class, int64 (pairs,).
        names: Names of the classes, sorted.
    """

    clips: np.ndarray
    classes: np.ndarray
    names: list[str]

    @classmethod
    def of_clips(cls, clips: Sequence[Clip], label_format: LabelFormat) -> "_ClassPairs":
        of_clips = [label_format.classes(clip.label) or [""] for clip in clips]
        names = sorted({name for found in of_clips for name in found})
        index = {name: number for number, name in enumerate(names)}
        numbers = np.array([index[name] for found in of_clips for name in found], dtype=np.int64)
        return cls(np.repeat(np.arange(len(clips)), [len(found) for found in of_clips]), numbers, names)

    def rarest(self) -> np.ndarray:
        """Returns the class of each clip that has the fewest clips, int64 (clips,)."""
        order = np.lexsort((self.classes, np.bincount(self.classes)[self.classes], self.clips))
        return self.classes[order][np.unique(self.clips[order], return_index=True)[1]]


def _deal_clips(pairs: _ClassPairs, scores: np.ndarray, count: int) -> np.ndarray:
    """Deals the clips of each class to the folds in turn, in the order of their scores, to (clips,).

    A clip of several classes is dealt with the rarest of them, as in iterative stratification (Sechidis et al., 2011).
    """
    if (smallest := np.bincount(pairs.classes).min()) < count:
        raise UserError(
            f"data.folds={count}: a class has {counted(smallest, 'clip')}; at most {counted(smallest, 'fold')}"
        )
    order = np.lexsort((scores, pairs.rarest()))
    folds = np.empty(len(scores), dtype=np.int64)
    folds[order] = np.arange(len(scores)) % count
    return folds


def _deal_groups(pairs: _ClassPairs, groups: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Deals whole groups, the largest first, each to the fold with the fewest clips of its classes, to (clips,).

    Not scikit-learn's StratifiedGroupKFold: the folds of a study must be the same in every version.
    """
    names, group = np.unique(groups, return_inverse=True)
    if len(names) < count:
        limit = f"at most {counted(len(names), 'fold')}"
        raise UserError(f"data.folds={count}: the clips are of {counted(len(names), 'group')}; {limit}")
    fractions = _ClassFractions(group, pairs)
    sizes = np.array([fractions.of_group(index).sum() for index in range(len(names))])
    content, folds = np.zeros((count, len(pairs.names))), np.empty(len(names), dtype=np.int64)
    shuffled = np.random.default_rng(seed).permutation(len(names))
    for number, index in enumerate(shuffled[np.argsort(-sizes[shuffled], kind="stable")].tolist()):
        # A fold may be empty if the rest of the groups is larger than its share: the last groups fill empty folds.
        empty = np.flatnonzero(~content.any(1))
        candidates = empty if len(names) - number <= len(empty) else np.arange(count)
        own = fractions.of_group(index)
        overlap = content[candidates] @ own
        folds[index] = candidates[np.lexsort((content[candidates].sum(1), overlap.round(12)))[0]]
        content[folds[index]] += own
    return folds[group]


class _ClassFractions:
    """Fractions of each class's clips that are in each group. Most are 0, so only the others are stored.

    Args:
        groups: Group of each clip, (clips,).
        pairs: Clips and classes.

    Attributes:
        classes: Class of each fraction, in the order of the groups.
        values: Fractions.
    """

    def __init__(self, groups: np.ndarray, pairs: _ClassPairs) -> None:
        clips = np.bincount(pairs.classes)
        self._size = len(clips)
        cells, counts = np.unique(groups[pairs.clips] * self._size + pairs.classes, return_counts=True)
        self.classes, self.values = cells % self._size, counts / clips[cells % self._size]
        self._starts = np.searchsorted(cells, np.arange(groups.max() + 2) * self._size)

    def of_group(self, group: int) -> np.ndarray:
        """Returns the fractions of all classes in a group, (classes,)."""
        fractions, own = np.zeros(self._size), slice(self._starts[group], self._starts[group + 1])
        fractions[self.classes[own]] = self.values[own]
        return fractions


def _group_names(clips: Sequence[Clip]) -> np.ndarray:
    """The group of each clip; a clip without a group is one of its own, (clips,)."""
    return np.array([clip.group or f"\0{number}" for number, clip in enumerate(clips)])


def clip_scores(clips: Sequence[Clip], seed: int) -> np.ndarray:
    """Returns a pseudo-random score per clip, from its key and the seed only, uint64 (clips,)."""
    keys = [f"{seed} {key}".encode("utf-8", "surrogateescape") for key in clip_keys(clips)]
    return np.array([int.from_bytes(hashlib.sha256(key).digest()[:8]) for key in keys], dtype=np.uint64)


def _predefined_splits(clips: Sequence[Clip], source: DataSource) -> np.ndarray | None:
    """The splits that the dataset or its folds define."""
    folds = fold_names(clips)
    if source.fold == "none":
        return np.full(len(clips), "train", dtype=object)
    if source.fold is not None:
        if str(source.fold) not in folds:
            known = f"its folds are {', '.join(folds)}" if folds else "this dataset has no folds"
            raise UserError(f"data.fold={source.fold}: no such fold; {known}")
        return np.array(["test" if clip.fold == str(source.fold) else "train" for clip in clips], dtype=object)
    count = sum(clip.split is not None for clip in clips)
    if not count or source.folds is not None:
        if folds:
            raise UserError(f"data.fold: missing; choose the fold to test on: {', '.join(folds)}")
        return None
    if count < len(clips):
        clip = next(clip for clip in clips if clip.split is None)
        raise UserError(f"{clip.path}: has no split, but {count} other clips have one")
    return np.array([clip.split for clip in clips], dtype=object)


def _sample(
    clips: Sequence[Clip],
    splits: np.ndarray,
    name: str,
    fraction: float,
    seed: int,
    is_disjoint: bool,
    label_format: LabelFormat,
) -> None:
    """Moves a fraction of the training clips, of whole groups if the split is to be disjoint, to it, in place."""
    rows = np.flatnonzero(splits == "train")
    if fraction == 0 or not len(rows):
        return
    members = [clips[int(row)] for row in rows]
    pairs = _ClassPairs.of_clips(members, label_format)
    if is_disjoint and any(clip.group is not None for clip in members):
        chosen = _draw_groups(pairs, _group_names(members), fraction, seed, name)
    else:
        chosen = _draw_clips(pairs, clip_scores(clips, seed)[rows], fraction, name)
    splits[rows[chosen]] = name


def clip_keys(clips: Sequence[Clip]) -> list[str]:
    """Returns a key per clip that does not depend on where the dataset is: its path in the common folder, and part."""
    paths = [clip.path if clip.copy else os.path.abspath(clip.path) for clip in clips]
    prefix = len(common_folder(paths))
    parts = [path[prefix:].replace(os.sep, "/") for path in paths]
    return [f"{part} {clip.start} {clip.end}" for part, clip in zip(parts, clips, strict=True)]


def split_checksums(clips: Sequence[Clip]) -> dict[str, str]:
    """Computes a checksum per split of a clip table, by which a later change is detected.

    Returns:
        For each split the number of its clips, a blank, and 16 hex digits that depend on the clips' keys.
    """
    keyed = list(zip(clip_keys(clips), clips, strict=True))
    checksums = {}
    for split in SPLITS:
        keys = sorted(key for key, clip in keyed if clip.split == split)
        digest = hashlib.sha256("\n".join(keys).encode("utf-8", "surrogateescape")).hexdigest()
        checksums[split] = f"{len(keys)} {digest[:16]}"
    return checksums


def _draw_clips(pairs: _ClassPairs, scores: np.ndarray, fraction: float, split: str) -> np.ndarray:
    """Draws the clips with the lowest scores: at least one of each class, and as close to the fraction as possible.

    Clips of several classes are drawn or not with the rarest of them first (Sechidis et al., "On the stratification of
    multi-label data", 2011).
    """
    counts = np.bincount(pairs.classes)
    order = np.lexsort((scores[pairs.clips], pairs.classes))
    members = np.split(pairs.clips[order], np.cumsum(counts)[:-1])
    drawn, decided = np.zeros(len(scores), bool), np.zeros(len(scores), bool)
    is_exclusive = len(pairs.clips) == len(scores)
    for index in np.argsort(counts, kind="stable").tolist():
        rows = members[index]
        if len(rows) < 2 and is_exclusive:
            raise UserError(
                f"label {pairs.names[index]!r}: too few clips to draw a {split} split; every split needs one, so "
                f"record more, remove the label, or set data.{split}_fraction=0"
            )
        wanted = min(max(1, round(fraction * len(rows))), len(rows) - 1) - drawn[rows].sum()
        drawn[rows[~decided[rows]][: max(0, wanted)]] = True
        decided[rows] = True
    return np.flatnonzero(drawn)


def _draw_groups(pairs: _ClassPairs, groups: np.ndarray, fraction: float, seed: int, name: str) -> np.ndarray:
    """Draws whole groups: toggles them in random order if that brings the classes' fractions closer to the target.

    scikit-learn's StratifiedGroupKFold supports only fractions of 1 / n, and fails on small datasets.
    """
    names, group = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        raise UserError(f"data.{name}_fraction: all clips are of one group, so no group-disjoint {name} split exists")
    fractions = _ClassFractions(group, pairs)
    smallest = np.ones(len(pairs.names))
    np.minimum.at(smallest, fractions.classes, fractions.values)
    is_divisible = np.bincount(fractions.classes) > 1  # a class with a single group remains in training
    missing = np.where(is_divisible, np.maximum(fraction, smallest), 0)
    drawn = np.zeros(len(names), dtype=bool)
    for index in np.tile(np.random.default_rng(seed).permutation(len(names)), 3):
        own = fractions.of_group(index)
        toggled = missing + (own if drawn[index] else -own)
        if np.square(toggled).sum() < np.square(missing).sum():
            missing, drawn[index] = toggled, not drawn[index]
    if not drawn.any():
        raise UserError(f"data.{name}_fraction: groups are too large, so no group-disjoint {name} split exists")
    return np.flatnonzero(drawn[group])


def require_classes(clips: Sequence[Clip], label_format: LabelFormat = ONE_LABEL) -> None:
    """Rejects a clip table with too few classes or, of one label per clip, an empty one or a class of a single clip."""
    if label_format is ONE_LABEL and (unlabelled := [clip.path for clip in clips if not clip.label]):
        which = counted(len(unlabelled), "clip has", "clips have")
        remedy = "null in data.labels leaves clips out, and task=multi_label trains with those in which nothing sounds"
        raise UserError(f"{which} an empty label, such as {unlabelled[0]}; {remedy}")
    counts = Counter(name for clip in clips for name in label_format.classes(clip.label))
    if not counts:
        raise UserError("the dataset has no classes: all of its labels are empty")
    if len(counts) < label_format.min_classes:
        names = ", ".join(map(repr, counts))
        raise UserError(f"the dataset has a single class ({names}); a classifier needs two or more")
    for label, count in counts.items():
        if count == 1 and label_format is ONE_LABEL:
            raise UserError(
                f"label {label!r}: has a single clip; record more, or leave it out by data.labels={{{label}: null}}"
            )


def require_training_clips(clips: Sequence[Clip], label_format: LabelFormat = ONE_LABEL) -> None:
    """Rejects a clip table with a class that has no training clips."""
    everywhere, training = (
        {name for clip in clips if clip.split in splits for name in label_format.classes(clip.label)}
        for splits in ((None, *SPLITS), ("train",))
    )
    missing = sorted(everywhere - training)
    if missing:
        raise UserError(f"no training clips of {preview(list(map(repr, missing)), 5)}: all are in other splits")
