"""Analysis of a dataset: measurements of its clips, sets of clips that belong together, and the type of issues."""

import copy
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from spectrnn.check.measure import ClipStats, measure_clips
from spectrnn.check.near_duplicates import Pair, connected_components, exact_duplicates, near_duplicates
from spectrnn.data.clips import Clip, DataSource, common_folder
from spectrnn.data.dataset import read_clips
from spectrnn.data.labels import ONE_LABEL, LabelFormat
from spectrnn.data.scan import Ignored
from spectrnn.data.splits import assign_splits, require_classes, require_training_clips
from spectrnn.errors import UserError

_MIN_STEPS = 8  # consecutive clips that are needed to recognize a cut recording
_MAX_SERIES = 512  # clips per series that are compared
_NEARBY = 6  # maximum distance in a series between clips that are compared
_SIGMAS = 3.0  # standard errors by which consecutive boundaries must be more similar than others

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Issue:
    """One kind of problem of a dataset.

    Args:
        level: Severity: an error prevents training or invalidates its metrics, a warning may do so, a note is
            informative.
        kind: Identifier of the kind in a few words, for programs that read the report.
        text: Description of what is counted, and a remedy if there is one.
        count: Number of affected clips, sets, groups or classes.
        examples: One line per affected item.
    """

    level: Level
    kind: str
    text: str
    count: int
    examples: Sequence[str]


@dataclass(frozen=True)
class DatasetAnalysis:
    """Analysis of a dataset. Sets and pairs of clips hold their rows in the table.

    Attributes:
        clips: Clip table, as the source returns it.
        classes: Classes that the label of each clip names.
        names: Short path of each clip, for messages.
        stats: Measurements of each clip.
        splits: Split of each clip; its fold, or ``all``, if the dataset cannot be split.
        split_errors: Reasons why the dataset cannot be used for training.
        exact_duplicates: Sets of clips with the same samples.
        near_duplicates: Sets of clips with the same audio, but not all with the same samples.
        overlaps: Pairs of clips of which one contains a part of the other.
        unverified: Number of candidate pairs that were not compared.
        cut_recordings: Numbered series in several splits that are one recording, cut into clips.
        numbered_series: Other numbered series in several splits.
        ignored: Files and folders that the source has passed over.
    """

    clips: Sequence[Clip]
    classes: Sequence[Sequence[str]]
    names: Sequence[str]
    stats: Sequence[ClipStats]
    splits: Sequence[str]
    split_errors: list[str]
    exact_duplicates: list[list[int]]
    near_duplicates: list[list[int]]
    overlaps: list[Pair]
    unverified: int
    cut_recordings: list[list[int]]
    numbered_series: list[list[int]]
    ignored: list[Ignored]


def analyze_dataset(source: DataSource, label_format: LabelFormat = ONE_LABEL) -> DatasetAnalysis:
    """Decodes and analyzes every clip of a dataset.

    Args:
        source: Data source; files that cannot be read are reported, whatever its ``on_error``.
        label_format: How the label of a clip names classes.

    Raises:
        UserError: The clip table cannot be read.
    """
    source = copy.copy(source)
    source.on_error = "skip"
    clips = read_clips(source, label_format)
    splits = [clip.split or clip.fold or "all" for clip in clips]
    split_errors: list[str] = []  # as training would report them
    try:
        assigned = assign_splits(clips, source, label_format)
        splits = [clip.split or "all" for clip in assigned]
        require_classes(clips, label_format)
        require_training_clips(assigned, label_format)
    except UserError as error:
        split_errors.append(str(error))
    stats = measure_clips(clips)
    exact = exact_duplicates(stats)
    duplicate = {row for rows in exact for row in rows[1:]}
    compared = [clip._replace(landmarks=clip.landmarks[:0]) if i in duplicate else clip for i, clip in enumerate(stats)]
    whole, overlaps, unverified = near_duplicates(clips, compared)
    matches = connected_components([*exact, *whole])
    known = set(map(tuple, exact))
    near = [rows for rows in matches if tuple(rows) not in known]
    covered = {row for rows in near for row in rows}
    cut, numbered = numbered_series(clips, stats, splits)
    return DatasetAnalysis(
        clips=clips,
        classes=[label_format.classes(clip.label) for clip in clips],
        names=_short_names(clips),
        stats=stats,
        splits=splits,
        split_errors=split_errors,
        exact_duplicates=[rows for rows in exact if rows[0] not in covered],
        near_duplicates=near,
        overlaps=overlaps,
        unverified=unverified,
        cut_recordings=cut,
        numbered_series=numbered,
        ignored=source.ignored,
    )


def numbered_series(
    clips: Sequence[Clip], stats: Sequence[ClipStats], splits: Sequence[str]
) -> tuple[list[list[int]], list[list[int]]]:
    """Finds clips without a group whose file names differ only in a running number, in more than one split.

    File names are only a hint. The content reveals a recording that was cut into clips: the end of a clip resembles the
    beginning of the next one more than it resembles the beginnings of others nearby. Arguments as the attributes of
    `DatasetAnalysis`.

    Returns:
        The series that are cut recordings, and the others: rows of the clips, in the order of their numbers.
    """
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for row, clip in enumerate(clips):
        match = re.fullmatch(r"(.*?)(\d+)", Path(clip.path).stem)
        whole_file = clip.end is None and not clip.start
        if match and match[1] and whole_file and clip.group is None and stats[row].error is None:
            found[f"{os.path.dirname(clip.path)}/{match[1]}"].append((int(match[2]), row))
    cut: list[list[int]] = []
    others: list[list[int]] = []
    for numbered in found.values():
        rows = [row for _, row in sorted(numbered)]
        if len({splits[row] for row in rows}) > 1:
            (cut if _is_contiguous([stats[row] for row in rows]) else others).append(rows)
    return cut, others


def _is_contiguous(series: Sequence[ClipStats]) -> bool:
    """Whether each clip begins as the previous one ends, compared with other clips nearby.

    Distant clips are ignored, since a session drifts: takes of a word, one after the other, are not contiguous.
    """
    series = series[:_MAX_SERIES]
    if len(series) <= _MIN_STEPS:
        return False
    start, end = np.stack([clip.boundary_levels for clip in series], axis=1)
    distance = np.abs(end[:, None] - start[None]).mean(2)  # dB, (clip, candidate for the next clip)
    offset = np.arange(len(series))[None] - np.arange(len(series))[:, None]
    consecutive = distance[offset == 1]
    nearby = distance[(np.abs(offset) <= _NEARBY) & (offset != 1) & (offset != 0)]
    return bool(consecutive.mean() < nearby.mean() - _SIGMAS * nearby.std() / np.sqrt(len(consecutive)))


def _short_names(clips: Sequence[Clip]) -> list[str]:
    """Paths relative to the common folder, with the time span of a clip that is part of a file."""
    root = common_folder(clip.path for clip in clips)
    names = (clip.path[len(root) :] for clip in clips)
    return [
        name if clip.end is None and not clip.start else f"{name} [{clip.start:g} to {clip.end or 'end'} s]"
        for name, clip in zip(names, clips, strict=True)
    ]
