"""Smoothing and hysteresis, compared with a plain loop over the whole recording."""

import numpy as np
import pytest

from spectrnn.detection.events import Event, EventDetector, MovingAverage


def reference_average(probabilities, steps):
    before, after = (steps - 1) // 2, steps // 2
    return np.array([probabilities[max(0, i - before) : i + after + 1].mean(0) for i in range(len(probabilities))])


def reference_events(averages, spans, labels, thresholds, offset_ratio, min_event_seconds):
    """The events of a recording, class by class, in a loop."""
    events = []
    for index, threshold in enumerate(thresholds):
        current = None
        for step in range(len(averages) + 1):
            value = averages[step, index] if step < len(averages) else -np.inf
            if current is not None and value < threshold * offset_ratio:
                start, peak = current
                if spans[step - 1, 1] - start >= min_event_seconds:
                    events.append(Event(start, spans[step - 1, 1], labels[index], peak))
                current = None
            if step < len(averages) and (current is not None or value >= threshold):
                current = (spans[step, 0], value) if current is None else (current[0], max(current[1], value))
    return sorted(events, key=lambda event: (event.end, event.start))


def detect(detector, spans, probabilities, cuts=()):
    events = []
    for part, values in zip(np.split(spans, cuts), np.split(probabilities, cuts), strict=True):
        events += detector.push(part, values)
    return events + detector.finish()


def one_second_steps(count):
    return np.stack([np.arange(count), np.arange(count) + 1], axis=1).astype(float)


def random_recording(seed, steps=300, classes=3):
    """Spans and probabilities of a random walk, with steps of varying length."""
    generator = np.random.default_rng(seed)
    ends = generator.uniform(0.1, 0.5, steps).cumsum()
    spans = np.stack([np.append(0, ends[:-1]), ends], axis=1)
    return spans, 1 / (1 + np.exp(-generator.normal(size=(steps, classes)).cumsum(0)))


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("cuts", [[], [1], [3, 4, 17], range(1, 20)])
def test_moving_average_does_not_depend_on_blocks(steps, cuts):
    probabilities = np.random.default_rng(steps).random((20, 3))
    average = MovingAverage(steps)
    parts = [average.push(part) for part in np.split(probabilities, cuts)]
    parts.append(average.finish().reshape(-1, 3))
    assert np.concatenate(parts) == pytest.approx(reference_average(probabilities, steps))


@pytest.mark.parametrize("smoothing_windows", [1, 4])
@pytest.mark.parametrize("offset_ratio", [1.0, 0.8, 0.3])
@pytest.mark.parametrize("min_event_seconds", [0, 2])
def test_events_equal_a_loop_over_classes(smoothing_windows, offset_ratio, min_event_seconds):
    spans, probabilities = random_recording(smoothing_windows)
    settings = np.array([0.6, 0.75, np.inf]), offset_ratio, min_event_seconds
    detector = EventDetector(["x", "y", "z"], settings[0], smoothing_windows, *settings[1:])
    events = sorted(detect(detector, spans, probabilities, [1, 5, 64]), key=lambda event: (event.end, event.start))
    expected = reference_events(reference_average(probabilities, smoothing_windows), spans, "xyz", *settings)
    assert len(events) == len(expected) > 1
    for event, other in zip(events, expected, strict=True):
        assert event._replace(probability=0) == other._replace(probability=0)
        assert event.probability == pytest.approx(other.probability)


def test_event_starts_at_the_threshold_and_ends_below_the_offset():
    probabilities = np.array([0.1, 0.5, 0.8, 0.6, 0.9, 0.39, 0.5, 0.8, 0.2])[:, None]
    events = detect(EventDetector(["x"], np.array([0.8]), 1, 0.5, 0), one_second_steps(9), probabilities)
    assert events == [Event(2, 5, "x", 0.9), Event(7, 8, "x", 0.8)]


def test_short_events_are_dropped_and_the_recording_ends_all():
    probabilities = np.array([[0.9, 0], [0, 0.9], [0, 0.9], [0.9, 0], [0.9, 0.9]])
    detector = EventDetector(["x", "y"], np.array([0.5, 0.5]), 1, 1, 2)
    assert detect(detector, one_second_steps(5), probabilities) == [Event(1, 3, "y", 0.9), Event(3, 5, "x", 0.9)]
    assert detector.seconds == 5
    assert detector.finish() == []


