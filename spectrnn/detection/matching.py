"""Matching of detected to true events by their starts and ends (Mesaros et al., 2016: Metrics for Polyphonic SED)."""

import math
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from spectrnn.detection.annotations import Annotation
from spectrnn.detection.events import Array, Event

ROUNDING = 1e-9  # s, as 1.2 - 1.0 is less than 0.2


def match_events(
    true: Sequence[Annotation], detected: Sequence[Event], collar: float, end_fraction: float | None
) -> list[tuple[int, int]]:
    """Matches as many events as possible, each with one at most.

    Two events match if their labels are equal, their starts differ by no more than the collar, and their ends by no
    more than the collar or a fraction of the length of the true event, whichever is larger.

    Args:
        true: True events of a recording.
        detected: Detected events of the recording.
        collar: Collar in s.
        end_fraction: Fraction of the length of the true event; None to not compare ends.

    Returns:
        Pairs of indices of a true and a detected event.
    """
    pairs: list[tuple[int, int]] = []
    collar += ROUNDING
    for label in sorted({event.label for event in true} & {event.label for event in detected}):
        rows = [index for index, event in enumerate(true) if event.label == label]
        columns = [index for index, event in enumerate(detected) if event.label == label]
        columns.sort(key=lambda index: detected[index].start)
        starts = [detected[column].start for column in columns]
        candidates = []
        for start, end, _ in map(true.__getitem__, rows):
            tolerance = math.inf if end_fraction is None else max(collar, end_fraction * (end - start) + ROUNDING)
            near = range(bisect_left(starts, start - collar), bisect_right(starts, start + collar))
            candidates.append([number for number in near if abs(detected[columns[number]].end - end) <= tolerance])
        pairs += [(rows[row], columns[number]) for row, number in maximum_matching(candidates)]
    return pairs


def unite(events: Iterable[Annotation]) -> list[Annotation]:
    """Returns events, sorted; those of one class that overlap or touch are one, and those without a length left out."""
    united: list[Annotation] = []
    last: dict[str, int] = {}  # index of the last event, by label
    for start, end, label in sorted(event for event in events if event.end > event.start):
        if label in last and start <= united[last[label]].end:
            before = united[last[label]]
            united[last[label]] = before._replace(end=max(before.end, end))
        else:
            last[label] = len(united)
            united.append(Annotation(start, end, label))
    return united


def match_intersections(
    true: Sequence[Annotation], detected: Sequence[Event], dtc: float, gtc: float
) -> tuple[list[int], list[int]]:
    """Finds the true events that are detected, and the false detections, by what they have in common.

    Source: Bilen et al., "A framework for the robust evaluation of sound event detection", 2020.

    Args:
        true: True events of a recording.
        detected: Detected events of the recording.
        dtc: Detection tolerance criterion: fraction of a detected event that is in true ones of its class, else it is
            false.
        gtc: Ground truth intersection criterion: fraction of a true event that is in detected ones that are not false.

    Returns:
        Indices of the true events that are detected, and of the detected events that are false.
    """
    common = np.zeros((len(true), len(detected)))
    for row, event in enumerate(true):
        for column, detection in enumerate(detected):
            if event.label == detection.label:
                common[row, column] = max(0.0, min(event.end, detection.end) - max(event.start, detection.start))
    lengths, detected_lengths = (np.array([event.end - event.start for event in events]) for events in (true, detected))
    is_valid = common.sum(0) >= dtc * detected_lengths - ROUNDING
    is_found = common[:, is_valid].sum(1) >= gtc * lengths - ROUNDING
    return np.flatnonzero(is_found).tolist(), np.flatnonzero(~is_valid).tolist()


def maximum_matching(candidates: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Returns the largest set of pairs (row, column) with a row or column in one pair at most (Kuhn, 1955).

    Args:
        candidates: Columns that each row may be paired with.
    """
    row_of: dict[int, int] = {}  # by column
    column_of: dict[int, int] = {}  # by row
    for first in range(len(candidates)):
        # Breadth first from a free row, over columns and the rows that they are paired with, to a free column.
        reached_from: dict[int, int] = {}
        pending = deque([first])
        free = None
        while pending and free is None:
            row = pending.popleft()
            for column in candidates[row]:
                if column not in reached_from:
                    reached_from[column] = row
                    if column not in row_of:
                        free = column
                        break
                    pending.append(row_of[column])
        while free is not None:  # back along the way, each row to the column that was found from it
            row = reached_from[free]
            before = column_of.get(row)
            row_of[free], column_of[row] = row, free
            free = before
    return sorted(column_of.items())


def scores(counts: Array) -> dict[str, Any]:
    """Returns events, detected, correct, precision, recall and F1 of the first three, (3,); None for 0 / 0."""
    true, detected, correct = map(int, counts)
    return {
        "events": true,
        "detected": detected,
        "correct": correct,
        "precision": correct / detected if detected else None,
        "recall": correct / true if true else None,
        "f1": 2 * correct / (true + detected) if true + detected else None,
    }
