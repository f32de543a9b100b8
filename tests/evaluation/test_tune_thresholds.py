"""Counting events and choosing thresholds, against the very detector that predictions use."""

import numpy as np
import pytest
import soundfile

from spectrnn.detection.events import EventDetector, MultiThresholdEventCounter
from spectrnn.errors import UserError
from spectrnn.evaluation.report.text import threshold_lines
from spectrnn.evaluation.tune_thresholds import (
    CANDIDATE_THRESHOLDS,
    ThresholdTuner,
    TuneThresholdsConfig,
    _curve,
    _lowest,
)
from spectrnn.inference.sliding_window import sliding_window_predict


def counted(spans, probabilities, threshold, smoothing_windows, offset_ratio, min_event_seconds):
    """The events of each class that a detector hears."""
    classes = probabilities.shape[1]
    detector = EventDetector(
        [*map(str, range(classes))], np.full(classes, threshold), smoothing_windows, offset_ratio, min_event_seconds
    )
    events = detector.push(spans, probabilities) + detector.finish()
    return [sum(event.label == str(index) for event in events) for index in range(classes)]


@pytest.mark.parametrize("smoothing_windows", [1, 2, 3, 8])
@pytest.mark.parametrize("offset_ratio", [1.0, 0.8, 0.3])
@pytest.mark.parametrize("min_event_seconds", [0, 0.4, 2])
def test_a_tally_counts_what_the_detector_hears(smoothing_windows, offset_ratio, min_event_seconds):
    generator = np.random.default_rng(smoothing_windows)
    steps = generator.uniform(0.1, 0.5, 300).cumsum()
    spans = np.stack([np.append(0, steps[:-1]), steps], axis=1)
    walk = generator.normal(size=(300, 3)).cumsum(0)
    probabilities = 1 / (1 + np.exp(-walk))
    thresholds = np.append(probabilities[::30].ravel(), [0.05, 0.5, 0.9, 0.999, 1])  # reached exactly, too
    tally = MultiThresholdEventCounter(thresholds, 3, smoothing_windows, offset_ratio, min_event_seconds)
    for cut in np.split(np.arange(300), [1, 5, 64, 65, 200]):
        tally.push(spans[cut], probabilities[cut])
    tally.finish()
    expected = [
        counted(spans, probabilities, t, smoothing_windows, offset_ratio, min_event_seconds) for t in thresholds
    ]
    assert tally.counts.tolist() == expected
    assert tally.counts.any()
    assert tally.seconds == steps[-1]


def test_events_may_be_more_at_a_higher_threshold():
    said = np.array([0.9, 0.55, 0.9, 0.55, 0.9, 0.1])[:, None]
    spans = np.stack([np.arange(6), np.arange(6) + 1], axis=1).astype(float)
    tally = MultiThresholdEventCounter(np.array([0.6, 0.8, 0.95]), 1, 1, 0.8, 0)
    tally.push(spans, said)
    tally.finish()
    assert tally.counts.ravel().tolist() == [1, 3, 0]
    assert _lowest(tally.counts[:, 0] <= 1) == (2, True)  # though the first one would do


@pytest.mark.parametrize(
    ("fine", "expected"),
    [([1, 1, 1], (0, True)), ([0, 1, 0, 1, 1], (3, True)), ([0, 0, 1], (2, True)), ([1, 1, 0], (2, False))],
)
def test_the_lowest_threshold_from_which_on_all_are_fine(fine, expected):
    assert _lowest(np.array(fine, bool)) == expected


def test_thresholds_that_are_tried():
    assert CANDIDATE_THRESHOLDS[0] == 0.5
    assert CANDIDATE_THRESHOLDS[-1] == 1
    assert (np.diff(CANDIDATE_THRESHOLDS) > 0).all()


def test_a_curve_keeps_what_changes():
    rate, recall = np.zeros(len(CANDIDATE_THRESHOLDS)), np.ones(len(CANDIDATE_THRESHOLDS))
    rate[:2], recall[5:] = 3, 0.5
    curve = _curve(rate, recall)
    assert curve == {
        "threshold": CANDIDATE_THRESHOLDS[[0, 2, 5]].tolist(),
        "max_false_alarms_per_hour": [3, 0, 0],
        "recall": [1, 1, 0.5],
    }


class Loudness:
    """A classifier of loud, quiet and silent windows at 100 Hz."""

    sample_rate, window, labels = 100, 100, ["loud", "quiet", "silent"]

    def probabilities(self, waveforms, batch_size):
        level = np.array([np.abs(wave).mean() for wave in waveforms])
        loud = np.clip(level * 2, 0, 1)
        return np.stack([loud, (1 - loud) * (level > 0.001), (1 - loud) * (level <= 0.001)], axis=1)


class Clips:
    """One batch of clips as `BucketedBatches` gives it."""

    rows = np.arange(3)

    def epoch(self):
        import torch

        from spectrnn.data.batches import Batch

        waveform = torch.zeros(3, 300)
        waveform[0], waveform[1, :200], waveform[2] = 0.45, 0.2, 0.02
        targets = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0]])
        yield Batch(waveform, torch.tensor([300, 200, 300]), targets, torch.arange(3))


