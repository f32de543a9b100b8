"""MPEG audio: its frames, and the Xing header in the first one, which states how many there are."""

import struct
from typing import BinaryIO, NamedTuple

from spectrnn.data.readers.spliced import Segment

_KBITS = {  # by MPEG version (1, or 2 and 2.5) and layer; 0 is a free format
    (1, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MIN_FRAMES = 8  # consecutive ones that are no coincidence
_SEARCHED = 1 << 16  # bytes in which they are searched
_UNLIMITED = 1 << 30  # frames
_MIN_SURPLUS = 4096, 0.01  # bytes, and fraction of the announced ones, that are more than a tag


class Frame(NamedTuple):
    """Header of an MPEG audio frame.

    Attributes:
        version: 1, or 2 for MPEG 2 and 2.5.
        layer: 1 to 3.
        rate: Sample rate in Hz.
        samples: Number of samples per channel.
        size: Size in bytes.
        side_size: Number of bytes between the header and the place of a Xing header.
    """

    version: int
    layer: int
    rate: int
    samples: int
    size: int
    side_size: int

    @classmethod
    def parse(cls, header: bytes) -> "Frame | None":
        """Reads four bytes; None if they are not the header of a frame of known size."""
        if len(header) < 4 or header[0] != 0xFF or header[1] < 0xE0:
            return None
        code, layer, kbits, rate = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3), header[2] >> 4, header[2] >> 2 & 3
        if code == 1 or layer == 4 or kbits in (0, 15) or rate == 3:
            return None
        version = 1 if code == 3 else 2
        hertz = (44100, 48000, 32000)[rate] >> {3: 0, 2: 1, 0: 2}[code]
        samples = 384 if layer == 1 else 576 if (version, layer) == (2, 3) else 1152
        slot = 4 if layer == 1 else 1
        kilobits, padding = _KBITS[version, layer][kbits], header[2] >> 1 & 1
        size = (samples // 8 * kilobits * 1000 // (hertz * slot) + padding) * slot
        is_mono = header[3] >> 6 == 3
        side = {(1, False): 32, (1, True): 17, (2, False): 17, (2, True): 9}[version, is_mono]
        return cls(version, layer, hertz, samples, size, side)


class MPEGCorrection(NamedTuple):
    """How an MPEG file should be read.

    Attributes:
        segments: Its contents with another Xing header; None if its own is right.
        has_frames: Whether the number of frames of the decoder is right.
        warning: What is wrong with it.
    """

    segments: list[Segment] | None = None
    has_frames: bool = True
    warning: str | None = None


def correct_mpeg(file: BinaryIO, head: bytes, size: int) -> MPEGCorrection | None:
    """Checks the Xing header of MPEG audio, without which the decoder only estimates the length, from the first frame.

    Args:
        file: File that is open for reading.
        head: Its first bytes.
        size: Its size in bytes.

    Returns:
        None if this is not MPEG audio.
    """
    start = 0
    if head.startswith(b"ID3") and len(head) >= 10:
        length = int.from_bytes(bytes(head[6:10]), "big")
        start = 10 + ((length & 0x7F) | (length >> 1 & 0x3F80) | (length >> 2 & 0x1FC000) | (length >> 3 & 0xFE00000))
    file.seek(start)
    content = head[start : start + 4096] if start + 1024 <= len(head) else file.read(4096)
    frame = Frame.parse(content[:4])
    if frame is None or not _is_followed(content, frame):
        file.seek(start)
        content = file.read(_SEARCHED)
        skipped = find_frames(content)
        if skipped is None:
            return None
        content, start = content[skipped:], start + skipped
        frame = Frame.parse(content[:4])
        assert frame is not None
    if frame.layer != 3:
        return MPEGCorrection(None if not start else [(start, size)], has_frames=False)
    xing = content[4 + frame.side_size :][:16]
    flags = int.from_bytes(xing[4:8], "big")
    if xing[:4] in (b"Xing", b"Info") and flags & 3 == 3 and len(xing) == 16:
        frames, announced = struct.unpack(">II", xing[8:16])
        available = size - start
        surplus = available - announced
        if frames and surplus < max(_MIN_SURPLUS[0], _MIN_SURPLUS[1] * announced):
            return MPEGCorrection()
        first = start + frame.size
        if frames and announced:
            seconds = frames * frame.samples / frame.rate
            warning = f"its header announces {seconds:.3f} s; all of the about {seconds * available / announced:.3f} s "
            return MPEGCorrection([_unlimited(content), (first, size)], False, warning + "that it holds are used")
        return MPEGCorrection([_unlimited(content), (first, size)], False)
    return MPEGCorrection([_unlimited(content), (start, size)], False)


def find_frames(content: bytes) -> int | None:
    """Returns the offset of the first of several consecutive frames; None if there are none."""
    position = -1
    while (position := content.find(b"\xff", position + 1)) >= 0:
        first = frame = Frame.parse(content[position : position + 4])
        offset, count = position, 0
        while frame and first and frame[:3] == first[:3] and count < _MIN_FRAMES:
            offset, count = offset + frame.size, count + 1
            frame = Frame.parse(content[offset : offset + 4])
        if count == _MIN_FRAMES or (count >= 2 and offset >= len(content) - 4):
            return position
    return None


def frame_size_of_adts(header: bytes) -> int | None:
    """Returns the size in bytes of a frame of AAC (ISO 13818-7), given its first seven bytes; None if it is not one."""
    if len(header) < 7 or header[0] != 0xFF or header[1] & 0xF6 != 0xF0 or header[2] >> 2 & 15 > 12:
        return None
    size = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
    return size if size > 7 else None


def _is_followed(content: bytes, frame: Frame) -> bool:
    following = content[frame.size : frame.size + 4]
    parsed = Frame.parse(following)
    return len(following) < 4 or (parsed is not None and parsed[:3] == frame[:3])


def _unlimited(content: bytes) -> bytes:
    """A frame of Layer III like the first one of the content, whose Xing header announces more than any file holds."""
    header = bytearray(content[:4])
    header[1] |= 1  # without a checksum
    header[2] = header[2] & 0x0C | 0x90
    frame = Frame.parse(bytes(header))
    assert frame is not None
    tag = b"Info" + struct.pack(">II", 1, _UNLIMITED)
    return (bytes(header) + bytes(frame.side_size) + tag).ljust(frame.size, b"\0")
