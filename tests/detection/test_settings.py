"""Resolution of detection settings: command line, else model file, else defaults."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from spectrnn.detection.settings import DetectionConfig, DetectionSettings, resolve_thresholds
from spectrnn.detection.thresholds import TunedThresholds
from spectrnn.errors import UserError

LABELS = ["dog", "cat", "noise"]
OPEN = DetectionConfig(
    window=None,
    hop=None,
    smoothing_windows=None,
    threshold="model",
    offset_ratio=None,
    min_event_seconds=None,
    background=[],
)
TUNED = TunedThresholds(
    by_label={"dog": 0.75, "cat": 0.625},
    background=["noise"],
    max_false_alarms_per_hour=1.0,
    hours=2.0,
    window=1.0,
    hop=0.25,
    smoothing_windows=5,
    offset_ratio=0.5,
    min_event_seconds=0.1,
)


def resolve(config, tuned, *defaults):
    settings = asdict(DetectionSettings.resolve(config, LABELS, tuned, *defaults))
    thresholds = settings.pop("thresholds")
    assert settings.pop("trim_seconds") == 0  # a command sets it
    return settings, None if thresholds is None else thresholds.tolist()


def test_model_file_supplies_what_the_command_line_leaves_open():
    settings, thresholds = resolve(OPEN, TUNED, 9.0, 3.0)
    assert settings == {
        name: getattr(TUNED, name)
        for name in ("window", "hop", "smoothing_windows", "offset_ratio", "min_event_seconds")
    }
    assert thresholds == [0.75, 0.625, np.inf]


def test_defaults_apply_without_tuned_thresholds(caplog):
    settings, thresholds = resolve(OPEN, None, 2.0)
    assert settings == {
        "window": 2.0,
        "hop": 1.0,
        "smoothing_windows": 3,
        "offset_ratio": 0.8,
        "min_event_seconds": 0.0,
    }
    assert thresholds == [0.5, 0.5, 0.5]
    assert "the model file has no tuned thresholds: using 0.5; threshold=NUMBER sets another" in caplog.text
    assert resolve(OPEN, None, 2.0, 0.1)[0]["hop"] == 0.1
    assert resolve(OPEN, None, 0.05, 0.1)[0]["hop"] == 0.05


def test_command_line_overrides_the_model_file(caplog):
    config = DetectionConfig(
        window=0.5,
        hop=0.125,
        smoothing_windows=1,
        threshold=0.9,
        offset_ratio=1.0,
        min_event_seconds=0.0,
        background=["cat"],
    )
    settings, thresholds = resolve(config, TUNED, 9.0)
    assert settings == {
        "window": 0.5,
        "hop": 0.125,
        "smoothing_windows": 1,
        "offset_ratio": 1.0,
        "min_event_seconds": 0.0,
    }
    assert thresholds == [0.9, np.inf, 0.9]
    assert not caplog.text  # the tuned thresholds are not used


def test_tuned_hop_applies_to_the_tuned_window_only(caplog):
    assert resolve(replace(OPEN, window="model"), TUNED, 9.0)[0]["hop"] == 0.25
    assert not caplog.text
    assert resolve(replace(OPEN, window=0.8), TUNED, 9.0)[0]["hop"] == 0.4
    assert (
        "thresholds were tuned with window=1 hop=0.25, and may not be valid for window=0.8 hop=0.4"
        in caplog.messages[0]
    )


def test_detector_has_the_settings_and_none_labels_each_window():
    settings = DetectionSettings.resolve(OPEN, LABELS, TUNED, 9.0)
    detector = settings.detector(LABELS)
    assert detector.onset.tolist() == [0.75, 0.625, np.inf]
    assert detector.offset.tolist() == [0.375, 0.3125, np.inf]
    assert detector.min_event_seconds == 0.1
    settings = DetectionSettings.resolve(replace(OPEN, threshold="none"), LABELS, TUNED, 9.0)
    assert settings.detector(LABELS) is None


def test_thresholds_of_whole_recordings_have_no_default():
    assert resolve_thresholds(OPEN, LABELS, None) is None
    assert resolve_thresholds(OPEN, LABELS, TUNED).tolist() == [0.75, 0.625, np.inf]
    assert resolve_thresholds(replace(OPEN, threshold=0.3), LABELS, None).tolist() == [0.3, 0.3, 0.3]


@pytest.mark.parametrize(
    ("changes", "tuned", "message"),
    [
        (
            {"window": "model"},
            None,
            "window=model: the model file has no tuned thresholds, and so no window; give it in s",
        ),
        ({"window": 0.5, "hop": 0.6}, TUNED, "hop=0.6: longer than the window of 0.5 s, so audio would be skipped"),
        ({"background": ["nois"]}, None, "background: the model has no label 'nois'; did you mean noise?"),
        (
            {"background": LABELS, "threshold": 0.5},
            None,
            "background: covers every label with a threshold, so nothing could be detected",
        ),
        (
            {"background": ["dog", "cat"]},  # noise has no tuned threshold
            TUNED,
            "background: covers every label with a threshold, so nothing could be detected",
        ),
        (
            {"hop": 3.0, "background": [1]},
            None,
            "hop=3: longer than the window of 2 s, so audio would be skipped\n"
            "background: the model has no label '1'; known here: cat, dog, noise",
        ),
    ],
)
def test_invalid_settings_are_reported(changes, tuned, message):
    with pytest.raises(UserError) as error:
        DetectionSettings.resolve(replace(OPEN, **changes), LABELS, tuned, 2.0)
    assert str(error.value) == message


@pytest.mark.parametrize(("frame_seconds", "frames"), [(0.01, 10), (0.02, 5), (0.032, 3), (0.25, 1)])
def test_frames_are_averaged_over_a_tenth_of_a_second(frame_seconds, frames):
    settings = DetectionSettings.resolve(OPEN, LABELS, None, 2.0, frame_seconds=frame_seconds)
    assert (settings.smoothing_windows, settings.offset_ratio, settings.min_event_seconds) == (frames, 0.5, 0.1)
    tuned = DetectionSettings.resolve(OPEN, LABELS, TUNED, 2.0, frame_seconds=frame_seconds)
    assert (tuned.smoothing_windows, tuned.min_event_seconds) == (5, 0.1)
    own = replace(OPEN, smoothing_windows=1, min_event_seconds=0.0)
    given = DetectionSettings.resolve(own, LABELS, None, 2.0, frame_seconds=frame_seconds)
    assert (given.smoothing_windows, given.min_event_seconds) == (1, 0.0)


def test_peaks_and_gaps_of_a_few_frames_are_no_events():
    """Frames of 20 ms, averaged over five: those next to a sound of n frames are 0.4, 0.2, and 0."""
    settings = DetectionSettings.resolve(OPEN, ["dog"], None, 2.0, frame_seconds=0.02)
    probabilities = np.zeros((100, 1))
    probabilities[10:12] = 1  # at most 0.4 on average
    probabilities[30:33] = 1  # three averages of 0.6, and one of 0.4, which does not end an event: 80 ms
    probabilities[50:55] = 1  # five averages from 0.6 to 1, and one of 0.4: 120 ms
    probabilities[70:90] = 1
    probabilities[80] = 0  # at least 0.8 on average
    edges = np.arange(101) * 0.02
    detector = settings.detector(["dog"])
    events = detector.push(np.stack([edges[:-1], edges[1:]], 1), probabilities) + detector.finish()
    assert [(event.start, event.end) for event in events] == [pytest.approx((1, 1.12)), pytest.approx((1.4, 1.82))]