@pytest.fixture
def night(tmp_path):
    """Two recordings of 90 s at 200 Hz, with bursts of all levels."""
    generator = np.random.default_rng(0)
    for name in ("one.wav", "two.flac"):
        level = np.repeat(generator.uniform(0, 0.5, 60), 300)
        soundfile.write(tmp_path / name, level, 200)
    return tmp_path


def searched(night, **changes):
    settings = {
        "negatives": [str(night)],
        "max_false_alarms_per_hour": 100.0,
        "window": None,
        "hop": 0.25,
        "smoothing_windows": 2,
        "offset_ratio": 0.9,
        "min_event_seconds": 0.5,
        "background": ["silent"],
    }
    return ThresholdTuner(TuneThresholdsConfig(**(settings | changes)), Loudness(), 16)


def test_the_chosen_threshold_is_the_lowest_at_which_the_detector_keeps_to_the_rate(night):
    from spectrnn.data.audio import iter_blocks

    search = searched(night)
    table = search.run(Clips())
    tuned_thresholds = search.tuned_thresholds
    assert tuned_thresholds.hours == pytest.approx(180 / 3600)
    assert (tuned_thresholds.window, tuned_thresholds.hop, tuned_thresholds.background) == (1.0, 0.25, ["silent"])
    scans = [
        [*sliding_window_predict(Loudness(), iter_blocks(night / name, 100), 1.0, 0.25, 16)]
        for name in ("one.wav", "two.flac")
    ]

    def heard(threshold):
        parts = [tuple(map(np.concatenate, zip(*parts, strict=True))) for parts in scans]
        return np.sum([counted(spans, said, threshold, 2, 0.9, 0.5) for spans, said in parts], axis=0)

    for index, label in enumerate(["loud", "quiet"]):
        position = CANDIDATE_THRESHOLDS.tolist().index(tuned_thresholds.thresholds[label])
        row = table["per_class"][label]
        assert row["max_false_alarms_per_hour"] == pytest.approx(heard(CANDIDATE_THRESHOLDS[position])[index] * 20)
        assert row["threshold"] == CANDIDATE_THRESHOLDS[position]
        assert row["reached"]
        assert all(
            heard(threshold)[index] <= 5 for threshold in CANDIDATE_THRESHOLDS[position::8]
        )  # 100 an hour, in 0.05 h
        assert position == 0 or heard(CANDIDATE_THRESHOLDS[position - 1])[index] > 5
    assert set(tuned_thresholds.thresholds) == {"loud", "quiet"}
    assert tuned_thresholds.thresholds["loud"] > 0.5


def test_recall_is_what_the_detector_hears_of_clips_in_silence(night):
    row = searched(night, max_false_alarms_per_hour=1e6).run(Clips())["per_class"]
    loud, quiet = row["loud"], row["quiet"]
    assert (loud["threshold"], loud["recall"], loud["others"]) == (0.5, 0.5, 0)  # 0.9 is heard, 0.4 is not
    assert (quiet["threshold"], quiet["recall"]) == (0.5, 1)
    assert quiet["others"] == 0.5  # the clip of 0.4; the edges of the other one are too short for an event
    curve = dict(zip(loud["curve"]["threshold"], loud["curve"]["recall"], strict=True))
    assert max(threshold for threshold, recall in curve.items() if recall) < 0.9 <= max(curve)


def test_a_rate_that_cannot_be_reached_or_shown_is_told(night, tmp_path, caplog):
    soundfile.write(tmp_path / "full.wav", np.full(2000, 0.9), 200)
    search = searched(night, negatives=[str(tmp_path / "full.wav")], max_false_alarms_per_hour=0)
    table = search.run(Clips())
    assert search.tuned_thresholds.thresholds["loud"] == 1
    assert not table["per_class"]["loud"]["reached"]
    assert "no threshold up to 1 keeps to 0 false alarms an hour for loud" in caplog.text
    assert "0.00278 h of negatives cannot show a rate of 0 an hour" in caplog.text
    assert any(line.startswith("  loud ") and line.endswith("(not reached)") for line in threshold_lines(table))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"hop": 2.0}, "hop=2.0: is longer than the window of 1 s"),
        ({"window": 0.5, "hop": 0.75}, "hop=0.75: is longer than the window of 0.5 s"),
        ({"background": ["silnt"]}, "background=[silnt]: 'silnt' is no label of the model; did you mean silent?"),
        ({"background": ["loud", "quiet", "silent"]}, "background=[loud, quiet, silent]: names all classes"),
        ({"negatives": ["/nowhere.wav"]}, "negatives: /nowhere.wav: no such file"),
    ],
)
def test_what_cannot_be_searched_ends_in_a_sentence(night, changes, told):
    with pytest.raises(UserError) as caught:
        searched(night, **changes)
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)