def test_class_with_an_infinite_threshold_is_never_detected():
    detector = EventDetector(["x", "noise"], np.array([0.5, np.inf]), 1, 0.8, 0)
    assert [event.label for event in detect(detector, one_second_steps(4), np.ones((4, 2)))] == ["x"]


@pytest.mark.parametrize("cuts", [[1], [3, 4, 30], range(1, 60)])
def test_events_do_not_depend_on_blocks(cuts):
    probabilities = np.random.default_rng(0).random((60, 3))
    arguments = (["x", "y", "z"], np.array([0.6, 0.55, 0.7]), 3, 0.9, 2)
    whole = detect(EventDetector(*arguments), one_second_steps(60), probabilities)
    assert detect(EventDetector(*arguments), one_second_steps(60), probabilities, cuts) == whole


def test_onset_is_reported_once_when_the_event_is_long_enough():
    detector = EventDetector(["x", "y"], np.array([0.5, 0.5]), 1, 1, 2)
    probabilities = np.array([[0.9, 0.0], [0.9, 0.8], [0.9, 0.0], [0.0, 0.0], [0.9, 0.0], [0.7, 0.0]])
    onsets = []
    for span, row in zip(one_second_steps(6), probabilities, strict=True):
        detector.push(span[None], row[None])
        onsets.append(detector.new_onsets())
    assert onsets == [[], [Event(0, 2, "x", 0.9)], [], [], [], [Event(4, 6, "x", 0.9)]]


@pytest.mark.parametrize("smoothing_windows", [1, 2, 3, 8])
@pytest.mark.parametrize("offset_ratio", [1.0, 0.8, 0.3])
@pytest.mark.parametrize("min_event_seconds", [0, 0.4, 2])
def test_counts_at_many_thresholds_equal_those_of_single_detectors(smoothing_windows, offset_ratio, min_event_seconds):
    labels, settings = ["x", "y", "z"], (smoothing_windows, offset_ratio, min_event_seconds)
    spans, probabilities = random_recording(smoothing_windows)
    thresholds = np.append(probabilities[::30].ravel(), [0.05, 0.5, 0.9, 0.999, 1])  # some are reached exactly
    expected = []
    for threshold in thresholds:
        found = detect(EventDetector(labels, np.full(3, threshold), *settings), spans, probabilities)
        expected.append([sum(event.label == label for event in found) for label in labels])
    detector = EventDetector(labels, np.repeat(thresholds[:, None], 3, axis=1), *settings)
    cuts = [1, 5, 64, 65, 200]
    counts = detector.count(zip(np.split(spans, cuts), np.split(probabilities, cuts), strict=True))
    assert counts.tolist() == expected
    assert counts.any()
    assert detector.seconds == spans[-1, 1]


def test_a_higher_threshold_may_give_more_events():
    probabilities = np.array([0.9, 0.55, 0.9, 0.55, 0.9, 0.1])[:, None]
    detector = EventDetector(["x"], np.array([0.6, 0.8, 0.95])[:, None], 1, 0.8, 0)
    assert detector.count([(one_second_steps(6), probabilities)]).ravel().tolist() == [1, 3, 0]


def test_events_are_trimmed_at_both_ends_and_those_that_are_too_short_then_are_dropped():
    probabilities = np.array([[0], [1], [1], [1], [0], [1], [0], [1], [1]])
    whole = detect(EventDetector(["x"], np.array([0.5]), 1, 1, 0), one_second_steps(9), probabilities)
    assert [(event.start, event.end) for event in whole] == [(1, 4), (5, 6), (7, 9)]
    trimmed = detect(EventDetector(["x"], np.array([0.5]), 1, 1, 0.5, 0.75), one_second_steps(9), probabilities)
    assert [(event.start, event.end) for event in trimmed] == [(1.75, 3.25), (7.75, 8.25)]


def test_event_of_more_than_a_minute_counts_once_for_each_full_minute():
    probabilities = np.array([[1.0]] * 59 + [[0.0]] + [[1.0]] * 125)
    detector = EventDetector(["x"], np.array([0.5]), 1, 1, 0)
    assert detector.count([(one_second_steps(185), probabilities)]).tolist() == [3]
