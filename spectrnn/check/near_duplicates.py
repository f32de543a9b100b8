"""Clips with the same audio: candidates by landmarks, verified by the cross-correlation of the waveforms."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from spectrnn.check.fingerprint import HASH_BITS, RATE, SECONDS, TIME_BITS, Landmarks
from spectrnn.check.measure import ClipStats
from spectrnn.data.audio import open_audio
from spectrnn.data.clips import Clip
from spectrnn.data.parallel import in_current_folder
from spectrnn.data.readers.reader import FloatSamples
from spectrnn.progress import progress_bar

Pair = tuple[int, int]  # rows of two clips, in ascending order

_CLIP_BITS = 64 - HASH_BITS - TIME_BITS  # clips beyond 4 million are not compared
_MAX_CLIP, _NUM_FRAMES = (1 << _CLIP_BITS) - 1, 1 << TIME_BITS
_BLOCK = 1 << 22  # landmarks per block: bounds the memory
_NEIGHBORS = 4  # number of subsequent clips with the same landmark that are paired with a clip
_MIN_VOTES = 3  # common landmarks at one lag of a candidate pair
_BATCH = 1000  # candidate pairs per batch
_MAX_PAIRS_PER_CLIP = 2.0  # bounds the number of pairs that are compared
_CHUNK = 32  # candidate pairs per task of a worker process
# Other takes of a word by the same speaker correlate with at most 0.65, MP3 at its lowest bit rate with 0.8 or more.
_MIN_CORRELATION = 0.75
_WHITENING = 0.8  # exponent of the envelope that spectra are divided by, since vowels and hum are too similar
_ENVELOPE_HZ = 100.0  # smoothing width of the envelope
_MIN_OVERLAP = 0.1  # minimum common duration in seconds
_FULL_OVERLAP = 0.9  # fraction of both clips' energy in the common part from which neither is an excerpt


def connected_components(links: Iterable[Sequence[int]]) -> list[list[int]]:
    """Merges sets of nodes that have a node in common: sorted nodes of each component, ordered by the first node."""
    component: dict[int, list[int]] = {}
    for first, *others in links:
        for other in others:
            pair = component.setdefault(first, [first]), component.setdefault(other, [other])
            small, large = sorted(pair, key=len)
            if small is not large:
                large += small
                component.update(dict.fromkeys(small, large))
    return sorted(sorted(nodes) for nodes in {id(nodes): nodes for nodes in component.values()}.values())


def exact_duplicates(stats: Sequence[ClipStats]) -> list[list[int]]:
    """Finds sets of clips with the same samples, in any container; digital silence is not a duplicate."""
    sets: dict[tuple[bytes, int], list[int]] = defaultdict(list)
    for row, clip in enumerate(stats):
        if any(clip.hash):
            sets[clip.hash, clip.rate].append(row)
    return [rows for rows in sets.values() if len(rows) > 1]


def near_duplicates(clips: Sequence[Clip], stats: Sequence[ClipStats]) -> tuple[list[Pair], list[Pair], int]:
    """Finds clips with the same audio in another format, sample rate, level or length.

    Candidates are compared batch by batch, the most likely first, until none of a batch is confirmed.

    Args:
        clips: Clip table.
        stats: Measurements of the clips; of exact duplicates, all but the first without landmarks.

    Returns:
        Pairs of clips that match as a whole, pairs of clips of which one contains a part of the other, and the number
        of candidate pairs that were not compared because there were too many.
    """
    from joblib import Parallel, cpu_count, delayed

    candidates = find_candidates(stats)
    limit = int(_MAX_PAIRS_PER_CLIP * len(stats)) + _BATCH
    whole: list[Pair] = []
    partial: list[Pair] = []
    with Parallel(min(cpu_count(), 1 + len(candidates) // _CHUNK), return_as="generator") as parallel:
        for start in range(0, min(len(candidates), limit), _BATCH):
            batch = candidates[start : start + _BATCH].tolist()
            chunks = [[(clips[i], clips[j]) for i, j in batch[k : k + _CHUNK]] for k in range(0, len(batch), _CHUNK)]
            scores: list[tuple[float, float]] = []
            with progress_bar(len(batch), "comparing", "pair") as progress:
                for part in parallel(delayed(in_current_folder(_compare_all))(chunk) for chunk in chunks):
                    scores += part
                    progress.update(len(part))
            num_confirmed = len(whole) + len(partial)
            for (first, second), (correlation, overlap) in zip(batch, scores, strict=True):
                if correlation >= _MIN_CORRELATION:
                    (whole if overlap >= _FULL_OVERLAP else partial).append((first, second))
            if len(whole) + len(partial) == num_confirmed:
                return whole, partial, 0
    return whole, partial, max(0, len(candidates) - limit)


def find_candidates(stats: Sequence[ClipStats]) -> npt.NDArray[np.int64]:
    """Finds pairs of clips with common landmarks at one lag.

    The landmarks of all clips are sorted, and each is paired with the next few equal ones, so that the work is linear
    in the number of landmarks. Votes are counted for one part of the clips at a time, which bounds the memory.

    Returns:
        Rows of the clips, int64 (pairs, 2), the most likely pairs first.
    """
    index = _build_index(stats)
    num_parts = 1 + len(index) // _BLOCK
    counted = [_count_votes(_find_matches(index, part, num_parts)) for part in range(num_parts)]
    pair, votes = (np.concatenate(arrays) for arrays in zip(*counted, strict=True))
    pair = pair[np.argsort(-votes, kind="stable")]
    return np.stack([pair >> np.uint64(_CLIP_BITS), pair & np.uint64(_MAX_CLIP)], axis=1).astype(np.int64)


def _build_index(stats: Sequence[ClipStats]) -> Landmarks:
    """Packs hash, clip and frame of all landmarks into one number each, and sorts them."""
    stats = stats[: _MAX_CLIP + 1]
    index = np.empty(sum(len(clip.landmarks) for clip in stats), np.uint64)
    end = 0
    for row, clip in enumerate(stats):
        start, end = end, end + len(clip.landmarks)
        hashes = (clip.landmarks >> np.uint64(TIME_BITS)) << np.uint64(TIME_BITS + _CLIP_BITS)
        index[start:end] = hashes | np.uint64(row << TIME_BITS) | (clip.landmarks & np.uint64(_NUM_FRAMES - 1))
    index.sort()
    return index


def _find_matches(index: Landmarks, part: int, num_parts: int) -> Landmarks:
    """Packs both clips and the lag of equal landmarks into one number each; the first clip belongs to this part."""
    frame, clip, low = np.uint64(_NUM_FRAMES - 1), np.uint64(_MAX_CLIP), np.uint64(TIME_BITS)
    found = [np.empty(0, np.uint64)]
    for start in range(0, len(index), _BLOCK):
        for shift in range(1, _NEIGHBORS + 1):
            second = index[start + shift : start + shift + _BLOCK]
            first = index[start : start + len(second)]
            row = (first >> low) & clip
            equal = ((first ^ second) < np.uint64(1 << (TIME_BITS + _CLIP_BITS))) & (row % np.uint64(num_parts) == part)
            first, second, row = first[equal], second[equal], row[equal]
            # Half the range is added, so that small lags of either sign are adjacent.
            lag = ((second & frame) - (first & frame) + np.uint64(_NUM_FRAMES // 2)) & frame
            found.append((((row << np.uint64(_CLIP_BITS)) | ((second >> low) & clip)) << low) | lag)
    return np.concatenate(found)


def _count_votes(matches: Landmarks) -> tuple[Landmarks, npt.NDArray[np.int64]]:
    """Returns pairs of clips with enough matches at one lag, and their number: uint64 (pairs,) and int64 (pairs,)."""
    if not len(matches):
        return matches, np.empty(0, np.int64)
    matches.sort()
    close = np.diff(matches) <= 1  # most matches are random: those without another at the same or next lag are dropped
    lags, votes = np.unique(matches[np.append(close, False) | np.append(False, close)], return_counts=True)
    votes[:-1] += np.where(np.diff(lags) == 1, votes[1:], 0)  # a lag may fall between two frames
    pair, votes = (lags >> np.uint64(TIME_BITS))[votes >= _MIN_VOTES], votes[votes >= _MIN_VOTES]
    best = np.lexsort((-votes, pair))
    pair, first = np.unique(pair[best], return_index=True)
    return pair, votes[best][first]


def _compare_all(pairs: Iterable[tuple[Clip, Clip]]) -> list[tuple[float, float]]:
    return [compare(_load(first), _load(second)) for first, second in pairs]


def _load(clip: Clip) -> FloatSamples:
    """Decodes up to `SECONDS` of a clip at `RATE`: float32 (samples,)."""
    blocks, missing = [], round(SECONDS * RATE)
    with open_audio(clip.path, clip.copy) as recording:
        for block in recording.resampled(RATE, clip.start, clip.end):
            blocks.append(block[:missing])
            missing -= len(blocks[-1])
            if not missing:
                break
    return np.concatenate(blocks)


def compare(first: FloatSamples, second: FloatSamples) -> tuple[float, float]:
    """Compares two waveforms at the lag of their best match.

    Args:
        first, second: Waveforms, float32 (samples,) each, at `RATE`.

    Returns:
        The correlation of the common part after whitening, 0 to 1, and the fraction of the energy in the common part
        (the minimum of both waveforms).
    """
    size = 1 << (len(first) + len(second) - 1).bit_length()
    white_first, white_second = _whiten(first), _whiten(second)
    spectrum = np.fft.rfft(white_second, size) * np.conj(np.fft.rfft(white_first, size))
    lag = int(np.abs(np.fft.irfft(spectrum, size)).argmax())
    lag -= size if lag >= len(second) else 0
    start, stop = max(0, -lag), min(len(first), len(second) - lag)
    if stop - start < _MIN_OVERLAP * RATE:
        return 0.0, 0.0
    in_first, in_second = slice(start, stop), slice(start + lag, stop + lag)
    norm = (_energy(white_first[in_first]) * _energy(white_second[in_second])) ** 0.5
    overlap = min(_energy(first[in_first]) / _energy(first), _energy(second[in_second]) / _energy(second))
    return float(abs(white_first[in_first] @ white_second[in_second]) / max(norm, 1e-12)), overlap


def _whiten(waveform: FloatSamples) -> FloatSamples:
    """Divides the spectrum by a power of its smoothed envelope."""
    size = 1 << (len(waveform) - 1).bit_length()
    spectrum = np.fft.rfft(waveform - waveform.mean(), size)
    power = np.square(np.abs(spectrum))
    width = max(3, round(_ENVELOPE_HZ * size / RATE))
    total = np.cumsum(np.pad(power, (width // 2 + 1, width - width // 2 - 1), mode="edge"), dtype=np.float64)
    envelope = np.sqrt((total[width:] - total[:-width]) / width) + 1e-6 * np.sqrt(power.max()) + 1e-12
    return np.fft.irfft(spectrum / envelope**_WHITENING, size)[: len(waveform)].astype(np.float32)


def _energy(waveform: FloatSamples) -> float:
    return float(np.square(waveform, dtype=np.float64).sum()) + 1e-12
