"""The number of samples in the header of a FLAC file, compared with that of its last frame (RFC 9639)."""

import re
from typing import BinaryIO

from spectrnn.data.readers.spliced import Segment

_TOTAL = 21  # offset of the byte with the upper four bits of the number of samples
_TAILS = (1 << 14, 1 << 17, 1 << 21)  # bytes at the end in which the last frame is searched
_BLOCK_SIZES = {1: 192, **{code: 576 << code - 2 for code in range(2, 6)}, **{code: 1 << code for code in range(8, 16)}}
_RATE_BYTES = {12: 1, 13: 2, 14: 2}


def correct_flac(file: BinaryIO, head: bytes, size: int) -> tuple[list[Segment] | None, str | None]:
    """Compares the number of samples in the header with the number of the last frame.

    Args:
        file: File that is open for reading.
        head: Its first bytes, which start with ``fLaC``.
        size: Its size in bytes.

    Returns:
        The contents with the right number, None if the header has it, or more; and a warning if it has less.
    """
    if len(head) < 42 or head[4] & 0x7F:
        return None, None
    rate = int.from_bytes(head[18:21], "big") >> 4
    total = int.from_bytes(head[_TOTAL : _TOTAL + 5], "big") & (1 << 36) - 1
    minimum, maximum = int.from_bytes(head[8:10], "big"), int.from_bytes(head[10:12], "big")
    found = 0
    for tail in _TAILS:
        file.seek(max(42, size - tail))
        found = _last_sample(file.read(tail), minimum if minimum == maximum else 0)
        if found or tail >= size:
            break
    if not rate or found <= total:
        return None, None
    number = (head[_TOTAL] >> 4 << 36 | found).to_bytes(5, "big")
    warning = None
    if total:
        warning = f"its header announces {total / rate:.3f} s; all of the {found / rate:.3f} s that it holds are used"
    return [head[:_TOTAL] + number + head[_TOTAL + 5 : 42], (42, size)], warning


def _last_sample(content: bytes, fixed: int) -> int:
    """Number of samples at the end of the last frame in a part of a file; 0 without a frame.

    Args:
        content: The part.
        fixed: Block size of a stream that has only one, in which frames are counted instead of samples.
    """
    for match in reversed(list(re.finditer(rb"\xff[\xf8\xf9]", content))):
        header = content[match.start() : match.start() + 16]
        if len(header) < 16 or header[3] & 1 or header[2] >> 4 == 0:
            continue
        first = header[4]
        length = 1 if first < 0x80 else 8 - (first ^ 0xFF).bit_length()  # as in UTF-8
        if length in (0, 8) or (length == 1 and first >= 0x80):
            continue
        number = first if length == 1 else first & (0x7F >> length)
        for byte in header[5 : 4 + length]:
            number = number << 6 | byte & 0x3F
        code, end = header[2] >> 4, 4 + length
        extra = {6: 1, 7: 2}.get(code, 0)
        block = int.from_bytes(header[end : end + extra], "big") + 1 if extra else _BLOCK_SIZES[code]
        end += extra + _RATE_BYTES.get(header[2] & 15, 0)
        if end < 16 and _checksum(header[:end]) == header[end]:
            is_variable = header[1] & 1
            return (number if is_variable else number * (fixed or block)) + block
    return 0


def _checksum(content: bytes) -> int:
    """CRC-8 with the polynomial x^8 + x^2 + x + 1."""
    value = 0
    for byte in content:
        value ^= byte
        for _ in range(8):
            value = (value << 1 ^ 0x107) if value & 0x80 else value << 1
    return value
