"""A file as it should have been: parts of a file, and corrected headers in between."""

import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import BinaryIO

Segment = bytes | tuple[int, int]  # content, or the first and last offset of a part of the file


class SplicedFile:
    """Read-only file that consists of segments of another one, for libraries that accept Python's file objects.

    Errors of the disk end the file, as the libraries cannot pass exceptions through.

    Args:
        file: Binary file that is open for reading; it is closed with this one.
        segments: Contents in their order.
    """

    def __init__(self, file: BinaryIO, segments: Sequence[Segment]) -> None:
        self.file = file
        self.segments = [segment for segment in segments if _length(segment)]
        self.ends = list(accumulate(map(_length, self.segments)))
        self.position = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to an offset, as files do."""
        size = self.ends[-1] if self.ends else 0
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: size}[whence]
        self.position = max(0, base + offset)
        return self.position

    def tell(self) -> int:
        """Returns the offset."""
        return self.position

    def read(self, count: int) -> bytes:
        """Reads up to so many bytes; fewer at the end only."""
        parts = []
        while count > 0 and (index := bisect_right(self.ends, self.position)) < len(self.segments):
            segment, left = self.segments[index], self.ends[index] - self.position
            start = _length(segment) - left
            if isinstance(segment, bytes):
                part = segment[start : start + count]
            else:
                try:
                    self.file.seek(segment[0] + start)
                    part = self.file.read(min(count, left))
                except OSError:
                    part = b""
            if not part:
                break
            parts.append(part)
            self.position += len(part)
            count -= len(part)
        return b"".join(parts)

    def write(self, _: bytes) -> int:
        """Refuses to write."""
        raise OSError("the file is read-only")

    def seekable(self) -> bool:
        """Whether it can be read in any order."""
        return True

    def close(self) -> None:
        """Closes the file."""
        self.file.close()


def _length(segment: Segment) -> int:
    return len(segment) if isinstance(segment, bytes) else max(0, segment[1] - segment[0])
