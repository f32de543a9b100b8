"""Augmentations that imitate other rooms, lines and devices, and other tempos and pitches, by Fourier transforms."""

import math
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn
from torchaudio.functional import phase_vocoder

from spectrnn.config.types import PositiveFloat, PositiveInt, Probability, SampleRate
from spectrnn.data.audio import FULL_SCALE, load_audio
from spectrnn.data.batches import Batch
from spectrnn.errors import reject_settings
from spectrnn.frontend.augmentation import (
    WaveformAugmentation,
    check_range,
    draw_for_batch,
    find_recordings,
    is_selected,
    move_events,
    uniform,
)
from spectrnn.frontend.masking import length_mask

Bits = Annotated[int, Ge(2), Le(16)]
Semitones = Annotated[float, Ge(-24), Le(24)]

_ORDER = 6  # of the Butterworth filters on either side of a band
_RINGING_SECONDS = 0.05  # of these filters
_DECAY_DB = 60  # of a recorded impulse response, after which it is cut
_MU = 255  # of the mu-law
_UNIT = 1000  # samples that a pitch shift resamples from a whole number, by which an interval is exact to a cent


class Reverberation(WaveformAugmentation):
    """Convolves each clip with the impulse response of a room: a recorded one, or that of a random room.

    A recorded response starts with its peak, the direct sound, ends where the remaining level is 60 dB lower, and is
    scaled to unit energy. A random one is white noise that decays exponentially, after the direct sound.

    Source: Ko et al., "A study on data augmentation of reverberant speech for robust speech recognition", 2017; random
    rooms: Polack, "La transmission de l'énergie sonore dans les salles", 1988 (the statistical model).

    Args:
        path: Folder of impulse responses, all of which are kept in memory; None for random rooms.
        min_rt60_ms: Minimum reverberation time of random rooms, in which the level falls by 60 dB, in ms.
        max_rt60_ms: Maximum reverberation time in ms.
        min_drr_db: Minimum ratio of the power of direct sound to that of reverberation of random rooms in dB.
        max_drr_db: Maximum ratio in dB.
        sample_rate: Sample rate of the waveforms in Hz.
        p: Probability of a clip to be changed.

    Raises:
        SettingError: A folder that is missing, contains no audio, or a recording without sound.
    """

    def __init__(
        self,
        path: str | None,
        min_rt60_ms: PositiveFloat,
        max_rt60_ms: PositiveFloat,
        min_drr_db: float,
        max_drr_db: float,
        sample_rate: PositiveInt,
        p: Probability,
    ) -> None:
        super().__init__()
        reject_settings(
            check_range("rt60_ms", min_rt60_ms, max_rt60_ms),
            check_range("drr_db", min_drr_db, max_drr_db),
        )
        self.p = p
        self.rooms: nn.Module
        if path is None:
            rt60_samples = (min_rt60_ms * sample_rate / 1000, max_rt60_ms * sample_rate / 1000)
            self.rooms = _RandomRooms(rt60_samples, (min_drr_db, max_drr_db))
        else:
            self.rooms = _RecordedRooms(path, sample_rate)

    def forward(self, batch: Batch) -> Batch:
        """Convolves each clip, within its length, with its room's impulse response; waveform (batch, samples)."""
        size = batch.waveform.shape[1]
        response = self.rooms(batch)
        n_fft = 1 << (size + response.shape[1] - 2).bit_length()
        spectrum = torch.fft.rfft(batch.waveform, n_fft) * torch.fft.rfft(response, n_fft)
        return _replace_selected(batch, torch.fft.irfft(spectrum, n_fft)[:, :size], self.p)


class _RandomRooms(nn.Module):
    """Impulse responses of random rooms, given the ranges of the reverberation time in samples and of the DRR in dB."""

    def __init__(self, rt60_samples: tuple[float, float], drr_db: tuple[float, float]) -> None:
        super().__init__()
        self.rt60_samples, self.drr_db = rt60_samples, drr_db

    def forward(self, batch: Batch) -> Tensor:
        """Draws a response per clip, (batch, at most samples)."""
        time = torch.arange(min(batch.waveform.shape[1], round(self.rt60_samples[1])), device=batch.waveform.device)
        decay = 10 ** (-3 * time / uniform(batch, *self.rt60_samples)[:, None])
        response = nn.functional.normalize(torch.randn_like(decay) * decay)
        response *= 10 ** (-uniform(batch, *self.drr_db)[:, None] / 20)
        response[:, 0] += 1
        return response


