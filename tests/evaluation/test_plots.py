"""Pictures say what their axes are."""

import numpy as np
import pytest

from spectrnn.evaluation.plots import spectrogram_figure
from spectrnn.frontend.features import MFCC, LogMelSpectrogram

_SETTINGS = {
    "sample_rate": 16000,
    "window_ms": 25,
    "hop_ms": 10,
    "n_fft": None,
    "n_mels": 40,
    "fmin": 20,
    "fmax": None,
    "mel_scale": "htk",
    "log_floor": 1e-8,
}


def drawn_axes(features):
    clip = np.zeros((50, features.output_size), np.float32)
    return spectrogram_figure([clip], ["one"], features).axes[0]


def test_bands_are_in_hertz_and_frames_in_seconds():
    features = LogMelSpectrogram(**_SETTINGS, deltas=1)
    drawn = drawn_axes(features)
    assert (drawn.get_xlabel(), drawn.get_ylabel()) == ("s", "Hz")
    assert drawn.get_xlim()[1] == pytest.approx(50 * features.hop_size / features.sample_rate)
    labels = {label.get_text(): place for label, place in zip(drawn.get_yticklabels(), drawn.get_yticks(), strict=True)}
    nearest = int((features.frequencies - 1000).abs().argmin())
    assert labels["1000"] == pytest.approx(nearest + 0.5, abs=0.5)
    assert labels["delta"] == 1.5 * features.bins


def test_coefficients_are_counted():
    drawn = drawn_axes(MFCC(**_SETTINGS, deltas=0, n_mfcc=13))
    assert drawn.get_ylabel() == "coefficient"
    assert drawn.get_yticklabels()[0].get_text() == "0"
