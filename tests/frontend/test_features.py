"""Log-mel spectrogram, MFCC and deltas, compared with torchaudio and scipy."""

import numpy as np
import pytest
import scipy.fft
import torch
from torchaudio.functional import compute_deltas
from torchaudio.transforms import MFCC, MelSpectrogram

from spectrnn.errors import UserError
from spectrnn.frontend.features import append_deltas

SETTINGS = [
    {},
    {"deltas": 0, "window_ms": 32, "hop_ms": 16},  # the window is as long as the FFT
    {"n_fft": 1024, "n_mels": 80, "mel_scale": "slaney"},
    {"window_ms": 30, "hop_ms": 7.5, "n_mels": 40, "fmin": 0, "fmax": 4000},
    {"sample_rate": 8000, "n_mels": 40, "fmin": 50, "fmax": 3800},
    {"sample_rate": 22050, "n_fft": 700, "n_mels": 32, "fmin": 300},
]


def reference(features, waveform, settings):
    """Log-mel spectrogram (batch, frames, bins) by torchaudio, with the same positions of the frames."""
    # torch.stft centers a window that is shorter than the FFT, which padding of the signal compensates for.
    before = (features.n_fft - features.window_size) // 2
    after = features.n_fft - features.window_size - before
    transform = MelSpectrogram(
        sample_rate=features.sample_rate,
        n_fft=features.n_fft,
        win_length=features.window_size,
        hop_length=features.hop_size,
        f_min=settings.get("fmin", 20),
        f_max=settings.get("fmax"),
        n_mels=settings.get("n_mels", 40),
        mel_scale=settings.get("mel_scale", "htk"),
        power=2,
        center=False,
    ).to(waveform.dtype)
    mel = transform(torch.nn.functional.pad(waveform, (before, after)))
    return mel.clamp(min=1e-6).log().transpose(1, 2)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=["f64", "f32"])
