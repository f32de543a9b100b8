"""Mutations of audio files: seeded changes of their bytes and their names."""

import re
import struct
from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import NamedTuple

# Numbers in headers: marker, offset from its start, and struct format.
FIELDS = {
    "channels": [
        (b"fmt ", 10, "<H"),
        (b"COMM", 8, ">H"),
        (b".snd", 20, ">I"),
        (b"\x01vorbis", 11, "<B"),
        (b"OpusHead", 9, "<B"),
        (b"desc", 36, ">I"),
        (b"fmt \xf3\xac", 26, "<H"),
    ],
    "rate": [
        (b"fmt ", 12, "<I"),
        (b"COMM", 16, ">Q"),
        (b".snd", 16, ">I"),
        (b"\x01vorbis", 12, "<I"),
        (b"OpusHead", 12, "<I"),
        (b"desc", 12, ">d"),
        (b"fmt \xf3\xac", 28, "<I"),
        (b"fLaC", 18, ">H"),
    ],
    "length": [
        (b"RIFF", 4, "<I"),
        (b"data", 4, "<I"),
        (b"fact", 8, "<I"),
        (b"ds64", 8, "<Q"),
        (b"ds64", 16, "<Q"),
        (b"ds64", 24, "<Q"),
        (b"FORM", 4, ">I"),
        (b"COMM", 10, ">I"),
        (b"SSND", 4, ">I"),
        (b".snd", 8, ">I"),
        (b"Xing", 8, ">I"),
        (b"Info", 8, ">I"),
        (b"data", 4, ">Q"),
        (b"pakt", 12, ">Q"),
        (b"pakt", 20, ">Q"),
        (b"fLaC", 22, ">I"),
        (b"OggS", 6, "<Q"),
        (b"data\xf3\xac", 16, "<Q"),
        (b"fmt ", 4, "<I"),
        (b"ftyp", -4, ">I"),
        (b"moov", -4, ">I"),
        (b"mdat", -4, ">I"),
        (b"mdhd", 16, ">I"),
        (b"mvhd", 16, ">I"),
        (b"elst", 12, ">I"),
        (b"stsz", 8, ">I"),
        (b"stsz", 12, ">I"),
        (b"stts", 8, ">I"),
        (b"stts", 12, ">I"),
        (b"stsc", 8, ">I"),
        (b"stsc", 16, ">I"),
        (b"stco", 8, ">I"),
        (b"stco", 12, ">I"),
        (b"esds", -4, ">I"),
        (b"\x1a\x45\xdf\xa3", 4, ">Q"),
        (b"\x18\x53\x80\x67", 4, ">Q"),
        (b"\x1f\x43\xb6\x75", 4, ">Q"),
        (b"\x30\x26\xb2\x75", 16, "<Q"),
        (b"\xa1\xdc\xab\x8c", 16, "<Q"),
        (b"\xa1\xdc\xab\x8c", 40, "<Q"),
        (b"\xa1\xdc\xab\x8c", 64, "<Q"),
        (b"\x91\x07\xdc\xb7", 16, "<Q"),
        (b"\x36\x26\xb2\x75", 16, "<Q"),
        (b"wvpk", 4, "<I"),
        (b"wvpk", 12, "<I"),
        (b"wvpk", 20, "<I"),
        (b"desc", 4, ">Q"),
        (b"pakt", 4, ">Q"),
    ],
    "depth": [
        (b"fmt ", 20, "<H"),
        (b"fmt ", 22, "<H"),
        (b"fmt ", 8, "<H"),
        (b"COMM", 14, ">H"),
        (b".snd", 12, ">I"),
        (b"desc", 28, ">I"),
        (b"desc", 32, ">I"),
        (b"desc", 40, ">I"),
        (b".snd", 4, ">I"),
    ],
}
ABSURD = {
    "channels": (0, 3, 8, 255, 256, 1024, 65535),
    "rate": (0, 1, 7, 100, 2**31, 2**31 - 1, 2**32 - 1, 1_000_000, 655_350),
    "length": (0, 1, 10 * 3600 * 16000, 10 * 3600 * 48000 * 4, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, 2**63 - 1),
    "depth": (0, 1, 2, 3, 7, 12, 24, 64, 255, 65535),
}
MARKERS = re.compile(b"|".join(sorted({re.escape(marker) for fields in FIELDS.values() for marker, _, _ in fields})))
MAGICS = (
    b"RIFF",
    b"RIFX",
    b"RF64",
    b"FORM",
    b".snd",
    b"fLaC",
    b"OggS",
    b"caff",
    b"riff\x2e\x91\xcf\x11",
    b"ID3\x04",
    b"\xff\xfb\x90\x44",
    b"\0\0\0\0",
    b"2BIT",
    b"MATLAB 5",
    b"NIST_1A\n",
    b"Crea",
    b"SDS ",
    b"\0\0\0\x20ftypM4A ",
    b"\x1a\x45\xdf\xa3",
    b"#!AMR\n",
    b"wvpk",
    b"\xff\xf1\x50\x80",
    b"MAC ",
    b"TTA1",
)
SUFFIXES = (
    ".wav",
    ".flac",
    ".ogg",
    ".opus",
    ".mp3",
    ".aiff",
    ".au",
    ".caf",
    ".w64",
    ".m4a",
    ".webm",
    ".raw",
    ".txt",
    "",
)
NOT_FINITE = (
    struct.pack("<f", float("nan")),
    struct.pack("<f", float("inf")),
    struct.pack(">f", float("-inf")),
    struct.pack("<d", float("nan")),
    struct.pack(">d", float("inf")),
    struct.pack("<f", 3e38),
)
HEADER = 128  # bytes