class _RecordedRooms(nn.Module):
    """Impulse responses of a folder of recordings, at a sample rate in Hz."""

    responses: Tensor
    starts: Tensor
    sizes: Tensor

    def __init__(self, path: str, sample_rate: int) -> None:
        super().__init__()
        files, problem = find_recordings(path)
        reject_settings(("path", not files, problem))
        responses = [_trim_response(torch.from_numpy(load_audio(file, sample_rate)) / FULL_SCALE) for file in files]
        silent = [file for file, response in zip(files, responses, strict=True) if not response.any()]
        reject_settings(("path", silent, f"an impulse response has no sound: {next(iter(silent), '')}"))
        sizes = torch.tensor([len(response) for response in responses])
        self.longest = int(sizes.max())
        self.register_buffer("responses", torch.cat(responses), persistent=False)
        self.register_buffer("starts", sizes.cumsum(0) - sizes, persistent=False)
        self.register_buffer("sizes", sizes, persistent=False)

    def forward(self, batch: Batch) -> Tensor:
        """Draws a response per clip, (batch, at most samples)."""
        room = torch.randint(len(self.sizes), (len(batch.lengths),), device=self.sizes.device)
        size = min(batch.waveform.shape[1], self.longest)
        position = self.starts[room, None] + torch.arange(size, device=room.device)
        response = self.responses[position.clamp(max=len(self.responses) - 1)]
        return response * length_mask(self.sizes[room], size)


def _trim_response(response: Tensor) -> Tensor:
    """Cuts an impulse response (samples,) before its peak and after its decay, and scales it to unit energy."""
    response = response[int(response.abs().argmax()) :] if len(response) else response
    remaining = response.double().square().flip(0).cumsum(0).flip(0)  # Schroeder, 1965
    count = int((remaining > remaining[:1] * 10 ** (-_DECAY_DB / 10)).sum())
    return nn.functional.normalize(response[: max(1, count)], dim=0)


