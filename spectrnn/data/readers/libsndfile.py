"""Recordings that libsndfile decodes."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import soundfile

from spectrnn.data.readers.chatter import collect_chatter
from spectrnn.data.readers.reader import AudioReader, FloatSamples
from spectrnn.data.readers.spliced import SplicedFile

_WITH_MEMORY = ("MPEG", "VORBIS", "OPUS")  # encodings whose samples depend on those before them
_WARM_UP = 1.0  # s before the first frame that such an encoding is decoded
_UNKNOWN = (1 << 63) - 1  # frames
_MAX_FRAMES_PER_BYTE = 10_000  # Opus, FLAC and Vorbis have up to 6,000 of silence
_GRID = 16 * 576  # frames: from each of these on libmpg123 rounds alike at 32 kHz or more, and to 1e-7 below
_SKIPPED = 1 << 16  # frames per read of those that are not wanted


class _Sequential(soundfile.SoundFile):  # type: ignore[misc]
    """Reads without seeking after each block, as soundfile does: that interrupts decoders with memory."""

    def seekable(self) -> bool:
        return False


class LibsndfileReader(AudioReader):
    """Reader of any format of libsndfile.

    Args:
        source: Path, or file with a corrected header.
        has_frames: Whether the number of frames that libsndfile reports is right.
        prints: Whether the decoder may print to standard error.

    Raises:
        soundfile.LibsndfileError: A file that is not recognized.
    """

    def __init__(self, source: str | Path | SplicedFile, has_frames: bool, prints: bool) -> None:
        self.prints, self.chatter, self.warnings = prints, list[str](), list[str]()
        if not isinstance(source, SplicedFile):
            # Except on Windows, a file name is bytes and need not be Unicode.
            self.source: str | bytes | SplicedFile = str(source) if os.name == "nt" else os.fsencode(source)
        else:
            self.source = source
        with self._quiet():
            self.file = _Sequential(self.source)
        self.subtype = self.file.subtype
        self.sample_rate, self.channels = self.file.samplerate, self.file.channels
        self.frames = self.file.frames if has_frames and self.file.frames < _UNKNOWN else None
        size = source.ends[-1] if isinstance(source, SplicedFile) else os.path.getsize(source)
        if (self.frames or 0) > _MAX_FRAMES_PER_BYTE * size:  # libsndfile would fill them up with silence
            self.file.close()
            raise soundfile.SoundFileError("its length is damaged")
        self.is_float = self.subtype in ("FLOAT", "DOUBLE")

    @property
    def format(self) -> str:
        """Container and encoding, such as ``WAV PCM_16``."""
        return f"{self.file.format} {self.subtype}"

    def read(self, first: int, last: int | None, size: int) -> Iterator[FloatSamples]:
        """Reads frames; a decoder that fails ends the recording, unless it fails at its beginning."""
        position = self._seek(first)
        if self.frames is not None:
            last = self.frames if last is None else min(last, self.frames)
        while last is None or position < last:
            wanted = size if last is None else min(size, last - position)
            if position < first:
                wanted = min(first - position, _SKIPPED)
            block = np.empty((wanted, self.channels), np.float32)
            with self._quiet():
                try:
                    count, failure = len(self.file.read(out=block)), None
                except soundfile.SoundFileError as error:
                    count, failure = self.file.tell() - position, error
            if failure is not None and position + count == 0:
                raise failure
            if count and position >= first:
                yield block[:count]
            position += count
            if count < wanted:
                break

    def _seek(self, first: int) -> int:
        """Moves to a frame, or to one before it from which it can be decoded; returns its number."""
        start = first
        if first and self.subtype.startswith(_WITH_MEMORY):
            start = max(0, first - round(_WARM_UP * self.sample_rate)) // _GRID * _GRID
        with self._quiet():
            try:
                if start != self.file.tell():
                    self.file.seek(start)
                return start
            except soundfile.SoundFileError:  # some formats can only be read from their start
                self.file.close()
                if isinstance(self.source, SplicedFile):
                    self.source.seek(0)
                self.file = _Sequential(self.source)
                return 0

    def _quiet(self) -> AbstractContextManager[None]:
        return collect_chatter(self.chatter) if self.prints else nullcontext()

    def close(self) -> None:
        """Closes the file."""
        with self._quiet():
            self.file.close()
        if isinstance(self.source, SplicedFile):
            self.source.close()
