"""Audio fingerprints that are robust to a change of format, sample rate, gain and padding.

A landmark is a constellation of three spectral peaks: their frequencies and the time differences between them, hashed
to one number (after Wang, An industrial-strength audio search algorithm, ISMIR 2003, which uses pairs of peaks). Two
clips with several landmarks in common, all at the same lag, are candidates for a comparison of their waveforms.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

RATE = 8000  # sample rate of the comparison in Hz
SECONDS = 120.0  # maximum duration per clip that is compared
HOP = 64  # samples between two frames (8 ms)
HASH_BITS, TIME_BITS = 28, 14  # of a landmark; 2^14 frames are 131 s

_WINDOW = 256  # samples per frame (32 ms)
_BINS = 128
_MIN_BIN = 3  # lower bins contain hum and DC offset
_FLOOR_DB = 40.0  # range below the clip's strongest peak in which peaks are used
_PEAK_FRAMES, _PEAK_BINS = 3, 4  # half-size of the neighborhood in which a peak is the maximum
_BOUNDARY_FRAMES, _BAND_BINS = 4, 8  # 56 ms, and 250 Hz
_FAN_OUT = 7  # number of subsequent peaks that form constellations with a peak
_MAX_SPAN = 48  # maximum duration of a constellation in frames
_MAX_LANDMARKS, _MAX_LANDMARKS_PER_SECOND = 384, 16  # bounds the memory to 3 kB per clip plus 128 B per second
# Index differences to the second and third peak of a constellation
_SECOND, _THIRD = np.array([(i, j) for j in range(2, _FAN_OUT + 1) for i in range(1, j)]).T

Landmarks = npt.NDArray[np.uint64]
Array = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


class Spectrograms(NamedTuple):
    """Spectrograms of several clips, one after the other, each followed by `_PEAK_FRAMES` or more frames of -inf.

    Attributes:
        levels: Levels in dB, float32 (frames, bins).
        start: First frame of each clip, int64 (clips,).
        size: Number of frames of each clip, int64 (clips,).
        clip: Clip of each frame, int64 (frames,).
    """

    levels: Array
    start: Indices
    size: Indices
    clip: Indices


def power_spectrogram(waveform: Array, window: int, hop: int) -> Array:
    """Computes the power spectra of Hann windows.

    Args:
        waveform: Samples, float32 (samples,); padded to one window if it is shorter.
        window: Window length in samples.
        hop: Hop length in samples.

    Returns:
        float32 (frames, bins); no frame extends past the end of the waveform.
    """
    if len(waveform) < window:
        waveform = np.pad(waveform, (0, window - len(waveform)))
    waveform = np.ascontiguousarray(waveform, np.float32)
    frames = 1 + (len(waveform) - window) // hop
    windows = np.ndarray((frames, window), np.float32, waveform, strides=(4 * hop, 4))  # faster than as_strided
    spectrum = np.fft.rfft(windows * _hann(window), axis=1)
    return np.square(spectrum.real) + np.square(spectrum.imag)


@cache
def _hann(window: int) -> Array:
    return np.hanning(window).astype(np.float32)


def spectrograms(waveforms: Sequence[Array]) -> Spectrograms:
    """Computes the spectrograms of clips, float32 (samples,) each, at `RATE` and up to `SECONDS`.

    The clips are transformed at once, since a call takes longer than the transform of a short clip.
    """
    lengths = np.array([max(_WINDOW, len(waveform)) for waveform in waveforms])
    size, hops = 1 + (lengths - _WINDOW) // HOP, -(-lengths // HOP)
    start = np.cumsum(hops) - hops
    joined = np.zeros(hops.sum() * HOP + _WINDOW - HOP, np.float32)
    for first, waveform in zip(start * HOP, waveforms, strict=True):
        joined[first : first + len(waveform)] = waveform
    levels = 10 * np.log10(power_spectrogram(joined, _WINDOW, HOP)[:, :_BINS] + 1e-12, dtype=np.float32)
    clip = np.repeat(np.arange(len(waveforms)), hops)
    levels[np.arange(len(levels)) >= (start + size)[clip]] = -np.inf  # these frames extend past the end of their clip
    return Spectrograms(levels, start, size, clip)


def boundary_levels(clips: Spectrograms) -> Array:
    """Computes the levels of the first and the last frames of each clip in dB, float32 (clips, 2, bands)."""
    offset, start, size = np.arange(_BOUNDARY_FRAMES), clips.start[:, None], clips.size[:, None]
    frames = np.stack([start + offset, start + size - _BOUNDARY_FRAMES + offset], axis=1)
    exists = np.stack([offset < size, offset >= _BOUNDARY_FRAMES - size], axis=1)[..., None]  # in a short clip
    return clips.levels[frames].mean(2, where=exists).reshape(len(size), 2, -1, _BAND_BINS).mean(3)


def landmarks(clips: Spectrograms) -> list[Landmarks]:
    """Computes the landmarks of each clip.

    Returns:
        uint64 (landmarks,) each, sorted: the hash in the upper `HASH_BITS`, the frame in the lower `TIME_BITS`.
    """
    time, frequency = _peaks(clips)
    clip = clips.clip[time]
    spread = time + _MAX_SPAN * clip  # no constellation has peaks of two clips
    spread = np.append(spread, np.full(_FAN_OUT, np.iinfo(np.int64).max))
    lag = np.lib.stride_tricks.sliding_window_view(spread, _FAN_OUT + 1) - spread[:-_FAN_OUT, None]
    first, pair = np.nonzero(((lag > 0) & (lag <= _MAX_SPAN))[:, _THIRD])
    second, third = first + _SECOND[pair], first + _THIRD[pair]
    number = (frequency[first] * _BINS + frequency[second]) * _BINS + frequency[third]
    number = (number * 32 + (time[second] - time[first]) // 2) * 32 + (time[third] - time[first]) // 2
    # Multiplicative hashing (Knuth, The Art of Computer Programming, section 6.4)
    hashes = (number.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - HASH_BITS)
    clip, time = clip[first], (time - clips.start[clip])[first]
    # A limited number is kept per clip: selected by hash value, so that a landmark of two clips is kept in both, or is
    # dropped first in the longer one.
    limit = _MAX_LANDMARKS + _MAX_LANDMARKS_PER_SECOND * clips.size * HOP / RATE
    for bits in range(1, HASH_BITS + 1):
        exceeds = np.bincount(clip, minlength=len(limit)) > limit
        if not exceeds.any():
            break
        kept = ~exceeds[clip] | (hashes & np.uint64((1 << bits) - 1) == 0)
        clip, hashes, time = clip[kept], hashes[kept], time[kept]
    high, low = np.uint64(HASH_BITS + TIME_BITS), np.uint64(TIME_BITS)
    result = np.sort((clip.astype(np.uint64) << high) | (hashes << low) | time.astype(np.uint64))
    # Of repeated landmarks, as in a steady tone, only the first is kept.
    result = result[np.diff(result >> low, prepend=np.uint64(1 << 63)) != 0]
    parts = np.searchsorted(result >> high, np.arange(1, len(limit)))
    return np.split(result & np.uint64((1 << (HASH_BITS + TIME_BITS)) - 1), parts)


def _peaks(clips: Spectrograms) -> tuple[Indices, Indices]:
    """Finds the local maxima of spectrograms: frame and bin of each, int64 (peaks,), sorted by frame."""
    maximum = _sliding_max(_sliding_max(clips.levels, _PEAK_FRAMES).T, _PEAK_BINS).T
    floor = np.maximum.reduceat(clips.levels.max(1), clips.start) - _FLOOR_DB
    time, frequency = np.divmod(np.flatnonzero(clips.levels == maximum), _BINS)
    used = (frequency >= _MIN_BIN) & (clips.levels[time, frequency] > floor[clips.clip[time]])
    return time[used], frequency[used]


def _sliding_max(levels: Array, radius: int) -> Array:
    """Computes the maximum of 2 radius + 1 values around each, along the first axis."""
    result = np.pad(levels, ((radius, radius), (0, 0)), constant_values=-np.inf)
    size, missing = 1, 2 * radius  # of the window so far, which doubles
    while missing:
        step = min(size, missing)
        result = np.maximum(result[:-step], result[step:])
        size, missing = size + step, missing - step
    return result
