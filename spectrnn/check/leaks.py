"""Leakage between splits."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from spectrnn.check.analysis import DatasetAnalysis, Issue, Level
from spectrnn.data.clips import Clip

Sets = Sequence[Sequence[int]]  # rows of clips

_TRAINING = {"train", "val"}  # splits


def leak_issues(analysis: DatasetAnalysis) -> list[Issue]:
    """Derives the issues about the same audio, group or recording in several splits, and about duplicates."""
    splits, labels = analysis.splits, [clip.label for clip in analysis.clips]

    def across(sets: Sets) -> Sets:
        return [rows for rows in sets if len({splits[row] for row in rows}) > 1]

    def issue(level: Level, kind: str, text: str, sets: Sets, marks: Sequence[str] = splits) -> Issue:
        return Issue(level, kind, text, len(sets), [_example(rows, analysis.names, marks) for rows in sets])

    issues = []
    for kind, content, sets in (
        ("duplicates", "identical samples", analysis.exact_duplicates),
        ("near-duplicates", "the same audio in another format, rate, level or padding", analysis.near_duplicates),
    ):
        text = f"sets of clips with {content}"
        mislabeled = [rows for rows in sets if len({labels[row] for row in rows}) > 1]
        within = [rows for rows in sets if len({splits[row] for row in rows}) == 1]
        issues += [
            issue("error", f"{kind} across splits", f"{text}, in more than one split", across(sets)),
            issue("error", f"{kind} with different labels", f"{text} and different labels", mislabeled, labels),
            issue("warning", kind, f"{text}, in one split", within),
        ]
    text = "pairs of clips with part of their audio in common, in different splits"
    issues += [issue("error", "overlaps across splits", text, across(analysis.overlaps)), *_group_issues(analysis)]
    segments, files = _shared_files(analysis)
    text = "pairs of overlapping segments of a file, in different splits"
    issues.append(issue("error", "overlapping segments across splits", text, segments))
    text = "files with segments (start, end) in different splits; a group column with the file name keeps them together"
    issues.append(issue("warning", "files across splits", text, files))
    group = "a group (data.group, or a group column)"
    text = f"recordings cut into clips in different splits, each of which begins as the previous one ends; add {group}"
    issues.append(issue("error", "cut recordings across splits", text, analysis.cut_recordings))
    text = f"series of numbered files in different splits; if a series is one recording or one speaker, add {group}"
    issues.append(issue("note", "numbered series across splits", text, analysis.numbered_series))
    text = "candidate pairs of near-duplicates that were not compared, as there are too many; fix those found and rerun"
    return [*issues, Issue("note", "unverified near-duplicates", text, analysis.unverified, [])]


def overlapping_segments(clips: Sequence[Clip]) -> list[list[int]]:
    """Returns the sets of two or more rows of clips that are overlapping segments of one file."""
    rows_by_path: dict[str, list[int]] = defaultdict(list)
    for row, clip in enumerate(clips):
        rows_by_path[clip.path].append(row)
    found = []
    for rows in rows_by_path.values():
        end = 0.0
        sets: list[list[int]] = []
        for row in sorted(rows, key=lambda row: clips[row].start):
            if sets and clips[row].start < end:
                sets[-1].append(row)
            else:
                sets.append([row])
            end = max(end, clips[row].end or np.inf)
        found += [rows for rows in sets if len(rows) > 1]
    return found


def _group_issues(analysis: DatasetAnalysis) -> list[Issue]:
    found: dict[str, set[str]] = defaultdict(set)
    for clip, split in zip(analysis.clips, analysis.splits, strict=True):
        if clip.group is not None:
            found[clip.group].add(split)
    kinds: tuple[tuple[Level, str, str, bool], ...] = (
        ("error", "groups across splits", "more than one split, so test metrics are too optimistic", False),
        ("note", "groups in training and validation", "both, so validation metrics are optimistic", True),
    )
    issues = []
    for level, kind, text, is_kind in kinds:
        shared = sorted(name for name, splits in found.items() if len(splits) > 1 and (splits == _TRAINING) is is_kind)
        examples = [f"{group!r}: {', '.join(sorted(found[group]))}" for group in shared]
        issues.append(Issue(level, kind, f"groups (of {len(found)}) with clips in {text}", len(shared), examples))
    return issues


def _shared_files(analysis: DatasetAnalysis) -> tuple[list[list[int]], list[list[int]]]:
    """Pairs of overlapping segments of a file in different splits, and files with other segments in several splits."""
    clips, splits = analysis.clips, analysis.splits
    rows_by_path: dict[str, list[int]] = defaultdict(list)
    for row, clip in enumerate(clips):
        rows_by_path[clip.path].append(row)
    overlapping: list[list[int]] = []
    disjoint: list[list[int]] = []
    for rows in rows_by_path.values():
        if len({splits[row] for row in rows}) > 1:
            rows.sort(key=lambda row: clips[row].start)
            pairs = [
                [first, second]
                for first, second in pairwise(rows)
                if splits[first] != splits[second] and clips[second].start < (clips[first].end or np.inf)
            ]
            overlapping += pairs
            disjoint += [] if pairs else [rows]
    return overlapping, disjoint


def _example(rows: Sequence[int], names: Sequence[str], marks: Sequence[str]) -> str:
    """Names two clips of a set with their marks (splits or labels), with different marks if possible."""
    first = sorted({marks[row]: row for row in reversed(rows)}.values())
    shown = [*first, *(row for row in rows if row not in first)][:2]
    more = f" and {len(rows) - 2} more" if len(rows) > 2 else ""
    return ", ".join(f"{names[row]} ({marks[row]})" for row in shown) + more
