"""Which clips train, which choose the model, which test it."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence

import numpy as np

from spectrnn.data.clips import SPLITS, Clip, DataSource
from spectrnn.errors import UserError


def assign_splits(clips: Sequence[Clip], source: DataSource) -> list[Clip]:
    """Gives every clip a split.

    The dataset's own splits stay. With ``data.fold`` the fold's clips test and the rest train. Else a test part is drawn
    by `data.test_fraction`. A validation part is drawn from the training clips where none is given. What is drawn is
    seeded by `data.split_seed`, stratified by label, and shares no group with the rest. Clips are drawn by a hash of
    their place in the dataset: one that is added or taken away moves hardly any other.

    Args:
        clips: the clip table.
        source: the fractions, the fold and the seed.

    Returns:
        The table with `split` filled in.

    Raises:
        UserError: a part cannot be drawn as promised, or an unknown fold is asked for.
    """
    parts = _predefined_splits(clips, source)
    if parts is None:
        parts = np.full(len(clips), "train", dtype=object)
        _sample(clips, parts, "test", source.test_fraction, source.split_seed)
    if "val" not in parts:
        _sample(clips, parts, "val", source.val_fraction, source.split_seed + 1)
    return [clip._replace(split=part) for clip, part in zip(clips, parts, strict=True)]


def _predefined_splits(clips: Sequence[Clip], source: DataSource) -> np.ndarray | None:
    """The splits that the dataset or its folds determine."""
    folds = sorted({clip.fold for clip in clips if clip.fold is not None})
    if source.fold is not None:
        if str(source.fold) not in folds:
            known = f"its folds are {', '.join(folds)}" if folds else "this dataset has no folds"
            raise UserError(f"data.fold={source.fold}: no such fold; {known}")
        return np.array(["test" if clip.fold == str(source.fold) else "train" for clip in clips], dtype=object)
    given = [clip for clip in clips if clip.split is not None]
    if not given:
        if folds:
            raise UserError(
                f"data.fold: missing; this dataset has the folds {', '.join(folds)}, choose the one to test on"
            )
        return None
    if len(given) < len(clips):
        lacking = next(clip for clip in clips if clip.split is None)
        raise UserError(f"{lacking.path}: has no split, while {len(given)} other clips have one")
    return np.array([clip.split for clip in clips], dtype=object)


def _sample(clips: Sequence[Clip], parts: np.ndarray, name: str, fraction: float, seed: int) -> None:
    """Moves a fraction of the training clips to another part, in place."""
    rows = np.flatnonzero(parts == "train")
    if fraction == 0 or not len(rows):
        return
    members = [clips[int(row)] for row in rows]
    labels = np.array([clip.label for clip in members])
    if any(clip.group is not None for clip in members):
        groups = np.array([clip.group or f"\0{number}" for number, clip in enumerate(members)])
        chosen = _draw_groups(labels, groups, fraction, seed, name)
    else:
        chosen = _draw_clips(labels, _hash_scores(clips, seed)[rows], fraction, name)
    parts[rows[chosen]] = name


def _hash_scores(clips: Sequence[Clip], seed: int) -> np.ndarray:
    """A number for every clip, as good as drawn, that depends on the clip and the seed alone: uint64 (clips,)."""
    digests = (
        hashlib.sha256(f"{seed} {place}".encode("utf-8", "surrogateescape")).digest() for place in clip_keys(clips)
    )
    return np.array([int.from_bytes(digest[:8]) for digest in digests], dtype=np.uint64)


def clip_keys(clips: Sequence[Clip]) -> list[str]:
    """Where each clip lies in its dataset, wherever that lies: the path below the folder of all, and the part of it."""
    paths = [os.path.abspath(clip.path) for clip in clips]
    try:
        top = len(os.path.join(os.path.commonpath({os.path.dirname(path) for path in paths}), ""))
    except ValueError:  # on several drives
        top = 0
    return [
        f"{path[top:]} {clip.start} {clip.end}".replace(os.sep, "/") for path, clip in zip(paths, clips, strict=True)
    ]


def split_checksums(clips: Sequence[Clip]) -> dict[str, str]:
    """What tells later whether a split is still the same.

    Args:
        clips: the clip table, with its splits.

    Returns:
        For each split the number of its clips and, after a blank, 16 hex digits that depend on their places.
    """
    where = list(zip(clip_keys(clips), clips, strict=True))
    found = {}
    for part in SPLITS:
        members = sorted(place for place, clip in where if clip.split == part)
        digest = hashlib.sha256("\n".join(members).encode("utf-8", "surrogateescape")).hexdigest()
        found[part] = f"{len(members)} {digest[:16]}"
    return found


def _draw_clips(labels: np.ndarray, lots: np.ndarray, fraction: float, name: str) -> np.ndarray:
    """At least one clip of every label, and as near to the fraction as its count allows: those with the least lots."""
    chosen = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) < 2:
            raise UserError(
                f"label {str(label)!r}: too few clips to draw a {name} part; every split needs one, so record more, "
                f"leave the label out, or set data.{name}_fraction=0"
            )
        count = min(max(1, round(fraction * len(rows))), len(rows) - 1)
        chosen.append(rows[np.argsort(lots[rows], kind="stable")[:count]])
    return np.concatenate(chosen)


def _draw_groups(labels: np.ndarray, groups: np.ndarray, fraction: float, seed: int, name: str) -> np.ndarray:
    """Whole groups, in and out again in random order, wherever that brings each label's share nearer to the fraction.

    What scikit-learn has for this draws only fractions of 1 / n, and fails on small datasets.
    """
    names, group = np.unique(groups, return_inverse=True)
    classes, label = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise UserError(
            f"data.{name}_fraction: all clips are of one group, so no group-disjoint {name} part can be drawn"
        )
    share = np.zeros((len(names), len(classes)))  # of a label's clips that a group holds
    np.add.at(share, (group, label), 1)
    share /= share.sum(0)
    smallest = np.where(share > 0, share, 1).min(0)
    spread = (share > 0).sum(0) > 1  # a label that is all in one group stays where it is
    lacking = np.where(spread, np.maximum(fraction, smallest), 0)
    drawn = np.zeros(len(names), dtype=bool)
    for number in np.tile(np.random.default_rng(seed).permutation(len(names)), 3):
        toggled = lacking + (share[number] if drawn[number] else -share[number])
        if np.square(toggled).sum() < np.square(lacking).sum():
            lacking, drawn[number] = toggled, not drawn[number]
    if not drawn.any():
        raise UserError(f"data.{name}_fraction: groups are too large, so no group-disjoint {name} part can be drawn")
    return np.flatnonzero(drawn[group])


def require_classes(clips: Sequence[Clip]) -> None:
    """Refuses a table without two classes, or with a class of one clip."""
    counts = Counter(clip.label for clip in clips)
    if len(counts) < 2:
        raise UserError(
            f"the dataset has a single class ({', '.join(map(repr, counts))}); a classifier needs two or more"
        )
    for label, count in counts.items():
        if count == 1:
            raise UserError(f"label {label!r}: has one clip only; record more of them or leave the label out")


def require_training_clips(clips: Sequence[Clip]) -> None:
    """Refuses a table with splits in which some label never trains."""
    missing = sorted({clip.label for clip in clips} - {clip.label for clip in clips if clip.split == "train"})
    if missing:
        raise UserError(f"no training clips of {', '.join(map(repr, missing))}: all are in other splits")
