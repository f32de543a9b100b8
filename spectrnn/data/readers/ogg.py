"""Ogg files that are chains of several streams, as recorded from internet radio (RFC 3533)."""

import mmap
from typing import BinaryIO

_FIRST_PAGE = b"OggS\0\2"
_MAX_TAIL = 1 << 16  # bytes: more than the largest page


def ogg_links(file: BinaryIO, size: int) -> list[tuple[int, int]]:
    """Returns the offsets of the beginning and end of each link of the chain; one link is an ordinary file.

    Args:
        file: File that is open for reading.
        size: Its size in bytes.
    """
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        starts = [0]
        position = _first_pages_end(content, 0, size)
        while (start := content.find(_FIRST_PAGE, position)) >= 0:
            position = start + len(_FIRST_PAGE)
            if content[start + 26 : start + 27] == b"\1":  # a first page has one packet
                starts.append(start)
                position = _first_pages_end(content, start, size)
    return list(zip(starts, [*starts[1:], size], strict=True))


def _first_pages_end(content: mmap.mmap, start: int, size: int) -> int:
    """End of the first pages of all streams of a link, which are consecutive."""
    while content[start : start + len(_FIRST_PAGE)] == _FIRST_PAGE:
        segments = content[start + 26] if start + 26 < size else 0
        start += 27 + segments + sum(content[start + 27 : start + 27 + segments])
    return start


def has_end(file: BinaryIO, size: int) -> bool:
    """Whether the last page is marked as the end of its stream."""
    file.seek(max(0, size - _MAX_TAIL))
    content = file.read(_MAX_TAIL)
    last = content.rfind(b"OggS\0")
    return last >= 0 and len(content) > last + 5 and bool(content[last + 5] & 4)
