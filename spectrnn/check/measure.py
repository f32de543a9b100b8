"""Measurements of each clip: every file is decoded once, block by block, with all cores."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from spectrnn.check.fingerprint import (
    RATE,
    SECONDS,
    Landmarks,
    boundary_levels,
    landmarks,
    power_spectrogram,
    spectrograms,
)
from spectrnn.data.audio import Recording, make_resampler, open_audio, to_int16
from spectrnn.data.cache import AudioHash
from spectrnn.data.clips import Clip
from spectrnn.data.parallel import parallel_map
from spectrnn.data.readers.reader import FloatSamples
from spectrnn.errors import UserError
from spectrnn.threads import keep_freed_memory

_MIN_PLATEAU = 3  # consecutive samples at an extreme that count as clipped
_MIN_CLIPPING_LEVEL = 0.05  # of full scale; below it, plateaus result from coarse quantization
_WINDOW, _MAX_WINDOWS = 1024, 64  # samples per window, and windows per block, for the bandwidth
_CUTOFF_RATIO, _CUTOFF_BINS = 100.0, 12  # a cutoff is a drop by this power ratio (20 dB) within this many bins
_BATCH = 1 << 16  # samples at which a batch of waveforms is analyzed; bounds the memory

Spectrum = npt.NDArray[np.float64]


class ClipStats(NamedTuple):
    """Measurements of a clip. If it cannot be read, `error` is set and the other fields are empty.

    Attributes:
        error: Reason why the clip cannot be read, with its path; None if it can.
        container: Container and subtype of the file, such as ``WAV PCM_16``.
        rate: Sample rate of the file in Hz.
        channels: Number of channels of the file.
        seconds: Duration of the clip in seconds.
        peak: Maximum magnitude, of full scale.
        rms: Root mean square without the DC offset, of full scale.
        dc_offset: Mean, of full scale.
        clipped_fraction: Fraction of the samples on plateaus at the extremes.
        bandwidth: Bandwidth in Hz; half the sample rate if the spectrum has no cutoff.
        hash: Hash of the samples; zero bytes for digital silence.
        landmarks: Landmarks, uint64 (landmarks,).
        boundary_levels: Levels of the first and the last frames in dB, float32 (2, bands).
        flaws: Flaws of the file that were corrected, as `Recording.flaws`.
    """

    error: str | None = None
    container: str = ""
    rate: int = 0
    channels: int = 0
    seconds: float = 0.0
    peak: float = 0.0
    rms: float = 0.0
    dc_offset: float = 0.0
    clipped_fraction: float = 0.0
    bandwidth: float = 0.0
    hash: bytes = b""
    landmarks: Landmarks = np.empty(0, np.uint64)
    boundary_levels: npt.NDArray[np.float32] = np.empty((0, 0), np.float32)
    flaws: Mapping[str, Sequence[str]] = MappingProxyType({})


def measure_clips(clips: Sequence[Clip]) -> list[ClipStats]:
    """Measures all clips of a table in parallel, with a progress bar.

    Returns:
        Measurements in the table's order, about 4 kB per clip; each process holds one block of a file and up to
        `SECONDS` of a few clips.
    """
    return [stats for part in parallel_map(_measure_all, clips, "analyzing") for stats in part]


def _measure_all(clips: Sequence[Clip]) -> list[ClipStats]:
    keep_freed_memory()
    stats: list[ClipStats] = []
    waveforms: dict[int, FloatSamples] = {}  # by row, of the clips in the next batch
    spectra: dict[int, Spectrum] = {}
    for row, clip in enumerate(clips):
        try:
            with open_audio(clip.path, clip.copy) as recording:
                measured, waveforms[row], spectra[row] = _measure(recording, clip)
        except UserError as error:
            measured = ClipStats(error=str(error))
        stats.append(measured)
        if waveforms and (row == len(clips) - 1 or sum(map(len, waveforms.values())) >= _BATCH):
            batch = spectrograms(list(waveforms.values()))
            bandwidth = _bandwidth(np.stack(list(spectra.values())), np.array([stats[row].rate for row in spectra]))
            for done, hertz, found, levels in zip(
                waveforms, bandwidth, landmarks(batch), boundary_levels(batch), strict=True
            ):
                stats[done] = stats[done]._replace(bandwidth=hertz, landmarks=found, boundary_levels=levels)
            waveforms.clear()
            spectra.clear()
    return stats


def _measure(recording: Recording, clip: Clip) -> tuple[ClipStats, FloatSamples, Spectrum]:
    """Measures a clip by itself.

    Returns:
        Measurements without the bandwidth and the fingerprint, the waveform as `spectrograms` needs it, and the sum of
        the power spectra.
    """
    reader = recording.reader
    rate = reader.sample_rate
    audio_hash, resampler = AudioHash(), make_resampler(rate, clip.path, RATE)
    compared: list[FloatSamples] = []  # at RATE, up to SECONDS
    samples, peak, clipped, total, energy = 0, 0.0, 0.0, 0.0, 0.0
    power = np.zeros(_WINDOW // 2 + 1)
    for block, mono in recording.blocks(RATE, clip.start, clip.end):
        audio_hash.update(to_int16(mono))
        if samples < SECONDS * rate:
            compared.append(resampler.resample_chunk(mono) if resampler else mono)
        samples += len(mono)
        peak = max(peak, float(np.abs(block).max()))
        clipped += _count_clipped(block)
        total += float(mono.sum(dtype=np.float64))
        energy += float(np.square(mono, dtype=np.float64).sum())
        hop = max(_WINDOW // 2, len(mono) // _MAX_WINDOWS)
        power += power_spectrogram(mono, _WINDOW, hop).sum(0, dtype=np.float64)
    if resampler and samples < SECONDS * rate:
        compared.append(resampler.resample_chunk(np.empty(0, np.float32), last=True))
    mean = total / samples
    stats = ClipStats(
        container=reader.format,
        rate=rate,
        channels=reader.channels,
        seconds=samples / rate,
        peak=peak,
        rms=max(0.0, energy / samples - mean**2) ** 0.5,
        dc_offset=mean,
        clipped_fraction=clipped / samples,
        hash=audio_hash.digest(),
        flaws=recording.flaws,
    )
    return stats, np.concatenate(compared)[: round(SECONDS * RATE)] - np.float32(mean), power


def _count_clipped(block: FloatSamples) -> float:
    """Number of samples of (samples, channels) on plateaus at the extremes, averaged over the channels."""
    count = 0
    for channel in block.T:
        for extreme in (channel.max(), channel.min()):
            is_extreme = channel == extreme
            if abs(extreme) >= _MIN_CLIPPING_LEVEL and np.count_nonzero(is_extreme) >= _MIN_PLATEAU:
                positions = np.flatnonzero(is_extreme)
                runs = np.split(positions, np.flatnonzero(np.diff(positions) > 1) + 1)
                count += sum(len(run) for run in runs if len(run) >= _MIN_PLATEAU)
    return count / block.shape[1]


def _bandwidth(power: Spectrum, rate: npt.NDArray[np.int64]) -> list[float]:
    """Frequencies in Hz above which spectra (clips, bins) drop steeply and stay low, as after resampling.

    The spectrum of a dull recording declines slowly, down to the noise of its microphone; its bandwidth is rate / 2.
    """
    padded = np.pad(power, ((0, 0), (1, 1))) / 3
    smooth = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    maximum_from = np.maximum.accumulate(smooth[:, ::-1], axis=1)[:, ::-1]
    above = np.pad(maximum_from[:, _CUTOFF_BINS:], ((0, 0), (0, _CUTOFF_BINS)), constant_values=np.inf)
    is_cutoff = (smooth > _CUTOFF_RATIO * above) & (above < 1e-4 * smooth.max(1, keepdims=True))
    cutoff = is_cutoff.shape[1] - 1 - is_cutoff[:, ::-1].argmax(1) + _CUTOFF_BINS / 2
    return np.where(is_cutoff.any(1), cutoff * rate / _WINDOW, rate / 2).tolist()
