"""Augmentation: drawn for each clip, computed for the whole batch at once, on the batch's device.

All draws come from the default generators, which the training loop seeds for every epoch.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from spectrnn.config.types import NonNegativeInt, PositiveFloat, PositiveInt, Probability
from spectrnn.data.audio import load_audio
from spectrnn.data.batches import Batch
from spectrnn.data.samples import to_device
from spectrnn.data.sources.local import is_audio
from spectrnn.errors import reject_settings
from spectrnn.frontend.masking import length_mask, masked_mean

_NOISE_SAMPLES = 1 << 20  # that are drawn once; every clip then gets an excerpt of its own


class WaveformAugmentation(nn.Module):
    """Changes the waveforms of a batch, their lengths or their targets."""

    def forward(self, batch: Batch) -> Batch:
        """Batch -> Batch; waveform (batch, samples) stays zero beyond each clip's length."""
        raise NotImplementedError


class SpectrogramAugmentation(nn.Module):
    """Changes normalized features."""

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """Features (batch, frames, bins), valid frames (batch,) -> features of the same shape."""
        raise NotImplementedError


class Augmentations(nn.Module):
    """The augmentations of a run, in order: first those of the waveform, then those of the spectrogram."""

    def __init__(self, stages: Sequence[WaveformAugmentation | SpectrogramAugmentation]) -> None:
        super().__init__()
        self.on_waveform = nn.ModuleList(stage for stage in stages if isinstance(stage, WaveformAugmentation))
        self.on_spectrogram = nn.ModuleList(stage for stage in stages if isinstance(stage, SpectrogramAugmentation))

    def waveform(self, batch: Batch) -> Batch:
        """Batch -> Batch, with waveform (batch, samples) augmented."""
        for stage in self.on_waveform:
            batch = stage(batch)
        return batch

    def spectrogram(self, x: Tensor, frames: Tensor) -> Tensor:
        """Features (batch, frames, bins), valid frames (batch,) -> features of the same shape."""
        for stage in self.on_spectrogram:
            x = stage(x, frames)
        return x


