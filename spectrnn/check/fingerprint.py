"""Landmarks: what two recordings of the same sound share, whatever their format, rate, gain and padding.

A landmark is a constellation of three spectral peaks: their frequencies and the times between them, as one number
(after Wang, An industrial-strength audio search algorithm, ISMIR 2003, who takes two). Two clips that share several,
all with the same lag, are worth a closer look.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

RATE = 8000  # Hz; all sound is compared in the telephone band
SECONDS = 120.0  # of a clip, at most, that are compared
HOP = 64  # samples: 8 ms
HASH_BITS, TIME_BITS = 28, 14  # of a landmark: 2^14 frames are 131 s

_WINDOW = 256  # samples: 32 ms
_BINS = 128
_FLOOR = 40.0  # dB below the clip's strongest peak
_NEAR_FRAMES, _NEAR_BINS = 3, 4  # a peak is the highest within so much on either side
_FAN = 7  # a peak makes constellations with this many of its successors
_LONGEST = 48  # frames of a constellation
_MOST, _MOST_A_SECOND = 384, 16  # landmarks of a clip: bounds the memory at 3 kB a clip and 128 B a second
# The first peak of a constellation, and two of its successors
_SECOND, _THIRD = (
    np.array(numbers) for numbers in zip(*[(a, b) for b in range(2, _FAN + 1) for a in range(1, b)], strict=True)
)

Landmarks = npt.NDArray[np.uint64]
Levels = npt.NDArray[np.float32]


def landmarks(level: Levels) -> Landmarks:
    """The landmarks of a clip.

    Args:
        level: dB, float32 (frames, bins), as `spectrogram` gives it for up to `SECONDS`.

    Returns:
        uint64 (landmarks,): the hash in the upper `HASH_BITS`, the frame in the lower `TIME_BITS`.
    """
    time, bin_ = peaks(level)
    if len(time) < 3:
        return np.empty(0, np.uint64)
    first = np.arange(len(time))[:, None]
    second, third = first + _SECOND, first + _THIRD
    inside = third < len(time)
    second, third = np.where(inside, second, 0), np.where(inside, third, 0)
    to_second, to_third = time[second] - time[first], time[third] - time[first]
    row, column = np.nonzero(inside & (to_third > 0) & (to_third <= _LONGEST))
    second, third = second[row, column], third[row, column]
    parts = (bin_[row], bin_[second], bin_[third], to_second[row, column] // 2, to_third[row, column] // 2)
    number = np.zeros(len(row), np.uint64)
    for part, size in zip(parts, (_BINS, _BINS, _BINS, 32, 32), strict=True):
        number = number * np.uint64(size) + part.astype(np.uint64)
    return _thinned(_mixed(number), time[row].astype(np.uint64), len(level) * HOP / RATE)


def spectrogram(wave: Levels) -> Levels:
    """float32 (samples,) at `RATE` -> dB, float32 (frames, bins); no frame reads past the wave."""
    return 10 * np.log10(power(wave, _WINDOW, HOP)[:, :_BINS] + 1e-12, dtype=np.float32)


def power(wave: Levels, window: int, hop: int) -> Levels:
    """The power spectrum of Hann windows, one every `hop` samples: float32 (samples,) -> (frames, bins)."""
    if len(wave) < window:
        wave = np.pad(wave, (0, window - len(wave)))
    wave = np.ascontiguousarray(wave, np.float32)
    frames = 1 + (len(wave) - window) // hop
    windows = np.ndarray((frames, window), np.float32, wave, strides=(4 * hop, 4))  # a view; as_strided takes longer
    spectrum = np.fft.rfft(windows * _hann(window), axis=1)
    return np.square(spectrum.real) + np.square(spectrum.imag)


@cache
def _hann(window: int) -> Levels:
    return np.hanning(window).astype(np.float32)


def peaks(level: Levels) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(frames, bins) in dB -> frame and bin of each peak, by frame: both int64 (peaks,)."""
    highest = _highest(_highest(level, _NEAR_FRAMES, 0), _NEAR_BINS, 1)
    frame, bin_ = np.nonzero((level == highest) & (level > level.max() - _FLOOR))
    audible = bin_ > 2  # hum and offset are below
    return frame[audible], bin_[audible]


def _highest(level: Levels, near: int, axis: int) -> Levels:
    """The highest value within `near` on either side along an axis."""
    result = level.copy()
    for shift in range(1, near + 1):
        here, there = [slice(None)] * 2, [slice(None)] * 2
        here[axis], there[axis] = slice(shift, None), slice(None, -shift)
        np.maximum(result[tuple(here)], level[tuple(there)], out=result[tuple(here)])
        np.maximum(result[tuple(there)], level[tuple(here)], out=result[tuple(there)])
    return result


def _mixed(number: Landmarks) -> Landmarks:
    """A hash of `HASH_BITS` (multiplicative; Knuth, The Art of Computer Programming 6.4)."""
    return (number * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - HASH_BITS)


def _thinned(hashes: Landmarks, time: Landmarks, seconds: float) -> Landmarks:
    # What stays is chosen by the hash itself: of a landmark that two clips share, both keep it or the longer drops it.
    mask = 0
    while np.count_nonzero(hashes & np.uint64(mask) == 0) > _MOST + _MOST_A_SECOND * seconds:
        mask = 2 * mask + 1
    kept = hashes & np.uint64(mask) == 0
    result = np.sort((hashes[kept] << np.uint64(TIME_BITS)) | time[kept])
    # Of like landmarks, as in a steady tone, the first stays
    return result[np.append(True, np.diff(result >> np.uint64(TIME_BITS)) > 0)] if len(result) else result