class Mutant(NamedTuple):
    """A mutated file."""

    what: str  # names of the mutations
    suffix: str
    content: bytes


def mutant(content: bytes, suffix: str, seed: str) -> Mutant:
    """Mutates a file in one to three ways.

    Args:
        content: Content of the file.
        suffix: Suffix of its name.
        seed: Random seed.
    """
    random = Random(seed)
    names = random.choices(list(MUTATIONS), k=random.choice((1, 1, 2, 3)))
    changed = bytearray(content)
    for name in names:
        changed = MUTATIONS[name](changed, random)
    if changed[:4] == b"OggS" and random.random() < 0.8:
        changed = _with_checksums(changed)
    if random.random() < 0.05:
        suffix = random.choice(SUFFIXES)
    return Mutant("+".join(names), suffix, bytes(changed))


def _truncated(content: bytearray, random: Random) -> bytearray:
    return content[: random.randrange(1 + random.choice((HEADER, len(content))))]


def _flipped(content: bytearray, random: Random) -> bytearray:
    reach = random.choice((HEADER, len(content)))
    for _ in range(random.choice((1, 2, 8, 64))):
        if content:
            content[random.randrange(min(reach, len(content)))] ^= 1 << random.randrange(8)
    return content


def _field(kind: str) -> Callable[[bytearray, Random], bytearray]:
    def changed(content: bytearray, random: Random) -> bytearray:
        places = [
            (match.start() + offset, form)
            for marker, offset, form in FIELDS[kind]
            for match in re.finditer(re.escape(marker), content)
        ]
        if places:
            place, form = random.choice(places)
            _write(content, place, form, random.choice(ABSURD[kind]))
        return content

    return changed


