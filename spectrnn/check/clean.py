"""The cleaned manifest: without unusable clips and duplicates, and without leakage between its splits."""

import csv
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spectrnn.check.near_duplicates import connected_components
from spectrnn.data.clips import SPLITS, Clip, DataSource
from spectrnn.data.labels import ONE_LABEL, LabelFormat
from spectrnn.data.splits import assign_splits, require_training_clips
from spectrnn.errors import UserError
from spectrnn.files import atomic_write

_PRIORITY = ("test", "val", "train")  # of several duplicates, the one in the first of these splits is kept


def clean_table(
    clips: Sequence[Clip],
    unusable: Sequence[int],
    duplicates: Sequence[Sequence[int]],
    related: Sequence[Sequence[int]],
    source: DataSource,
    label_format: LabelFormat = ONE_LABEL,
) -> tuple[list[Clip], dict[str, int]]:
    """Cleans a clip table.

    Of duplicates one clip is kept, or none if their labels differ. Groups and related clips are kept in one split: if
    the dataset has splits or folds, clips of a group that is also in an earlier split of test, val, train are dropped;
    if not, splits are drawn as for training.

    Args:
        clips: Clip table, as the source returns it.
        unusable: Rows of clips that are unreadable or silent.
        duplicates: Sets of rows with the same audio.
        related: Further sets of rows that belong together, such as overlapping excerpts.
        source: Data source, whose settings determine the splits.
        label_format: How the label of a clip names classes.

    Returns:
        The remaining clips with their splits and groups, and the number of dropped clips by reason.

    Raises:
        UserError: The remaining clips cannot be split or used for training.
    """
    keep = np.ones(len(clips), dtype=bool)
    dropped: Counter[str] = Counter()

    def drop(rows: Sequence[int], reason: str) -> None:
        dropped[reason] += int(keep[list(rows)].sum())
        keep[list(rows)] = False

    drop(unusable, "unreadable or silent")
    grouped = _with_groups(clips, [*duplicates, *related])
    for rows in duplicates:
        usable = sorted((row for row in rows if keep[row]), key=lambda row: (_rank(clips[row]), row))
        if len({clips[row].label for row in usable}) > 1:
            drop(usable, "duplicates with different labels")
        else:
            drop(usable[1:], "duplicates")
    drop(_rows_in_other_splits(grouped, keep), "of a group in another split")
    remaining = assign_splits([clip for clip, kept in zip(grouped, keep, strict=True) if kept], source, label_format)
    require_training_clips(remaining, label_format)
    return remaining, {reason: count for reason, count in dropped.items() if count}


def write_manifest(clips: Sequence[Clip], out: Path) -> None:
    """Writes a CSV file for ``data=manifest`` atomically; paths of local files are relative to its folder.

    Raises:
        UserError: The file cannot be written.
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
                path = clip.path if clip.copy else os.path.relpath(os.path.abspath(clip.path), folder)
                writer.writerow({**clip._asdict(), "path": path})
    except (OSError, UnicodeEncodeError) as error:
        raise UserError(f"out={out}: cannot be written ({error})") from error


def _with_groups(clips: Sequence[Clip], sets: Sequence[Sequence[int]]) -> list[Clip]:
    """Assigns one group to all clips that belong together; groups with common clips are merged."""
    members: dict[str, list[int]] = {}
    for row, clip in enumerate(clips):
        if clip.group is not None:
            members.setdefault(clip.group, []).append(row)
    result = list(clips)
    for number, rows in enumerate(connected_components([*members.values(), *sets])):
        groups = sorted(group for group in {clips[row].group for row in rows} if group is not None)
        for row in rows:
            result[row] = clips[row]._replace(group=groups[0] if groups else f"same-{number}")
    return result


def _rows_in_other_splits(clips: Sequence[Clip], keep: np.ndarray) -> list[int]:
    """Rows of clips outside the split (or fold) that is kept of their group; clips without either are ignored."""
    groups: dict[str, list[int]] = {}
    for row, clip in enumerate(clips):
        if clip.group is not None and keep[row] and (clip.split or clip.fold):
            groups.setdefault(clip.group, []).append(row)
    others = []
    for rows in groups.values():
        splits = {row: (clips[row].split, clips[row].fold) for row in rows}
        count = Counter(splits.values())
        chosen = min(rows, key=lambda row: (_rank(clips[row]), -count[splits[row]]))
        others += [row for row in rows if splits[row] != splits[chosen]]
    return others


def _rank(clip: Clip) -> int:
    return _PRIORITY.index(clip.split) if clip.split in SPLITS else len(_PRIORITY)
