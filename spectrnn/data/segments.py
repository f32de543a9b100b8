"""Segments: folders of recordings that were decoded together, and of which any dataset uses any part.

A dataset is not stored: it is the set of its clips, each found in a segment by its identity. A corpus that changes a
little needs one more small segment, and all others as they are.
"""

import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from spectrnn.errors import UserError
from spectrnn.files import atomic_directory, lock_file, write_json

HASH_SIZE = 16  # bytes
FORMAT = 6  # of the folders, and of what identities mean
FOLDER = "datasets"  # in the cache folder
SAMPLES, INDEX, CLIPS = "samples.int16", "index.json", "clips.npy"
# By identity, length in samples, and hash of the samples.
CLIP_TYPE = np.dtype([("identity", "<u8", 2), ("length", "<i8"), ("hash", "u1", HASH_SIZE)])
_BLOCK = 1 << 25  # bytes that are copied at once


class SegmentError(UserError):
    """A folder that is not a complete segment of this format."""


class Segment(NamedTuple):
    """An open segment, which no process removes as long as its file is open.

    Attributes:
        path: Folder.
        file: File of the samples, int16, unbuffered.
        clips: Clips, in the order of their samples, `CLIP_TYPE` (clips,).
        positions: First sample of each clip, int64 (clips,).
        errors: Error by index of each unreadable clip, which has no samples.
        warnings: Warnings by index of each clip that has some.
    """

    path: Path
    file: BinaryIO
    clips: np.ndarray
    positions: np.ndarray
    errors: dict[int, str]
    warnings: dict[int, list[str]]

    @property
    def size(self) -> int:
        """Number of samples."""
        return int(self.clips["length"].sum())


class SegmentIndex(NamedTuple):
    """Description of a segment, which is `INDEX` in its folder.

    Attributes:
        source: Folder that contains all recordings.
        sample_rate: Sample rate in Hz.
        clips: Number of clips.
        samples: Number of samples.
        errors, warnings: As for `Segment`.
        format: Format of the folder.
    """

    source: str
    sample_rate: int
    clips: int
    samples: int
    errors: dict[int, str]
    warnings: dict[int, list[str]]
    format: int = FORMAT


def read_index(folder: Path) -> SegmentIndex:
    """Reads the description of a segment.

    Raises:
        SegmentError: Another format, or damage.
    """
    with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        content = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        if content.get("format") == FORMAT:
            by_clip = ({int(clip): text for clip, text in content.pop(name).items()} for name in ("errors", "warnings"))
            index = SegmentIndex(errors=next(by_clip), warnings=next(by_clip), **content)
            if (folder / SAMPLES).stat().st_size == 2 * index.samples:
                return index
    raise SegmentError(f"{folder}: is damaged, or of another version")


def open_segment(folder: Path) -> Segment:
    """Opens a segment.

    Raises:
        SegmentError: Another format, damage, or a segment that is just being removed.
    """
    index = read_index(folder)
    try:
        file = (folder / SAMPLES).open("rb", buffering=0)
    except OSError as error:
        raise SegmentError(f"{folder}: {error.strerror}") from error
    with ExitStack() as stack:
        stack.enter_context(file)
        lock_file(file, is_shared=True)
        with suppress(OSError, ValueError, EOFError):
            clips = np.load(folder / CLIPS)  # fails if the segment was removed before it was locked
            is_complete = clips.dtype == CLIP_TYPE and len(clips) == index.clips
            if is_complete and clips["length"].sum() == index.samples:
                stack.pop_all()
                positions = np.cumsum(clips["length"]) - clips["length"]
                return Segment(folder, file, clips, positions, index.errors, index.warnings)
    raise SegmentError(f"{folder}: is damaged")


def open_segments(cache: Path) -> Iterator[Segment]:
    """Opens all segments of a cache folder, but damaged ones and those of other formats."""
    for folder in sorted((cache / FOLDER).glob("[!.]*")):
        with suppress(SegmentError):
            yield open_segment(folder)


class Selection(NamedTuple):
    """Where the clips of a dataset are found.

    Attributes:
        segments: Open segments.
        numbers: Index of each clip's segment, int64 (clips,); -1 if it is in none.
        indices: Index of each clip in its segment, int64 (clips,).
    """

    segments: list[Segment]
    numbers: np.ndarray
    indices: np.ndarray


def select(identities: np.ndarray, segments: Iterable[Segment]) -> Selection:
    """Finds clips in segments, preferably in one that has most of them, and closes the others.

    Args:
        identities: Identity of each clip, uint64 (clips, 2).
        segments: Open segments.
    """
    found: list[tuple[int, int, Segment, np.ndarray, np.ndarray]] = []
    for segment in segments:
        rows, indices = _match(identities, segment.clips["identity"])
        found.append((-len(rows), len(segment.clips), segment, rows, indices))
    numbers, places = np.full(len(identities), -1), np.zeros(len(identities), np.int64)
    used: list[Segment] = []
    for _, _, segment, rows, indices in sorted(found, key=lambda item: item[:2]):
        is_new = numbers[rows] < 0
        if not is_new.any():
            segment.file.close()
            continue
        numbers[rows[is_new]], places[rows[is_new]] = len(used), indices[is_new]
        used.append(segment)
    return Selection(used, numbers, places)


