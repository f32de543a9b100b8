"""Sound from standard input, as it comes: a WAV file, or raw 16-bit samples without a header."""

import os
import signal
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from spectrnn.data.audio import FULL_SCALE, MAX_SAMPLE_VALUE, Samples, make_resampler, to_int16, to_mono
from spectrnn.errors import UserError

STDIN = "-"  # of standard input, among paths and in messages
_PACKET = 1 << 16  # bytes that are taken at once, at most: what a pipe holds
_OPEN_END = 0x7FFF0000  # bytes of samples: a writer to a pipe, which cannot know how many come, claims so many or more
_LARGEST_CHUNK = 1 << 24  # bytes of notes in front of the samples

# What other recordings begin with. As raw samples these bytes would be loud, and hardly ever the first ones.
_UNSUPPORTED_MAGIC = {b"fLaC": "FLAC", b"OggS": "Ogg", b"ID3": "MP3", b"FORM": "AIFF", b".snd": "AU", b"caff": "CAF"}

Read = Callable[[int], bytes]  # at most so many bytes, at least one; none at the end


class PCMFormat(NamedTuple):
    """How samples lie in a stream.

    Attributes:
        rate: Hz.
        channels: of a frame.
        dtype: of a sample, as NumPy names it; of 24 bits, which NumPy has not, ``<i3``.
        size: bytes of all samples; None where the stream's end ends them.
    """

    rate: int
    channels: int
    dtype: str
    size: int | None


