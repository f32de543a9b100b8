"""Augmentations of waveforms, per clip; those of spectrograms are tested in test_specaugment.py."""

from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import soundfile
import torch

from spectrnn.errors import UserError
from spectrnn.frontend.augmentation import Augmentations, Gain, SpecAugment, TimeShift
from spectrnn.frontend.masking import length_mask

RATE = 16000
EFFECTS = ["rir", "recorded rir", "codec", "bandpass", "stretch", "pitch"]  # also tested in test_effects.py
WAVEFORM = ["white", "pink", "background_noise", "shift", "trim", "pad", "gain", "speed", "mixup", *EFFECTS]
PER_BATCH = ("pad", "speed", "stretch", "pitch")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Folder with two noise recordings of 0.05 s at 16 kHz, one of them in a subfolder."""
    root = tmp_path_factory.mktemp("recordings")
    (root / "kitchen").mkdir()
    for name in ("street.wav", "kitchen/tap.flac"):
        soundfile.write(root / name, 0.1 * np.random.default_rng(len(name)).normal(size=800), RATE)
    return root


@pytest.fixture
def augmentation(stage, recordings):
    """Builds a waveform augmentation: `augmentation("pink", min_snr_db=10)`."""

    def build(name, **settings):
        if name in ("white", "pink"):
            return stage("augment", "noise", color=name, **settings)
        if name in ("background_noise", "recorded rir"):
            settings = {"path": str(recordings), **settings}
        name = name.removeprefix("recorded ")
        return stage("augment", name, **settings)

    return build


@pytest.mark.parametrize("name", WAVEFORM)
def test_probability_0_changes_nothing_and_1_changes_every_clip(augmentation, batch, name):
    before = batch([1600, 900, 1200, 1600, 500, 1, 1599, 800])
    for augmented, original in zip(augmentation(name, p=0.0)(before)[:-1], before[:-1], strict=True):  # without events
        assert torch.equal(augmented[..., : original.shape[-1]], original)
        assert not augmented[..., original.shape[-1] :].any()
    before = batch([1600, 1500] * 32)
    after = augmentation(name, p=1.0)(before).waveform
    changed = (after[:, :1600] != before.waveform).any(1)
    if name == "mixup":  # a clip may be mixed with itself
        assert changed.sum() >= 60
    else:
        assert changed.all()


@pytest.mark.parametrize("name", [name for name in WAVEFORM if name not in PER_BATCH])
def test_half_of_the_clips_change_at_probability_one_half(augmentation, batch, name):
    before = batch([60] * 2000)
    after = augmentation(name, p=0.5)(before)
    assert 0.45 < (after.waveform[:, :60] != before.waveform).any(1).float().mean() < 0.55


@pytest.mark.parametrize("name", WAVEFORM)
def test_padding_stays_zero_and_lengths_stay_within_the_waveform(augmentation, batch, name):
    after = augmentation(name, p=1.0)(batch([1600, 900, 1, 2, 500, 1600]))
    assert not after.waveform[~length_mask(after.lengths, after.waveform.shape[1])].any()
    assert after.waveform.isfinite().all()
    assert (after.lengths >= 1).all()
    assert (after.lengths <= after.waveform.shape[1]).all()
    assert after.lengths.dtype == torch.int64


@pytest.mark.parametrize("name", [name for name in WAVEFORM if name not in (*PER_BATCH, "recorded rir", "codec")])
def test_draws_differ_between_clips_and_depend_on_the_seed_only(augmentation, batch, name):
    clips = torch.randn(1, 1600).repeat(16, 1)
    if name == "mixup":
        clips *= torch.arange(1, 17)[:, None]  # mixtures of equal clips would not differ
    before, runs = batch([1600] * 16, clips), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(augmentation(name, p=1.0)(before).waveform)
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert len(torch.unique(runs[0], dim=0)) >= 15


@pytest.mark.parametrize("name", ["white", "pink", "background_noise"])
@pytest.mark.parametrize(("low", "high"), [(10.0, 10.0), (-5.0, 30.0)])
def test_signal_to_noise_ratio_is_uniformly_distributed(augmentation, batch, name, low, high):
    before = batch([1600, 700] * 200)
    after = augmentation(name, min_snr_db=low, max_snr_db=high, p=1.0)(before)
    noise = (after.waveform - before.waveform).double()
    ratio = 10 * (before.waveform.double().square().sum(1) / noise.square().sum(1)).log10()
    assert low - 0.01 < ratio.min() <= ratio.max() < high + 0.01
    if high > low:
        assert scipy.stats.kstest(ratio.numpy(), "uniform", (low, high - low)).pvalue > 0.01


@pytest.mark.parametrize("name", ["white", "pink", "background_noise"])
def test_digital_silence_is_unchanged(augmentation, batch, name):
    after = augmentation(name, p=1.0)(batch([400, 300], torch.zeros(2, 400)))
    assert torch.equal(after.waveform, torch.zeros(2, 400))


@pytest.mark.parametrize(("color", "slope"), [("white", 0.0), ("pink", -10.0)])
def test_noise_has_the_slope_of_its_color_per_decade(augmentation, batch, color, slope):
    before = batch([1 << 15] * 16)
    noise = augmentation(color, p=1.0)(before).waveform - before.waveform
    noise = noise / noise.square().mean(1, keepdim=True).sqrt()
    power = torch.fft.rfft(noise).abs().square().mean(0)[16 : 1 << 13]
    fitted = np.polyfit(np.log10(np.arange(16, 1 << 13)), 10 * power.log10().numpy(), 1)
    assert fitted[0] == pytest.approx(slope, abs=0.5)


def test_background_noise_consists_of_excerpts_of_the_recordings(augmentation, batch, recordings):
    before = batch([300] * 20)
    added = augmentation("background_noise", p=1.0)(before).waveform - before.waveform
    files = [soundfile.read(recordings / name)[0] for name in ("kitchen/tap.flac", "street.wav")]
    noise = torch.from_numpy(np.concatenate([*files, *files])).float()
    excerpts = torch.nn.functional.normalize(noise.unfold(0, 300, 1), dim=1)
    similarity, start = (torch.nn.functional.normalize(added, dim=1) @ excerpts.T).max(1)
    assert similarity.min() > 0.999
    assert len(start.unique()) > 15


def test_background_noise_is_resampled(augmentation, batch, tmp_path):
    soundfile.write(tmp_path / "hum.wav", np.sin(2 * np.pi * 1000 / 48000 * np.arange(48000)), 48000)
    before = batch([8000] * 2)
    noise = augmentation("background_noise", path=str(tmp_path), p=1.0)(before).waveform - before.waveform
    assert torch.fft.rfft(noise).abs().argmax(1).tolist() == [500, 500]  # 1 kHz in 0.5 s


@pytest.mark.parametrize("folder", ["missing", "empty"])
def test_background_noise_without_audio_files_is_reported(augmentation, tmp_path, folder):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("not audio")
    message = rf"^augment\.background_noise\.path={tmp_path}/{folder}: not a folder with audio files$"
    with pytest.raises(UserError, match=message):
        augmentation("background_noise", path=str(tmp_path / folder))


def test_shift_moves_an_impulse_within_range_and_clip(stage, batch):
    shift = stage("augment", "shift", max_ms=10, p=1.0)  # 160 samples
    position, lengths = torch.tensor([500, 100, 950] * 200), [1000] * 600
    lengths[::6] = [501] * 100  # whose impulse is the last sample
    before = batch(lengths, torch.nn.functional.one_hot(position, 1200).float())
    after = shift(before)
    assert torch.equal(after.lengths, before.lengths)
    kept = after.waveform.sum(1) == 1
    shifts = (after.waveform.argmax(1) - position)[kept]
    assert -160 <= shifts.min() < -140 < 140 < shifts.max() <= 160
    # The impulse at 100 is removed by larger shifts to the left, and the last sample by any shift to the right.
    assert kept[1::3].float().mean() == pytest.approx(261 / 321, abs=0.08)
    assert kept[::6].float().mean() == pytest.approx(161 / 321, abs=0.12)
    assert ((after.waveform == 0) | (after.waveform == 1)).all()
    assert (after.waveform.sum(1) <= 1).all()


def test_pad_puts_clips_at_random_positions_in_silence(stage, batch):
    pad, batch = stage("augment", "pad", max_ms=100, p=1.0), batch([1600, 900, 500])  # up to 1600 samples of silence
    starts, totals = [], set()
    for _ in range(20):
        after = pad(batch)
        silence = after.waveform.shape[1] - batch.waveform.shape[1]
        assert 0 <= silence <= 1600
        assert torch.equal(after.lengths, batch.lengths + silence)
        for before, clip, length in zip(batch.waveform, after.waveform, batch.lengths.tolist(), strict=True):
            start = next(n for n in range(silence + 1) if torch.equal(clip[n : n + length], before[:length]))
            assert not clip[:start].any()
            assert not clip[start + length :].any()
            starts.append(start / max(1, silence))
        totals.add(silence)
    assert len(totals) > 10
    assert min(starts) < 0.1
    assert max(starts) > 0.9


def test_shifted_clip_is_filled_with_silence(stage, batch):
    before = batch([800, 500] * 20, torch.ones(40, 800))
    after = stage("augment", "shift", max_ms=10, p=1.0)(before)
    removed = before.lengths - after.waveform.sum(1).long()
    assert set(after.waveform.unique().tolist()) == {0, 1}
    assert len(removed.unique()) > 20
    first, last = after.waveform[:, 0], after.waveform[torch.arange(40), before.lengths - 1]
    assert torch.equal(first + last, torch.where(removed > 0, 1.0, 2.0))  # silence at one end only


def test_trim_removes_a_uniformly_distributed_part_of_each_end(stage, batch):
    before = batch([1000, 800] * 300, torch.arange(1.0, 1001).repeat(600, 1))
    after = stage("augment", "trim", max_fraction=0.2, p=1.0)(before)
    for removed in (after.waveform[:, 0] - 1, before.lengths - after.lengths - (after.waveform[:, 0] - 1)):
        assert scipy.stats.kstest((removed / before.lengths).numpy(), "uniform", (-1e-3, 0.201)).pvalue > 0.01
    expected = after.waveform[:, :1] + torch.arange(1000)
    assert torch.equal(after.waveform, expected * length_mask(after.lengths, 1000))


def test_gain_is_uniformly_distributed(stage, batch):
    before = batch([50] * 1000)
    after = stage("augment", "gain", min_db=-12, max_db=6, p=1.0)(before)
    ratio = after.waveform / before.waveform
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))
    decibels = 20 * ratio[:, 0].log10().numpy()
    assert scipy.stats.kstest(decibels, "uniform", (-12 - 1e-4, 18 + 2e-4)).pvalue > 0.01


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.25])
def test_speed_changes_frequency_and_length(stage, batch, factor):
    lengths = [8000, 4001]
    before = batch(lengths, torch.sin(2 * torch.pi * 400 / RATE * torch.arange(8000)).repeat(2, 1))
    after = stage("augment", "speed", min_factor=factor, max_factor=factor, p=1.0)(before)
    assert after.lengths.tolist() == [int((length - 1) / factor + 1e-3) + 1 for length in lengths]
    for clip, length in enumerate(after.lengths.tolist()):
        expected = torch.sin(2 * torch.pi * 400 * factor / RATE * torch.arange(length))
        assert (after.waveform[clip, :length] - expected).abs().max() < 0.01


def test_speed_draws_one_uniformly_distributed_factor_per_batch(stage, batch):
    speed, before = stage("augment", "speed", min_factor=0.5, max_factor=2.0, p=0.5), batch([10001, 5001])
    lengths = torch.stack([speed(before).lengths for _ in range(1000)])
    assert ((lengths[:, 0] - 1 - 2 * (lengths[:, 1] - 1)).abs() <= 2).all()
    factors = (10000 / (lengths[:, 0] - 1)).numpy()
    changed = factors[factors != 1]
    assert 450 < len(changed) < 550
    assert scipy.stats.kstest(changed, "uniform", (0.5, 1.5)).pvalue > 0.01


def test_speed_depends_on_the_seed_only(stage, batch):
    speed, before = stage("augment", "speed", p=1.0), batch([1600, 900])
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(speed(before).waveform)
    assert torch.equal(runs[0], runs[1])
    assert runs[0].shape != runs[2].shape


def test_speed_lengths_never_exceed_the_waveform(stage, batch):
    # In float32 this length divided by this factor rounds up to one sample too many.
    before = batch([1_000_008], torch.zeros(1, 1_000_008))
    after = stage("augment", "speed", min_factor=0.95, max_factor=0.95, p=1.0)(before)
    assert after.lengths.item() <= after.waveform.shape[1]


def test_mixup_mixes_waveforms_and_targets_with_the_same_weights(stage, batch):
    before = batch(list(range(1000, 1100)), torch.eye(100).repeat(1, 11))  # clip i is 1 at samples i, i + 100, ...
    after = stage("augment", "mixup", alpha=0.4, p=1.0)(before)
    weights = after.waveform[:, :1000].unflatten(1, (10, 100)).mean(1)
    torch.testing.assert_close(weights, after.targets)
    torch.testing.assert_close(after.targets.sum(1), torch.ones(100))
    assert (after.targets.diagonal() >= 0.5).all()
    other = (after.targets - torch.diag(after.targets.diagonal())).argmax(1)
    mixed = after.targets.diagonal() < 1
    longer = torch.maximum(before.lengths, before.lengths[other])
    assert torch.equal(after.lengths, torch.where(mixed, longer, before.lengths))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixup_weights_are_beta_distributed(stage, batch, alpha):
    before = batch([2] * 2000)
    own = stage("augment", "mixup", alpha=alpha, p=1.0)(before).targets.diagonal().numpy()
    reference = np.random.default_rng(0).beta(alpha, alpha, 20000)
    assert scipy.stats.ks_2samp(own[own < 1], np.maximum(reference, 1 - reference)[reference < 1]).pvalue > 0.01


def test_augmentations_are_applied_in_order(stage, batch):
    names = {"specaugment": {}, "gain": {"min_db": 6, "max_db": 6, "p": 1.0}, "shift": {"p": 0.0}}
    augment = Augmentations([stage("augment", name, **settings) for name, settings in names.items()])
    assert [type(transform) for transform in augment.waveform_transforms] == [Gain, TimeShift]
    assert [type(transform) for transform in augment.spectrogram_transforms] == [SpecAugment]
    before = batch([100, 80])
    torch.testing.assert_close(augment.waveform(before).waveform, before.waveform * 10 ** (6 / 20))
    x, frames = torch.randn(64, 30, 8), torch.full((64,), 30)
    assert not torch.equal(augment.spectrogram(x, frames), x)
    assert Augmentations([]).waveform(before) is before


@pytest.mark.parametrize(
    ("option", "settings", "message"),
    [
        ("noise", {"min_snr_db": 50}, "max_snr_db=40: below augment.noise.min_snr_db=50; at least that"),
        ("gain", {"max_db": -20}, "max_db=-20: below augment.gain.min_db=-12; at least that"),
        ("speed", {"max_factor": 0.5}, "max_factor=0.5: below augment.speed.min_factor=0.8; at least that"),
        (
            "background_noise",
            {"path": str(Path(__file__).parent), "max_snr_db": -1},
            "max_snr_db=-1: below augment.background_noise.min_snr_db=0; at least that",
        ),
        ("noise", {"color": "brown"}, "color=brown: should be 'white' or 'pink'"),
        ("noise", {"p": 1.5}, "p=1.5: should be less than or equal to 1"),
        ("shift", {"max_ms": 0}, "max_ms=0: should be greater than 0"),
        ("speed", {"min_factor": 0}, "min_factor=0: should be greater than 0"),
        ("rir", {"max_rt60_ms": 20}, "max_rt60_ms=20: below augment.rir.min_rt60_ms=50; at least that"),
        ("rir", {"max_drr_db": -3}, "max_drr_db=-3: below augment.rir.min_drr_db=0; at least that"),
        ("rir", {"path": "/none"}, "path=/none: not a folder with audio files"),
        ("codec", {"high_hz": 200}, "high_hz=200: not above augment.codec.low_hz=300; above it"),
        ("codec", {"bits": 1}, "bits=1: should be greater than or equal to 2"),
        ("bandpass", {"max_low_hz": 10}, "max_low_hz=10: below augment.bandpass.min_low_hz=20; at least that"),
        ("bandpass", {"max_low_hz": 3e3}, "max_low_hz=3000.0: not below augment.bandpass.min_high_hz=2000; below it"),
        (
            "bandpass",
            {"min_high_hz": 9000},
            "min_high_hz=9000: above augment.bandpass.sample_rate=16000 allows; at most 8000 Hz",
        ),
        ("stretch", {"max_factor": 0.5}, "max_factor=0.5: below augment.stretch.min_factor=0.8; at least that"),
        ("pitch", {"max_semitones": -3}, "max_semitones=-3: below augment.pitch.min_semitones=-2; at least that"),
        ("pitch", {"max_semitones": 30}, "max_semitones=30: should be less than or equal to 24"),
        ("filter", {"num_points": 1}, "num_points=1: should be greater than or equal to 2"),
        ("vtlp", {"max_stretch": 1}, "max_stretch=1: should be less than 1"),
        ("mixup", {"alpha": -1}, "alpha=-1: should be greater than 0"),
        ("specaugment", {"num_time_masks": -1}, "num_time_masks=-1: should be greater than or equal to 0"),
    ],
)
def test_invalid_settings_are_reported_with_their_full_key(stage, option, settings, message):
    with pytest.raises(UserError) as error:
        stage("augment", option, **settings)
    assert f"augment.{option}.{message}" in str(error.value).splitlines()
