"""The polyphonic sound detection score, exact for all thresholds.

Sources: Bilen et al., "A framework for the robust evaluation of sound event detection", 2020; Ebbers et al.,
"Threshold-independent evaluation of sound event detection scores", 2022.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from spectrnn.detection.annotations import Annotation
from spectrnn.detection.events import Array
from spectrnn.detection.matching import ROUNDING

_HOUR = 3600.0  # s


def psds(
    steps: Mapping[str, tuple[Array, Array]],
    true: Mapping[str, Sequence[Annotation]],
    labels: list[str],
    *,
    dtc: float,
    gtc: float,
    cttc: float,
    alpha_ct: float,
    alpha_st: float,
    max_efpr: float,
) -> float:
    """Computes the score: the mean fraction of events that are found, over the rate of false detections.

    Args:
        steps: Spans in s without gaps, (steps, 2), and probabilities (steps, classes), by recording.
        true: True events by recording, sorted; no two of a class overlap or touch, as `unite` returns them.
        labels: Names of the classes; those without events do not count.
        dtc: Detection tolerance criterion: fraction of a detected event that is in true ones of its class, else it is
            false.
        gtc: Ground truth intersection criterion: fraction of a true event that is in detected ones that are not false.
        cttc: Cross-trigger tolerance criterion: fraction of a false detection that is in true events of another class.
        alpha_ct: Weight of the number of those per hour of another class, whose mean over the other classes is added to
            the rate of false detections.
        alpha_st: Weight of the standard deviation over the classes, which is subtracted from the mean.
        max_efpr: Maximum rate of false detections per hour.
    """
    events = {
        label: [np.array([event[:2] for event in true[path] if event.label == label]).reshape(-1, 2) for path in steps]
        for label in labels
    }
    events = {label: bounds for label, bounds in events.items() if any(map(len, bounds))}
    edges = [np.append(spans[:, 0], spans[-1, 1]) for spans, _ in steps.values()]
    inside = {label: [*map(_seconds_inside, edges, bounds)] for label, bounds in events.items()}
    hours = sum(times[-1] for times in edges) / _HOUR
    others = max(1, len(events) - 1)
    cross_rates = {label: alpha_ct / others * _HOUR / np.diff(np.concatenate(events[label])).sum() for label in events}
    curves = []
    for label, bounds in events.items():
        found, false = [], []
        for number, (_, probabilities) in enumerate(steps.values()):
            first, after, thresholds = _runs(probabilities[:, labels.index(label)])
            start, end = edges[number][first], edges[number][after]
            common = {other: seconds[number][after] - seconds[number][first] for other, seconds in inside.items()}
            is_valid = common.pop(label) >= dtc * (end - start) - ROUNDING
            is_cross = {other: seconds >= cttc * (end - start) - ROUNDING for other, seconds in common.items()}
            rates = 1 / hours + sum(cross_rates[other] * is_cross[other] for other in is_cross)
            false.append(_changes(thresholds, rates * ~is_valid))
            found += _found(start[is_valid], end[is_valid], thresholds[is_valid], bounds[number], gtc)
        curves.append(_curve(np.concatenate(found), np.concatenate(false), sum(map(len, bounds))))
    rates = np.unique(np.concatenate([[max_efpr], *(rates for rates, _ in curves)]))
    rates = rates[rates <= max_efpr]
    fractions = np.stack([found[np.searchsorted(own, rates, "right") - 1] for own, found in curves])
    effective = (fractions.mean(0) - alpha_st * fractions.std(0)).clip(min=0)
    return float(np.diff(rates) @ effective[:-1]) / max_efpr


def _seconds_inside(times: Array, events: Array) -> Array:
    """Returns the seconds before each time (n,) that are in events of one class, (events, 2)."""
    if not len(events):
        return np.zeros(len(times))
    lengths = np.diff(events)[:, 0]
    ends = lengths.cumsum()
    return np.interp(times, events.ravel(), np.stack([ends - lengths, ends], 1).ravel())


def _runs(values: Array) -> tuple[Array, Array, Array]:
    """Finds the runs of steps, as long as possible, that reach a threshold.

    Returns:
        The first step of each, the step after its last, and for which thresholds it is such a run: up to the first, and
        above the second, (runs, 2).
    """
    before, after = _lower_before(values), len(values) - 1 - _lower_before(values[::-1])[::-1]
    _, rows = np.unique(np.stack([before, after], 1), axis=0, return_index=True)
    before, after = before[rows], after[rows]
    bordered = np.append(values, -1)  # is of the index -1, too
    return before + 1, after, np.stack([values[rows], np.maximum(bordered[before], bordered[after])], 1)


def _lower_before(values: Array) -> Array:
    """Returns the index of the last value before each one that is lower, (n,); -1 if there is none."""
    bordered = np.append(values, -1)  # is of the index -1, too
    found = np.arange(len(values)) - 1
    rows = np.arange(len(values))
    while len(rows := rows[bordered[found[rows]] >= values[rows]]):
        found[rows] = found[found[rows]]  # what is between the two is at least the second
    return found


def _changes(thresholds: Array, number: Array) -> Array:
    """Returns thresholds, and the changes of a number there, (2 n, 2).

    Args:
        thresholds: Range in which there are more: up to the first, and above the second, (n, 2).
        number: How many more, (n,).
    """
    return np.concatenate([np.stack([thresholds[:, 0], number], 1), np.stack([thresholds[:, 1], -number], 1)])


def _found(start: Array, end: Array, thresholds: Array, events: Array, gtc: float) -> list[Array]:
    """Returns the changes of the number of found events in a recording, as `_changes` does.

    Args:
        start, end: Bounds of the detections that are not false, in s, (detections,).
        thresholds: For which thresholds there is each, as of `_runs`, (detections, 2).
        events: Bounds of the true events in s, sorted, (events, 2).
        gtc: Fraction of an event that must be in detections.
    """
    # A detection contains a number of events, and cuts one at most with its start, and one with its end.
    first, after = np.searchsorted(events[:, 0], start), np.searchsorted(events[:, 1], end, "right")
    bordered = np.array([[-np.inf, -np.inf], *events, [np.inf, np.inf]])
    by_start = np.flatnonzero(bordered[first, 1] > start)
    by_end = np.flatnonzero((bordered[after + 1, 0] < end) & (after != first - 1))
    event = np.append(first[by_start] - 1, after[by_end])
    rows = np.append(by_start, by_end)
    common = np.minimum(end[rows], events[event, 1]) - np.maximum(start[rows], events[event, 0])
    # The seconds of each such event that are in detections, from the highest to the lowest threshold.
    threshold, change = _changes(thresholds[rows], common).T
    event = np.tile(event, 2)
    order = np.lexsort([-threshold, event])
    event, threshold, seconds = event[order], threshold[order], change[order].cumsum()  # 0 after each event
    is_last = _is_last(event) | _is_last(threshold)
    event, threshold, seconds = event[is_last], threshold[is_last], seconds[is_last]
    is_found = (seconds >= gtc * np.diff(events)[event, 0] - ROUNDING).astype(int)
    return [
        _changes(thresholds, (after - first).clip(min=0)),
        np.stack([threshold, np.diff(is_found, prepend=0)], 1),
    ]


def _is_last(values: Array) -> Array:
    """Whether a value differs from the next one, bool (n,)."""
    return np.append(values[1:] != values[:-1], [True])[: len(values)]


def _curve(found: Array, false: Array, count: int) -> tuple[Array, Array]:
    """Returns rates of false detections, ascending from 0, and the largest fraction of found events up to each.

    Args:
        found: Thresholds, and changes of the number of found events, (n, 2).
        false: Thresholds, and changes of the rate of false detections, (m, 2).
        count: Number of events.
    """
    changes = np.concatenate([np.insert(found, 2, 0, axis=1), np.insert(false, 1, 0, axis=1)])
    changes = changes[(changes[:, 0] >= 0) & changes[:, 1:].any(1)]  # there are no detections below 0
    threshold, numbers, rates = changes[np.argsort(-changes[:, 0])].T
    is_last = _is_last(threshold)
    numbers, rates = numbers.cumsum()[is_last], rates.cumsum()[is_last].clip(min=0)
    order = np.lexsort([numbers, rates])
    fractions = np.maximum.accumulate(np.append(0, numbers[order])) / count
    is_more = np.append(True, np.diff(fractions) > 0)
    return np.append(0, rates[order])[is_more], fractions[is_more]
