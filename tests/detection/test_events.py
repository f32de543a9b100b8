"""Smoothing and hysteresis, against a plain loop over the whole recording."""

import numpy as np
import pytest

from spectrnn.detection.events import Event, EventDetector, MovingAverage


def smoothed_by_hand(probabilities, steps):
    before, after = (steps - 1) // 2, steps // 2
    return np.array([probabilities[max(0, i - before) : i + after + 1].mean(0) for i in range(len(probabilities))])


def heard(detector, spans, probabilities, cuts=()):
    events = []
    for part, said in zip(np.split(spans, cuts), np.split(probabilities, cuts), strict=True):
        events += detector.push(part, said)
    return events + detector.finish()


def every_second(count):
    return np.stack([np.arange(count), np.arange(count) + 1], axis=1).astype(float)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("cuts", [[], [1], [3, 4, 17], range(1, 20)])
def test_smoothing_is_that_of_the_whole(steps, cuts):
    probabilities = np.random.default_rng(steps).random((20, 3))
    smoothed = MovingAverage(steps)
    parts = [smoothed.push(part) for part in np.split(probabilities, cuts)]
    parts.append(smoothed.finish().reshape(-1, 3))
    assert np.concatenate(parts) == pytest.approx(smoothed_by_hand(probabilities, steps))


def test_an_event_begins_at_the_threshold_and_ends_below_the_release():
    said = np.array([0.1, 0.5, 0.8, 0.6, 0.9, 0.39, 0.5, 0.8, 0.2])[:, None]
    events = heard(EventDetector(["x"], np.array([0.8]), 1, 0.5, 0), every_second(9), said)
    assert events == [Event(2, 5, "x", 0.9), Event(7, 8, "x", 0.8)]


def test_short_events_are_dropped_and_the_end_ends_all():
    said = np.array([[0.9, 0], [0, 0.9], [0, 0.9], [0.9, 0], [0.9, 0.9]])
    events = heard(EventDetector(["x", "y"], np.array([0.5, 0.5]), 1, 1, 2), every_second(5), said)
    assert events == [Event(1, 3, "y", 0.9), Event(3, 5, "x", 0.9)]


def test_a_class_that_is_no_event_is_never_heard():
    said = np.ones((4, 2))
    assert [
        e.label for e in heard(EventDetector(["x", "noise"], np.array([0.5, np.inf]), 1, 0.8, 0), every_second(4), said)
    ] == ["x"]


@pytest.mark.parametrize("cuts", [[1], [3, 4, 30], range(1, 60)])
def test_events_do_not_depend_on_how_the_recording_comes(cuts):
    said = np.random.default_rng(0).random((60, 3))
    detector = (["x", "y", "z"], np.array([0.6, 0.55, 0.7]), 3, 0.9, 2)
    whole = heard(EventDetector(*detector), every_second(60), said)
    assert heard(EventDetector(*detector), every_second(60), said, cuts) == whole


def test_an_event_that_lasts_is_told_of_once_and_when_it_is_long_enough():
    detector = EventDetector(["x", "y"], np.array([0.5, 0.5]), 1, 1, 2)
    said = np.array([[0.9, 0.0], [0.9, 0.8], [0.9, 0.0], [0.0, 0.0], [0.9, 0.0], [0.7, 0.0]])
    told = []
    for span, step in zip(every_second(6), said, strict=True):
        detector.push(span[None], step[None])
        told.append(detector.begun())
    assert told == [[], [Event(0, 2, "x", 0.9)], [], [], [], [Event(4, 6, "x", 0.9)]]
