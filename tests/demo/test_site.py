"""What the page is told of a model."""

import numpy as np

from spectrnn.demo.site import centres
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
    "log_floor": 1e-10,
    "deltas": 2,
}


def test_the_frequency_axis_is_the_mel_scale():
    mel = np.linspace(*(2595 * np.log10(1 + np.array([20, 7600]) / 700)), 42)
    corners = 700 * (10 ** (mel / 2595) - 1)
    # A triangle's centre of mass is the mean of its corners.
    expected = (corners[:-2] + corners[1:-1] + corners[2:]) / 3
    np.testing.assert_allclose(centres(LogMelSpectrogram(**SETTINGS)), expected, atol=2)


def test_cepstral_coefficients_have_no_frequencies():
    assert centres(MFCC(**SETTINGS, n_mfcc=13)) is None
