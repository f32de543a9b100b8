"""The samples of a dataset as one sequence, whose parts lie in files."""

import os
from collections.abc import Sequence
from threading import Lock
from typing import BinaryIO, NamedTuple

import numpy as np

from spectrnn.data.audio import Samples

_SEEKING = Lock()  # on platforms without positioned reads


class Layout(NamedTuple):
    """Where the parts of a sequence of samples lie.

    Attributes:
        starts: First sample of each part in the sequence, int64 (parts,), ascending from 0.
        files: Index of each part's file, int64 (parts,).
        positions: First sample of each part in its file, int64 (parts,).
    """

    starts: np.ndarray
    files: np.ndarray
    positions: np.ndarray

    def locate(self, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the file of each sample of the sequence, and its position there; all are int64 (clips,)."""
        parts = np.searchsorted(self.starts, starts, "right") - 1
        return self.files[parts], self.positions[parts] + starts - self.starts[parts]


class SampleFiles(NamedTuple):
    """The samples of a dataset: all clips in order, one after the other, in parts of one or several files.

    A clip is within a part. Its samples in the file are followed by those of any other clip, or by the end of the file.

    Attributes:
        files: Files of int16 samples, unbuffered; as long as they are open, they are not removed.
        layout: Place of each part.
        size: Number of samples.
        longest: Number of samples of the longest clip.
    """

    files: Sequence[BinaryIO]
    layout: Layout
    size: int
    longest: int

    def read(self, start: int, count: int) -> Samples:
        """Reads samples of the sequence, int16 (count,).

        Raises:
            OSError: A file that is shorter than when it was opened, or cannot be read.
        """
        samples = np.empty(count, np.int16)
        starts, files, positions = self.layout
        part, done = int(np.searchsorted(starts, start, "right")) - 1, 0
        while done < count:
            end = int(starts[part + 1]) if part + 1 < len(starts) else self.size
            some = samples[done : end - start]
            file = self.files[files[part]]
            position = int(positions[part]) + start + done - int(starts[part])
            if read_at(file, some, 2 * position) != some.nbytes:
                raise OSError(f"{file.name}: is shorter than when it was opened")
            done, part = done + len(some), part + 1
        return samples


def read_at(file: BinaryIO, row: Samples, offset: int) -> int:
    """Fills a row, contiguous int16 (samples,), from an offset in bytes; returns the number of bytes that were read."""
    if hasattr(os, "preadv"):  # one system call, not two: each lets another thread run first
        return os.preadv(file.fileno(), [row.data], offset)
    with _SEEKING:
        file.seek(offset)
        return file.readinto(row.data.cast("B"))  # type: ignore[attr-defined]
