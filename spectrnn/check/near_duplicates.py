"""Which clips hold the same sound: candidates by landmarks, then the proof by correlation of the waves."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from spectrnn.check.fingerprint import HASH_BITS, RATE, SECONDS, TIME_BITS, Landmarks
from spectrnn.check.measure import ClipStats
from spectrnn.data.audio import iter_resampled, open_audio
from spectrnn.data.clips import Clip
from spectrnn.progress import progress_bar

Wave = npt.NDArray[np.float32]

_CLIP_BITS = 64 - HASH_BITS - TIME_BITS  # 4 million clips; those beyond are not compared
_LAST, _FRAMES = (1 << _CLIP_BITS) - 1, 1 << TIME_BITS
_BLOCK = 1 << 22  # landmarks that are looked at together: bounds the memory
_NEIGHBOURS = 4  # further clips with the same landmark that a clip is held against
_VOTES = 3  # landmarks that two clips must share at one lag
_BATCH = 1000  # candidates that are proved before asking whether to go on
_MOST = 2.0  # candidates a clip that are proved, at most
_CHUNK = 32  # candidates, the work of one task of a process
_SAME = 0.75  # correlation: other takes of a word by the same speaker stay below 0.65, MP3 at its worst above 0.8
_WHITENING = 0.8  # power of the spectrum's envelope that is divided out: vowels and hum resemble each other too much
_ENVELOPE = 100.0  # Hz; width of the envelope's smoothing
_SHORTEST = 0.1  # s that two clips must share
_FULL_OVERLAP = 0.9  # of the energy of both that lies in the shared part: they are one recording, and no excerpts


class Pair(NamedTuple):
    """Two clips that hold the same sound, by their rows in the table.

    Attributes:
        first, second: rows, the lower first.
        whole: all of both, and no excerpt.
        correlation: of the shared part, 0 to 1.
    """

    first: int
    second: int
    whole: bool
    correlation: float


def exact_duplicates(rows: Sequence[ClipStats]) -> list[list[int]]:
    """Sets of clips with the same samples, whatever container holds them; silence is like nothing."""
    sets: dict[tuple[bytes, int], list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        if any(row.digest):
            sets[row.digest, row.rate].append(number)
    return [members for members in sets.values() if len(members) > 1]


def near_duplicates(clips: Sequence[Clip], rows: Sequence[ClipStats]) -> tuple[list[Pair], int]:
    """Clips that hold the same sound in another format, rate, level or length.

    The likeliest candidates are proved first, so many at a time, until none of them proves true.

    Args:
        clips: the clip table.
        rows: of the clips; of those that are identical, all but the first without landmarks.

    Returns:
        The pairs, and how many candidates were left though some of the last still proved true.
    """
    from joblib import Parallel, cpu_count

    found = candidates(rows)
    most = int(_MOST * len(rows)) + _BATCH
    pairs: list[Pair] = []
    with Parallel(min(cpu_count(), 1 + len(found) // _CHUNK), return_as="generator") as parallel:
        for start in range(0, min(len(found), most), _BATCH):
            part = found[start : start + _BATCH]
            scores = _compared(clips, part, parallel)
            proved = [
                Pair(int(i), int(j), bool(share >= _FULL_OVERLAP), round(score, 3))
                for (i, j), (score, share) in zip(part, scores, strict=True)
                if score >= _SAME
            ]
            pairs += proved
            if not proved:
                return pairs, 0
    return pairs, max(0, len(found) - most)


def _compared(clips: Sequence[Clip], pairs: npt.NDArray[np.int64], parallel: Any) -> list[tuple[float, float]]:
    from joblib import delayed

    chunks = [
        [(clips[i], clips[j]) for i, j in pairs[start : start + _CHUNK]] for start in range(0, len(pairs), _CHUNK)
    ]
    scores: list[tuple[float, float]] = []
    with progress_bar(len(pairs), "comparing", "pair") as progress:
        for done in parallel(delayed(_compare_chunk)(chunk) for chunk in chunks):
            scores += done
            progress.update(len(done))
    return scores


def candidates(rows: Sequence[ClipStats]) -> npt.NDArray[np.int64]:
    """Pairs of clips with landmarks in common, all at one lag; the most likely first: int64 (pairs, 2).

    The landmarks of all clips are sorted once. Each is held against the next few like it, so the work grows with the
    number of landmarks and not with its square. The votes are counted for one part of the clips after the other.
    """
    index = _index(rows)
    parts = 1 + len(index) // _BLOCK
    pair, votes = map(
        np.concatenate, zip(*[_count_votes(_hits(index, part, parts)) for part in range(parts)], strict=True)
    )
    pair = pair[np.argsort(-votes, kind="stable")]
    return np.stack([pair >> np.uint64(_CLIP_BITS), pair & np.uint64(_LAST)], axis=1).astype(np.int64)


def _count_votes(hits: Landmarks) -> tuple[Landmarks, npt.NDArray[np.int64]]:
    """The pairs with enough hits at one lag, and how many those are: uint64 (pairs,) and int64 (pairs,)."""
    hits.sort()
    lags, votes = np.unique(hits[_has_neighbour(hits)], return_counts=True)
    if not len(lags):
        return lags, votes
    beside = np.append(np.where(lags[1:] == lags[:-1] + 1, votes[1:], 0), 0)  # a lag may lie between two frames
    enough = votes + beside >= _VOTES
    pair, votes = (lags >> np.uint64(TIME_BITS))[enough], (votes + beside)[enough]
    best = np.lexsort((-votes, pair))
    pair, first = np.unique(pair[best], return_index=True)
    return pair, votes[best][first]


def _has_neighbour(hits: Landmarks) -> npt.NDArray[np.bool_]:
    """Most hits are chance and alone: of sorted hits, those with the same or the next lag beside them."""
    near = np.diff(hits) <= 1
    return np.append(near, False) | np.append(False, near) if len(hits) else np.empty(0, np.bool_)


def _index(rows: Sequence[ClipStats]) -> Landmarks:
    """All landmarks, sorted: hash, clip and frame in one number."""
    low = np.uint64(TIME_BITS)
    index = np.empty(sum(len(row.landmarks) for row in rows[: _LAST + 1]), np.uint64)
    end = 0
    for number, row in enumerate(rows[: _LAST + 1]):
        start, end = end, end + len(row.landmarks)
        hashes = (row.landmarks >> low) << np.uint64(TIME_BITS + _CLIP_BITS)
        index[start:end] = hashes | np.uint64(number << TIME_BITS) | (row.landmarks & np.uint64(_FRAMES - 1))
    index.sort()
    return index


def _hits(index: Landmarks, part: int, parts: int) -> Landmarks:
    """Where two clips, the first of them of this part, have a like landmark: both clips and the lag, as one number."""
    frame, clip, low = np.uint64(_FRAMES - 1), np.uint64(_LAST), np.uint64(TIME_BITS)
    found = [np.empty(0, np.uint64)]
    for start in range(0, len(index), _BLOCK):
        for shift in range(1, _NEIGHBOURS + 1):
            other = index[start + shift : start + shift + _BLOCK]
            one = index[start : start + len(other)]
            mine = (one >> low) & clip
            like = ((one ^ other) < np.uint64(1 << (TIME_BITS + _CLIP_BITS))) & (mine % np.uint64(parts) == part)
            one, other, mine = one[like], other[like], mine[like]
            # Half the range on top: small lags, to and fro, are neighbours
            lag = ((other & frame) - (one & frame) + np.uint64(_FRAMES // 2)) & frame
            found.append((((mine << np.uint64(_CLIP_BITS)) | ((other >> low) & clip)) << low) | lag)
    return np.concatenate(found)


def _compare_chunk(pairs: Iterable[tuple[Clip, Clip]]) -> list[tuple[float, float]]:
    return [compare(_load(first), _load(second)) for first, second in pairs]


def _load(clip: Clip) -> Wave:
    """The clip at `RATE`, up to `SECONDS` of it: float32 (samples,)."""
    parts, left = [], round(SECONDS * RATE)
    with open_audio(clip.path) as file:
        for wave in iter_resampled(file, clip.path, RATE, clip.start, clip.end):
            parts.append(wave[:left])
            left -= len(parts[-1])
            if not left:
                break
    return np.concatenate(parts)


def compare(first: Wave, second: Wave) -> tuple[float, float]:
    """How alike two waves are where they fit best.

    Args:
        first, second: float32 (samples,) at `RATE`.

    Returns:
        The correlation of their whitened shared part, 0 to 1, and the share of their energy in it (the lesser of both).
    """
    size = 1 << (len(first) + len(second) - 1).bit_length()
    one, other = _whitened(first), _whitened(second)
    correlation = np.abs(np.fft.irfft(np.fft.rfft(other, size) * np.conj(np.fft.rfft(one, size)), size))
    lag = int(correlation.argmax())
    lag -= size if lag >= len(other) else 0
    start, stop = max(0, -lag), min(len(one), len(other) - lag)
    if stop - start < _SHORTEST * RATE:
        return 0.0, 0.0
    here, there = slice(start, stop), slice(start + lag, stop + lag)
    norm = (_energy(one[here]) * _energy(other[there])) ** 0.5
    shares = _energy(first[here]) / _energy(first), _energy(second[there]) / _energy(second)
    return float(abs(one[here] @ other[there]) / max(norm, 1e-12)), min(shares)


def _whitened(wave: Wave) -> Wave:
    size = 1 << (len(wave) - 1).bit_length()
    spectrum = np.fft.rfft(wave - wave.mean(), size)
    power = np.square(np.abs(spectrum))
    width = max(3, round(_ENVELOPE * size / RATE))
    total = np.cumsum(np.pad(power, (width // 2 + 1, width - width // 2 - 1), mode="edge"), dtype=np.float64)
    envelope = np.sqrt((total[width:] - total[:-width]) / width) + 1e-6 * np.sqrt(power.max()) + 1e-12
    return np.fft.irfft(spectrum / envelope**_WHITENING, size)[: len(wave)].astype(np.float32)


def _energy(wave: Wave) -> float:
    return float(np.square(wave, dtype=np.float64).sum()) + 1e-12
