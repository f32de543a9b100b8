"""Matching of detected to true events by their starts and ends (Mesaros et al., 2016: Metrics for Polyphonic SED)."""

import math
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from typing import Any

from spectrnn.detection.annotations import Annotation
from spectrnn.detection.events import Array, Event

_ROUNDING = 1e-9  # s, as 1.2 - 1.0 is less than 0.2


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
    collar += _ROUNDING
    for label in sorted({event.label for event in true} & {event.label for event in detected}):
        rows = [index for index, event in enumerate(true) if event.label == label]
        columns = [index for index, event in enumerate(detected) if event.label == label]
        columns.sort(key=lambda index: detected[index].start)
        starts = [detected[column].start for column in columns]
        candidates = []
        for start, end, _ in map(true.__getitem__, rows):
            tolerance = math.inf if end_fraction is None else max(collar, end_fraction * (end - start) + _ROUNDING)
            near = range(bisect_left(starts, start - collar), bisect_right(starts, start + collar))
            candidates.append([number for number in near if abs(detected[columns[number]].end - end) <= tolerance])
        pairs += [(rows[row], columns[number]) for row, number in maximum_matching(candidates)]
    return pairs


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
