"""The cache of decoded datasets: every clip decoded once to mono int16, all in a single file."""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from spectrnn.data.audio import Samples, load_audio
from spectrnn.data.clips import Clip
from spectrnn.data.parallel import parallel_map
from spectrnn.errors import FileErrors, UserError
from spectrnn.files import atomic_directory, remove_stale_temporaries, write_json
from spectrnn.messages import counted

log = logging.getLogger(__name__)

HASH_SIZE = 16  # bytes
_FORMAT = 5


class AudioHash:
    """Hash of audio that arrives in blocks, ignoring leading and trailing digital silence."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=HASH_SIZE)
        self._started = False
        self._zeros = 0  # since the last nonzero sample

    def update(self, samples: Samples) -> "AudioHash":
        """Adds the next block, int16 (samples,)."""
        nonzero = np.flatnonzero(samples)
        if not len(nonzero):
            self._zeros += len(samples) if self._started else 0
            return self
        start = 0 if self._started else int(nonzero[0])
        self._hash.update(bytes(2 * self._zeros))
        self._hash.update(np.ascontiguousarray(samples[start : nonzero[-1] + 1]).tobytes())
        self._started, self._zeros = True, len(samples) - 1 - int(nonzero[-1])
        return self

    def digest(self) -> bytes:
        """Returns `HASH_SIZE` bytes, all zero for digital silence."""
        return self._hash.digest() if self._started else bytes(HASH_SIZE)


class WaveformCache(NamedTuple):
    """A decoded dataset.

    Attributes:
        path: File of the int16 samples of all clips, followed by silence as `SampleStorage` needs it.
        offsets: Clip i is samples ``offsets[i]`` to ``offsets[i + 1]``, int64 (clips + 1,).
        sample_rate: Sample rate in Hz.
        hashes: Hash of each clip's samples, uint8 (clips, `HASH_SIZE`); all zero for digital silence.
        errors: Error of each unreadable clip, which has no samples, in order.
    """

    path: Path
    offsets: np.ndarray
    sample_rate: int
    hashes: np.ndarray
    errors: list[str]

    @property
    def lengths(self) -> np.ndarray:
        """Number of samples per clip, int64 (clips,)."""
        return np.diff(self.offsets)

    def drop_empty(self) -> "WaveformCache":
        """Returns the cache without the clips that have no samples."""
        kept = self.lengths > 0
        return self._replace(offsets=np.append(self.offsets[:-1][kept], self.offsets[-1]), hashes=self.hashes[kept])


def open_cache(clips: Sequence[Clip], sample_rate: int, folder: Path, on_error: str) -> WaveformCache:
    """Opens the cached dataset of a clip table, or decodes it on all cores.

    Datasets are identified by path or address, part, size, permissions and modification time of every file, and the
    sample rate.
    If several processes need the same dataset, one decodes it and the others wait.

    Args:
        clips: Clip table; labels and splits may change without decoding again.
        sample_rate: Sample rate in Hz.
        folder: Folder of the cached datasets.
        on_error: ``fail`` for an error on files that are missing or unreadable, or ``skip`` for clips without samples.

    Raises:
        FileErrors: All unreadable files, and nothing is kept.
        UserError: With ``skip`` no file can be read.
    """
    key = cache_key(clips, sample_rate)
    target, lock = folder / "datasets" / key, folder / "locks" / key
    if not target.is_dir():
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            try:
                acquired = FileLock(lock).acquire(blocking=False)
            except Timeout:
                log.info("another process is decoding this dataset; waiting for it")
                acquired = FileLock(lock).acquire()
            with acquired:
                if not target.is_dir():
                    _build(clips, sample_rate, target, on_error)
        except OSError as error:
            raise UserError(f"data.cache: cannot be written to {target.parent}: {error.strerror}") from error
    cache = _open_existing(target, sample_rate)
    _raise_on_errors(cache.errors, len(clips), on_error)
    return cache


def cache_key(clips: Sequence[Clip], sample_rate: int) -> str:
    """Returns 32 hex digits that change whenever the decoded samples could."""
    digest = hashlib.sha256(f"{_FORMAT} {sample_rate}".encode())
    files: dict[str, tuple[str | int, ...]] = {}
    for clip in clips:
        if clip.path not in files:
            try:
                stat = os.stat(clip.copy or clip.path)
                attributes: tuple[int, ...] = (stat.st_size, stat.st_mtime_ns, stat.st_mode)
            except OSError:  # a missing file
                attributes = ()
            files[clip.path] = (clip.path if clip.copy else os.path.abspath(clip.path), *attributes)
        row = (*files[clip.path], clip.start, clip.end)
        digest.update(repr(row).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


def _build(clips: Sequence[Clip], sample_rate: int, folder: Path, on_error: str) -> None:
    lengths: list[int] = []
    hashes: list[bytes] = []
    errors: list[str] = []
    decode = partial(_decode, sample_rate=sample_rate)
    remove_stale_temporaries(folder.parent, folder.name)
    with atomic_directory(folder) as temporary, (temporary / "samples.int16").open("wb") as file:
        for samples, chunk_lengths, chunk_hashes, chunk_errors in parallel_map(decode, clips, "decoding"):
            file.write(samples.tobytes())
            lengths += chunk_lengths
            hashes += chunk_hashes
            errors += chunk_errors
        _raise_on_errors(errors, len(clips), on_error)
        file.truncate(2 * (sum(lengths) + max(lengths)))
        np.save(temporary / "offsets.npy", np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))
        np.save(temporary / "hashes.npy", np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, HASH_SIZE))
        write_json({"errors": errors}, temporary / "errors.json")
    minutes, size = sum(lengths) / sample_rate / 60, sum(lengths) * 2 / 1e6
    log.info("decoded %s, %.1f minutes, %.0f MB", counted(len(clips), "clip"), minutes, size)


def _decode(clips: Sequence[Clip], sample_rate: int) -> tuple[Samples, list[int], list[bytes], list[str]]:
    """Decodes clips to their concatenated samples, the length and hash of each, and the errors of unreadable ones."""
    decoded, errors = [], []
    for clip in clips:
        try:
            decoded.append(load_audio(clip.path, sample_rate, clip.start, clip.end, clip.copy))
        except UserError as error:
            decoded.append(np.empty(0, np.int16))
            errors.append(str(error))
    hashes = [AudioHash().update(samples).digest() for samples in decoded]
    return np.concatenate(decoded), [len(samples) for samples in decoded], hashes, errors


def _raise_on_errors(errors: Sequence[str], clips: int, on_error: str) -> None:
    if errors and on_error == "fail":
        raise FileErrors([*dict.fromkeys(errors)])  # clips of the same file have the same error
    if len(errors) == clips:
        raise UserError(f"data.on_error=skip: none of {counted(clips, 'clip')} can be read, such as {errors[0]}")


def _open_existing(folder: Path, sample_rate: int) -> WaveformCache:
    with suppress(OSError, ValueError, LookupError, EOFError):
        errors = json.loads((folder / "errors.json").read_text())["errors"]
        offsets, hashes = np.load(folder / "offsets.npy"), np.load(folder / "hashes.npy")
        cache = WaveformCache(folder / "samples.int16", offsets, sample_rate, hashes, errors)
        size = 2 * (offsets[-1] + cache.lengths.max())
        if cache.path.stat().st_size == size and (cache.lengths == 0).sum() == len(errors):
            return cache
    raise UserError(f"{folder}: the cached dataset is damaged; delete the folder to decode it again")
