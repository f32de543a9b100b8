"""Augmentation: drawn per clip, computed for the whole batch at once, on the batch's device.

All random numbers come from PyTorch's default generators, which the trainer seeds for every batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn

from spectrnn.config.types import Fraction, NonNegativeInt, PositiveFloat, PositiveInt, Probability
from spectrnn.data.audio import load_audio
from spectrnn.data.batches import Batch, ClipEvents
from spectrnn.data.scan import scan_folder, warn_about_ignored
from spectrnn.errors import reject_settings
from spectrnn.frontend.masking import length_mask, masked_mean

NumPoints = Annotated[int, Ge(2)]
HalfFraction = Annotated[float, Ge(0), Lt(0.5)]

_NOISE_SAMPLES = 1 << 20  # generated once; every clip gets a random excerpt


class WaveformAugmentation(nn.Module, ABC):
    """Interface of augmentations of waveforms, which may also change lengths and targets.

    One that moves samples in time moves the events of the batch, too, by `move_events`.
    """

    @abstractmethod
    def forward(self, batch: Batch) -> Batch:
        """Augments a batch with encoded targets; waveform (batch, samples) stays zero after each clip's end."""


class SpectrogramAugmentation(nn.Module, ABC):
    """Interface of augmentations of normalized features."""

    @abstractmethod
    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Features (batch, frames, bins), lengths (batch,) -> features of the same shape."""


class Augmentations(nn.Module):
    """The augmentations of a run, in order: first those of the waveform, then those of the spectrogram."""

    def __init__(self, stages: Sequence[WaveformAugmentation | SpectrogramAugmentation]) -> None:
        super().__init__()
        self.waveform_transforms = nn.ModuleList(s for s in stages if isinstance(s, WaveformAugmentation))
        self.spectrogram_transforms = nn.ModuleList(s for s in stages if isinstance(s, SpectrogramAugmentation))

    def waveform(self, batch: Batch) -> Batch:
        """Augments the waveforms (batch, samples) of a batch."""
        for transform in self.waveform_transforms:
            batch = transform(batch)
        return batch

    def spectrogram(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Features (batch, frames, bins), lengths (batch,) -> features of the same shape."""
        for transform in self.spectrogram_transforms:
            x = transform(x, lengths)
        return x