def _match(wanted: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows of wanted identities (n, 2) that are present (m, 2), and their indices there."""
    if len(wanted) == len(present) and np.array_equal(wanted, present):
        return np.arange(len(wanted)), np.arange(len(wanted))
    order = np.argsort(present[:, 0], kind="stable")
    indices = order[np.searchsorted(present[:, 0], wanted[:, 0], sorter=order).clip(max=len(order) - 1)]
    rows = np.flatnonzero((present[indices] == wanted).all(1))
    return rows, indices[rows]


class SegmentWriter:
    """Writes a segment: first the samples, then the clips.

    Args:
        file: File of the samples.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.clips: list[np.ndarray] = []
        self.errors: dict[int, str] = {}
        self.warnings: dict[int, list[str]] = {}
        self.count = self.samples = 0

    def add(
        self, clips: np.ndarray, samples: Iterable[bytes], errors: dict[int, str], warnings: dict[int, list[str]]
    ) -> None:
        """Appends clips, `CLIP_TYPE` (clips,), their concatenated samples in blocks, and their errors and warnings."""
        for block in samples:
            self.file.write(block)
        self.errors |= {self.count + index: text for index, text in errors.items()}
        self.warnings |= {self.count + index: texts for index, texts in warnings.items()}
        self.clips.append(clips)
        self.count, self.samples = self.count + len(clips), self.samples + int(clips["length"].sum())

    def copy(self, segment: Segment, indices: np.ndarray) -> None:
        """Appends clips of another segment; indices int64 (clips,), ascending."""
        runs = np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1)
        errors = {new: segment.errors[old] for new, old in enumerate(indices.tolist()) if old in segment.errors}
        warnings = {new: segment.warnings[old] for new, old in enumerate(indices.tolist()) if old in segment.warnings}
        self.add(segment.clips[indices], (block for run in runs for block in _blocks(segment, run)), errors, warnings)


def _blocks(segment: Segment, run: np.ndarray) -> Iterator[bytes]:
    """The samples of consecutive clips."""
    first, last = int(run[0]), int(run[-1])
    start = 2 * int(segment.positions[first])
    remaining = 2 * int(segment.positions[last] + segment.clips["length"][last]) - start
    segment.file.seek(start)
    while remaining:
        block = segment.file.read(min(_BLOCK, remaining))
        if not block:
            raise OSError(f"{segment.file.name}: is shorter than when it was opened")
        remaining -= len(block)
        yield block


@contextmanager
def write_segment(cache: Path, key: str, source: str, sample_rate: int) -> Iterator[SegmentWriter]:
    """Creates a segment from what the block writes, one clip or more, complete or not at all.

    Args:
        cache: Cache folder.
        key: Start of the folder's name, by which a leftover of a killed process is found.
        source: Folder that contains all recordings.
        sample_rate: Sample rate in Hz.
    """
    # The name is new: a damaged segment may have had the same clips.
    with atomic_directory(cache / FOLDER / f"{key}-{secrets.token_hex(3)}") as temporary:
        with (temporary / SAMPLES).open("wb") as file:
            lock_file(file, is_shared=True)  # so that no process removes it as a leftover
            writer = SegmentWriter(file)
            yield writer
        np.save(temporary / CLIPS, np.concatenate(writer.clips))
        index = SegmentIndex(source, sample_rate, writer.count, writer.samples, writer.errors, writer.warnings)
        write_json(index._asdict(), temporary / INDEX)


def sparse_segments(selection: Selection, limit: int) -> list[int]:
    """Returns the segments whose clips a new segment should copy, so that a dataset reads few and full ones.

    Args:
        selection: Segments that a dataset uses.
        limit: Maximum number of segments of a dataset.

    Returns:
        Indices of the segments of which it uses less than half and, if there are too many, of the smaller ones: half
        the limit remains, so that each clip is rarely copied.
    """
    used = [_used(selection, number) for number in range(len(selection.segments))]
    full = [number for number, segment in enumerate(selection.segments) if 2 * used[number] >= segment.size]
    if len(full) >= limit:
        full = sorted(full, key=lambda number: -used[number])[: limit // 2]
    return [number for number in range(len(used)) if number not in full]


def _used(selection: Selection, number: int) -> int:
    """Number of samples of a segment that a dataset uses."""
    indices = np.unique(selection.indices[selection.numbers == number])
    return int(selection.segments[number].clips["length"][indices].sum())


def remove_segment(folder: Path) -> bool:
    """Removes a segment, or what is left of one, unless a process uses it; returns whether it is removed."""
    try:
        if (folder / SAMPLES).is_file():
            with (folder / SAMPLES).open("rb") as file:
                if not lock_file(file, is_shared=False):
                    return False
                (folder / INDEX).unlink(missing_ok=True)  # so that nobody opens it from now on
                (folder / CLIPS).unlink(missing_ok=True)
        shutil.rmtree(folder)
    except OSError:
        return False
    return True


def touch(segments: Sequence[Segment]) -> None:
    """Notes that segments were used now, if the cache can be written."""
    for segment in segments:
        with suppress(OSError):
            os.utime(segment.path / SAMPLES)
