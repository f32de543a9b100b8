"""Audio from standard input as it arrives: a WAV file, or headerless 16-bit PCM."""

import os
import signal
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from spectrnn.data.audio import FULL_SCALE, FloatSamples, Samples, make_resampler, require_finite, to_int16, to_mono
from spectrnn.errors import UserError

STDIN = "-"  # among paths, and in messages
_MAX_READ = 1 << 16  # bytes: the capacity of a pipe
_UNKNOWN_SIZE = 0x7FFF0000  # bytes of samples: a writer to a pipe, which cannot know the size, announces this or more
_MAX_CHUNK = 1 << 24  # bytes of metadata before the samples
_DTYPES = {(1, 8): "u1", (1, 16): "<i2", (1, 24): "<i3", (1, 32): "<i4", (3, 32): "<f4", (3, 64): "<f8"}

# First bytes of other formats. As PCM they would be loud, and are unlikely at the start.
_UNSUPPORTED_MAGIC = {b"fLaC": "FLAC", b"OggS": "Ogg", b"ID3": "MP3", b"FORM": "AIFF", b".snd": "AU", b"caff": "CAF"}

Read = Callable[[int], bytes]  # reads 1 to n bytes; none at the end


class PCMFormat(NamedTuple):
    """Format of the samples in a stream.

    Attributes:
        rate: Sample rate in Hz.
        channels: Number of channels.
        dtype: NumPy type of a sample; ``<i3`` for 24 bits, which NumPy lacks.
        size: Number of bytes of all samples; None if the end of the stream ends them.
    """

    rate: int
    channels: int
    dtype: str
    size: int | None


def stdin_blocks(sample_rate: int, raw_sample_rate: int | None = None) -> Iterator[Samples]:
    """Reads standard input like `stream_blocks`. Ctrl-C ends the recording, and what was read until then counts.

    Raises:
        UserError: As `stream_blocks`; or standard input is a terminal.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise UserError(
            f"{STDIN}: standard input is a terminal; pipe a recording, as in: ffmpeg -i FILE -f wav - | spectrnn ..."
        )
    # Not through Python's buffer, which would wait until it is full.
    descriptor = sys.stdin.fileno()
    with _end_on_interrupt(descriptor) as interrupts:
        try:
            yield from stream_blocks(lambda count: os.read(descriptor, count), sample_rate, raw_sample_rate)
        except UserError:  # of a header that announces more
            if not interrupts:
                raise


@contextmanager
def _end_on_interrupt(descriptor: int) -> Iterator[list[int]]:
    """Makes the first Ctrl-C in the block end the input, even for a pending read; yields the list of such signals."""
    interrupts: list[int] = []
    handler = signal.getsignal(signal.SIGINT)

    def end(number: int, _: Any) -> None:
        interrupts.append(number)
        signal.signal(signal.SIGINT, handler)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, descriptor)
        os.close(null)

    if handler is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield interrupts  # handled by someone else, or ignored, as in a background job
        return
    signal.signal(signal.SIGINT, end)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, handler)


def stream_blocks(read: Read, sample_rate: int, raw_sample_rate: int | None = None) -> Iterator[Samples]:
    """Decodes a stream to mono at one rate, without holding it in memory.

    Args:
        read: Function that returns the next bytes as soon as there are any.
        sample_rate: Sample rate of the result in Hz.
        raw_sample_rate: Sample rate in Hz of headerless input, little-endian mono int16; None for `sample_rate`.

    Yields:
        int16 (samples,), full scale 32768, as they arrive.

    Raises:
        UserError: A stream that is empty, truncated, of an unsupported format or sample rate, or not finite.
    """
    start = _read_exactly(read, 4)
    if start in (b"RIFF", b"RF64"):
        pcm, start = _read_header(read), b""
    else:
        for magic, name in _UNSUPPORTED_MAGIC.items():
            if start.startswith(magic):
                raise UserError(
                    f"{STDIN}: standard input is {name}, but only WAV and raw 16-bit PCM are supported, "
                    "as in: ffmpeg -i FILE -f wav - | spectrnn ..."
                )
        pcm = PCMFormat(raw_sample_rate or sample_rate, 1, "<i2", None)
    resampler = make_resampler(pcm.rate, STDIN, sample_rate)
    is_empty = True
    for block, is_last in _read_frames(read, pcm, start):
        resampled = resampler.resample_chunk(block, last=is_last) if resampler else block
        if len(resampled):
            is_empty = False
            yield to_int16(resampled)
    if is_empty:
        raise UserError(f"{STDIN}: standard input contains no samples")


def _read_header(read: Read) -> PCMFormat:
    """Reads the header of a WAV file after its first four bytes, up to its samples."""
    if _read_exactly(read, 8)[4:] != b"WAVE":
        raise UserError(f"{STDIN}: standard input is RIFF, but not WAV")
    pcm = None
    while len(chunk := _read_exactly(read, 8)) == 8:
        name, size = struct.unpack("<4sI", chunk)
        if name == b"data":
            if pcm is None:
                raise UserError(f"{STDIN}: standard input is WAV without a format")
            return pcm._replace(size=size if 0 < size < _UNKNOWN_SIZE else None)
        if size > _MAX_CHUNK:
            raise UserError(f"{STDIN}: standard input has a broken WAV header ({size} bytes of {name!r})")
        content = _read_exactly(read, size + size % 2)
        if name == b"fmt ":
            if len(content) < 16:
                raise UserError(f"{STDIN}: standard input has a broken WAV header")
            tag, channels, rate, _, _, bits = struct.unpack("<HHIIHH", content[:16])
            if tag == 0xFFFE and len(content) >= 26:  # extensible: the actual tag starts a GUID
                (tag,) = struct.unpack("<H", content[24:26])
            if (tag, bits) not in _DTYPES or not channels or not rate:
                raise UserError(
                    f"{STDIN}: standard input is WAV of format {tag} with {bits} bits, {channels} channels and "
                    f"{rate} Hz; PCM of 8 to 32 bits and floats are supported"
                )
            pcm = PCMFormat(rate, channels, _DTYPES[tag, bits], None)
    raise UserError(f"{STDIN}: standard input ends within its WAV header")


def _read_frames(read: Read, pcm: PCMFormat, pending: bytes) -> Iterator[tuple[FloatSamples, bool]]:
    """Yields mono samples float32 (samples,) of complete frames as they arrive, and whether they are the last ones."""
    frame, remaining, is_last = pcm.channels * int(pcm.dtype[-1]), pcm.size, False
    while not is_last:
        count = _MAX_READ if remaining is None else min(_MAX_READ, remaining)
        content = read(count) if count else b""
        is_last = not content
        if remaining is not None:
            if is_last and remaining:
                raise UserError(f"{STDIN}: standard input is truncated; its header announces {remaining} more bytes")
            remaining -= len(content)
        pending += content
        complete = len(pending) - len(pending) % frame
        samples = _decode_pcm(pending[:complete], pcm.dtype).reshape(-1, pcm.channels)
        pending = pending[complete:]
        require_finite(samples, STDIN)
        yield to_mono(samples), is_last


def _decode_pcm(content: bytes, dtype: str) -> FloatSamples:
    """Decodes bytes to float32 in [-1, 1)."""
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
    """Reads a number of bytes, in as many parts as they arrive; fewer at the end of the stream."""
    content = b""
    while len(content) < count and (part := read(count - len(content))):
        content += part
    return content