def stdin_blocks(sample_rate: int, raw_sample_rate: int | None = None) -> Iterator[Samples]:
    """`stream_blocks` of standard input. Ctrl-C is its end, and what was heard until then counts.

    Raises:
        UserError: as there, or it is a terminal.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise UserError(
            f"{STDIN}: standard input is no recording; send one, as in: ffmpeg -i FILE -f wav - | spectrnn ..."
        )
    # Past Python's buffer, which would wait until it is full.
    descriptor = sys.stdin.fileno()
    with _ended_by_interrupt(descriptor) as ended:
        try:
            yield from stream_blocks(lambda count: os.read(descriptor, count), sample_rate, raw_sample_rate)
        except UserError:  # of a header that promises more
            if not ended:
                raise


@contextmanager
def _ended_by_interrupt(descriptor: int) -> Iterator[list[int]]:
    """At the first Ctrl-C in the block, what reads there finds the end, even if it waits; yields whether that was."""
    ended: list[int] = []
    before = signal.getsignal(signal.SIGINT)

    def end(number: int, _: Any) -> None:
        ended.append(number)
        signal.signal(signal.SIGINT, before)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, descriptor)
        os.close(nothing)

    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield ended  # somebody else's, or ignored, as by a job in the background
        return
    signal.signal(signal.SIGINT, end)
    try:
        yield ended
    finally:
        signal.signal(signal.SIGINT, before)


def stream_blocks(read: Read, sample_rate: int, raw_sample_rate: int | None = None) -> Iterator[Samples]:
    """A stream as mono at one rate, never held as a whole.

    Args:
        read: gives the next bytes as soon as there are some.
        sample_rate: of the result, Hz.
        raw_sample_rate: of a stream without a header, which is then little-endian int16 of one channel, Hz; None where that
            is `sample_rate` too.

    Yields:
        int16 (samples,), full scale 32768, as they come.

    Raises:
        UserError: the stream is empty, ends before its header or its samples do, is WAV of a kind that cannot be read,
            of an absurd sample rate, or holds values that are not finite; or it is a recording of another format.
    """
    begun = _read_exactly(read, 4)
    if begun in (b"RIFF", b"RF64"):
        layout, rest = _header(read), b""
    elif begun.startswith(tuple(_UNSUPPORTED_MAGIC)):
        kind = next(name for start, name in _UNSUPPORTED_MAGIC.items() if begun.startswith(start))
        raise UserError(
            f"{STDIN}: standard input is {kind}, where WAV or raw 16-bit samples are read; "
            "as in: ffmpeg -i FILE -f wav - | spectrnn ..."
        )
    else:
        layout, rest = PCMFormat(raw_sample_rate or sample_rate, 1, "<i2", None), begun
    resampler = make_resampler(layout.rate, STDIN, sample_rate)
    samples = 0
    for block, last in _read_frames(read, layout, rest):
        converted = resampler.resample_chunk(block, last=last) if resampler else block
        samples += len(converted)
        if len(converted):
            yield to_int16(converted)
    if not samples:
        raise UserError(f"{STDIN}: standard input holds no samples")


def _header(read: Read) -> PCMFormat:
    """What a WAV file says in front of its samples, behind its first four bytes."""
    if _read_exactly(read, 8)[4:] != b"WAVE":
        raise UserError(f"{STDIN}: standard input is RIFF, but no WAV")
    layout = None
    while True:
        chunk = _read_exactly(read, 8)
        if len(chunk) < 8:
            raise UserError(f"{STDIN}: standard input ends within its WAV header")
        name, size = struct.unpack("<4sI", chunk)
        if name == b"data":
            if layout is None:
                raise UserError(f"{STDIN}: standard input is WAV without a format")
            return layout._replace(size=size if 0 < size < _OPEN_END else None)
        if size > _LARGEST_CHUNK:
            raise UserError(f"{STDIN}: standard input has a broken WAV header ({size} bytes of {name!r})")
        content = _read_exactly(read, size + size % 2)
        if name == b"fmt ":
            layout = _layout(content)


def _layout(content: bytes) -> PCMFormat:
    if len(content) < 16:
        raise UserError(f"{STDIN}: standard input has a broken WAV header")
    tag, channels, rate, _, _, bits = struct.unpack("<HHIIHH", content[:16])
    if tag == 0xFFFE and len(content) >= 26:  # its kind then is the beginning of a GUID
        (tag,) = struct.unpack("<H", content[24:26])
    kinds = {(1, 8): "u1", (1, 16): "<i2", (1, 24): "<i3", (1, 32): "<i4", (3, 32): "<f4", (3, 64): "<f8"}
    if (tag, bits) not in kinds or not channels or not rate:
        raise UserError(
            f"{STDIN}: standard input is WAV of format {tag} with {bits} bits, {channels} channels and "
            f"{rate} Hz; PCM of 8 to 32 bits or floats can be read"
        )
    return PCMFormat(rate, channels, kinds[tag, bits], None)


def _read_frames(read: Read, layout: PCMFormat, held: bytes) -> Iterator[tuple[npt.NDArray[np.float32], bool]]:
    """Mono float32 (samples,) as they come, and whether they are the last; of whole frames only."""
    frame, left = layout.channels * int(layout.dtype[-1]), layout.size
    while True:
        wanted = _PACKET if left is None else min(_PACKET, left)
        fresh = read(wanted) if wanted else b""
        if not fresh and left:
            raise UserError(f"{STDIN}: standard input is truncated; its header promises {left} more bytes")
        left = left if left is None else left - len(fresh)
        held += fresh
        whole = len(held) - len(held) % frame
        samples = _to_float(held[:whole], layout.dtype).reshape(-1, layout.channels)
        held = held[whole:]
        if not (np.abs(samples) <= MAX_SAMPLE_VALUE).all():
            raise UserError(f"{STDIN}: holds values that are not finite (NaN or Inf), or far beyond full scale")
        yield to_mono(samples), not fresh
        if not fresh:
            return


def _to_float(content: bytes, dtype: str) -> npt.NDArray[np.float32]:
    """Samples as float32 in [-1, 1)."""
    if dtype == "<i3":
        padded = np.zeros((len(content) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(content, np.uint8).reshape(-1, 3)
        content, dtype = padded.tobytes(), "<i4"
    samples = np.frombuffer(content, dtype)
    if dtype == "u1":
        return ((samples.astype(np.float32) - 128) / 128).astype(np.float32)
    scale = {"<i2": FULL_SCALE, "<i4": 2.0**31}.get(dtype, 1.0)
    return (samples / scale).astype(np.float32)


def _read_exactly(read: Read, count: int) -> bytes:
    """So many bytes, however they come; fewer where the stream ends before."""
    content = b""
    while len(content) < count and (fresh := read(count - len(content))):
        content += fresh
    return content
