"""PCEN against librosa, and against the recursion that defines it."""

import numpy as np
import pytest
import torch

SETTINGS = [
    {},
    {"pcen_alpha": 0.8, "pcen_delta": 10.0, "pcen_r": 0.25, "pcen_time_constant_ms": 60, "pcen_floor": 1e-3},
    {"pcen_alpha": 1.0, "pcen_r": 1.0, "pcen_time_constant_ms": 5000},
    {"pcen_time_constant_ms": 1e-9},
]


def power_of(batch, frames):
    """Mel power with a range of 80 dB, and silence, (batch, frames, 40)."""
    power = 10 ** (8 * torch.rand(batch, frames, 40, dtype=torch.float64) - 6)
    power[:, frames // 3 : frames // 2] = 0
    return power


def recursion(power, time_constant, alpha, delta, r, floor):
    """The definition, frame by frame, in float64."""
    coefficient = (np.sqrt(1 + 4 * time_constant**2) - 1) / (2 * time_constant**2)
    mean, output = power[:, 0], []
    for frame in power.transpose(1, 0, 2):
        mean = (1 - coefficient) * mean + coefficient * frame
        output.append((frame / (floor + mean) ** alpha + delta) ** r - delta**r)
    return np.stack(output, 1)


def of_settings(features_settings):
    names = ("time_constant_ms", "alpha", "delta", "r", "floor")
    defaults = {"time_constant_ms": 400, "alpha": 0.98, "delta": 2.0, "r": 0.5, "floor": 1e-6}
    values = [features_settings.get(f"pcen_{name}", defaults[name]) for name in names]
    return values[0] / 10, *values[1:]  # in frames of 10 ms


@pytest.mark.parametrize("settings", SETTINGS[:3], ids=str)
@pytest.mark.parametrize("frames", [1, 2, 127, 128, 129, 1000, 128 * 128 + 300])
def test_pcen_equals_its_recursion(stage, settings, frames):
    pcen = stage("features", "pcen", **settings).compression
    power = power_of(2 if frames < 10_000 else 1, frames)
    expected = recursion(power.numpy(), *of_settings(settings))
    x, (mean,) = pcen(power.float(), pcen.initial_state(len(power)))
    np.testing.assert_allclose(x.numpy(), expected, rtol=2e-5, atol=2e-6)
    assert mean.shape == (len(power), 40)


def test_without_smoothing_each_frame_is_divided_by_itself(stage):
    pcen = stage("features", "pcen", **SETTINGS[3]).compression
    power = power_of(1, 50).float()
    x, _ = pcen(power, pcen.initial_state(1))
    torch.testing.assert_close(x, (power / (power + 1e-6) ** 0.98 + 2) ** 0.5 - 2**0.5, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("settings", SETTINGS[:2], ids=str)
def test_features_equal_librosa(stage, settings):
    librosa = pytest.importorskip("librosa")
    time_constant, alpha, delta, r, floor = of_settings(settings)
    features = stage("features", "pcen", **settings)
    waveform = torch.randn(1, 16000) * torch.linspace(0.001, 0.3, 16000)
    power = features._mel(waveform, lambda power: power)[0].T.double().numpy()
    options = {"gain": alpha, "bias": delta, "power": r, "eps": floor, "time_constant": time_constant / 100}
    coefficient = (np.sqrt(1 + 4 * time_constant**2) - 1) / (2 * time_constant**2)
    zi = (1 - coefficient) * power[:, :1]  # the mean starts with that of the first frame, not with 1
    expected = librosa.pcen(power, sr=16000, hop_length=160, zi=zi, **options)
    x, _ = features(waveform, torch.tensor([16000]))
    np.testing.assert_allclose(x[0].T.numpy(), expected, rtol=2e-5, atol=2e-6)


def test_constant_gain_control_removes_the_level(stage):
    features = stage("features", "pcen", pcen_alpha=1.0, pcen_floor=1e-12)
    waveform, lengths = torch.randn(1, 16000), torch.tensor([16000])
    torch.testing.assert_close(features(waveform, lengths)[0], features(0.01 * waveform, lengths)[0], rtol=0, atol=1e-3)


def test_frames_do_not_depend_on_later_ones(stage):
    features, waveform = stage("features", "pcen"), torch.randn(1, 40_000)
    whole, part = (features(waveform[:, :size], torch.tensor([size]))[0] for size in (40_000, 9000))
    torch.testing.assert_close(whole[:, : part.shape[1]], part, rtol=0, atol=1e-5)


def test_silence_is_zero(stage):
    x, _ = stage("features", "pcen")(torch.zeros(2, 5000), torch.tensor([5000, 5000]))
    assert torch.equal(x, torch.zeros_like(x))


def test_pictures_are_log_mel_spectrograms(stage):
    waveform = torch.randn(2, 5000)
    expected, _ = stage("features", "logmel")(waveform, torch.tensor([5000, 5000]))
    for option in ("logmel", "pcen", "mfcc"):
        assert torch.equal(stage("features", option).log_mel(waveform), expected)