class AddNoise(WaveformAugmentation):
    """Adds an excerpt of some noise to each clip, at a drawn signal-to-noise ratio.

    Args:
        bank: of noise, (samples,); int16 or float, its level does not matter.
        min_snr_db, max_snr_db: range of the ratio of the clip's power to the noise's, dB.
        p: of a clip to be changed.
    """

    bank: Tensor

    def __init__(self, bank: Tensor, min_snr_db: float, max_snr_db: float, p: Probability) -> None:
        super().__init__()
        reject_settings(max_snr_db=_check_order("min_snr_db", min_snr_db, max_snr_db))
        self.snr, self.p = (min_snr_db, max_snr_db), p
        self.register_buffer("bank", bank, persistent=False)

    def forward(self, batch: Batch) -> Batch:
        """Adds noise within each clip's length; waveform (batch, samples)."""
        count, size = batch.waveform.shape
        bank = self.bank.repeat(-(-size // len(self.bank))) if len(self.bank) < size else self.bank
        start = (torch.rand(count, device=bank.device) * (len(bank) - size + 1)).long()
        noise = bank.unfold(0, size, 1)[start].float().mul_(length_mask(batch.lengths, size))
        loudness = torch.linalg.vector_norm(noise, dim=1).clamp(min=1e-6)
        scale = torch.linalg.vector_norm(batch.waveform, dim=1) / loudness / 10 ** (_uniform(batch, *self.snr) / 20)
        scale *= _apply_mask(batch, self.p)
        return batch._replace(waveform=batch.waveform.addcmul(noise, scale[:, None]))


class ColoredNoise(AddNoise):
    """Adds white or pink noise.

    Args:
        color: ``white``, or ``pink`` (power falls with 1 / frequency).
        min_snr_db, max_snr_db: range of the ratio of the clip's power to the noise's, dB.
        p: of a clip to be changed.
    """

    def __init__(self, color: Literal["white", "pink"], min_snr_db: float, max_snr_db: float, p: Probability) -> None:
        white = torch.randn(_NOISE_SAMPLES, generator=torch.Generator().manual_seed(0))
        super().__init__(_pink(white) if color == "pink" else white, min_snr_db, max_snr_db, p)


class BackgroundNoise(AddNoise):
    """Adds excerpts of recorded noise.

    Args:
        path: folder of audio files; all of them are held in memory, end to end, at the run's rate.
        sample_rate: of the waveforms, Hz.
        min_snr_db, max_snr_db: range of the ratio of the clip's power to the noise's, dB.
        p: of a clip to be changed.

    Raises:
        SettingError: there is no such folder, or no audio in it.
    """

    def __init__(
        self, path: str, sample_rate: PositiveInt, min_snr_db: float, max_snr_db: float, p: Probability
    ) -> None:
        root = Path(path).expanduser()
        files = sorted(file for file in root.rglob("*") if is_audio(file.relative_to(root)) and file.is_file())
        reject_settings(
            path=not files and "no folder with audio files",
            max_snr_db=_check_order("min_snr_db", min_snr_db, max_snr_db),
        )
        bank = torch.cat([torch.from_numpy(load_audio(file, sample_rate)) for file in files])
        super().__init__(bank, min_snr_db, max_snr_db, p)


class TimeShift(WaveformAugmentation):
    """Moves the sound in time within the clip's length; what leaves it is lost, what enters is silence.

    Args:
        max_ms: farthest move to either side, ms.
        sample_rate: of the waveforms, Hz.
        p: of a clip to be changed.
    """

    def __init__(self, max_ms: PositiveFloat, sample_rate: PositiveInt, p: Probability) -> None:
        super().__init__()
        self.max_samples, self.p = max_ms * sample_rate / 1000, p

    def forward(self, batch: Batch) -> Batch:
        """Shifts each clip; waveform (batch, samples)."""
        shift = _uniform(batch, -self.max_samples, self.max_samples).round().long()
        shift = torch.where(_apply_mask(batch, self.p), shift, 0)
        position = torch.arange(batch.waveform.shape[1], device=shift.device) - shift[:, None]
        inside = (position >= 0) & length_mask(batch.lengths, batch.waveform.shape[1])
        moved = batch.waveform.gather(1, position.clamp(0, batch.waveform.shape[1] - 1))
        return batch._replace(waveform=moved * (inside & (position < batch.lengths[:, None])))


class Gain(WaveformAugmentation):
    """Makes a clip louder or softer.

    Args:
        min_db, max_db: range of the gain, dB.
        p: of a clip to be changed.
    """

    def __init__(self, min_db: float, max_db: float, p: Probability) -> None:
        super().__init__()
        reject_settings(max_db=_check_order("min_db", min_db, max_db))
        self.range, self.p = (min_db, max_db), p

    def forward(self, batch: Batch) -> Batch:
        """Scales each clip; waveform (batch, samples)."""
        gain = torch.where(_apply_mask(batch, self.p), 10 ** (_uniform(batch, *self.range) / 20), 1.0)
        return batch._replace(waveform=batch.waveform * gain[:, None])


class SpeedPerturbation(WaveformAugmentation):
    """Plays a batch faster or slower, which moves its pitch too; by linear interpolation.

    One factor for the whole batch keeps clips of like length alike: one a clip would fill a tenth of it with padding.

    Source: Ko et al., "Audio augmentation for speech recognition", 2015.

    Args:
        min_factor, max_factor: range of the factor; 1.1 is a tenth faster.
        p: of a batch to be changed.
    """

    def __init__(self, min_factor: PositiveFloat, max_factor: PositiveFloat, p: Probability) -> None:
        super().__init__()
        reject_settings(max_factor=_check_order("min_factor", min_factor, max_factor))
        self.range, self.p = (min_factor, max_factor), p

    def forward(self, batch: Batch) -> Batch:
        """Resamples each clip: waveform (batch, samples) -> (batch, samples / factor), with new lengths."""
        # Drawn on the CPU: the batch's new size must be known here, and a GPU would have to be waited for.
        draw, factor = float(torch.rand(())), float(torch.empty(()).uniform_(*self.range))
        if draw >= self.p:
            return batch
        waveform, device = batch.waveform, batch.waveform.device
        last = waveform.shape[1] - 1
        position = np.arange(int(last / factor) + 1) * factor
        before = np.minimum(position.astype(np.int64), last)
        rest = to_device(torch.from_numpy((position - before).astype(np.float32)), device)
        left = waveform.index_select(1, to_device(torch.from_numpy(before), device))
        right = waveform.index_select(1, to_device(torch.from_numpy(np.minimum(before + 1, last)), device))
        lengths = (((batch.lengths - 1) / factor).long() + 1).clamp(max=len(position))  # float32 may round up
        resampled = torch.lerp(left, right, rest).mul_(length_mask(lengths, len(position)))
        return batch._replace(waveform=resampled, lengths=lengths)


class Mixup(WaveformAugmentation):
    """Mixes each clip with another of the batch, and their targets alike.

    Source: Zhang et al., "mixup: beyond empirical risk minimization", 2018.

    Args:
        alpha: of the Beta(alpha, alpha) distribution of a clip's own share.
        p: of a clip to be changed.
    """

    def __init__(self, alpha: PositiveFloat, p: Probability) -> None:
        super().__init__()
        self.alpha, self.p = alpha, p

    def forward(self, batch: Batch) -> Batch:
        """Mixes waveform (batch, samples) and targets (batch, classes); a clip is as long as the longer of its two."""
        count, device = len(batch.lengths), batch.waveform.device
        alpha = torch.full((count, 2), float(self.alpha), device=device)
        share = torch._sample_dirichlet(alpha)[:, 0]  # torch.distributions.Beta would make the device wait
        share = torch.where(_apply_mask(batch, self.p), torch.maximum(share, 1 - share), 1.0)
        other = torch.randperm(count, device=device)
        waveform = torch.lerp(batch.waveform[other], batch.waveform, share[:, None])
        targets = torch.lerp(batch.targets[other], batch.targets, share[:, None])
        lengths = torch.where(share < 1, torch.maximum(batch.lengths, batch.lengths[other]), batch.lengths)
        return batch._replace(waveform=waveform, targets=targets, lengths=lengths)


class SpecAugment(SpectrogramAugmentation):
    """Hides bands of time and of frequency behind the clip's mean.

    Source: Park et al., "SpecAugment", 2019.

    Args:
        num_time_masks: how many bands of frames.
        time_mask_param: frames of the widest.
        max_time_fraction: share of a clip's frames that one band may hide.
        num_freq_masks: how many bands of bins.
        freq_mask_param: bins of the widest.
    """

    def __init__(
        self,
        num_time_masks: NonNegativeInt,
        time_mask_param: NonNegativeInt,
        max_time_fraction: Probability,
        num_freq_masks: NonNegativeInt,
        freq_mask_param: NonNegativeInt,
    ) -> None:
        super().__init__()
        self.num_time_masks, self.time_mask_param, self.max_time_fraction = (
            num_time_masks,
            time_mask_param,
            max_time_fraction,
        )
        self.num_freq_masks, self.freq_mask_param = num_freq_masks, freq_mask_param

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """(batch, frames, bins) -> the same shape."""
        batch, size, bins = x.shape
        widest = (frames * self.max_time_fraction + 1e-4).floor().clamp(max=self.time_mask_param)
        hidden_frames = torch.zeros(batch, size, dtype=torch.bool, device=x.device)
        for _ in range(self.num_time_masks):
            hidden_frames |= _random_band(widest, frames, size)
        hidden_bins = torch.zeros(batch, bins, dtype=torch.bool, device=x.device)
        bands = torch.full_like(frames, bins)
        for _ in range(self.num_freq_masks):
            hidden_bins |= _random_band(bands.clamp(max=self.freq_mask_param), bands, bins)
        mean = masked_mean(x.mean(2, keepdim=True), length_mask(frames, size), frames)
        return torch.where(hidden_frames[:, :, None] | hidden_bins[:, None], mean[:, :, None], x)


def _random_band(widest: Tensor, extent: Tensor, size: int) -> Tensor:
    """A band of a drawn width, up to `widest` (batch,), within `extent` (batch,) -> bool (batch, size)."""
    width = (torch.rand(len(extent), device=extent.device) * (widest + 1)).floor()
    start = (torch.rand(len(extent), device=extent.device) * (extent - width + 1)).floor()
    position = torch.arange(size, device=extent.device)
    return (position >= start[:, None]) & (position < (start + width)[:, None])


def _pink(white: Tensor) -> Tensor:
    """(samples,) of white noise -> pink noise, by shaping its spectrum."""
    spectrum = torch.fft.rfft(white)
    return torch.fft.irfft(spectrum / torch.arange(len(spectrum)).clamp(min=1).sqrt(), n=len(white))


def _uniform(batch: Batch, low: float, high: float) -> Tensor:
    """One draw a clip: (batch,)."""
    return torch.empty(len(batch.lengths), device=batch.waveform.device).uniform_(low, high)


def _apply_mask(batch: Batch, p: float) -> Tensor:
    """Which clips to change: bool (batch,)."""
    return torch.rand(len(batch.lengths), device=batch.waveform.device) < p


def _check_order(minimum: str, low: float, high: float) -> str | bool:
    """What to refuse a range for, whose lower end bears the name `minimum`."""
    return low > high and f"is below {minimum}={low:g}; at least that"
