"""Matching of detected to true events: cases worked out by hand, and an exhaustive search."""

from itertools import permutations

import numpy as np
import pytest

from spectrnn.detection.annotations import Annotation
from spectrnn.detection.events import Event
from spectrnn.detection.matching import match_events, match_intersections, maximum_matching, scores, unite


@pytest.mark.parametrize(
    ("true", "detected", "is_match"),
    [
        ((1.0, 2.0), (1.2, 2.2), True),  # each by the collar
        ((1.0, 2.0), (0.8, 1.8), True),
        ((1.0, 2.0), (1.21, 2.0), False),
        ((1.0, 2.0), (1.0, 2.21), False),  # the end by more than 0.2 s, and a fifth of the length
        ((1.0, 5.0), (1.0, 5.8), True),  # a fifth of 4 s
        ((1.0, 5.0), (1.0, 5.81), False),
        ((1.0, 5.0), (1.21, 5.0), False),  # the start has no such tolerance
        ((1.0, 1.1), (1.0, 1.3), True),  # a fifth of the length is less than the collar
    ],
)
def test_events_match_within_the_collar_and_a_fraction_of_the_length(true, detected, is_match):
    pairs = match_events([Annotation(*true, "a")], [Event(*detected, "a", 1)], 0.2, 0.2)
    assert pairs == ([(0, 0)] if is_match else [])
    assert match_events([Annotation(*true, "a")], [Event(*detected, "b", 1)], 0.2, 0.2) == []


def test_ends_need_not_match():
    assert match_events([Annotation(1, 2, "a")], [Event(1, 9, "a", 1)], 0.2, None) == [(0, 0)]


def test_counts_of_a_recording():
    """Two of three events of a, none of b, and a second detection of an event, which is false."""
    true = [Annotation(0, 1, "a"), Annotation(3, 4, "a"), Annotation(6, 7, "a"), Annotation(3, 4, "b")]
    detected = [Event(0.1, 1, "a", 1), Event(0.15, 1, "a", 1), Event(3.1, 4.1, "a", 1), Event(6.5, 7, "a", 1)]
    pairs = match_events(true, detected, 0.2, 0.2)
    assert sorted(true for true, _ in pairs) == [0, 1]
    found = scores(np.array([len(true), len(detected), len(pairs)]))
    assert found == {"events": 4, "detected": 4, "correct": 2, "precision": 0.5, "recall": 0.5, "f1": 0.5}


def test_events_are_detected_by_what_they_have_in_common():
    """Two detections share an event, one contains two events, one is half outside, and one is of another class."""
    true = [Annotation(0, 10, "a"), Annotation(20, 24, "a"), Annotation(25, 29, "a"), Annotation(40, 44, "a")]
    detected = [Event(0, 4, "a", 1), Event(6, 10, "a", 1), Event(20, 29, "a", 1), Event(42, 46, "a", 1)]
    detected.append(Event(40, 44, "b", 1))
    assert match_intersections(true, detected, 0.7, 0.7) == ([0, 1, 2], [3, 4])
    assert match_intersections(true, detected, 0.9, 0.7) == ([0], [2, 3, 4])  # 8 of 9 s are in true events
    assert match_intersections(true, detected, 0.5, 0.5) == ([0, 1, 2, 3], [4])
    assert match_intersections(true, detected, 0.7, 0.9) == ([1, 2], [3, 4])
    assert match_intersections([], detected[:1], 0.7, 0.7) == ([], [0])
    assert match_intersections(true[:1], [], 0.7, 0.7) == ([], [])


def test_events_that_overlap_or_touch_are_one_by_intersection():
    """Of one class only; of events without a length no part can be in others."""
    true = [Annotation(3, 4, "a"), Annotation(0, 5, "a"), Annotation(5, 6, "a"), Annotation(6, 7, "b")]
    true += [Annotation(2, 3, "b"), Annotation(2.5, 4, "b"), Annotation(8, 8, "a"), Annotation(8, 9, "a")]
    united = [Annotation(0, 6, "a"), Annotation(2, 4, "b"), Annotation(6, 7, "b"), Annotation(8, 9, "a")]
    assert unite(true) == united
    assert unite([Annotation(1, 1, "a")]) == []
    assert match_intersections(united, [Event(1.5, 4.5, "b", 1)], 0.7, 0.7) == ([], [0])  # 2 of 3 s, counted once


def test_undefined_scores_are_none():
    assert scores(np.array([2, 0, 0])) == {
        "events": 2,
        "detected": 0,
        "correct": 0,
        "precision": None,
        "recall": 0,
        "f1": 0,
    }
    assert scores(np.array([0, 0, 0]))["f1"] is None


def test_as_many_events_as_possible_are_matched():
    true = [Annotation(1.0, 2, "a"), Annotation(1.3, 2, "a")]
    detected = [Event(1.2, 2, "a", 1), Event(0.9, 2, "a", 1)]  # the first could take either, the second only one
    assert match_events(true, detected, 0.2, None) == [(0, 1), (1, 0)]


@pytest.mark.parametrize("seed", range(30))
def test_matching_is_as_large_as_the_best_of_all(seed):
    generator = np.random.default_rng(seed)
    is_match = generator.random(tuple(generator.integers(1, 6, 2))) < generator.uniform(0.1, 0.7)
    pairs = maximum_matching([np.flatnonzero(row).tolist() for row in is_match])
    assert all(is_match[pair] for pair in pairs)
    assert all(len({pair[axis] for pair in pairs}) == len(pairs) for axis in (0, 1))
    wide = is_match if is_match.shape[0] <= is_match.shape[1] else is_match.T
    orders = permutations(range(wide.shape[1]), len(wide))
    assert len(pairs) == max(wide[np.arange(len(wide)), list(columns)].sum() for columns in orders)


def test_long_chain_of_events():
    starts = 0.15 * np.arange(3000)
    true = [Annotation(start, start + 0.1, "a") for start in starts]
    detected = [Event(start + 0.14, start + 0.2, "a", 1) for start in starts]
    assert len(match_events(true, detected, 0.2, None)) == 3000
