"""Audio fingerprints that are robust to a change of format, sample rate, gain and padding.

A landmark is a constellation of three spectral peaks: their frequencies and the time differences between them, hashed
to one number (after Wang, An industrial-strength audio search algorithm, ISMIR 2003, which uses pairs of peaks). Two
clips with several landmarks in common, all at the same lag, are candidates for a comparison of their waveforms.
"""

from functools import cache

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
_FAN_OUT = 7  # number of subsequent peaks that form constellations with a peak
_MAX_SPAN = 48  # maximum duration of a constellation in frames
_MAX_LANDMARKS, _MAX_LANDMARKS_PER_SECOND = 384, 16  # bounds the memory to 3 kB per clip plus 128 B per second
# Index differences to the second and third peak of a constellation
_SECOND, _THIRD = np.array([(i, j) for j in range(2, _FAN_OUT + 1) for i in range(1, j)]).T

Landmarks = npt.NDArray[np.uint64]
Array = npt.NDArray[np.float32]


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


def spectrogram_db(waveform: Array) -> Array:
    """Converts float32 (samples,) at `RATE` to levels in dB, float32 (frames, bins)."""
    return 10 * np.log10(power_spectrogram(waveform, _WINDOW, HOP)[:, :_BINS] + 1e-12, dtype=np.float32)


def landmarks(levels: Array) -> Landmarks:
    """Computes the landmarks of a clip.

    Args:
        levels: Spectrogram in dB, float32 (frames, bins), as returned by `spectrogram_db` for up to `SECONDS`.

    Returns:
        uint64 (landmarks,), sorted: the hash in the upper `HASH_BITS`, the frame in the lower `TIME_BITS`.
    """
    time, frequency = _peaks(levels)
    if len(time) < 3:
        return np.empty(0, np.uint64)
    first = np.arange(len(time))[:, None]
    second, third = first + _SECOND, first + _THIRD
    exists = third < len(time)
    second, third = np.where(exists, second, 0), np.where(exists, third, 0)
    to_second, to_third = time[second] - time[first], time[third] - time[first]
    row, column = np.nonzero(exists & (to_third > 0) & (to_third <= _MAX_SPAN))
    second, third = second[row, column], third[row, column]
    number = (frequency[row] * _BINS + frequency[second]) * _BINS + frequency[third]
    number = (number * 32 + to_second[row, column] // 2) * 32 + to_third[row, column] // 2
    # Multiplicative hashing (Knuth, The Art of Computer Programming, section 6.4)
    hashes = (number.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - HASH_BITS)
    return _limit(hashes, time[row].astype(np.uint64), len(levels) * HOP / RATE)


def _peaks(levels: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Finds the local maxima of (frames, bins): frame and bin of each, int64 (peaks,), sorted by frame."""
    maximum = _sliding_max(_sliding_max(levels, _PEAK_FRAMES).T, _PEAK_BINS).T
    time, frequency = np.nonzero((levels == maximum) & (levels > levels.max() - _FLOOR_DB))
    used = frequency >= _MIN_BIN
    return time[used], frequency[used]


def _sliding_max(levels: Array, radius: int) -> Array:
    """Computes the maximum of 2 radius + 1 values around each, along the first axis."""
    result = np.full((len(levels) + 2 * radius, levels.shape[1]), -np.inf, np.float32)
    result[radius : radius + len(levels)] = levels
    size, missing = 1, 2 * radius  # of the window so far, which doubles
    while missing:
        step = min(size, missing)
        result = np.maximum(result[:-step], result[step:])
        size, missing = size + step, missing - step
    return result


def _limit(hashes: Landmarks, time: Landmarks, seconds: float) -> Landmarks:
    """Combines hashes and times to sorted landmarks, of which a limited number is kept."""
    # Selected by hash value, so that a landmark of two clips is kept in both, or is dropped first in the longer one.
    mask = 0
    while np.count_nonzero(hashes & np.uint64(mask) == 0) > _MAX_LANDMARKS + _MAX_LANDMARKS_PER_SECOND * seconds:
        mask = 2 * mask + 1
    kept = hashes & np.uint64(mask) == 0
    result = np.sort((hashes[kept] << np.uint64(TIME_BITS)) | time[kept])
    # Of repeated landmarks, as in a steady tone, only the first is kept.
    return result[np.append(True, np.diff(result >> np.uint64(TIME_BITS)) > 0)] if len(result) else result
