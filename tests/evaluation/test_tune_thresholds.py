"""Threshold tuning, compared with the event detector that predictions use."""

from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from spectrnn.data.audio import iter_blocks
from spectrnn.data.batches import Batch
from spectrnn.detection.events import EventDetector
from spectrnn.errors import UserError
from spectrnn.evaluation.report.text import thresholds_report
from spectrnn.evaluation.tune_thresholds import (
    ThresholdTuner,
    TuneThresholdsConfig,
    _curve,
    _first_feasible,
    candidate_thresholds,
)
from spectrnn.inference.sliding_window import sliding_window_predict
from spectrnn.model.task import SingleLabel

CANDIDATE_THRESHOLDS = candidate_thresholds(0.0)


@pytest.mark.parametrize(
    ("feasible", "expected"),
    [([1, 1, 1], (0, True)), ([0, 1, 0, 1, 1], (3, True)), ([0, 0, 1], (2, True)), ([1, 1, 0], (2, False))],
)
def test_all_thresholds_from_the_first_feasible_one_on_are_feasible(feasible, expected):
    assert _first_feasible(np.array(feasible, bool)) == expected


@pytest.mark.parametrize(("logit", "lowest"), [(0.0, 0.5), (-9.0, 0.000123)])
def test_candidates_ascend_to_one(logit, lowest):
    thresholds = candidate_thresholds(logit)
    assert (thresholds[0], thresholds[-1]) == (lowest, 1)
    assert (np.diff(thresholds) > 0).all()


def test_curve_contains_the_changes():
    rate, recall = np.zeros(len(CANDIDATE_THRESHOLDS)), np.ones(len(CANDIDATE_THRESHOLDS))
    rate[:2], recall[5:] = 3, 0.5
    assert _curve(CANDIDATE_THRESHOLDS, rate, recall) == {
        "threshold": CANDIDATE_THRESHOLDS[[0, 2, 5]].tolist(),
        "false_alarms_per_hour": [3, 0, 0],
        "recall": [1, 1, 0.5],
    }


class LoudnessPredictor:
    """Predicts the loudness of windows at 100 Hz: loud, quiet or silent."""

    sample_rate, window, labels, thresholds = 100, 100, ["loud", "quiet", "silent"], None
    has_frames, frame_seconds, step_thresholds = False, None, None
    classifier = SimpleNamespace(task=SingleLabel(3, label_smoothing=0.0, class_weights="none"))

    def probabilities(self, waveforms, batch_size):
        level = np.array([np.abs(wave).mean() for wave in waveforms])
        loud = np.clip(level * 2, 0, 1)
        return np.stack([loud, (1 - loud) * (level > 0.001), (1 - loud) * (level <= 0.001)], axis=1)


class ThreeClips:
    """Batches of three clips with levels 0.9, 0.4 (both loud) and 0.04 (quiet), as `BucketedBatches`."""

    rows = np.arange(3)

    def epoch(self):
        waveform = torch.zeros(3, 300)
        waveform[0], waveform[1, :200], waveform[2] = 0.45, 0.2, 0.02
        yield Batch(waveform, torch.tensor([300, 200, 300]), torch.tensor([0, 0, 1]), torch.arange(3), torch.ones(3))


@pytest.fixture
def recordings(tmp_path):
    """Folder of two recordings of 90 s at 200 Hz, with bursts of all levels."""
    generator = np.random.default_rng(0)
    for name in ("one.wav", "two.flac"):
        level = np.repeat(generator.uniform(0, 0.5, 60), 300)
        soundfile.write(tmp_path / name, level, 200)
    return tmp_path


def make_tuner(recordings, predictor=None, **changes):
    settings = {
        "data": {},
        "run": "latest",
        "split": "test",
        "out": None,
        "report_max_mb": 30.0,
        "batch_size": 16,
        "device": "cpu",
        "trust": [],
        "negatives": [str(recordings)],
        "max_false_alarms_per_hour": 100.0,
        "window": None,
        "hop": 0.25,
        "smoothing_windows": 2,
        "offset_ratio": 0.9,
        "min_event_seconds": 0.5,
        "background": ["silent"],
    }
    return ThresholdTuner(TuneThresholdsConfig(**(settings | changes)), predictor or LoudnessPredictor())


def test_threshold_is_the_lowest_from_which_on_the_detector_meets_the_rate(recordings):
    tuned, result = make_tuner(recordings).run(ThreeClips())
    assert tuned.hours == pytest.approx(180 / 3600)
    assert (tuned.window, tuned.hop, tuned.background) == (1.0, 0.25, ["silent"])
    assert (tuned.smoothing_windows, tuned.offset_ratio, tuned.min_event_seconds) == (2, 0.9, 0.5)
    assert {name: value for name, value in result.items() if name != "per_class"} == {
        name: value for name, value in vars(tuned).items() if name != "by_label"
    }
    scans = [
        [*sliding_window_predict(LoudnessPredictor(), iter_blocks(recordings / name, 100), 1.0, 0.25, 16)]
        for name in ("one.wav", "two.flac")
    ]

    def count_events(threshold, label):
        events = []
        for scan in scans:
            detector = EventDetector(LoudnessPredictor.labels, np.full(3, threshold), 2, 0.9, 0.5)
            events += [event for windows in scan for event in detector.push(*windows)] + detector.finish()
        return sum(event.label == label for event in events)

    for label in ("loud", "quiet"):
        row = result["per_class"][label]
        assert row["threshold"] == tuned.by_label[label]
        assert row["false_alarms_per_hour"] == pytest.approx(count_events(row["threshold"], label) * 20)
        assert row["reached"]
        position = CANDIDATE_THRESHOLDS.tolist().index(row["threshold"])
        # 5 events in 0.05 h are 100 per hour.
        assert all(count_events(threshold, label) <= 5 for threshold in CANDIDATE_THRESHOLDS[position::8])
        assert position == 0 or count_events(CANDIDATE_THRESHOLDS[position - 1], label) > 5
    assert tuned.by_label.keys() == {"loud", "quiet"}
    assert tuned.by_label["loud"] > 0.5


