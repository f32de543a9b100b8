"""Sizes in the headers of recordings: what they announce, compared with what the file holds.

Recorders that die, or that write to a pipe, leave sizes of 0 or a maximum; sizes beyond 4 GiB wrap in 32 bits; and a
header that was not updated announces the beginning only. The length of the file is the truth.
"""

import struct
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, NamedTuple

from spectrnn.data.readers.spliced import Segment

HEAD = 4096  # bytes, which hold most headers
UNKNOWN = 0x7FFF0000  # bytes: a writer that cannot know the size announces this or more
WRAP = 1 << 32  # bytes at which a size of 32 bits starts again
_UNKNOWN_64 = 1 << 62
_MIN_SURPLUS = 0.1  # s; less is a tag rather than sound
_MAX_CHUNKS = 1000  # before the samples
_MAX_HEADER = 1 << 26  # bytes before the samples
_W64_GUID = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # the end of the names of its chunks
# What may follow the samples. Other names are recognized in files only, if their chunks end where the file does.
_CHUNKS = (
    b"LIST JUNK junk PAD  FLLR bext iXML axml chna cue  fact smpl inst plst labl note ltxt acid cart levl PEAK DISP "
    b"strc umid minf elm1 regn _PMX afsp id3  ID3  SNDM clm  MARK COMT INST APPL NAME AUTH (c)  ANNO MIDI AESD CHAN "
    b"COMM info edct uuid strg mark free desc pakt kuki chan ovvw peak"
)
_KNOWN_CHUNKS = {_CHUNKS[start : start + 4] for start in range(0, len(_CHUNKS), 5)}
_TAGS = (b"TAG", b"APETAGEX", b"ID3", b"LYRICSBEGIN")


class Field(NamedTuple):
    """A field of a header that announces a size: its offset, struct format, and its value for a number of bytes."""

    offset: int
    format: str
    value: Callable[[int], int]


class Layout(NamedTuple):
    """Where the samples are, according to a header.

    Attributes:
        offset: Offset of the first sample in bytes.
        size: Number of bytes that the header announces; None if it states that it does not know.
        frame: Number of bytes of a frame, or of a block of frames.
        bytes_per_second: Of the samples; 0 if unknown.
        fields: All sizes in the header.
        order: Byte order of the sizes of chunks; empty for a file without chunks after the samples.
    """

    offset: int
    size: int | None
    frame: int
    bytes_per_second: float
    fields: Sequence[Field] = ()
    order: str = ""


class Correction(NamedTuple):
    """The contents of a file with a corrected header, None if it needs none; and what was wrong, if it matters."""

    segments: list[Segment] | None = None
    warning: str | None = None


class _Content:
    """Parts of a file."""

    def __init__(self, file: BinaryIO, head: bytes, size: int) -> None:
        self.file, self.head, self.size = file, head, size

    def at(self, offset: int, count: int) -> bytes:
        if offset + count <= len(self.head):
            return self.head[offset : offset + count]
        if offset >= self.size:
            return b""
        self.file.seek(offset)
        return self.file.read(count)

    def number(self, offset: int, form: str) -> Any:
        """A number, or 0 beyond the end of the file."""
        content = self.at(offset, struct.calcsize(form))
        return struct.unpack(form, content)[0] if len(content) == struct.calcsize(form) else 0