class BandPass(WaveformAugmentation):
    """Limits each clip to a random band, by Butterworth filters without phase.

    If the limits are drawn from wide ranges, few clips are limited at both ends: the others are high-pass or low-pass
    filtered, or hardly changed.

    Args:
        min_low_hz: Minimum lower limit of the band in Hz; limits are uniformly distributed on a logarithmic scale.
        max_low_hz: Maximum lower limit in Hz.
        min_high_hz: Minimum upper limit of the band in Hz.
        max_high_hz: Maximum upper limit in Hz; None for half of the sample rate.
        sample_rate: Sample rate of the waveforms in Hz.
        p: Probability of a clip to be changed.
    """

    def __init__(
        self,
        min_low_hz: PositiveFloat,
        max_low_hz: PositiveFloat,
        min_high_hz: PositiveFloat,
        max_high_hz: PositiveFloat | None,
        sample_rate: SampleRate,
        p: Probability,
    ) -> None:
        super().__init__()
        highest = sample_rate / 2 if max_high_hz is None else max_high_hz
        least = f"sample_rate={sample_rate}" if max_high_hz is None else f"max_high_hz={highest:g}"
        reject_settings(
            check_range("low_hz", min_low_hz, max_low_hz),
            ("max_low_hz", max_low_hz >= min_high_hz, f"not below min_high_hz={min_high_hz:g}; below it"),
            ("min_high_hz", highest < min_high_hz, f"above {least} allows; at most {highest:g} Hz"),
        )
        self.low = (math.log(min_low_hz), math.log(max_low_hz))
        self.high = (math.log(min_high_hz), math.log(highest))
        self.sample_rate, self.p = sample_rate, p

    def forward(self, batch: Batch) -> Batch:
        """Filters each clip; waveform (batch, samples)."""
        low, high = (uniform(batch, *limits).exp()[:, None] for limits in (self.low, self.high))
        size = batch.waveform.shape[1]
        n_fft = 1 << (size + round(_RINGING_SECONDS * self.sample_rate) - 1).bit_length()
        frequencies = torch.arange(n_fft // 2 + 1, device=low.device) * (self.sample_rate / n_fft)
        spectrum = torch.fft.rfft(batch.waveform, n_fft) * _band_gain(frequencies, low, high)
        return _replace_selected(batch, torch.fft.irfft(spectrum, n_fft)[:, :size], self.p)


class Codec(WaveformAugmentation):
    """Transmits each clip over a telephone line: a band-pass filter, resampling, and the mu-law (ITU-T G.711).

    Args:
        low_hz: Lower limit of the band in Hz.
        high_hz: Upper limit of the band in Hz.
        line_rate: Sample rate of the line in Hz, if it is below that of the waveforms; None for no resampling.
        bits: Number of bits per sample of the mu-law code.
        sample_rate: Sample rate of the waveforms in Hz.
        p: Probability of a clip to be changed.
    """

    def __init__(
        self,
        low_hz: PositiveFloat,
        high_hz: PositiveFloat,
        line_rate: SampleRate | None,
        bits: Bits,
        sample_rate: SampleRate,
        p: Probability,
    ) -> None:
        super().__init__()
        reject_settings(("high_hz", high_hz <= low_hz, f"not above low_hz={low_hz:g}; above it"))
        self.low_hz, self.high_hz, self.levels = low_hz, high_hz, 2 ** (bits - 1) - 1
        self.sample_rate, self.p = sample_rate, p
        # The smallest numbers of samples on either side of the line that take the same time.
        rate = sample_rate if line_rate is None else min(line_rate, sample_rate)
        self.samples, self.line_samples = (r // math.gcd(sample_rate, rate) for r in (sample_rate, rate))

    def forward(self, batch: Batch) -> Batch:
        """Transmits each clip; waveform (batch, samples)."""
        size = batch.waveform.shape[1]
        units = -(-(size + round(_RINGING_SECONDS * self.sample_rate)) // self.samples)
        units = 1 << (units - 1).bit_length()
        n_fft, line_n_fft = units * self.samples, units * self.line_samples
        frequencies = torch.arange(n_fft // 2 + 1, device=batch.waveform.device) * (self.sample_rate / n_fft)
        spectrum = torch.fft.rfft(batch.waveform, n_fft) * _band_gain(frequencies, self.low_hz, self.high_hz)
        # An inverse transform of another size resamples.
        x = torch.fft.irfft(spectrum, line_n_fft) * (line_n_fft / n_fft)
        code = (x.abs().clamp(max=1) * _MU).log1p() / math.log1p(_MU)
        x = x.sign() * torch.expm1((code * self.levels).round() / self.levels * math.log1p(_MU)) / _MU
        x = torch.fft.irfft(torch.fft.rfft(x), n_fft) * (n_fft / line_n_fft)
        return _replace_selected(batch, x[:, :size], self.p)


class TimeStretch(WaveformAugmentation):
    """Changes the tempo of a batch, but not its pitch, by a phase vocoder.

    One factor for the whole batch preserves similar lengths, as for `SpeedPerturbation`.

    Source: Flanagan & Golden, "Phase vocoder", 1966.

    Args:
        min_factor: Minimum factor of the tempo.
        max_factor: Maximum factor of the tempo; 1.1 is 10 % faster.
        window_ms: Window of the phase vocoder in ms.
        sample_rate: Sample rate of the waveforms in Hz.
        p: Probability of a batch to be changed.
    """

    def __init__(
        self,
        min_factor: PositiveFloat,
        max_factor: PositiveFloat,
        window_ms: PositiveFloat,
        sample_rate: SampleRate,
        p: Probability,
    ) -> None:
        super().__init__()
        reject_settings(check_range("factor", min_factor, max_factor))
        self.range, self.p = (min_factor, max_factor), p
        self.vocoder = _PhaseVocoder(window_ms, sample_rate)

    def forward(self, batch: Batch) -> Batch:
        """Stretches each clip: waveform (batch, samples) -> (batch, samples / factor), with new lengths."""
        factor = draw_for_batch(*self.range, self.p)
        if factor is None:
            return batch
        stretched = self.vocoder(batch.waveform, factor)
        lengths = (batch.lengths.double() / factor).long().clamp(min=1)
        waveform = stretched * length_mask(lengths, stretched.shape[1])
        return move_events(batch, factor=factor)._replace(waveform=waveform, lengths=lengths)


class PitchShift(WaveformAugmentation):
    """Changes the pitch of a batch, but not its tempo: a time stretch, then resampling to the former length.

    Args:
        min_semitones: Minimum interval in semitones.
        max_semitones: Maximum interval in semitones.
        window_ms: Window of the phase vocoder in ms.
        sample_rate: Sample rate of the waveforms in Hz.
        p: Probability of a batch to be changed.
    """

    def __init__(
        self,
        min_semitones: Semitones,
        max_semitones: Semitones,
        window_ms: PositiveFloat,
        sample_rate: SampleRate,
        p: Probability,
    ) -> None:
        super().__init__()
        reject_settings(check_range("semitones", min_semitones, max_semitones))
        self.range, self.p = (min_semitones, max_semitones), p
        self.vocoder = _PhaseVocoder(window_ms, sample_rate)

    def forward(self, batch: Batch) -> Batch:
        """Shifts each clip; waveform (batch, samples)."""
        semitones = draw_for_batch(*self.range, self.p)
        if semitones is None:
            return batch
        size, ratio = batch.waveform.shape[1], round(_UNIT * 2 ** (semitones / 12))
        stretched = self.vocoder(batch.waveform, _UNIT / ratio)
        units = -(-(size + self.vocoder.size) // _UNIT)  # so that the end of a clip does not reach its start
        spectrum = torch.fft.rfft(stretched, units * ratio)
        shifted = torch.fft.irfft(spectrum, units * _UNIT)[:, :size] * (_UNIT / ratio)
        return batch._replace(waveform=shifted * length_mask(batch.lengths, size))


class _PhaseVocoder(nn.Module):
    """Changes the tempo of waveforms, given the length of the window in ms, of which four overlap."""

    window: Tensor
    advance: Tensor

    def __init__(self, window_ms: float, sample_rate: int) -> None:
        super().__init__()
        self.hop = max(1, round(window_ms * sample_rate / 1000) // 4)
        self.size = 4 * self.hop
        self.register_buffer("window", torch.hann_window(self.size), persistent=False)
        advance = torch.linspace(0, math.pi * self.hop, self.size // 2 + 1)[:, None]
        self.register_buffer("advance", advance, persistent=False)

    def forward(self, waveform: Tensor, factor: float) -> Tensor:
        """(batch, samples), factor of the tempo -> (batch, samples / factor)."""
        samples = max(1, int(waveform.shape[1] / factor))
        waveform = nn.functional.pad(waveform, (0, self.size))  # so that the last frames are as in a longer batch
        spectrum = torch.stft(
            waveform, self.size, self.hop, window=self.window, pad_mode="constant", return_complex=True
        )
        frames = torch.fft.irfft(phase_vocoder(spectrum, factor, self.advance), self.size, dim=1)
        # Not torch.istft, which waits for a GPU to check the window.
        frames = frames * self.window[:, None]
        envelope = self.window.square()[:, None].expand(1, -1, frames.shape[2])
        total = (frames.shape[2] - 1) * self.hop + self.size
        overlap_added, envelope = (
            nn.functional.fold(x, (1, total), (1, self.size), stride=(1, self.hop))[:, 0, 0] for x in (frames, envelope)
        )
        start = self.size // 2  # the center of the first frame
        return (overlap_added / envelope.clamp(min=1e-3))[:, start : start + samples]


def _band_gain(frequencies: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Gain of a Butterworth band-pass filter at frequencies (bins,), all in Hz."""
    high_pass = 1 / (1 + (low / frequencies.clamp(min=1e-3)) ** (2 * _ORDER))
    return (high_pass / (1 + (frequencies / high) ** (2 * _ORDER))).sqrt()


def _replace_selected(batch: Batch, waveform: Tensor, p: float) -> Batch:
    """Replaces the valid samples of clips that are selected with probability p."""
    replaced = length_mask(batch.lengths, waveform.shape[1]) & is_selected(batch, p)[:, None]
    return batch._replace(waveform=torch.where(replaced, waveform, batch.waveform))
