"""Rooms, telephone lines, filters, and time and pitch; what holds for all augmentations is in test_augmentation.py."""

import numpy as np
import pytest
import scipy.signal
import scipy.stats
import soundfile
import torch
from torchaudio.functional import mu_law_decoding, mu_law_encoding

from spectrnn.errors import UserError
from spectrnn.frontend.masking import length_mask

RATE = 16000


def sine(frequency, samples, amplitude=0.5):
    return amplitude * torch.sin(2 * torch.pi * frequency / RATE * torch.arange(samples))


def strongest(waveform):
    """Frequency of the largest peak in Hz."""
    spectrum = torch.fft.rfft(waveform * torch.hann_window(len(waveform)), 1 << 18).abs()
    return float(spectrum.argmax()) * RATE / (1 << 18)


def test_reverberation_of_an_impulse_decays_by_60_db_in_its_time(stage, batch):
    impulse = torch.zeros(64, 1600)
    impulse[:, 0] = 1
    settings = {"min_rt60_ms": 50, "max_rt60_ms": 50, "min_drr_db": 6, "max_drr_db": 6, "p": 1.0}
    response = stage("augment", "rir", **settings)(batch([1600] * 64, impulse)).waveform - impulse
    power = response.double().square().sum(1)
    torch.testing.assert_close(power, torch.full_like(power, 10**-0.6), rtol=1e-4, atol=0)
    level = 10 * response.square().mean(0).log10()[:800].numpy()  # 50 ms
    assert np.polyfit(np.arange(800), level, 1)[0] * 800 == pytest.approx(-60, abs=2)
    assert response[:, 801:].abs().max() < 1e-4


def test_reverberation_draws_times_and_ratios_per_clip(stage, batch):
    impulse = torch.zeros(500, 4000)
    impulse[:, 0] = 1
    settings = {"min_rt60_ms": 20, "max_rt60_ms": 200, "min_drr_db": 0, "max_drr_db": 20, "p": 1.0}
    response = stage("augment", "rir", **settings)(batch([4000] * 500, impulse)).waveform - impulse
    power = response.double().square()
    ratio = -10 * power.sum(1).log10().numpy()
    assert scipy.stats.kstest(ratio, "uniform", (0, 20)).pvalue > 0.01
    # The mean time of the power of an exponential decay is its time constant: rt60 / (6 ln 10).
    rt60 = (power @ torch.arange(4000.0).double() / power.sum(1) * 6 * np.log(10) / 16).numpy()
    assert rt60.mean() == pytest.approx(110, rel=0.05)
    assert np.quantile(rt60, 0.05) < 50
    assert np.quantile(rt60, 0.95) > 170


@pytest.fixture
def rooms(tmp_path):
    """Folder with two impulse responses of known decay, after 10 ms of silence, of other levels and signs."""
    generator = np.random.default_rng(0)
    for name, (scale, samples) in {"hall.wav": (-0.4, 4000), "car.flac": (0.1, 800)}.items():
        tail = generator.normal(size=samples) * 10 ** (-3 * np.arange(samples) / samples)
        response = np.concatenate([np.zeros(160), [8.0], tail]) * scale / 10
        soundfile.write(tmp_path / name, response, RATE)
    return tmp_path


def test_clips_are_convolved_with_recorded_responses(stage, batch, rooms):
    responses = []
    for file in ("car.flac", "hall.wav"):
        response = soundfile.read(rooms / file)[0][160:]
        responses.append(response / np.linalg.norm(response))
    before = batch([3000, 1500] * 20)
    after = stage("augment", "rir", path=str(rooms), p=1.0)(before)
    assert torch.equal(after.lengths, before.lengths)
    found = []
    for clip, length in enumerate(before.lengths.tolist()):
        waveform = before.waveform[clip, :length].numpy()
        expected = [scipy.signal.fftconvolve(waveform, response)[:length] for response in responses]
        errors = [np.abs(after.waveform[clip, :length].numpy() - one).max() for one in expected]
        assert min(errors) < 2e-3  # the part of the response below -60 dB is cut
        found.append(int(np.argmin(errors)))
    assert 5 < sum(found) < 35


def test_responses_are_resampled_and_cut_after_their_decay(stage, batch, tmp_path):
    response = np.zeros(48000)
    response[4800], response[4800 + 480], response[40000] = 0.5, 0.25, 1e-4  # 10 ms, and below -60 dB
    soundfile.write(tmp_path / "echo.wav", response, 48000)
    impulse = torch.zeros(1, 16000)
    impulse[0, 0] = 1
    after = stage("augment", "rir", path=str(tmp_path), p=1.0)(batch([16000], impulse)).waveform[0]
    assert after.argmax() == 0
    assert after[1:].argmax() == 159
    assert float(after[160] / after[0]) == pytest.approx(0.5, abs=0.01)
    assert after[2000:].abs().max() < 1e-6


def test_silent_response_is_reported(stage, tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(100), RATE)
    with pytest.raises(UserError, match=rf"^augment.rir.path={tmp_path}: an impulse response has no sound: .*silence"):
        stage("augment", "rir", path=str(tmp_path))


