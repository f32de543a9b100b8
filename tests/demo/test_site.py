"""Settings of the page. Those of tuned thresholds are tested by the command."""

from types import SimpleNamespace

import numpy as np

from spectrnn.demo.site import model_json
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
    }


def test_window_of_the_config_takes_precedence():
    assert settings(MFCC(**SETTINGS, n_mfcc=13), window=0.8)["window_seconds"] == 0.8