def _resized(content: bytearray, random: Random) -> bytearray:
    """Sets a size in a header to zero, its maximum, half or twice the truth."""
    places = [
        (match.start() + offset, form)
        for marker, offset, form in FIELDS["length"]
        for match in re.finditer(re.escape(marker), content)
        if 0 <= match.start() + offset <= len(content) - struct.calcsize(form)
    ]
    if places:
        place, form = random.choice(places)
        (size,) = struct.unpack_from(form, content, place)
        _write(content, place, form, random.choice((0, (1 << 8 * struct.calcsize(form)) - 1, size // 2, 2 * size)))
    return content


def _number(content: bytearray, random: Random) -> bytearray:
    values = [value for kind in ABSURD.values() for value in kind]
    form = random.choice(("<H", ">H", "<I", ">I", "<Q", ">Q", ">d"))
    _write(content, random.randrange(0, HEADER, 2), form, random.choice(values))
    return content


def _write(content: bytearray, place: int, form: str, value: int) -> None:
    size = struct.calcsize(form)
    number = value if form[1] == "d" else value % (1 << 8 * size)
    if 0 <= place <= len(content) - size:
        struct.pack_into(form, content, place, number)


def _not_finite(content: bytearray, random: Random) -> bytearray:
    for _ in range(random.choice((1, 20))):
        value = random.choice(NOT_FINITE)
        place = random.randrange(0, max(8, len(content) - 8), 4)
        content[place : place + len(value)] = value
    return content


def _without_samples(content: bytearray, random: Random) -> bytearray:
    found = list(re.finditer(b"data|SSND|OggS", content))
    return content[: found[-1].start() + random.choice((4, 8, 16))] if found else content[:HEADER]


def _magic(content: bytearray, random: Random) -> bytearray:
    magic = random.choice(MAGICS)
    return bytearray(magic) + content[len(magic) :]


def _shuffled(content: bytearray, random: Random) -> bytearray:
    """Drops, duplicates or reorders chunks, all but the first."""
    cuts = [0, *(match.start() for match in MARKERS.finditer(content) if match.start()), len(content)]
    first, *chunks = [content[a:b] for a, b in pairwise(cuts)]
    if not chunks:
        return content * 2
    change = random.randrange(3)
    if change == 0:
        random.shuffle(chunks)
    elif change == 1:
        chunks.insert(random.randrange(len(chunks)), random.choice(chunks))
    else:
        chunks.pop(random.randrange(len(chunks)))
    return first + b"".join(chunks)


def _random(content: bytearray, random: Random) -> bytearray:
    kept = random.choice((0, 4, 12, 44, 200))
    return content[:kept] + random.randbytes(random.choice((10, 1000, 20000)))


def _spliced(content: bytearray, random: Random) -> bytearray:
    """Replaces a section by, or inserts, zeros, ones, noise, or a copy of it."""
    first = random.randrange(1 + len(content))
    length = random.choice((1, 16, 1000))
    stretch = random.choice((bytes(length), b"\xff" * length, random.randbytes(length), content[:length]))
    return content[:first] + stretch + content[first + random.choice((0, len(stretch))) :]


MUTATIONS: dict[str, Callable[[bytearray, Random], bytearray]] = {
    "truncated": _truncated,
    "flipped": _flipped,
    **{kind: _field(kind) for kind in FIELDS},
    "resized": _resized,
    "number": _number,
    "not_finite": _not_finite,
    "without_samples": _without_samples,
    "magic": _magic,
    "shuffled": _shuffled,
    "random": _random,
    "spliced": _spliced,
}


def _with_checksums(content: bytearray) -> bytearray:
    """Corrects the checksums of Ogg pages (RFC 3533), so that a decoder reads their content."""
    cuts = [*(match.start() for match in re.finditer(b"OggS", content)), len(content)]
    for start, end in pairwise(cuts):
        if end - start >= 27:
            content[start + 22 : start + 26] = bytes(4)
            content[start + 22 : start + 26] = struct.pack("<I", _checksum(content[start:end]))
    return content


def _checksum(page: bytearray) -> int:
    value = 0
    for byte in page:
        value = (value << 8 & 0xFFFFFFFF) ^ _TABLE[value >> 24 ^ byte]
    return value


def _remainder(byte: int) -> int:
    value = byte << 24
    for _ in range(8):
        value = (value << 1 & 0xFFFFFFFF) ^ (0x04C11DB7 if value >> 31 else 0)
    return value


_TABLE = [_remainder(byte) for byte in range(256)]
