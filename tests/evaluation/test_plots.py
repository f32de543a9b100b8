"""Axes of the plots."""

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
    "compression": "log",
    "log_floor": 1e-8,
    "pcen_alpha": 0.98,
    "pcen_delta": 2.0,
    "pcen_r": 0.5,
    "pcen_time_constant_ms": 400,
    "pcen_floor": 1e-6,
}


def plot_axes(features):
    clip = np.zeros((50, features.output_size), np.float32)
    return spectrogram_figure([clip], ["one"], features).axes[0]


def test_spectrogram_has_axes_in_hertz_and_seconds():
    features = LogMelSpectrogram(**_SETTINGS, deltas=1)
    axes = plot_axes(features)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("s", "Hz")
    assert axes.get_xlim()[1] == pytest.approx(50 * features.hop_size / features.sample_rate)
    labels = {
        label.get_text(): position for label, position in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)
    }
    nearest = int((features.center_frequencies - 1000).abs().argmin())
    assert labels["1000"] == pytest.approx(nearest + 0.5, abs=0.5)
    assert labels["delta"] == 1.5 * features.num_bins


def test_mfcc_have_an_axis_of_coefficients():
    axes = plot_axes(MFCC(**_SETTINGS, deltas=0, n_mfcc=13))
    assert axes.get_ylabel() == "coefficient"
    assert axes.get_yticklabels()[0].get_text() == "0"