def test_recall_is_the_fraction_of_clips_that_are_detected_in_silence(recordings):
    _, result = make_tuner(recordings, max_false_alarms_per_hour=1e6).run(ThreeClips())
    loud, quiet = result["per_class"]["loud"], result["per_class"]["quiet"]
    assert (loud["threshold"], loud["recall"], loud["confusion_rate"]) == (0.5, 0.5, 0)  # level 0.9, but not 0.4
    assert (quiet["threshold"], quiet["recall"]) == (0.5, 1)
    assert quiet["confusion_rate"] == 0.5  # level 0.4; the edges of the other clip are too short for an event
    curve = dict(zip(loud["curve"]["threshold"], loud["curve"]["recall"], strict=True))
    assert max(threshold for threshold, recall in curve.items() if recall) < 0.9 <= max(curve)


class RareSounds(LoudnessPredictor):
    """Predicts the same classes, each on its own, and none with a probability of more than 0.1."""

    thresholds = np.full(3, 0.5)

    def probabilities(self, waveforms, batch_size):
        return 0.1 * super().probabilities(waveforms, batch_size)


def test_low_thresholds_are_tried_for_classes_that_do_not_exclude_each_other(tmp_path):
    soundfile.write(tmp_path / "quiet.wav", np.full(2000, 0.1), 200)
    tuner = make_tuner(tmp_path, negatives=[str(tmp_path)], predictor=RareSounds(), max_false_alarms_per_hour=0)
    tuned, result = tuner.run(ThreeClips())
    assert 0.02 < tuned.by_label["loud"] < 0.022  # the loudness of the recording, 0.2, is the limit
    assert result["per_class"]["loud"]["recall"] == 1


def test_false_alarms_and_misses_are_those_at_the_chosen_thresholds(recordings):
    tuner = make_tuner(recordings)
    tuned, result = tuner.run(ThreeClips())
    alarms = tuner.false_alarms(tuned.as_array(tuner.labels))
    for label, row in result["per_class"].items():
        own = [alarm.event.probability for alarm in alarms if alarm.event.label == label]
        assert len(own) == pytest.approx(row["false_alarms_per_hour"] * tuned.hours)
        assert min(own, default=1) >= row["threshold"]
        missed = [miss for miss in tuner.misses if miss.label == label]
        clips = {"loud": 2, "quiet": 1}[label]
        assert 1 - len(missed) / clips == row["recall"]
        assert all(miss.detected_at is None or miss.detected_at < row["threshold"] for miss in missed)
    assert {alarm.path for alarm in alarms} <= {str(recordings / name) for name in ("one.wav", "two.flac")}


def test_target_that_is_not_reached_or_cannot_be_verified_is_reported(recordings, tmp_path, caplog):
    soundfile.write(tmp_path / "full.wav", np.full(2000, 0.9), 200)
    tuner = make_tuner(recordings, negatives=[str(tmp_path / "full.wav")], max_false_alarms_per_hour=0)
    tuned, result = tuner.run(ThreeClips())
    assert tuned.by_label["loud"] == 1
    assert not result["per_class"]["loud"]["reached"]
    assert "no threshold up to 1 reaches 0 false alarms per hour for loud" in caplog.messages
    assert (
        "0.00278 h of negatives are too short to verify 0 false alarms per hour: "
        "even with no detection in them, up to 1.1e+03 per hour are possible (95 % confidence)"
    ) in caplog.messages
    lines = thresholds_report(result).splitlines()
    assert lines[0] == "thresholds for at most 0 false alarms per hour and class, in 0.00 h of negatives"
    assert lines[3].startswith("loud ")
    assert lines[3].endswith(" 360.00 (target not reached)")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hop": 2.0}, "hop=2: longer than the window of 1 s, so audio would be skipped"),
        ({"window": 0.5, "hop": 0.75}, "hop=0.75: longer than the window of 0.5 s, so audio would be skipped"),
        ({"background": ["silnt"]}, "background: the model has no label 'silnt'; did you mean silent?"),
        (
            {"background": ["loud", "quiet", "silent"]},
            "background: covers every label with a threshold, so nothing could be detected",
        ),
        ({"negatives": ["/nowhere.wav"]}, "negatives: /nowhere.wav: no such file"),
        ({"negatives": []}, "negatives: missing; name recordings without any event"),
    ],
)
def test_invalid_settings_are_reported(recordings, changes, message):
    with pytest.raises(UserError) as error:
        make_tuner(recordings, **changes)
    assert str(error.value) == message
