"""The cache of decoded recordings: every clip decoded once to mono int16, for all datasets that contain it."""

import hashlib
import logging
import os
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from spectrnn.data.audio import Samples, decode_clip
from spectrnn.data.cache_entries import decoded_size, format_size, prune_decoded
from spectrnn.data.clips import Clip, common_folder
from spectrnn.data.parallel import parallel_map
from spectrnn.data.sample_files import Layout, SampleFiles
from spectrnn.data.segments import (
    CLIP_TYPE,
    FOLDER,
    FORMAT,
    HASH_SIZE,
    Selection,
    open_segments,
    remove_segment,
    select,
    sparse_segments,
    touch,
    write_segment,
)
from spectrnn.errors import FileErrors, UserError
from spectrnn.files import remove_stale_temporaries, writable_cache
from spectrnn.messages import counted

log = logging.getLogger(__name__)

_MAX_SEGMENTS = 16  # of a dataset, whose files are open


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
        samples: Samples of all clips.
        offsets: First sample of each clip, int64 (clips,).
        lengths: Number of samples of each clip, int64 (clips,).
        sample_rate: Sample rate in Hz.
        hashes: Hash of each clip's samples, uint8 (clips, `HASH_SIZE`); all zero for digital silence.
        errors: Error of each unreadable clip, which has no samples, in order.
        warnings: Warnings about clips that were decoded, in order, such as of missing samples.
    """

    samples: SampleFiles
    offsets: np.ndarray
    lengths: np.ndarray
    sample_rate: int
    hashes: np.ndarray
    errors: list[str]
    warnings: list[str]

    def part(self, clips: slice) -> "WaveformCache":
        """Returns the cache with some clips only; their samples remain."""
        return self._replace(offsets=self.offsets[clips], lengths=self.lengths[clips], hashes=self.hashes[clips])

    def drop_empty(self) -> "WaveformCache":
        """Returns the cache without the clips that have no samples."""
        kept = self.lengths > 0
        return self._replace(offsets=self.offsets[kept], lengths=self.lengths[kept], hashes=self.hashes[kept])


def open_cache(
    clips: Sequence[Clip], sample_rate: int, folder: Path, on_error: str, max_gb: float | str | None = None
) -> WaveformCache:
    """Opens the decoded clips of a table, and decodes those that are not in the cache on all cores.

    Clips are identified by path or address, part, size, permissions and modification time of their file, and the sample
    rate. If several processes need the same clips, one decodes them and the others wait.

    Args:
        clips: Clip table; labels and splits may change without decoding again.
        sample_rate: Sample rate in Hz.
        folder: Cache folder.
        on_error: ``fail`` for an error on files that are missing or unreadable, or ``skip`` for clips without samples.
        max_gb: Maximum size of the decoded recordings of all datasets in GB, as for `prune_decoded`.

    Raises:
        FileErrors: The unreadable files; the others are kept.
        UserError: With ``skip`` no file can be read.
    """
    identities = clip_identities(clips, sample_rate)
    folders, samples = [folder], 0
    selection = _find(identities, folders)
    if (selection.numbers < 0).any():
        _close(selection)
        folder = writable_cache(folder)
        folders += [folder] if folder != folders[0] else []
        selection, samples = _decode_missing(clips, identities, sample_rate, folders, on_error)
    touch(selection.segments)
    cache = _assemble(selection, sample_rate)
    _raise_on_errors(cache.errors, len(clips), on_error)
    if samples:
        prune_decoded(folder, max_gb)
        dataset, total = format_size(2 * cache.samples.size), format_size(decoded_size(folder))
        message = "decoded %s clips, %.1f minutes; the dataset takes %s, all in the cache %s"
        count = f"{len(clips)}" if samples == cache.samples.size else f"what was new of {len(clips)}"
        log.info(message, count, samples / sample_rate / 60, dataset, total)
    return cache


def clip_identities(clips: Sequence[Clip], sample_rate: int) -> np.ndarray:
    """Returns an identity of each clip, uint64 (clips, 2), that changes whenever its decoded samples could."""
    files: dict[str, tuple[str | int, ...]] = {}
    digests = bytearray()
    for clip in clips:
        if clip.path not in files:
            try:
                stat = os.stat(clip.copy or clip.path)
                attributes: tuple[int, ...] = (stat.st_size, stat.st_mtime_ns, stat.st_mode)
            except OSError:  # a missing file
                attributes = ()
            path = clip.path if clip.copy else os.path.abspath(clip.path)
            files[clip.path] = (FORMAT, sample_rate, path, *attributes)
        row = repr((*files[clip.path], clip.start, clip.end)).encode("utf-8", "surrogateescape")
        digests += hashlib.blake2b(row, digest_size=16).digest()
    return np.frombuffer(bytes(digests), "<u8").reshape(-1, 2)


def _find(identities: np.ndarray, folders: Sequence[Path]) -> Selection:
    return select(identities, chain.from_iterable(open_segments(folder) for folder in folders))


def _close(selection: Selection) -> None:
    for segment in selection.segments:
        segment.file.close()


def _decode_missing(
    clips: Sequence[Clip], identities: np.ndarray, sample_rate: int, folders: Sequence[Path], on_error: str
) -> tuple[Selection, int]:
    """Decodes clips that are in no folder into the last one; returns where all are, and how many samples are new."""
    folder, key = folders[-1], hashlib.sha256(identities.tobytes()).hexdigest()[:32]
    lock = folder / "locks" / key[:2]  # so that there are few files
    samples = 0
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            acquired = FileLock(lock).acquire(blocking=False)
        except Timeout:
            log.info("another process is decoding this dataset; waiting for it")
            acquired = FileLock(lock).acquire()
        with acquired:
            selection = _find(identities, folders)
            if (selection.numbers < 0).any():
                remove_stale_temporaries(folder / FOLDER, key)
                samples = _build(clips, identities, selection, sample_rate, folder, key, on_error)
                selection = _find(identities, folders)
    except OSError as error:
        raise UserError(f"data.cache: cannot be written to {folder / FOLDER}: {error.strerror}") from error
    return selection, samples


def _build(
    clips: Sequence[Clip],
    identities: np.ndarray,
    selection: Selection,
    sample_rate: int,
    folder: Path,
    key: str,
    on_error: str,
) -> int:
    """Decodes the missing clips into a new segment, with copies of those of sparsely used and of too many segments."""
    missing = np.flatnonzero(selection.numbers < 0)
    wanted = identities[missing]
    order = np.lexsort((missing, wanted[:, 1], wanted[:, 0]))
    is_first = np.append(True, (np.diff(wanted[order].view(np.int64), axis=0) != 0).any(1))
    missing = np.sort(missing[order[is_first]])  # clips that occur several times are decoded once
    chosen = [clips[row] for row in missing.tolist()]
    decode = partial(_decode, sample_rate=sample_rate)
    source = common_folder(path if "://" in path else os.path.abspath(path) for path in {clip.path for clip in chosen})
    errors: list[str] = _notes(selection)[0] if on_error == "fail" else []
    done = samples = 0
    with write_segment(folder, key, source, sample_rate) as writer:
        for decoded in parallel_map(decode, chosen, "decoding"):
            table = np.zeros(len(decoded.lengths), CLIP_TYPE)
            table["identity"] = identities[missing[done : done + len(table)]]
            table["length"], table["hash"] = decoded.lengths, decoded.hashes
            done += len(table)
            samples += len(decoded.samples)
            errors += decoded.errors.values()
            if on_error == "fail" and decoded.errors:  # the others are kept; an error may pass
                readable = np.flatnonzero(table["length"])
                warnings = {
                    n: decoded.warnings[old] for n, old in enumerate(readable.tolist()) if old in decoded.warnings
                }
                writer.add(table[readable], [decoded.samples.tobytes()], {}, warnings)
            else:
                writer.add(table, [decoded.samples.tobytes()], decoded.errors, decoded.warnings)
        if len(errors) == len(missing) and (on_error == "fail" or not selection.segments):
            _raise_on_errors(errors, len(errors), on_error)  # nothing is kept
        copied = sparse_segments(selection, _MAX_SEGMENTS)
        for number in copied:
            indices = np.unique(selection.indices[selection.numbers == number])
            writer.copy(selection.segments[number], indices)
    _close(selection)
    for number in copied:
        segment = selection.segments[number]
        if len(np.unique(selection.indices[selection.numbers == number])) == len(segment.clips):
            remove_segment(segment.path)  # all of it was copied
    if errors and on_error == "fail":
        raise FileErrors(list(dict.fromkeys(errors)))
    return samples


class _Decoded(NamedTuple):
    """Decoded clips: their concatenated samples, lengths (clips,), hashes (clips, `HASH_SIZE`), and what was noted."""

    samples: Samples
    lengths: list[int]
    hashes: np.ndarray
    errors: dict[int, str]
    warnings: dict[int, list[str]]


def _decode(clips: Sequence[Clip], sample_rate: int) -> _Decoded:
    decoded, errors, warnings = [], {}, {}
    for index, clip in enumerate(clips):
        try:
            samples, noted = decode_clip(clip.path, sample_rate, clip.start, clip.end, clip.copy)
        except UserError as error:
            samples, noted = np.empty(0, np.int16), []
            errors[index] = str(error)
        decoded.append(samples)
        if noted:
            warnings[index] = noted
    digests = b"".join(AudioHash().update(samples).digest() for samples in decoded)
    hashes = np.frombuffer(digests, np.uint8).reshape(-1, HASH_SIZE)
    return _Decoded(np.concatenate(decoded), [len(samples) for samples in decoded], hashes, errors, warnings)


def _raise_on_errors(errors: Sequence[str], clips: int, on_error: str) -> None:
    if errors and on_error == "fail":
        raise FileErrors([*dict.fromkeys(errors)])  # clips of the same file have the same error
    if len(errors) == clips:
        raise UserError(f"data.on_error=skip: none of {counted(clips, 'clip')} can be read, such as {errors[0]}")


def _assemble(selection: Selection, sample_rate: int) -> WaveformCache:
    """Puts the clips that were found in order."""
    count = len(selection.numbers)
    lengths, positions = np.zeros((2, count), np.int64)
    hashes = np.zeros((count, HASH_SIZE), np.uint8)
    for number, segment in enumerate(selection.segments):
        rows = np.flatnonzero(selection.numbers == number)
        found = selection.indices[rows]
        clips = segment.clips[found]
        lengths[rows], positions[rows], hashes[rows] = clips["length"], segment.positions[found], clips["hash"]
    offsets = np.append(0, np.cumsum(lengths))
    rows = np.flatnonzero(lengths)
    files, first = selection.numbers[rows], positions[rows]
    follows = (np.diff(files) == 0) & (np.diff(first) == lengths[rows][:-1])
    is_start = np.append(True, ~follows)[: len(rows)]
    layout = Layout(offsets[rows][is_start], files[is_start], first[is_start])
    samples = SampleFiles(
        [segment.file for segment in selection.segments], layout, int(offsets[-1]), int(lengths.max(initial=0))
    )
    errors, warnings = _notes(selection)
    return WaveformCache(samples, offsets[:-1], lengths, sample_rate, hashes, errors, warnings)


def _notes(selection: Selection) -> tuple[list[str], list[str]]:
    """The errors and the warnings of the clips that were found, in order."""
    errors: dict[int, str] = {}
    warnings: dict[int, list[str]] = {}
    for number, segment in enumerate(selection.segments):
        noted = np.array([*segment.errors, *segment.warnings], np.int64)
        rows = np.flatnonzero((selection.numbers == number) & np.isin(selection.indices, noted))
        for row, index in zip(rows.tolist(), selection.indices[rows].tolist(), strict=True):
            if index in segment.errors:
                errors[row] = segment.errors[index]
            else:
                warnings[row] = segment.warnings[index]
    return [errors[row] for row in sorted(errors)], [text for row in sorted(warnings) for text in warnings[row]]
