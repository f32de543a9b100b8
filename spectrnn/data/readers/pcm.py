"""Samples as they arrive: a WAV file in a pipe, or headerless 16-bit PCM."""

import struct
from collections.abc import Callable, Iterator

import numpy as np

from spectrnn.data.readers.opening import UnreadableError
from spectrnn.data.readers.reader import AudioReader, FloatSamples
from spectrnn.data.readers.sizes import (
    UNKNOWN,
    WRAP,
    Layout,
    is_metadata,
    min_surplus,
    size_warning,
    wav_format,
)

_MAX_READ = 1 << 16  # bytes: the capacity of a pipe
_MAX_CHUNK = 1 << 24  # bytes of metadata before the samples
_DTYPES = {(1, 8): "u1", (1, 16): "<i2", (1, 24): "<i3", (1, 32): "<i4", (3, 32): "<f4", (3, 64): "<f8"}
_EXTENSIBLE = 0xFFFE

Read = Callable[[int], bytes]  # reads 1 to n bytes; none at the end


class PCMReader(AudioReader):
    """Reader of a stream of samples, which can be read once, from its beginning to its end.

    Args:
        read: Function that returns the next bytes as soon as there are any.
        sample_rate: Sample rate in Hz.
        channels: Number of channels.
        dtype: NumPy type of a sample; ``<i3`` for 24 bits, which NumPy lacks.
        layout: What the header states about the samples; None for a stream that its end ends.
    """

    is_live = True

    def __init__(self, read: Read, sample_rate: int, channels: int, dtype: str, layout: Layout | None = None) -> None:
        self.next_bytes, self.dtype, self.layout, self.warnings = read, dtype, layout, list[str]()
        self.sample_rate, self.channels = sample_rate, channels
        self._format, self.frames, self.is_float = f"WAV {dtype}", None, dtype[1] == "f"

    @property
    def format(self) -> str:
        """Container and encoding."""
        return self._format

    def read(self, first: int, last: int | None, size: int) -> Iterator[FloatSamples]:
        """Yields complete frames as they arrive, however many they are."""
        frame, pending = self.channels * int(self.dtype[-1]), b""
        for content in self._samples():
            pending += content
            complete = len(pending) - len(pending) % frame
            if complete:
                yield decode_pcm(pending[:complete], self.dtype).reshape(-1, self.channels)
            pending = pending[complete:]

    def _samples(self) -> Iterator[bytes]:
        """Yields the bytes of the samples; those after the announced ones count unless they are metadata."""
        layout, count = self.layout, 0
        limit = layout.size if layout else None
        while True:
            if layout is not None and limit == count:
                following = read_exactly(self.next_bytes, 16)
                if is_metadata(following) or is_metadata(following[(layout.offset + count) % 2 :]):
                    break
                following += read_exactly(self.next_bytes, max(0, round(min_surplus(layout)) - len(following)))
                if not following or (count and len(following) < min_surplus(layout)):
                    break
                limit = count + WRAP if layout.size and layout.size < WRAP else None
                content = following
            else:
                content = self.next_bytes(_MAX_READ if limit is None else min(_MAX_READ, limit - count))
                if not content:
                    break
            count += len(content)
            yield content
        if layout and (layout.size or 0) < max(UNKNOWN, count + 1):
            warning = size_warning(layout, count)
            self.warnings += [warning] if warning else []

    def close(self) -> None:
        """Does nothing: the stream belongs to the caller."""


def open_wav_stream(read: Read, read_samples: Read) -> PCMReader:
    """Reads the header of a WAV or RF64 file up to its samples.

    Args:
        read: Function that reads the header.
        read_samples: Function that reads what follows.

    Raises:
        UnreadableError: A broken header, or an encoding other than PCM.
    """
    start = read_exactly(read, 12)
    if start[8:] != b"WAVE":
        raise UnreadableError("it is RIFF, but not WAV")
    pcm: tuple[int, int, str] | None = None
    frame, bytes_per_second, offset, size64 = 1, 0.0, 12, 0
    while len(chunk := read_exactly(read, 8)) == 8:
        name, size = struct.unpack("<4sI", chunk)
        offset += 8
        if name == b"data":
            if pcm is None:
                raise UnreadableError("it is WAV without a format")
            announced: int | None = size64 if start[:4] != b"RIFF" and size == WRAP - 1 else size
            if start[:4] == b"RIFF" and size == WRAP - 1:
                announced = None
            return PCMReader(read_samples, *pcm, Layout(offset, announced, frame, bytes_per_second))
        if size > _MAX_CHUNK or offset > 4 * _MAX_CHUNK:
            raise UnreadableError(f"it has a broken WAV header ({size} bytes of {name!r})")
        content = read_exactly(read, size + size % 2)
        offset += len(content)
        if name == b"ds64":
            size64 = int.from_bytes(content[8:16], "little")
        if name == b"fmt ":
            if len(content) < 16:
                raise UnreadableError("it has a broken WAV header")
            tag, channels, rate, _, _, bits = struct.unpack("<HHIIHH", content[:16])
            frame, bytes_per_second = wav_format(content, "<")
            if tag == _EXTENSIBLE and len(content) >= 26:  # the actual tag starts a GUID
                (tag,) = struct.unpack("<H", content[24:26])
            if (tag, bits) not in _DTYPES or not channels or not rate:
                raise UnreadableError(f"it is WAV of format {tag} with {bits} bits, {channels} channels and {rate} Hz")
            pcm = (rate, channels, _DTYPES[tag, bits])
    raise UnreadableError("it ends within its WAV header")


def decode_pcm(content: bytes, dtype: str) -> FloatSamples:
    """Decodes bytes to float32 in [-1, 1)."""
    if dtype == "<i3":
        padded = np.zeros((len(content) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(content, np.uint8).reshape(-1, 3)
        content, dtype = padded.tobytes(), "<i4"
    samples = np.frombuffer(content, dtype)
    if dtype == "u1":
        return ((samples.astype(np.float32) - 128) / 128).astype(np.float32)
    scale = {"<i2": 2.0**15, "<i4": 2.0**31}.get(dtype, 1.0)
    return (samples / scale).astype(np.float32)


def read_exactly(read: Read, count: int) -> bytes:
    """Reads a number of bytes, in as many parts as they arrive; fewer at the end of the stream."""
    content = b""
    while len(content) < count and (part := read(count - len(content))):
        content += part
    return content