def test_log_mel_equals_torchaudio(stage, settings, dtype, tolerance):
    features = stage("features", "logmel", **settings).to(dtype)
    waveform = torch.randn(2, 9001, dtype=dtype) * 0.3
    x, frames = features(waveform, torch.tensor([9001, 9001]))
    expected = reference(features, waveform, settings)
    assert x.shape == expected.shape
    assert frames.tolist() == [expected.shape[1]] * 2
    torch.testing.assert_close(x, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("n_mfcc", [13, 40])
def test_mfcc_equals_torchaudio_on_loud_noise(stage, n_mfcc):
    features = stage("features", "mfcc", n_mfcc=n_mfcc, deltas=0, window_ms=32, hop_ms=10, n_mels=40).double()
    waveform = torch.randn(2, 8000, dtype=torch.float64)
    mel = {"n_fft": 512, "hop_length": 160, "n_mels": 40, "f_min": 20, "center": False}
    transform = MFCC(16000, n_mfcc=n_mfcc, log_mels=True, melkwargs=mel).double()  # it adds 1e-6 instead of a floor
    x, _ = features(waveform, torch.tensor([8000, 8000]))
    torch.testing.assert_close(x, transform(waveform).transpose(1, 2), rtol=0, atol=1e-5)


def test_mfcc_is_the_orthonormal_dct_of_log_mel(stage):
    waveform, lengths = torch.randn(3, 5000) * 0.1, torch.tensor([5000] * 3)
    log_mel, _ = stage("features", "logmel")(waveform, lengths)
    mfcc, _ = stage("features", "mfcc", n_mfcc=20, deltas=0)(waveform, lengths)
    expected = scipy.fft.dct(log_mel.numpy(), type=2, norm="ortho", axis=-1)[..., :20]
    np.testing.assert_allclose(mfcc.numpy(), expected, atol=2e-4)


@pytest.mark.parametrize("orders", [1, 2])
def test_deltas_of_each_clip_equal_torchaudio_of_the_clip_alone(orders):
    frames = torch.tensor([17, 1, 2, 3, 5])
    x = torch.randn(5, 17, 4, dtype=torch.float64)  # with garbage as padding
    result = append_deltas(x, frames, orders)
    assert result.shape == (5, 17, 4 * (1 + orders))
    for clip, count in enumerate(frames.tolist()):
        parts = [x[clip, :count].T]
        for _ in range(orders):
            parts.append(compute_deltas(parts[-1], win_length=5, mode="replicate"))
        torch.testing.assert_close(result[clip, :count], torch.cat(parts).T, rtol=0, atol=1e-12)


def test_deltas_of_a_line_are_its_slope():
    x = 3.0 * torch.arange(20.0)[None, :, None] + 7
    result = append_deltas(x, torch.tensor([20]), 2)[0]
    torch.testing.assert_close(result[2:-2, 1], torch.full((16,), 3.0))
    torch.testing.assert_close(result[4:-4, 2], torch.zeros(12))


@pytest.mark.parametrize("samples", [1, 399, 400, 401, 559, 560, 561, 719, 720, 16000])
def test_frames_do_not_extend_beyond_the_clip(stage, samples):
    features = stage("features", "logmel")
    x, frames = features(torch.randn(1, samples), torch.tensor([samples]))
    fitting = sum(start + 400 <= samples for start in range(0, samples, 160))  # 25 ms and 10 ms at 16 kHz
    assert frames.tolist() == [max(1, fitting)]
    assert x.shape == (1, max(1, fitting), 40)


@pytest.mark.parametrize(("option", "compression"), [("logmel", "log"), ("mfcc", "log"), ("mfcc", "pcen")])
def test_features_do_not_depend_on_padding(stage, batch, option, compression):
    features = stage("features", option, deltas=2, compression=compression)
    clips = batch([3000, 16000, 150, 400, 700])
    x, frames = features(clips.waveform, clips.lengths)
    assert frames.tolist() == [17, 98, 1, 1, 2]
    for clip, length in enumerate(clips.lengths.tolist()):
        single, _ = features(clips.waveform[clip : clip + 1, :length], clips.lengths[clip : clip + 1])
        torch.testing.assert_close(x[clip, : frames[clip]], single[0], rtol=0, atol=1e-4)


def test_silence_is_at_the_floor(stage):
    x, _ = stage("features", "logmel", log_floor=1e-4)(torch.zeros(1, 2000), torch.tensor([2000]))
    torch.testing.assert_close(x, torch.full_like(x, np.log(1e-4)))


def test_power_is_proportional_to_the_squared_amplitude(stage):
    features, waveform, lengths = stage("features", "logmel"), torch.randn(1, 4000), torch.tensor([4000])
    difference = features(2 * waveform, lengths)[0] - features(waveform, lengths)[0]
    torch.testing.assert_close(difference, torch.full_like(difference, np.log(4)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("frequency", [400, 1000, 5000])
def test_sine_is_strongest_in_the_band_closest_to_its_frequency(stage, frequency):
    features = stage("features", "logmel", fmin=0, n_mels=32)
    waveform = torch.sin(2 * torch.pi * frequency / 16000 * torch.arange(8000))[None]
    x, _ = features(waveform, torch.tensor([8000]))
    mel = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 32 + 2)
    centers = 700 * (10 ** (mel[1:-1] / 2595) - 1)
    assert x[0].mean(0).argmax() == np.abs(centers - frequency).argmin()


@pytest.mark.parametrize(("option", "bins"), [("logmel", 40), ("mfcc", 13)])
@pytest.mark.parametrize("deltas", [0, 1, 2])
def test_output_size_is_the_number_of_bins_with_deltas(stage, option, bins, deltas):
    features = stage("features", option, deltas=deltas)
    x, _ = features(torch.randn(2, 2000), torch.tensor([2000, 900]))
    assert features.output_size == x.shape[2] == bins * (1 + deltas)


def test_features_add_nothing_to_a_model_file(stage):
    assert not stage("features", "mfcc").state_dict()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window_ms": 5000}, r"window_ms=5000: over 65536 samples; at most 4096 ms"),
        (
            {"hop_ms": 30},
            r"hop_ms=30: longer than features\.window_ms=25, which skips samples; at most 25 ms",
        ),
        ({"hop_ms": 0.1}, r"hop_ms=0\.1: too short for 512 FFT points; at least 0\.5 ms"),
        (
            {"n_fft": 256},
            r"n_fft=256: below the 400 samples of features\.window_ms=25; at least that, or null",
        ),
        ({"n_fft": 8192, "n_mels": 5000}, r"n_mels=5000: too many for 8192 FFT points; fewer bands"),
        (
            {"fmax": 9000},
            r"fmax=9000: above half of features\.sample_rate=16000; at most 8000 Hz, or null",
        ),
        (
            {"fmin": 4000, "fmax": 4000},
            r"fmax=4000: not above features\.fmin=4000; above it, up to 8000 Hz, or null",
        ),
        ({"fmin": 8000}, r"fmin=8000: not below half of features\.sample_rate=16000; below 8000 Hz"),
        (
            {"n_mels": 200},
            r"n_mels=200: \d+ of the mel bands contain no bin of the 512-point FFT at 16000 Hz; use fewer bands, or "
            r"features\.n_fft=1024",
        ),
        ({"n_mels": 0}, r"n_mels=0: should be greater than 0"),
        ({"deltas": 3}, r"deltas=3: should be 0, 1 or 2"),
        ({"mel_scale": "bark"}, r"mel_scale=bark: should be 'htk' or 'slaney'"),
        ({"log_floor": 0}, r"log_floor=0: should be greater than 0"),
        ({"compression": "pcem"}, r"compression=pcem: should be 'log' or 'pcen'"),
        ({"pcen_alpha": 1.5}, r"pcen_alpha=1\.5: should be less than or equal to 1"),
        ({"pcen_r": 0}, r"pcen_r=0: should be greater than 0"),
        ({"pcen_floor": 0}, r"pcen_floor=0: should be greater than or equal to 0\.000000000001"),
        ({"pcen_time_constant_ms": 0}, r"pcen_time_constant_ms=0: should be greater than 0"),
        ({"window": 25}, r"window: no such key; did you mean features\.window_ms\?"),
    ],
)
def test_invalid_settings_are_reported_with_their_full_key(stage, settings, message):
    with pytest.raises(UserError, match=rf"^features\.{message}$"):
        stage("features", "logmel", **settings)


