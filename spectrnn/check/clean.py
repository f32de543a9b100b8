"""The manifest that a check leaves: without what cannot be used, each sound once, and nothing on both sides."""

import csv
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spectrnn.check.issues import components
from spectrnn.data.clips import SPLITS, Clip, DataSource
from spectrnn.data.splits import assign_splits, require_training_clips
from spectrnn.errors import UserError
from spectrnn.files import atomic_write

_PRIORITY = ("test", "val", "train")  # a sound in several splits stays in the first of these


class CleanTable(NamedTuple):
    """What a clean table holds.

    Attributes:
        clips: with their splits and groups.
        dropped: reason -> how many clips were left out for it.
    """

    clips: list[Clip]
    dropped: dict[str, int]


def clean_table(
    clips: Sequence[Clip],
    unusable: Sequence[int],
    duplicates: Sequence[Sequence[int]],
    kin: Sequence[Sequence[int]],
    source: DataSource,
) -> CleanTable:
    """A table that can be trusted.

    Of clips that hold the same recording one stays, none where their labels differ. Groups, and clips of one recording,
    lie in one split: where the dataset brings splits (or folds), clips of a group that is also in a later split of test,
    val, train are left out there; where it brings none, they are drawn as training draws them.

    Args:
        clips: the clip table as the source gives it.
        unusable: rows that are broken or silent.
        duplicates: sets of rows that hold the same recording.
        kin: further sets of rows that belong together, such as overlapping excerpts.
        source: for drawing splits.

    Raises:
        UserError: what is left cannot be split or trained on.
    """
    keep = np.ones(len(clips), dtype=bool)
    dropped: Counter[str] = Counter()

    def drop(rows: Sequence[int], reason: str) -> None:
        dropped[reason] += int(keep[list(rows)].sum())
        keep[list(rows)] = False

    drop(unusable, "broken or silent")
    grouped = _with_groups(clips, [*duplicates, *kin])
    for rows in duplicates:
        usable = sorted((row for row in rows if keep[row]), key=lambda row: (_rank(clips[row]), row))
        if len({clips[row].label for row in usable}) > 1:
            drop(usable, "duplicates with different labels")
        else:
            drop(usable[1:], "duplicates")
    drop(_rows_in_other_splits(grouped, keep), "of a group that is in another split")
    left = assign_splits([clip for clip, kept in zip(grouped, keep, strict=True) if kept], source)
    require_training_clips(left)
    return CleanTable(left, {reason: count for reason, count in dropped.items() if count})


def write_manifest(clips: Sequence[Clip], out: Path) -> None:
    """Writes a CSV that ``data=manifest`` reads, atomically; paths are relative to its folder.

    Raises:
        UserError: it cannot be written.
    """
    fields = ["path", "label", "split", "group"]
    fields += ["start", "end"] if any(clip.start or clip.end is not None for clip in clips) else []
    fields += ["fold"] if any(clip.fold is not None for clip in clips) else []
    folder = os.path.abspath(out.parent)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(out) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fields, extrasaction="ignore")
            writer.writeheader()
            for clip in clips:
                writer.writerow({**clip._asdict(), "path": os.path.relpath(os.path.abspath(clip.path), folder)})
    except (OSError, UnicodeEncodeError) as error:
        raise UserError(f"out={out}: cannot be written ({error})") from error


def _with_groups(clips: Sequence[Clip], sets: Sequence[Sequence[int]]) -> list[Clip]:
    """The clips with a group for all that belong together; groups with a clip in common become one."""
    members: dict[str, list[int]] = {}
    for row, clip in enumerate(clips):
        if clip.group is not None:
            members.setdefault(clip.group, []).append(row)
    result = list(clips)
    for number, rows in enumerate(components([*members.values(), *sets], len(clips))):
        known = sorted(group for group in {clips[row].group for row in rows} if group is not None)
        for row in rows:
            result[row] = clips[row]._replace(group=known[0] if known else f"same-{number}")
    return result


def _rows_in_other_splits(clips: Sequence[Clip], keep: np.ndarray) -> list[int]:
    """Rows whose group has clips in another of the splits or folds that the dataset brings, which goes first."""
    groups: dict[str, list[int]] = {}
    for row, clip in enumerate(clips):
        if clip.group is not None and keep[row] and (clip.split or clip.fold):
            groups.setdefault(clip.group, []).append(row)
    other = []
    for rows in groups.values():
        count = Counter((clips[row].split, clips[row].fold) for row in rows)
        chosen = min(rows, key=lambda row: (_rank(clips[row]), -count[clips[row].split, clips[row].fold]))
        side = (clips[chosen].split, clips[chosen].fold)
        other += [row for row in rows if (clips[row].split, clips[row].fold) != side]
    return other


def _rank(clip: Clip) -> int:
    return _PRIORITY.index(clip.split) if clip.split in SPLITS else len(_PRIORITY)