@pytest.mark.parametrize("rate", [8000, 16000, 22050])
@pytest.mark.parametrize("frequency", [100, 250, 300, 1000, 3000, 3400, 3800])
def test_codec_has_the_band_of_a_telephone(stage, batch, rate, frequency):
    codec = stage("augment", "codec", sample_rate=rate, bits=16, p=1.0)
    waveform = 0.5 * torch.sin(2 * torch.pi * frequency / rate * torch.arange(rate))[None]
    after = codec(batch([rate], waveform)).waveform[0]
    gain = float(after[rate // 4 : -rate // 4].norm() / waveform[0, rate // 4 : -rate // 4].norm())
    expected = (1 / ((1 + (300 / frequency) ** 12) * (1 + (frequency / 3400) ** 12))) ** 0.5
    assert gain == pytest.approx(expected, abs=2e-3)


def test_nothing_above_the_line_rate_passes_a_codec(stage, batch):
    after = stage("augment", "codec", high_hz=7000, p=1.0)(batch([RATE])).waveform[0]
    power = torch.fft.rfft(after * torch.hann_window(RATE)).abs().square()
    assert power[4010:].sum() / power.sum() < 1e-6
    after = stage("augment", "codec", high_hz=7000, line_rate=None, p=1.0)(batch([RATE])).waveform[0]
    power = torch.fft.rfft(after * torch.hann_window(RATE)).abs().square()
    assert power[4010:].sum() / power.sum() > 0.2


@pytest.mark.parametrize("bits", [4, 8])
def test_code_has_the_levels_of_the_mu_law(stage, batch, bits):
    # A band without limits, so that the code alone is left.
    settings = {"low_hz": 1e-6, "high_hz": 1e9, "line_rate": None, "bits": bits, "p": 1.0}
    before = batch([2000], torch.linspace(-1.2, 1.2, 2000)[None])
    after = stage("augment", "codec", **settings)(before).waveform[0]
    levels = 2**bits - 1  # an odd number, of which one is 0
    clipped = before.waveform[0].clamp(-1, 1)
    assert len(torch.unique((after * 1e4).round())) <= levels
    code = (after.abs() * 255).log1p() / np.log(256) * (2 ** (bits - 1) - 1)
    assert (code - code.round()).abs().max() < 0.02
    error = (code - (clipped.abs() * 255).log1p() / np.log(256) * (2 ** (bits - 1) - 1)).abs()
    assert error.max() < 0.52


def test_code_is_as_precise_as_the_mu_law_of_torchaudio(stage, batch):
    settings = {"low_hz": 1e-6, "high_hz": 1e9, "line_rate": None, "p": 1.0}
    before = batch([2000], torch.linspace(-1, 1, 2000)[None])
    after = stage("augment", "codec", **settings)(before).waveform
    expected = mu_law_decoding(mu_law_encoding(before.waveform, 256), 256)  # with other levels, none of them 0
    errors = [float((decoded - before.waveform).abs().mean()) for decoded in (after, expected)]
    assert errors[0] == pytest.approx(errors[1], rel=0.05)


@pytest.mark.parametrize("amplitude", [0.5, 0.05])
def test_noise_of_the_code_follows_the_level(stage, batch, amplitude):
    waveform = sine(1013, RATE, amplitude)
    after = stage("augment", "codec", p=1.0)(batch([RATE], waveform[None])).waveform[0]
    inner = slice(RATE // 4, -RATE // 4)
    snr = 10 * (waveform[inner].square().sum() / (after - waveform)[inner].square().sum()).log10()
    # Jayant & Noll, Digital coding of waveforms, 1984.
    relative = 1 / (255 * amplitude / 2**0.5)
    expected = 6.02 * 8 + 4.77 - 20 * np.log10(np.log(256)) - 10 * np.log10(1 + relative**2 + 2**0.5 * relative)
    assert float(snr) == pytest.approx(expected, abs=1)


def test_band_limits_are_log_uniformly_distributed(stage, batch):
    impulse = torch.zeros(400, 8000)
    impulse[:, 4000] = 1
    settings = {"min_low_hz": 100, "max_low_hz": 800, "min_high_hz": 1600, "max_high_hz": 6400, "p": 1.0}
    after = stage("augment", "bandpass", **settings)(batch([8000] * 400, impulse)).waveform
    gain = torch.fft.rfft(after.double()).abs().numpy()
    frequencies = np.arange(gain.shape[1]) * 2.0
    low = np.array([np.interp(0.5**0.5, g[:600], frequencies[:600]) for g in gain])
    high = np.array([np.interp(-(0.5**0.5), -g[600:], frequencies[600:]) for g in gain])
    for limits, (minimum, maximum) in ((low, (100, 800)), (high, (1600, 6400))):
        octaves = np.log2(limits / minimum)
        assert scipy.stats.kstest(octaves, "uniform", (-0.05, np.log2(maximum / minimum) + 0.1)).pvalue > 0.01


def test_bandpass_equals_butterworth_filters_applied_in_both_directions(stage, batch):
    limits = {"min_low_hz": 300, "max_low_hz": 300, "min_high_hz": 3000, "max_high_hz": 3000, "p": 1.0}
    before = batch([8000])
    after = stage("augment", "bandpass", **limits)(before).waveform[0].numpy()
    # Applied twice, a filter of order 3 has nearly the gain of one of order 6.
    filters = (
        scipy.signal.butter(3, 300, "highpass", fs=RATE, output="sos"),
        scipy.signal.butter(3, 3000, "lowpass", fs=RATE, output="sos"),
    )
    expected = before.waveform[0].numpy().astype(float)
    for sos in filters:
        expected = scipy.signal.sosfiltfilt(sos, expected)
    assert np.corrcoef(after[1000:-1000], expected[1000:-1000])[0, 1] > 0.98


@pytest.mark.parametrize("name", ["rir", "codec", "bandpass", "stretch", "pitch"])
def test_clip_does_not_depend_on_the_others(stage, batch, name):
    settings = {
        "rir": {},
        "codec": {},
        "bandpass": {"min_low_hz": 100, "max_low_hz": 100, "max_high_hz": 2000},
        "stretch": {"min_factor": 0.9, "max_factor": 0.9},
        "pitch": {"min_semitones": 1, "max_semitones": 1},
    }[name]
    effect, clips = stage("augment", name, **settings, p=1.0), batch([4000, 7000])
    torch.manual_seed(1)
    together = effect(clips)
    torch.manual_seed(1)
    alone = effect(batch([4000], clips.waveform[:1, :4000]))
    length = int(alone.lengths)
    assert int(together.lengths[0]) == length
    if name != "rir":  # whose noise is drawn for as many samples as the longest clip has
        difference = together.waveform[0, :length] - alone.waveform[0, :length]
        assert difference.abs().max() < (2e-3 if name in ("codec", "pitch") else 1e-5)
    assert not together.waveform[0, length:].any()


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.25])
def test_stretch_changes_the_length_but_not_the_frequency(stage, batch, factor):
    lengths = [16000, 9000]
    before = batch(lengths, sine(440, 16000).repeat(2, 1))
    after = stage("augment", "stretch", min_factor=factor, max_factor=factor, p=1.0)(before)
    assert after.lengths.tolist() == pytest.approx([length / factor for length in lengths], abs=1)
    for clip, length in enumerate(after.lengths.tolist()):
        inner = after.waveform[clip, 1000 : length - 1000]
        assert strongest(inner) == pytest.approx(440, abs=1)
        assert float(inner.square().mean().sqrt()) == pytest.approx(0.5 / 2**0.5, rel=0.1)
    if factor == 1.0:
        torch.testing.assert_close(after.waveform, before.waveform, rtol=0, atol=1e-5)


def test_stretch_moves_onsets(stage, batch):
    waveform = torch.zeros(1, 16000)
    waveform[0, 8000:] = sine(1000, 8000)
    after = stage("augment", "stretch", min_factor=0.8, max_factor=0.8, p=1.0)(batch([16000], waveform))
    energy = after.waveform[0].square().cumsum(0)
    assert int((energy < energy[-1] * 0.02).sum()) == pytest.approx(10_000, abs=400)


@pytest.mark.parametrize("semitones", [-12, -2, 0, 3.5, 12])
def test_pitch_changes_the_frequency_but_not_the_length(stage, batch, semitones):
    before = batch([16000, 9000], sine(440, 16000).repeat(2, 1))
    after = stage("augment", "pitch", min_semitones=semitones, max_semitones=semitones, p=1.0)(before)
    assert torch.equal(after.lengths, before.lengths)
    assert after.waveform.shape == before.waveform.shape
    for clip, length in enumerate(after.lengths.tolist()):
        inner = after.waveform[clip, 1000 : length - 1000]
        assert strongest(inner) == pytest.approx(440 * 2 ** (semitones / 12), rel=2e-3)
        assert float(inner.square().mean().sqrt()) == pytest.approx(0.5 / 2**0.5, rel=0.15)
    assert not after.waveform[~length_mask(after.lengths, 16000)].any()


def test_frequencies_above_half_the_sample_rate_do_not_alias(stage, batch):
    after = stage("augment", "pitch", min_semitones=12, max_semitones=12, p=1.0)(
        batch([16000], sine(5000, 16000)[None])
    )
    assert after.waveform[0, 1000:-1000].abs().max() < 0.01


@pytest.mark.parametrize(("name", "low", "high"), [("stretch", 0.5, 2.0), ("pitch", -12, 12)])
def test_one_factor_is_drawn_per_batch_with_probability_p(stage, batch, name, low, high):
    names = ("min_factor", "max_factor") if name == "stretch" else ("min_semitones", "max_semitones")
    effect, before = stage("augment", name, **dict(zip(names, (low, high), strict=True)), p=0.5), batch([600, 300])
    after = [effect(before) for _ in range(200)]
    changed = [not torch.equal(x.waveform, before.waveform) for x in after]
    assert 70 < sum(changed) < 130
    if name == "stretch":
        factors = [600 / float(x.lengths[0]) for x, differs in zip(after, changed, strict=True) if differs]
        assert scipy.stats.kstest(factors, "uniform", (0.49, 1.52)).pvalue > 0.01
