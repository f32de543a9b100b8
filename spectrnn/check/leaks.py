"""What lies on both sides of a split: the same sound, the same group, the same recording."""

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from spectrnn.check.issues import Issue, Level
from spectrnn.check.measure import ClipStats
from spectrnn.check.near_duplicates import Pair
from spectrnn.data.clips import Clip

_FEWEST_STEPS = 8  # consecutive clips, from which on their edges say something
_LONGEST_SERIES = 512  # clips of a series that are looked at
_NEARBY = 6  # clips
_SIGMAS = 3.0  # by which consecutive edges must be more alike than others


def duplicates(
    clips: Sequence[Clip], names: Sequence[str], sides: Sequence[str], sets: Sequence[Sequence[int]], exact: bool
) -> list[Issue]:
    """The findings about sets of duplicates.

    Args:
        clips: the clip table.
        names: of the clips, for examples.
        sides: the split of each, or its fold.
        sets: rows that hold the same recording.
        exact: sample for sample, or in another format, rate, level or padding.
    """
    what = "the same samples" if exact else "the same recording (in another format, rate, level or padding)"
    kind = "duplicates" if exact else "near-duplicates"
    across = [rows for rows in sets if len({sides[row] for row in rows}) > 1]
    within = [rows for rows in sets if len({sides[row] for row in rows}) == 1]
    torn = [rows for rows in sets if len({clips[row].label for row in rows}) > 1]
    return [
        _sets(
            "error",
            f"{kind} across splits",
            f"sets of clips that hold {what} on both sides of a split",
            across,
            names,
            sides,
        ),
        _sets(
            "error",
            f"{kind} with different labels",
            f"sets of clips that hold {what} under different labels",
            torn,
            names,
            [clip.label for clip in clips],
        ),
        _sets("warning", kind, f"sets of clips that hold {what}, in one split", within, names, sides),
    ]


def overlaps(names: Sequence[str], sides: Sequence[str], pairs: Sequence[Pair]) -> Issue:
    """Clips of which a part is in a clip of another split."""
    across = [(pair.first, pair.second) for pair in pairs if sides[pair.first] != sides[pair.second]]
    return _sets(
        "error",
        "overlaps across splits",
        "pairs of clips that share a part of their sound across a split",
        across,
        names,
        sides,
    )


def groups(clips: Sequence[Clip], sides: Sequence[str]) -> Issue:
    """Groups in more than one split."""
    found: dict[str, set[str]] = defaultdict(set)
    for clip, side in zip(clips, sides, strict=True):
        if clip.group is not None:
            found[clip.group].add(side)
    shared = sorted(group for group, among in found.items() if len(among) > 1)
    examples = [f"{group!r}: {', '.join(sorted(found[group]))}" for group in shared]
    text = f"of {len(found)} groups, each in more than one split: what a model learns of them flatters its test"
    return Issue("error", "groups across splits", text, len(shared), examples)


def recordings(clips: Sequence[Clip], names: Sequence[str], sides: Sequence[str]) -> list[Issue]:
    """Files that a table cuts into clips (start, end), of which some are in another split."""
    by_file: dict[str, list[int]] = defaultdict(list)
    for number, clip in enumerate(clips):
        by_file[clip.path].append(number)
    shared = [rows for rows in by_file.values() if len({sides[row] for row in rows}) > 1]
    overlapping, apart = [], []
    for rows in shared:
        rows.sort(key=lambda row: clips[row].start)
        crossing = [
            [one, other]
            for one, other in pairwise(rows)
            if sides[one] != sides[other] and clips[other].start < (clips[one].end or np.inf)
        ]
        overlapping += crossing
        apart += [] if crossing else [rows]
    return [
        _sets(
            "error",
            "parts across splits",
            "pairs of overlapping parts of one file, in different splits",
            overlapping,
            names,
            sides,
        ),
        _sets(
            "warning",
            "files across splits",
            "files whose parts (start, end) lie in different splits; a group column with the file keeps them together",
            apart,
            names,
            sides,
        ),
    ]


def numbered_series(
    clips: Sequence[Clip], rows: Sequence[ClipStats], sides: Sequence[str]
) -> tuple[list[list[int]], list[list[int]]]:
    """Clips whose names differ in a running number alone, in more than one split, where no group is given.

    Names are a hint. A cut recording shows in the content: a clip ends as its successor begins, more than as the other
    clips of that name begin.

    Returns:
        Series that are cut recordings, and the others: sets of rows, each in the order of the numbers.
    """
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for number, clip in enumerate(clips):
        match = re.fullmatch(r"(.*?)(\d+)", Path(clip.path).stem)
        whole = clip.end is None and not clip.start
        if match and match[1] and whole and clip.group is None and rows[number].problem is None:
            found[f"{Path(clip.path).parent}/{match[1]}"].append((int(match[2]), number))
    cut: list[list[int]] = []
    named: list[list[int]] = []
    for numbered in found.values():
        members = [number for _, number in sorted(numbered)]
        if len({sides[number] for number in members}) > 1:
            (cut if _is_contiguous([rows[number] for number in members]) else named).append(members)
    return cut, named


def series_issues(
    names: Sequence[str], sides: Sequence[str], cut: Sequence[Sequence[int]], named: Sequence[Sequence[int]]
) -> list[Issue]:
    """The findings about `numbered_series`."""
    advice = "groups keep them together (data.group, or a group column)"
    return [
        _sets(
            "error",
            "cut recordings across splits",
            "recordings that seem cut into clips on both sides of a split "
            f"(each clip begins as the one before it ends); {advice}",
            cut,
            names,
            sides,
        ),
        _sets(
            "note",
            "series across splits",
            "series of names with running numbers on both sides of a split; "
            f"if a series is one recording or one person, {advice}",
            named,
            names,
            sides,
        ),
    ]


def _is_contiguous(rows: Sequence[ClipStats]) -> bool:
    """Whether clips begin as the one before them ends, held against other clips nearby in the series.

    Nearby, because a session drifts: takes of one word, recorded one after the other, are no cut recording.
    """
    rows = rows[:_LONGEST_SERIES]
    if len(rows) <= _FEWEST_STEPS:
        return False
    begin, end = (np.stack([row.edges[side] for row in rows]) for side in (0, 1))
    distance = np.abs(end[:, None] - begin[None]).mean(2)  # dB, (clip, candidate successor)
    ahead = np.arange(len(rows))[None] - np.arange(len(rows))[:, None]
    next_, nearby = distance[ahead == 1], distance[(np.abs(ahead) <= _NEARBY) & (ahead != 1) & (ahead != 0)]
    return bool(next_.mean() < nearby.mean() - _SIGMAS * nearby.std() / np.sqrt(len(next_)))


def _sets(
    level: Level, kind: str, text: str, sets: Sequence[Sequence[int]], names: Sequence[str], marks: Sequence[str]
) -> Issue:
    examples = []
    for rows in sets:
        # One clip of every mark first, so that an example shows what it is an example of
        first = sorted({marks[row]: row for row in reversed(rows)}.values())
        shown = [*first, *(row for row in rows if row not in first)][:2]
        more = f" and {len(rows) - 2} more" if len(rows) > 2 else ""
        examples.append(", ".join(f"{names[row]} ({marks[row]})" for row in shown) + more)
    return Issue(level, kind, text, len(sets), examples)