def test_more_coefficients_than_mel_bands_are_rejected(stage):
    message = r"^features\.n_mfcc=41: more than features\.n_mels=40 mel bands; at most that$"
    with pytest.raises(UserError, match=message):
        stage("features", "mfcc", n_mfcc=41)


def test_mel_bands_are_never_empty(stage):
    for n_mels in range(8, 200, 16):
        try:
            features = stage("features", "logmel", n_mels=n_mels)
        except UserError:
            continue
        white = features(torch.randn(1, 16000), torch.tensor([16000]))[0]
        assert (white > np.log(1e-6)).all()


@pytest.mark.parametrize("mel_scale", ["htk", "slaney"])
def test_sine_at_a_center_frequency_is_strongest_in_its_band(stage, mel_scale):
    features = stage("features", "logmel", sample_rate=16000, mel_scale=mel_scale, n_mels=40)
    assert features.center_frequencies.shape == (40,)
    for band in range(8, 40, 5):
        frequency = float(features.center_frequencies[band])
        waveform = 0.5 * torch.sin(2 * torch.pi * frequency / 16000 * torch.arange(8000))
        assert int(features.static_features(waveform[None])[0, 10].argmax()) == band


def test_only_mel_bands_have_bin_frequencies(stage):
    features = stage("features", "logmel")
    assert torch.equal(features.bin_frequencies, features.center_frequencies)
    assert stage("features", "mfcc").bin_frequencies is None


@pytest.mark.parametrize("compression", ["log", "pcen"])
@pytest.mark.parametrize("option", ["logmel", "mfcc"])
@pytest.mark.parametrize("size", [1, 160, 399, 1000, 5000])
def test_steps_equal_the_features_of_the_whole_clip(stage, option, compression, size):
    features, waveform = stage("features", option, deltas=0, compression=compression), 0.1 * torch.randn(2, 5000)
    (pending, *state), blocks = features.initial_state(2), []
    for block in waveform.split(size, dim=1):
        x, pending = features.mel_step(block, pending)
        if x.shape[1]:
            x, state = features.compress(x, tuple(state))
            blocks.append(x)
    expected, frames = features(waveform, torch.tensor([5000, 5000]))
    assert features.num_frames(torch.tensor([5000, 5000])).tolist() == frames.tolist()
    torch.testing.assert_close(torch.cat(blocks, dim=1), expected, rtol=0, atol=1e-4)