class AddNoise(WaveformAugmentation):
    """Adds an excerpt of noise to each clip, at a random signal-to-noise ratio.

    Args:
        noise: Noise, int16 or float (samples,), at any level.
        min_snr_db: Minimum ratio of the clip's power to the noise's in dB.
        max_snr_db: Maximum ratio in dB.
        p: Probability of a clip to be changed.
    """

    noise: Tensor

    def __init__(self, noise: Tensor, min_snr_db: float, max_snr_db: float, p: Probability) -> None:
        super().__init__()
        reject_settings(check_range("snr_db", min_snr_db, max_snr_db))
        self.snr_db, self.p = (min_snr_db, max_snr_db), p
        self.register_buffer("noise", noise, persistent=False)

    def forward(self, batch: Batch) -> Batch:
        """Adds noise within each clip's length; waveform (batch, samples)."""
        count, size = batch.waveform.shape
        noise = self.noise.repeat(-(-size // len(self.noise))) if len(self.noise) < size else self.noise
        start = (torch.rand(count, device=noise.device) * (len(noise) - size + 1)).long()
        excerpts = noise.unfold(0, size, 1)[start].float().mul_(length_mask(batch.lengths, size))
        noise_norm = torch.linalg.vector_norm(excerpts, dim=1).clamp(min=1e-6)
        snr = 10 ** (uniform(batch, *self.snr_db) / 20)
        scale = torch.linalg.vector_norm(batch.waveform, dim=1) / noise_norm / snr
        scale *= is_selected(batch, self.p)
        return batch._replace(waveform=batch.waveform.addcmul(excerpts, scale[:, None]))


class ColoredNoise(AddNoise):
    """Adds white or pink noise.

    Args:
        color: ``white``, or ``pink`` (power proportional to 1 / frequency).
        min_snr_db, max_snr_db, p: As for `AddNoise`.
    """

    def __init__(self, color: Literal["white", "pink"], min_snr_db: float, max_snr_db: float, p: Probability) -> None:
        noise = torch.randn(_NOISE_SAMPLES, generator=torch.Generator().manual_seed(0))
        if color == "pink":
            spectrum = torch.fft.rfft(noise)
            noise = torch.fft.irfft(spectrum / torch.arange(len(spectrum)).clamp(min=1).sqrt(), n=len(noise))
        super().__init__(noise, min_snr_db, max_snr_db, p)


class BackgroundNoise(AddNoise):
    """Adds excerpts of recorded noise.

    Args:
        path: Folder of audio files, all of which are kept in memory.
        sample_rate: Sample rate of the waveforms in Hz.
        min_snr_db, max_snr_db, p: As for `AddNoise`.

    Raises:
        SettingError: A folder that is missing or contains no audio.
    """

    def __init__(
        self, path: str, sample_rate: PositiveInt, min_snr_db: float, max_snr_db: float, p: Probability
    ) -> None:
        files, problem = find_recordings(path)
        reject_settings(
            ("path", not files, problem),
            check_range("snr_db", min_snr_db, max_snr_db),
        )
        noise = torch.cat([torch.from_numpy(load_audio(file, sample_rate)) for file in files])
        super().__init__(noise, min_snr_db, max_snr_db, p)


class TimeShift(WaveformAugmentation):
    """Shifts the audio within the clip's length, without wrapping around.

    Args:
        max_ms: Maximum shift in either direction in ms.
        sample_rate: Sample rate of the waveforms in Hz.
        p: Probability of a clip to be changed.
    """

    def __init__(self, max_ms: PositiveFloat, sample_rate: PositiveInt, p: Probability) -> None:
        super().__init__()
        self.max_samples, self.p = max_ms * sample_rate / 1000, p

    def forward(self, batch: Batch) -> Batch:
        """Shifts each clip; waveform (batch, samples)."""
        shift = uniform(batch, -self.max_samples, self.max_samples).round().long()
        shift = torch.where(is_selected(batch, self.p), shift, 0)
        position = torch.arange(batch.waveform.shape[1], device=shift.device) - shift[:, None]
        batch = move_events(batch, shift=shift)
        inside = (position >= 0) & length_mask(batch.lengths, batch.waveform.shape[1])
        shifted = batch.waveform.gather(1, position.clamp(0, batch.waveform.shape[1] - 1))
        return batch._replace(waveform=shifted * (inside & (position < batch.lengths[:, None])))


class Trim(WaveformAugmentation):
    """Removes a random part of a clip at its start and at its end, as other people and programs cut recordings.

    Args:
        max_fraction: Maximum fraction of the clip that is removed at either end, below 0.5.
        p: Probability of a clip to be changed.
    """

    def __init__(self, max_fraction: HalfFraction, p: Probability) -> None:
        super().__init__()
        self.max_fraction, self.p = max_fraction, p

    def forward(self, batch: Batch) -> Batch:
        """Trims each clip; waveform (batch, samples) of the same size, with new lengths."""
        size, trimmed = batch.waveform.shape[1], is_selected(batch, self.p) * batch.lengths
        start, end = ((trimmed * uniform(batch, 0, self.max_fraction)).long() for _ in range(2))
        lengths = batch.lengths - start - end
        position = torch.arange(size, device=start.device) + start[:, None]
        waveform = batch.waveform.gather(1, position.clamp(max=size - 1)) * length_mask(lengths, size)
        if batch.events is not None:
            batch = move_events(batch, shift=-start)
        return batch._replace(waveform=waveform, lengths=lengths)


class Pad(WaveformAugmentation):
    """Adds silence before and after a clip, as the windows of a detector contain more than a sound.

    One length for the whole batch preserves similar lengths; each clip has its own part of it at its start.

    Args:
        max_ms: Maximum length of the silence in ms, before and after the clip together.
        sample_rate: Sample rate of the waveforms in Hz.
        p: Probability of a batch to be changed.
    """

    def __init__(self, max_ms: PositiveFloat, sample_rate: PositiveInt, p: Probability) -> None:
        super().__init__()
        self.max_samples, self.p = max_ms * sample_rate / 1000, p

    def forward(self, batch: Batch) -> Batch:
        """Pads each clip: waveform (batch, samples) -> (batch, samples + silence), with new lengths."""
        silence = int(draw_for_batch(0, self.max_samples, self.p) or 0)
        if not silence:
            return batch
        start = uniform(batch, 0, silence + 1).long()
        waveform = nn.functional.pad(batch.waveform, (0, silence))
        position = torch.arange(waveform.shape[1], device=start.device) - start[:, None]
        padded = waveform.gather(1, position.clamp(min=0)) * (position >= 0)
        return move_events(batch, shift=start)._replace(waveform=padded, lengths=batch.lengths + silence)


class Gain(WaveformAugmentation):
    """Changes the level of a clip.

    Args:
        min_db: Minimum gain in dB.
        max_db: Maximum gain in dB.
        p: Probability of a clip to be changed.
    """

    def __init__(self, min_db: float, max_db: float, p: Probability) -> None:
        super().__init__()
        reject_settings(check_range("db", min_db, max_db))
        self.range_db, self.p = (min_db, max_db), p

    def forward(self, batch: Batch) -> Batch:
        """Scales each clip; waveform (batch, samples)."""
        gain = torch.where(is_selected(batch, self.p), 10 ** (uniform(batch, *self.range_db) / 20), 1.0)
        return batch._replace(waveform=batch.waveform * gain[:, None])


class SpeedPerturbation(WaveformAugmentation):
    """Changes speed and pitch of a batch, by linear interpolation.

    One factor for the whole batch preserves similar lengths: a factor per clip would add a tenth of padding.

    Source: Ko et al., "Audio augmentation for speech recognition", 2015.

    Args:
        min_factor: Minimum speed factor.
        max_factor: Maximum speed factor; 1.1 is 10 % faster.
        p: Probability of a batch to be changed.
    """

    def __init__(self, min_factor: PositiveFloat, max_factor: PositiveFloat, p: Probability) -> None:
        super().__init__()
        reject_settings(check_range("factor", min_factor, max_factor))
        self.range, self.p = (min_factor, max_factor), p

    def forward(self, batch: Batch) -> Batch:
        """Resamples each clip: waveform (batch, samples) -> (batch, samples / factor), with new lengths."""
        factor = draw_for_batch(*self.range, self.p)
        if factor is None:
            return batch
        waveform, last = batch.waveform, batch.waveform.shape[1] - 1
        position = torch.arange(int(last / factor) + 1, dtype=torch.float64, device=waveform.device) * factor
        before = position.long()
        weight = (position - before).float()
        left, right = waveform.index_select(1, before), waveform.index_select(1, (before + 1).clamp(max=last))
        lengths = (((batch.lengths - 1) / factor).long() + 1).clamp(max=len(position))  # float32 may round up
        resampled = torch.lerp(left, right, weight).mul_(length_mask(lengths, len(position)))
        return move_events(batch, factor=factor)._replace(waveform=resampled, lengths=lengths)


class Mixup(WaveformAugmentation):
    """Mixes each clip, and its targets, with another clip of the batch.

    Source: Zhang et al., "mixup: beyond empirical risk minimization", 2018.

    Args:
        alpha: Parameter of the Beta(alpha, alpha) distribution of the clip's own weight.
        p: Probability of a clip to be changed.
    """

    def __init__(self, alpha: PositiveFloat, p: Probability) -> None:
        super().__init__()
        self.alpha, self.p = alpha, p

    def forward(self, batch: Batch) -> Batch:
        """Mixes waveforms (batch, samples) and targets (batch, classes); lengths are the maximum of both clips."""
        count, device = len(batch.lengths), batch.waveform.device
        alpha = torch.full((count, 2), float(self.alpha), device=device)
        weight = torch._sample_dirichlet(alpha)[:, 0]  # torch.distributions.Beta would synchronize
        weight = torch.where(is_selected(batch, self.p), torch.maximum(weight, 1 - weight), 1.0)
        other = torch.randperm(count, device=device)
        waveform = torch.lerp(batch.waveform[other], batch.waveform, weight[:, None])
        targets = torch.lerp(batch.targets[other], batch.targets, weight[:, None])
        lengths = torch.where(weight < 1, torch.maximum(batch.lengths, batch.lengths[other]), batch.lengths)
        events = batch.events
        if events is not None:
            weights = torch.cat([events.weights * weight[:, None], events.weights[other] * (1 - weight[:, None])], 1)
            times, classes = (torch.cat([column, column[other]], 1) for column in events[:2])
            events = ClipEvents(times, classes, weights)
        return batch._replace(waveform=waveform, targets=targets, lengths=lengths, events=events)


class FilterAugment(SpectrogramAugmentation):
    """Changes the level of the bins by a random curve, as other microphones, rooms and distances do.

    Source: Nam et al., "FilterAugment", 2022 (the linear type, with equal bands).

    Args:
        num_points: Number of equidistant points with a random gain, between which the curve is linear.
        max_gain: Maximum gain in either direction, in standard deviations if the features are normalized to them.
        p: Probability of a clip to be changed.
    """

    def __init__(self, num_points: NumPoints, max_gain: PositiveFloat, p: Probability) -> None:
        super().__init__()
        self.num_points, self.max_gain, self.p = num_points, max_gain, p

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frames, bins) -> (batch, frames, bins)."""
        gain = torch.empty(len(x), 1, self.num_points, device=x.device).uniform_(-self.max_gain, self.max_gain)
        gain *= torch.rand(len(x), 1, 1, device=x.device) < self.p
        return x + nn.functional.interpolate(gain, x.shape[2], mode="linear", align_corners=True)


class VTLP(SpectrogramAugmentation):
    """Vocal tract length perturbation: stretches the frequency axis of each clip, as other vocal tracts do.

    The bins, which should be frequency bands, are interpolated linearly.

    Source: Jaitly & Hinton, "Vocal tract length perturbation (VTLP) improves speech recognition", 2013.

    Args:
        max_stretch: Maximum relative change of the axis in either direction; 0.1 is 10 %.
        p: Probability of a clip to be changed.
    """

    def __init__(self, max_stretch: Fraction, p: Probability) -> None:
        super().__init__()
        self.max_stretch, self.p = max_stretch, p

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frames, bins) -> (batch, frames, bins)."""
        stretch = torch.empty(len(x), device=x.device).uniform_(-self.max_stretch, self.max_stretch)
        factor = 1 + stretch * (torch.rand(len(x), device=x.device) < self.p)
        bins = torch.arange(x.shape[2], device=x.device)
        source = (bins * factor[:, None]).clamp(max=x.shape[2] - 1)
        weights = (1 - (source[:, None] - bins[:, None]).abs()).clamp(min=0)  # (batch, from, to)
        return x @ weights


class SpecAugment(SpectrogramAugmentation):
    """Replaces bands of time and frequency by the clip's mean.

    Source: Park et al., "SpecAugment", 2019.

    Args:
        num_time_masks: Number of time masks.
        time_mask_param: Maximum width of a time mask in frames.
        max_time_fraction: Maximum fraction of a clip's frames that one time mask covers.
        num_freq_masks: Number of frequency masks.
        freq_mask_param: Maximum width of a frequency mask in bins.
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
        self.num_time_masks, self.time_mask_param = num_time_masks, time_mask_param
        self.max_time_fraction = max_time_fraction
        self.num_freq_masks, self.freq_mask_param = num_freq_masks, freq_mask_param

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frames, bins) -> (batch, frames, bins)."""
        frames, bins = x.shape[1:]
        max_width = (lengths * self.max_time_fraction + 1e-4).floor().clamp(max=self.time_mask_param)
        time_mask = _random_bands(self.num_time_masks, max_width, lengths, frames)
        max_width = torch.full_like(lengths, min(self.freq_mask_param, bins))
        freq_mask = _random_bands(self.num_freq_masks, max_width, bins, bins)
        mean = masked_mean(x.mean(2, keepdim=True), lengths)
        return torch.where(time_mask[:, :, None] | freq_mask[:, None], mean[:, :, None], x)


def _random_bands(count: int, max_width: Tensor, extent: Tensor | int, size: int) -> Tensor:
    """Bands of random width, up to `max_width` (batch,), within `extent` (batch,) -> union, bool (batch, size)."""
    width, start = torch.rand(2, count, len(max_width), device=max_width.device)
    width = (width * (max_width + 1)).floor()
    start = (start * (extent - width + 1)).floor()
    position = torch.arange(size, device=max_width.device)
    return ((position >= start[:, :, None]) & (position < (start + width)[:, :, None])).any(0)


def find_recordings(path: str) -> tuple[list[str], str]:
    """Lists the audio files of a folder, and warns about others; also returns the problem if there are none."""
    try:
        scan = scan_folder(path)
    except PermissionError:
        return [], "permission denied"
    except OSError:
        return [], "not a folder with audio files"
    warn_about_ignored(scan.ignored, path)
    return scan.files, "not a folder with audio files"


def check_range(quantity: str, minimum: float, maximum: float) -> tuple[str, bool, str]:
    """Returns the check, for `reject_settings`, that the maximum of a quantity is not below its minimum."""
    return f"max_{quantity}", maximum < minimum, f"below min_{quantity}={minimum:g}; at least that"


def draw_for_batch(low: float, high: float, p: float) -> float | None:
    """Draws a number for a whole batch with probability p; None without.

    On the CPU, as the size of the new batch must be known without synchronizing with a GPU.
    """
    draw, number = float(torch.rand(())), float(torch.empty(()).uniform_(low, high))
    return number if draw < p else None


def move_events(batch: Batch, shift: Tensor | None = None, factor: float = 1.0) -> Batch:
    """Moves the events of a batch by a shift per clip in samples, (batch,), and divides their times by a factor."""
    if batch.events is None:
        return batch
    times = batch.events.times if shift is None else batch.events.times + shift[:, None, None]
    return batch._replace(events=batch.events._replace(times=times / factor))


def uniform(batch: Batch, low: float, high: float) -> Tensor:
    """One random number per clip, (batch,)."""
    return torch.empty(len(batch.lengths), device=batch.waveform.device).uniform_(low, high)


def is_selected(batch: Batch, p: float) -> Tensor:
    """Selects clips with probability p, bool (batch,)."""
    return torch.rand(len(batch.lengths), device=batch.waveform.device) < p
