"""Which clips hold the same sound: candidates by landmarks, then the proof by correlation of the waves."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import soxr

from spectrnn.check.examine import Row
from spectrnn.check.landmarks import HASH_BITS, RATE, SECONDS, TIME_BITS, Landmarks
from spectrnn.data.audio import frames, mono, opened
from spectrnn.data.clips import Clip
from spectrnn.progress import bar

Wave = npt.NDArray[np.float32]

_CLIP_BITS = 64 - HASH_BITS - TIME_BITS  # 4 million clips; those beyond are not compared
_LAST, _FRAMES = (1 << _CLIP_BITS) - 1, 1 << TIME_BITS
_NEIGHBOURS = 4  # further clips with the same landmark that a clip is held against
_VOTES = 3  # landmarks that two clips must share at one lag
_FEWEST, _SHARE = 1000, 0.5  # candidates that are proved: so many, or this share of the clips where that is more
_CHUNK = 32  # candidates, the work of one task of a process
_SAME = 0.75  # correlation: other takes of a word by the same speaker stay below 0.65, MP3 at its worst above 0.8
_WHITENING = 0.8  # power of the spectrum's envelope that is divided out: vowels and hum resemble each other too much
_ENVELOPE = 100.0  # Hz; width of the envelope's smoothing
_SHORTEST = 0.1  # s that two clips must share
_WHOLE = 0.9  # of the energy of both that lies in the shared part: they are one recording, and no excerpts


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


def identical(rows: Sequence[Row]) -> list[list[int]]:
    """Sets of clips with the same samples, whatever container holds them; silence is like nothing."""
    sets: dict[tuple[bytes, int], list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        if any(row.digest):
            sets[row.digest, row.rate].append(number)
    return [members for members in sets.values() if len(members) > 1]


def similar(clips: Sequence[Clip], rows: Sequence[Row]) -> tuple[list[Pair], int]:
    """Clips that hold the same sound in another format, rate, level or length.

    Args:
        clips: the clip table.
        rows: of the clips; of those that are identical, all but the first without landmarks.

    Returns:
        The pairs, and how many candidates were left without a proof.
    """
    from joblib import Parallel, cpu_count, delayed

    found = candidates(rows)
    proved = found[: max(_FEWEST, int(_SHARE * len(rows)))]
    chunks = [[(clips[i], clips[j]) for i, j in proved[start : start + _CHUNK]]
              for start in range(0, len(proved), _CHUNK)]  # fmt: skip
    workers = max(1, min(cpu_count(), len(chunks)))
    scores: list[tuple[float, float]] = []
    with bar(len(proved), "comparing", "pair") as progress:
        for done in Parallel(workers, return_as="generator")(delayed(_compare_chunk)(chunk) for chunk in chunks):
            scores += done
            progress.update(len(done))
    pairs = [Pair(int(i), int(j), bool(share >= _WHOLE), round(score, 3))
             for (i, j), (score, share) in zip(proved, scores, strict=True) if score >= _SAME]  # fmt: skip
    return pairs, len(found) - len(proved)


def candidates(rows: Sequence[Row]) -> npt.NDArray[np.int64]:
    """Pairs of clips with landmarks in common, all at one lag; the most likely first: int64 (pairs, 2).

    The landmarks of all clips are sorted once. Each is held against the next few like it, so the work grows with the
    number of landmarks and not with its square.
    """
    index = _index(rows)
    hits = [hit for shift in range(1, _NEIGHBOURS + 1) for hit in [_hits(index, shift)] if len(hit)]
    if not hits:
        return np.empty((0, 2), np.int64)
    lags, votes = np.unique(np.concatenate(hits), return_counts=True)
    beside = np.append(np.where(lags[1:] == lags[:-1] + 1, votes[1:], 0), 0)  # a lag may lie between two frames
    enough = votes + beside >= _VOTES
    pair, votes = (lags >> np.uint64(TIME_BITS))[enough], (votes + beside)[enough]
    best = np.lexsort((-votes, pair))
    pair, first = np.unique(pair[best], return_index=True)
    order = np.argsort(-votes[best][first], kind="stable")
    return np.stack([pair >> np.uint64(_CLIP_BITS), pair & np.uint64(_LAST)], axis=1).astype(np.int64)[order]


def _index(rows: Sequence[Row]) -> Landmarks:
    """All landmarks, sorted: hash, clip and frame in one number. Of a clip's like landmarks the first is kept."""
    low = np.uint64(TIME_BITS)
    parts = [
        ((row.landmarks >> low) << np.uint64(TIME_BITS + _CLIP_BITS))
        | np.uint64(number << TIME_BITS)
        | (row.landmarks & np.uint64(_FRAMES - 1))
        for number, row in enumerate(rows[: _LAST + 1])
    ]
    index = np.concatenate(parts)
    index.sort()
    return index[np.append(True, (index[1:] >> low) != (index[:-1] >> low))] if len(index) else index


def _hits(index: Landmarks, shift: int) -> Landmarks:
    """Where a landmark is like the one `shift` further on: both clips, and the lag between them, as one number."""
    one, other = index[:-shift], index[shift:]
    like = np.flatnonzero((one ^ other) < np.uint64(1 << (TIME_BITS + _CLIP_BITS)))
    one, other = one[like], other[like]
    frame, clip, low = np.uint64(_FRAMES - 1), np.uint64(_LAST), np.uint64(TIME_BITS)
    # Half the range on top: small lags, to and fro, are neighbours
    lag = ((other & frame) - (one & frame) + np.uint64(_FRAMES // 2)) & frame
    pair = (((one >> low) & clip) << np.uint64(_CLIP_BITS)) | ((other >> low) & clip)
    return (pair << low) | lag


def _compare_chunk(pairs: Iterable[tuple[Clip, Clip]]) -> list[tuple[float, float]]:
    return [compare(_heard(first), _heard(second)) for first, second in pairs]


def _heard(clip: Clip) -> Wave:
    """The clip at `RATE`, up to `SECONDS` of it: float32 (samples,)."""
    parts, left = [], SECONDS
    with opened(clip.path) as file:
        resampler = soxr.ResampleStream(file.samplerate, RATE, 1)
        for samples, last in frames(file, clip.path, clip.start, clip.end):
            parts.append(resampler.resample_chunk(mono(samples), last=last))
            left -= len(samples) / file.samplerate
            if left <= 0:
                break
    return np.concatenate(parts)[: round(SECONDS * RATE)]


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
