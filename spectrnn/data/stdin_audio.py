"""Audio from standard input: WAV, raw samples and some other formats as they arrive, and all others from a copy."""

import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import soundfile

from spectrnn.data.audio import Recording, Samples, describe_error, to_int16
from spectrnn.data.readers.mpeg import Frame, frame_size_of_adts
from spectrnn.data.readers.opening import UnreadableError, open_reader
from spectrnn.data.readers.pcm import PCMReader, Read, open_wav_stream, read_exactly
from spectrnn.data.readers.reader import AudioReader
from spectrnn.errors import UserError

log = logging.getLogger(__name__)

STDIN = "-"  # among paths, and in messages
_COPIED = 1 << 16  # bytes at a time
# First bytes of other formats. As PCM they would be loud, and are unlikely at the start.
_MAGIC = (
    *(
        b"fLaC",
        b"OggS",
        b"ID3",
        b"FORM",
        b".snd",
        b"dns.",
        b"caff",
        b"riff",
        b"RIFX",
        b"BW64",
        b"NIST",
        b"Crea",
        b" paf",
    ),
    *(
        b"MAC ",
        b"wvpk",
        b"TTA1",
        b"tBaK",
        b"MPCK",
        b"MP+",
        b".RMF",
        b"DSD ",
        b"FRM8",
        b"0&\xb2u",
        b"\0\0\1\xba",
        b"EA3",
    ),
)
_LIVE_MAGIC = (b"\x1a\x45\xdf\xa3", b"#!AM", b"FLV\1")  # FFmpeg reads them as they arrive, and AAC


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
            warnings: list[str] = []
            yield from stream_blocks(lambda count: os.read(descriptor, count), sample_rate, raw_sample_rate, warnings)
        except UserError:
            if not interrupts:
                raise
        if not interrupts:  # or the user has truncated it
            for warning in warnings:
                log.warning("%s", warning)


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


def stream_blocks(
    read: Read, sample_rate: int, raw_sample_rate: int | None = None, warnings: list[str] | None = None
) -> Iterator[Samples]:
    """Decodes a stream to mono at one rate; the samples are those of the same bytes in a file.

    WAV and raw samples are decoded as they arrive, without holding them in memory; AAC, WebM, AMR and FLV too, by
    FFmpeg. Other formats are decoded from a temporary file when the stream has ended.

    Args:
        read: Function that returns the next bytes as soon as there are any.
        sample_rate: Sample rate of the result in Hz.
        raw_sample_rate: Sample rate in Hz of headerless input, little-endian mono int16; None for `sample_rate`.
        warnings: List to which the warnings of `decode_clip` are added at the end.

    Yields:
        int16 (samples,), full scale 32768, as they arrive.

    Raises:
        UserError: A stream that is empty, of an unsupported format or sample rate, or not finite.
    """
    is_empty = True
    with tempfile.TemporaryDirectory(prefix="spectrnn-") as scratch:
        copy = Path(scratch, "recording")
        try:
            recording = Recording(STDIN, copy, _open_stream(_Stream(read), raw_sample_rate or sample_rate, copy))
            try:
                for block in recording.resampled(sample_rate):
                    if len(block):
                        is_empty = False
                        yield to_int16(block)
            finally:
                recording.reader.close()
        except (UnreadableError, soundfile.SoundFileError, OSError) as error:
            raise UserError(f"{STDIN}: {describe_error(error)}") from error
    if warnings is not None:
        warnings += recording.warnings
    if is_empty:
        raise UserError(f"{STDIN}: is too short for a sample at {sample_rate} Hz")


class _Stream:
    """A stream whose beginning can be looked at before it is read; a file object for libraries, which cannot seek.

    Args:
        read: Function that returns the next bytes as soon as there are any.
    """

    def __init__(self, read: Read) -> None:
        self.read_on, self.start = read, b""

    def peek(self, count: int) -> bytes:
        """Returns the next bytes, which stay the next ones; fewer at the end."""
        self.start += read_exactly(self.read_on, count - len(self.start))
        return self.start[:count]

    def read(self, count: int, /) -> bytes:
        """Reads 1 to `count` bytes; none at the end."""
        if not self.start:
            return self.read_on(count)
        part, self.start = self.start[:count], self.start[count:]
        return part

    def seekable(self) -> bool:
        """Returns that it is not."""
        return False

    def close(self) -> None:
        """Does nothing: the stream belongs to the caller."""


def _open_stream(stream: _Stream, raw_sample_rate: int, copy: Path) -> AudioReader:
    """Opens a stream by its first bytes, or a copy of it in a file."""
    start = stream.peek(4)
    if not start:
        raise UserError(f"{STDIN}: standard input is empty")
    if start in (b"RIFF", b"RF64"):
        seen = bytearray()

        def read(count: int) -> bytes:
            seen.extend(part := stream.read(count))
            return part

        try:
            return open_wav_stream(read, stream.read)
        except UnreadableError:  # an encoding or content that the readers of files may know
            stream.start = bytes(seen) + stream.start
    elif start.startswith(_LIVE_MAGIC) or _is_followed(stream, frame_size_of_adts, 7):
        with suppress(ImportError):  # the reader of files reports it
            from spectrnn.data.readers.ffmpeg import FFmpegReader

            return FFmpegReader(stream, start)
    elif not (start.startswith(_MAGIC) or _is_mp4(stream) or _is_followed(stream, _frame_size, 4)):
        return PCMReader(stream.read, raw_sample_rate, 1, "<i2")
    with copy.open("wb") as file:
        while part := stream.read(_COPIED):
            file.write(part)
    return open_reader(copy)


def _is_mp4(stream: _Stream) -> bool:
    return stream.peek(3) == b"\0\0\0" and stream.peek(8)[4:] == b"ftyp"


def _frame_size(header: bytes) -> int | None:
    frame = Frame.parse(header[:4])
    return frame.size if frame else None


def _is_followed(stream: _Stream, size_of: Callable[[bytes], int | None], length: int) -> bool:
    """Whether the stream starts with two frames of a kind, given their size by the bytes of a header."""
    if stream.peek(1) != b"\xff" or not (size := size_of(stream.peek(length))):
        return False
    return size_of(stream.peek(size + length)[size:]) is not None
