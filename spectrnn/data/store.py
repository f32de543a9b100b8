"""The corpus as one wave: every clip decoded once to mono int16, end to end in a single file."""

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spectrnn.data.audio import Samples, decode
from spectrnn.data.clips import Clip
from spectrnn.data.digest import SIZE, Digest
from spectrnn.errors import UserError
from spectrnn.files import new_folder
from spectrnn.progress import bar

log = logging.getLogger(__name__)

_FORMAT = 3
_CHUNK_CLIPS, _CHUNK_BYTES = 256, 1 << 26  # the work of one task of a decoding process
_REPORTED = 20  # broken files that an error names


class Store(NamedTuple):
    """A decoded corpus.

    Attributes:
        path: of the samples of all clips, int16, with the silence that `Wave` wants behind them.
        offsets: int64 (clips + 1,); clip i is samples ``offsets[i]`` to ``offsets[i + 1]``.
        sample_rate: Hz.
        digests: uint8 (clips, 16), of each clip's samples; all zero where it is digital silence.
    """

    path: Path
    offsets: np.ndarray
    sample_rate: int
    digests: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Samples of each clip, int64 (clips,)."""
        return np.diff(self.offsets)


def open_store(clips: Sequence[Clip], sample_rate: int, cache: Path) -> Store:
    """Finds the store of these clips, or decodes them into a new one with all cores.

    The store's name is a fingerprint of its sources: path, part, size and time of change of every file, and the rate.

    Args:
        clips: the clip table; labels and splits may change without a new store.
        sample_rate: Hz.
        cache: the folder that holds the stores.

    Returns:
        The store.

    Raises:
        UserError: files that are missing or unreadable, all named at once; nothing is left behind.
    """
    folder = cache / "stores" / fingerprint(clips, sample_rate)
    if not folder.is_dir():
        _build(clips, sample_rate, folder)
    return _found(folder, sample_rate)


def fingerprint(clips: Sequence[Clip], sample_rate: int) -> str:
    """32 hex digits that differ where the decoded samples could."""
    digest = hashlib.sha256(f"{_FORMAT} {sample_rate}".encode())
    files: dict[str, tuple[str, int, int]] = {}
    missing = []
    for clip in clips:
        if clip.path not in files:
            try:
                stat = os.stat(clip.path)
            except OSError:
                missing.append(f"{clip.path}: no such file")
                continue
            files[clip.path] = (os.path.abspath(clip.path), stat.st_size, stat.st_mtime_ns)
        row = (*files[clip.path], clip.start, clip.end)
        digest.update(repr(row).encode("utf-8", "surrogateescape"))
    _refuse(missing)
    return digest.hexdigest()[:32]


def _build(clips: Sequence[Clip], sample_rate: int, folder: Path) -> None:
    lengths: list[int] = []
    problems: list[str] = []
    digests: list[bytes] = []
    try:
        with new_folder(folder) as temporary, (temporary / "wave.int16").open("wb") as file:
            with bar(len(clips), "decoding", "clip") as progress:
                for decoded in _decode_all(clips, sample_rate):
                    file.write(decoded.wave.tobytes())
                    lengths += decoded.lengths
                    problems += decoded.problems
                    digests += decoded.digests
                    progress.update(len(decoded.lengths))
            _refuse(problems)
            file.truncate(2 * (sum(lengths) + max(lengths)))
            np.save(temporary / "offsets.npy", np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))
            np.save(temporary / "digests.npy", np.frombuffer(b"".join(digests), np.uint8).reshape(-1, SIZE))
    except OSError as error:
        raise UserError(f"data.cache: the store cannot be written to {folder.parent}: {error.strerror}") from error
    seconds = sum(lengths) / sample_rate
    log.info("decoded %d clips, %.1f minutes, %.0f MB", len(clips), seconds / 60, sum(lengths) * 2 / 1e6)


def _found(folder: Path, sample_rate: int) -> Store:
    try:
        tables = np.load(folder / "offsets.npy"), sample_rate, np.load(folder / "digests.npy")
        store = Store(folder / "wave.int16", *tables)
        whole = store.path.stat().st_size == 2 * (store.offsets[-1] + store.lengths.max())
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


def _decode_all(clips: Sequence[Clip], sample_rate: int) -> Iterator[_Decoded]:
    """Decodes in the table's order, a few chunks ahead, in as many processes as there are cores."""
    from joblib import Parallel, cpu_count, delayed

    chunks = list(_chunks(clips))
    workers = min(cpu_count(), len(chunks))
    parallel = Parallel(workers, return_as="generator", pre_dispatch="2*n_jobs", batch_size=1)
    yield from parallel(delayed(_decode_chunk)(chunk, sample_rate) for chunk in chunks)


def _chunks(clips: Sequence[Clip]) -> Iterator[list[Clip]]:
    chunk: list[Clip] = []
    size = 0
    for clip in clips:
        chunk.append(clip)
        size += os.path.getsize(clip.path)
        if len(chunk) == _CHUNK_CLIPS or size > _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _decode_chunk(clips: Sequence[Clip], sample_rate: int) -> _Decoded:
    waves, lengths, problems = [], [], []
    for clip in clips:
        try:
            wave = decode(clip.path, sample_rate, clip.start, clip.end)
        except UserError as error:
            wave = np.empty(0, np.int16)
            problems.append(str(error))
        waves.append(wave)
        lengths.append(len(wave))
    digests = [Digest().update(wave).value() for wave in waves]
    return _Decoded(np.concatenate(waves), lengths, digests, problems)


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        more = [f"and {len(problems) - _REPORTED} more"] if len(problems) > _REPORTED else []
        raise UserError("\n".join([*problems[:_REPORTED], *more]))
