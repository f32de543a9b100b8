"""Settings of the page. Those of tuned thresholds are tested by the command."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from spectrnn.demo.site import about_run, model_json
from spectrnn.frontend.features import MFCC, LogMelSpectrogram

SETTINGS = {
    "sample_rate": 16000,
    "window_ms": 25.0,
    "hop_ms": 10.0,
    "n_fft": 4096,
    "n_mels": 40,
    "fmin": 20.0,
    "fmax": 7600.0,
    "mel_scale": "htk",
    "compression": "log",
    "log_floor": 1e-10,
    "pcen_alpha": 0.98,
    "pcen_delta": 2.0,
    "pcen_r": 0.5,
    "pcen_time_constant_ms": 400,
    "pcen_floor": 1e-6,
    "deltas": 2,
}


def settings(features, window=None):
    predictor = SimpleNamespace(
        classifier=SimpleNamespace(features=features),
        labels=["no", "yes"],
        sample_rate=16000,
        window=8000,
        tuned_thresholds=None,
        thresholds=None,
    )
    return model_json(predictor, window)


def test_center_frequencies_are_those_of_the_mel_scale():
    mel = np.linspace(*(2595 * np.log10(1 + np.array([20, 7600]) / 700)), 42)
    corners = 700 * (10 ** (mel / 2595) - 1)
    # The center of mass of a triangle is the mean of its corners.
    expected = (corners[:-2] + corners[1:-1] + corners[2:]) / 3
    np.testing.assert_allclose(settings(LogMelSpectrogram(**SETTINGS))["center_frequencies"], expected, atol=2)


def test_settings_without_thresholds_and_frequencies():
    assert settings(MFCC(**SETTINGS, n_mfcc=13)) == {
        "labels": ["no", "yes"],
        "sample_rate": 16000,
        "center_frequencies": None,
        "window_seconds": 0.5,
        "hop_seconds": 0.15,
        "smoothing_windows": 1,
        "thresholds": None,
        "exclusive": True,
        "offset_ratio": 0.8,
        "min_event_seconds": 0.0,
    }


def test_page_names_the_model_and_the_metrics_of_its_run(tmp_path):
    run = tmp_path / "day" / "time"
    run.mkdir(parents=True)
    model = run / "model.safetensors"
    assert about_run(model, "accuracy") == {"name": "day/time", "results": None}
    val, test = {"accuracy": 0.75, "loss": 1.0}, {"accuracy": 0.5, "macro_f1": 0.25, "loss": 2.0}
    content = {"val": val, "test": test, "intervals_95": {"val": {}, "test": {"accuracy": [0.4, 0.6]}}}
    (run / "metrics.json").write_text(json.dumps(content))
    assert about_run(model, "accuracy")["results"] == {
        "split": "the test split",
        "metrics": [
            {"title": "accuracy", "value": 0.5, "interval": [0.4, 0.6]},
            {"title": "macro F1", "value": 0.25, "interval": None},
        ],
    }
    (run / "metrics.json").write_text(json.dumps({"val": val}))
    assert about_run(model, "accuracy")["results"]["split"] == "the validation split"
    assert about_run(run / "digits.safetensors", "accuracy")["name"] == "digits"


@pytest.mark.parametrize("text", ["{", "[]", '{"test": 3}', '{"test": {"accuracy": "x"}}', "null"])
def test_metrics_that_are_not_those_of_a_run_are_left_out(tmp_path, text):
    (tmp_path / "metrics.json").write_text(text)
    assert about_run(tmp_path / "model.safetensors", "accuracy")["results"] is None


def test_window_of_the_config_takes_precedence():
    assert settings(MFCC(**SETTINGS, n_mfcc=13), window=0.8)["window_seconds"] == 0.8