def correct_sizes(file: BinaryIO, head: bytes, size: int) -> Correction:
    """Compares the sizes in a header with the file.

    Args:
        file: File that is open for reading.
        head: Its first bytes, `HEAD` of them if it has that many.
        size: Its size in bytes.
    """
    find = _LAYOUTS.get(head[:4])
    content = _Content(file, head, size)
    layout = find(content) if find else None
    if layout is None or not 0 < layout.offset <= min(size, _MAX_HEADER):
        return Correction()
    if any(field.offset + struct.calcsize(field.format) > layout.offset for field in layout.fields):
        return Correction()  # samples within the header
    true = _true_size(content, layout, size - layout.offset)
    if true == layout.size and head[:4] != b"BW64":
        return Correction()
    header = bytearray(content.at(0, layout.offset))
    for offset, form, value in layout.fields:
        limit = 1 << 8 * struct.calcsize(form)
        struct.pack_into(form, header, offset, min(value(true), limit - 1))
    if head[:4] == b"RIFF" and layout.offset + true >= WRAP:  # needs sizes of 64 bits
        sizes = struct.pack("<4sI3QI", b"ds64", 28, layout.offset + 28 + true, true, true // layout.frame, 0)
        header = bytearray(b"RF64" + header[4:12] + sizes + header[12:])
    if head[:4] == b"BW64":  # the same by another name
        header[:4] = b"RF64"
    return Correction([bytes(header), (layout.offset, layout.offset + true)], size_warning(layout, true))


def size_warning(layout: Layout, true: int) -> str | None:
    """Describes how a header differs from the file, given the bytes of its samples; None if it does not matter."""
    if layout.size is None or abs(true - layout.size) < layout.frame:
        return None
    unit, scale = ("s", layout.bytes_per_second) if layout.bytes_per_second else ("MB", 1e6)
    found, announced = true / scale, layout.size / scale
    if layout.size > true:
        return f"is truncated; {announced - found:.3f} of the {announced:.3f} {unit} in its header are missing"
    if layout.size == 0:
        return f"its header announces no samples; the {found:.3f} {unit} that follow are used"
    return f"its header announces {announced:.3f} {unit}; all of the {found:.3f} {unit} that follow are used"


def _true_size(content: _Content, layout: Layout, available: int) -> int:
    announced = layout.size
    if announced is None or announced >= available:
        # Incomplete frames are not worth a correction.
        return announced if announced is not None and announced - available < layout.frame else available
    is_short = announced > 0 and available - announced < min_surplus(layout)
    if is_short or _is_end(content, layout, announced):
        return announced
    for wrapped in range(announced + WRAP, available + 1, WRAP) if announced < WRAP else ():
        if available - wrapped < min_surplus(layout) or _is_end(content, layout, wrapped):
            return wrapped
    return available


def min_surplus(layout: Layout) -> float:
    """Number of bytes after the announced samples from which on they are taken for sound."""
    return max(layout.frame, _MIN_SURPLUS * layout.bytes_per_second)


def is_metadata(content: bytes) -> bool:
    """Whether bytes after samples, eight or more, are the beginning of a chunk or tag, and not samples."""
    return content[:4] in _KNOWN_CHUNKS or content.startswith(_TAGS) or content[4:16] == _W64_GUID


def _is_end(content: _Content, layout: Layout, announced: int) -> bool:
    """Whether only metadata follows the announced samples."""
    position = layout.offset + announced
    for start in {position, position + position % 2, position + -position % 8}:
        if is_metadata(content.at(start, 16)):
            return True
    position += position % 2
    while layout.order and (header := content.at(position, 8)) and header[:4].isalnum() and len(header) == 8:
        position += 8 + struct.unpack(layout.order + "I", header[4:])[0]
        if position in (content.size, content.size - 1):
            return True
        position += position % 2
    return False


def wav_format(fmt: bytes, order: str) -> tuple[int, float]:
    """Returns the number of bytes of a block of frames, and per second, of the content of a chunk ``fmt ``."""
    tag, channels, rate, average, block, bits = struct.unpack(order + "HHIIHH", fmt[:16])
    if tag in (1, 3, 0xFFFE):  # PCM, whose other fields follow from these
        block = channels * -(-bits // 8)
        average = rate * block
    return max(1, block), float(average)


def _riff(content: _Content) -> Layout | None:
    if content.at(8, 4) != b"WAVE":
        return None
    order = ">" if content.at(0, 4) == b"RIFX" else "<"
    position, frame, bytes_per_second, sizes = 12, 1, 0.0, 0
    for _ in range(_MAX_CHUNKS):
        header = content.at(position, 8)
        if len(header) < 8:
            return None
        name, size = header[:4], struct.unpack(order + "I", header[4:])[0]
        if name == b"data":
            break
        if name == b"fmt " and len(fmt := content.at(position + 8, 16)) == 16:
            frame, bytes_per_second = wav_format(fmt, order)
        elif name == b"ds64":
            sizes = position + 8
        position += 8 + size + size % 2
    start = position + 8
    fields = [Field(position + 4, order + "I", lambda true: true)]
    if sizes and content.at(0, 4) != b"RIFF":
        if size == WRAP - 1:
            size = content.number(sizes + 8, "<Q")
        fields = [
            Field(position + 4, "<I", lambda _: WRAP - 1),
            Field(sizes, "<Q", lambda true: start + true - 8),
            Field(sizes + 8, "<Q", lambda true: true),
            Field(sizes + 16, "<Q", lambda true: true // frame),
        ]
        unknown = size >= _UNKNOWN_64 or size == WRAP - 1
    else:
        fields.append(Field(4, order + "I", lambda true: start + true - 8))
        unknown = size >= UNKNOWN and size > content.size - start
    return Layout(start, None if unknown else size, frame, bytes_per_second, fields, order)


def _w64(content: _Content) -> Layout | None:
    position, frame, bytes_per_second = 40, 1, 0.0
    for _ in range(_MAX_CHUNKS):
        name, size = content.at(position, 16), content.number(position + 16, "<Q")
        if name[4:] != _W64_GUID or name[:4] == b"data":
            break
        if name[:4] == b"fmt " and len(fmt := content.at(position + 24, 16)) == 16:
            frame, bytes_per_second = wav_format(fmt, "<")
        position += size + -size % 8 if size >= 24 else content.size
    if name != b"data" + _W64_GUID:
        return None
    start = position + 24
    fields = [
        Field(position + 16, "<Q", lambda true: true + 24),
        Field(16, "<Q", lambda true: start + true),
    ]
    unknown = size >= _UNKNOWN_64
    return Layout(start, None if unknown else max(0, size - 24), frame, bytes_per_second, fields)


def _aiff(content: _Content) -> Layout | None:
    if content.at(8, 4) not in (b"AIFF", b"AIFC"):
        return None
    position, common = 12, 0
    for _ in range(_MAX_CHUNKS):
        name, size = content.at(position, 4), content.number(position + 4, ">I")
        if name == b"SSND" or len(name) < 4:
            break
        common = position + 8 if name == b"COMM" else common
        position += 8 + size + size % 2
    if name != b"SSND" or not common:
        return None
    shift = content.number(position + 8, ">I")
    start = position + 16 + shift
    channels, bits = content.number(common, ">H"), content.number(common + 6, ">H")
    encoding = content.at(common + 18, 4) if content.at(8, 4) == b"AIFC" else b"NONE"
    if encoding == b"ima4":
        frame, frames = 34 * channels, 64
    else:
        frame, frames = channels * (1 if encoding.lower() in (b"ulaw", b"alaw") else -(-bits // 8)), 1
    exponent, mantissa = content.number(common + 8, ">H"), content.number(common + 10, ">Q")
    rate = mantissa * 2.0 ** ((exponent & 0x7FFF) - 16446) if (exponent & 0x7FFF) < 16500 else 0.0
    fields = [
        Field(4, ">I", lambda true: start + true - 8),
        Field(position + 4, ">I", lambda true: true + 8 + shift),
        Field(common + 2, ">I", lambda true: true // max(1, frame)),
    ]
    announced = size - 8 - shift if size else 0
    unknown = size >= UNKNOWN and size > content.size - start
    return Layout(start, None if unknown else max(0, announced), max(1, frame), frame * rate / frames, fields, ">")


def _au(content: _Content) -> Layout | None:
    order = ">" if content.at(0, 4) == b".snd" else "<"
    header = content.at(4, 20)
    if len(header) < 20:
        return None
    start, size, encoding, rate, channels = struct.unpack(order + "5I", header)
    frame = channels * {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}.get(encoding, 0)
    unknown = size >= UNKNOWN and size > content.size - start
    fields = [Field(8, order + "I", lambda true: true)]
    return Layout(start, None if unknown else size, max(1, frame), float(frame * rate), fields)


def _caf(content: _Content) -> Layout | None:
    position, rate, frame, frames = 8, 0.0, 0, 1
    for _ in range(_MAX_CHUNKS):
        name, size = content.at(position, 4), content.number(position + 4, ">q")
        if name == b"data" or len(name) < 4:
            break
        if name == b"desc" and len(description := content.at(position + 12, 32)) == 32:
            rate, _, _, frame, frames, _, _ = struct.unpack(">d4sIIIII", description)
        position += 12 + size if size >= 0 else content.size
    if name != b"data":
        return None
    unknown = size < 0 or size >= _UNKNOWN_64
    fields = [Field(position + 4, ">Q", lambda true: true + 4)]
    bytes_per_second = rate * frame / frames if frames and 0 < rate < 1e9 else 0.0
    return Layout(position + 16, None if unknown else max(0, size - 4), max(1, frame), bytes_per_second, fields)


_LAYOUTS: dict[bytes, Callable[[_Content], Layout | None]] = {
    b"RIFF": _riff,
    b"RIFX": _riff,
    b"RF64": _riff,
    b"BW64": _riff,
    b"riff": _w64,
    b"FORM": _aiff,
    b".snd": _au,
    b"dns.": _au,
    b"caff": _caf,
}
