"""The dataset as one wave: every clip decoded once to mono int16, end to end in a single file."""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from spectrnn.data.audio import Samples, load_audio
from spectrnn.data.clips import Clip
from spectrnn.data.parallel import parallel_map
from spectrnn.errors import UserError
from spectrnn.files import atomic_directory, remove_stale_temporaries, write_json

log = logging.getLogger(__name__)

_FORMAT = 3
_PROBLEMS = "problems.json"  # in a store whose clips could not all be read


class WaveformCache(NamedTuple):
    """A decoded dataset.

    Attributes:
        path: of the samples of all clips, int16, with the silence that `SampleStorage` wants behind them.
        offsets: int64 (clips + 1,); clip i is samples ``offsets[i]`` to ``offsets[i + 1]``.
        sample_rate: Hz.
        digests: uint8 (clips, 16), of each clip's samples; all zero where it is digital silence.
        problems: why a clip cannot be read, for each that has no samples, in their order.
    """

    path: Path
    offsets: np.ndarray
    sample_rate: int
    digests: np.ndarray
    problems: list[str]

    @property
    def lengths(self) -> np.ndarray:
        """Samples of each clip, int64 (clips,)."""
        return np.diff(self.offsets)

    def drop_empty(self) -> "WaveformCache":
        """The same samples, numbered without the clips that have none."""
        full = self.lengths > 0
        return self._replace(offsets=np.append(self.offsets[:-1][full], self.offsets[-1]), digests=self.digests[full])


def open_cache(clips: Sequence[Clip], sample_rate: int, cache: Path, on_error: str) -> WaveformCache:
    """Finds the store of these clips, or decodes them into a new one with all cores.

    The store's name is a fingerprint of its sources: path, part, size, permissions and time of change of every file,
    and the rate. Of several processes that want the same store one builds it, and the others wait.

    Args:
        clips: the clip table; labels and splits may change without a new store.
        sample_rate: Hz.
        cache: the folder that holds the stores.
        on_error: what files that are missing or cannot be read do: ``fail``, or ``skip``, which leaves clips without
            samples in the store.

    Returns:
        The store.

    Raises:
        UserError: all files that cannot be read are named, one a line, and nothing is left behind; with ``skip`` only
            where no file can be read.
    """
    name = cache_key(clips, sample_rate)
    folder = cache / "stores" / name
    if not folder.is_dir():
        try:
            with _lock(cache / "locks" / name):
                if not folder.is_dir():
                    remove_stale_temporaries(folder.parent, folder.name)
                    _build(clips, sample_rate, folder, on_error)
        except OSError as error:
            raise UserError(f"data.cache: the store cannot be written to {folder.parent}: {error.strerror}") from error
    store = _open_existing(folder, sample_rate)
    _raise_on_errors(store.problems, len(clips), on_error)
    return store


def cache_key(clips: Sequence[Clip], sample_rate: int) -> str:
    """32 hex digits that differ where the decoded samples could."""
    digest = hashlib.sha256(f"{_FORMAT} {sample_rate}".encode())
    files: dict[str, tuple[str | int, ...]] = {}
    for clip in clips:
        if clip.path not in files:
            files[clip.path] = (os.path.abspath(clip.path), *_stat_key(clip.path))
        row = (*files[clip.path], clip.start, clip.end)
        digest.update(repr(row).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


def _stat_key(path: str) -> tuple[int, ...]:
    """Size, time of change and permissions of a file; nothing of one that is missing."""
    try:
        stat = os.stat(path)
    except OSError:
        return ()
    return stat.st_size, stat.st_mtime_ns, stat.st_mode


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        log.info("another run is decoding this dataset; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _build(clips: Sequence[Clip], sample_rate: int, folder: Path, on_error: str) -> None:
    lengths: list[int] = []
    problems: list[str] = []
    digests: list[bytes] = []
    with atomic_directory(folder) as temporary, (temporary / "wave.int16").open("wb") as file:
        for decoded in parallel_map(partial(_decode, sample_rate=sample_rate), clips, "decoding"):
            file.write(decoded.wave.tobytes())
            lengths += decoded.lengths
            problems += decoded.problems
            digests += decoded.digests
        _raise_on_errors(problems, len(clips), on_error)
        file.truncate(2 * (sum(lengths) + max(lengths)))
        np.save(temporary / "offsets.npy", np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))
        np.save(temporary / "digests.npy", np.frombuffer(b"".join(digests), np.uint8).reshape(-1, HASH_SIZE))
        if problems:
            write_json({"problems": problems}, temporary / _PROBLEMS)
    seconds = sum(lengths) / sample_rate
    log.info("decoded %d clips, %.1f minutes, %.0f MB", len(clips), seconds / 60, sum(lengths) * 2 / 1e6)


def _raise_on_errors(problems: Sequence[str], clips: int, on_error: str) -> None:
    if problems and on_error == "fail":
        raise UserError("\n".join(dict.fromkeys(problems)))  # clips that are parts of one file have one problem
    if len(problems) == clips:
        raise UserError(f"data.on_error=skip: none of the {clips} clips can be read, such as {problems[0]}")


def _open_existing(folder: Path, sample_rate: int) -> WaveformCache:
    path = folder / _PROBLEMS
    try:
        problems = json.loads(path.read_text())["problems"] if path.exists() else []
        tables = np.load(folder / "offsets.npy"), sample_rate, np.load(folder / "digests.npy")
        store = WaveformCache(folder / "wave.int16", *tables, problems)
        whole = store.path.stat().st_size == 2 * (store.offsets[-1] + store.lengths.max())
        whole = whole and (store.lengths == 0).sum() == len(problems)
    except (OSError, ValueError, EOFError):
        whole = False
    if not whole:
        raise UserError(f"{folder}: the store is damaged; delete the folder, and it will be built again")
    return store


class _Decoded(NamedTuple):
    wave: Samples
    lengths: list[int]
    digests: list[bytes]
    problems: list[str]


def _decode(clips: Sequence[Clip], sample_rate: int) -> _Decoded:
    waves, lengths, problems = [], [], []
    for clip in clips:
        try:
            wave = load_audio(clip.path, sample_rate, clip.start, clip.end)
        except UserError as error:
            wave = np.empty(0, np.int16)
            problems.append(str(error))
        waves.append(wave)
        lengths.append(len(wave))
    digests = [AudioHash().update(wave).value() for wave in waves]
    return _Decoded(np.concatenate(waves), lengths, digests, problems)


HASH_SIZE = 16  # bytes of a digest


class AudioHash:
    """Of a wave that comes in pieces. Digital silence before and behind it does not count."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=HASH_SIZE)
        self._begun = False
        self._zeros = 0  # behind the last sample that is not zero, so far

    def update(self, wave: Samples) -> "AudioHash":
        """Takes the next piece: int16 (samples,)."""
        loud = np.flatnonzero(wave)
        if not len(loud):
            self._zeros += len(wave) if self._begun else 0
            return self
        start = 0 if self._begun else int(loud[0])
        self._hash.update(bytes(2 * self._zeros))
        self._hash.update(np.ascontiguousarray(wave[start : loud[-1] + 1]).tobytes())
        self._begun, self._zeros = True, len(wave) - 1 - int(loud[-1])
        return self

    def value(self) -> bytes:
        """`HASH_SIZE` bytes, all zero where nothing but silence came."""
        return self._hash.digest() if self._begun else bytes(HASH_SIZE)
