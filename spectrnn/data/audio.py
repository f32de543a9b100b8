"""Decoding of audio files of any format, sample rate and channel count to mono int16 at one rate, block by block."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from spectrnn.data.mixing import Mix, MixFinder
from spectrnn.data.readers.opening import UnreadableError, open_reader
from spectrnn.data.readers.reader import AudioReader, FloatSamples
from spectrnn.errors import UserError
from spectrnn.files import why_unreadable

# Endings of the files that libsndfile reads, but .mat and .raw, which rarely are recordings; and of those that FFmpeg
# reads. They say which files of a folder are recordings; how a file is decoded, its content decides.
_LIBSNDFILE_EXTENSIONS = """
    .8svx .aif .aifc .aiff .au .avr .bwf .caf .fla .flac .htk .iff .ircam .mp1 .mp2 .mp3 .mpga .nist .oga .ogg .ogx
    .opus .paf .pvf .rf64 .sd2 .sds .sf .snd .sph .spx .svx .voc .w64 .wav .wave .wavex .wve .xi
"""
_FFMPEG_EXTENSIONS = """
    .3g2 .3gp .3gpp .aa3 .aac .ac3 .adts .amr .ape .asf .avi .awb .dff .dsf .dts .eac3 .f4a .flv .m2ts .m4a .m4b .m4r
    .m4v .mka .mkv .mlp .mov .mp4 .mpc .mpeg .mpg .mts .oma .ogv .qcp .qt .ra .rm .shn .tak .thd .tta .vob .weba .webm
    .wma .wmv .wv
"""
EXTENSIONS = {*_LIBSNDFILE_EXTENSIONS.split(), *_FFMPEG_EXTENSIONS.split()}
FULL_SCALE = 32768.0  # of int16
BLOCK = 1 << 18  # values per read: bounds the memory, however long the recording
MAX_SAMPLE_VALUE = 2.0**31  # of float samples: 32-bit integers, stored as floats
_TOLERANCE = 0.01  # s by which the end of a clip may exceed its file
_MIN_RATE_RATIO, _MAX_RATE_RATIO = 1 / 100, 1000  # of a file's sample rate to the target's; others are broken headers

Samples = npt.NDArray[np.int16]


class Block(NamedTuple):
    """Consecutive frames of a recording, scaled to full scale.

    Attributes:
        channels: float32 (frames, channels).
        mono: The mix of the channels, float32 (frames,).
    """

    channels: FloatSamples
    mono: FloatSamples


def load_audio(
    path: str | Path, sample_rate: int, start: float = 0.0, end: float | None = None, copy: str | None = None
) -> Samples:
    """Decodes like `decode_clip`, without the warnings."""
    return decode_clip(path, sample_rate, start, end, copy)[0]


def decode_clip(
    path: str | Path, sample_rate: int, start: float = 0.0, end: float | None = None, copy: str | None = None
) -> tuple[Samples, list[str]]:
    """Decodes a recording, or a part of it.

    Args:
        path: File in a format of libsndfile, or of FFmpeg if the package av is installed; or address of one.
        sample_rate: Sample rate of the result in Hz.
        start: Start of the part in s.
        end: End of the part in s; None for the end of the file.
        copy: Local copy of the file at an address.

    Returns:
        Mono samples, int16 (samples,), full scale 32768, as far as the file has any; and a sentence per flaw that was
        corrected, such as a wrong header, missing sound, or a dead channel, each starting with the path.

    Raises:
        UserError: A file that is missing, empty or not audio, that ends before `start`, is of an unsupported sample
            rate, or has non-finite values.
    """
    warnings: list[str] = []
    return np.concatenate(list(iter_blocks(path, sample_rate, start, end, copy, warnings))), warnings


def iter_blocks(
    path: str | Path,
    sample_rate: int,
    start: float = 0.0,
    end: float | None = None,
    copy: str | None = None,
    warnings: list[str] | None = None,
) -> Iterator[Samples]:
    """Decodes like `decode_clip`, and yields blocks int16 (samples,); at the end, `warnings` has all of them."""
    samples = 0
    with open_audio(path, copy) as recording:
        for block in recording.resampled(sample_rate, start, end):
            if len(block):
                samples += len(block)
                yield to_int16(block)
        if warnings is not None:
            warnings += recording.warnings
    if not samples:
        raise UserError(f"{path}: is too short for a sample at {sample_rate} Hz")


@contextmanager
def open_audio(path: str | Path, copy: str | None = None) -> Iterator["Recording"]:
    """Opens an audio file, or the copy of one; errors within the block become a `UserError` that names the path."""
    source = path if copy is None else copy
    try:
        reader = open_reader(source)
        try:
            yield Recording(path, source, reader)
        finally:
            reader.close()
    except (UnreadableError, soundfile.SoundFileError, OSError) as error:
        raise UserError(f"{path}: {_reason(Path(source), error)}") from error


def _reason(path: Path, error: Exception) -> str:
    if os.path.isdir(path):
        return "is a folder without audio files" if os.access(path, os.R_OK | os.X_OK) else "permission denied"
    if problem := why_unreadable(path):
        return problem
    if path.stat().st_size == 0:
        return "is empty (0 bytes)"
    if path.suffix.lower() == ".raw":
        return "raw PCM has no header with its sample rate; save it as .wav"
    return describe_error(error)


def describe_error(error: Exception) -> str:
    """Describes why a reader cannot read a recording."""
    reason, _, remedy = str(error).split(": ")[-1].rstrip(".").partition("; ")
    return f"cannot be read as audio ({reason}){'; ' if remedy else ''}{remedy}"


class Recording:
    """An open recording.

    Args:
        path: Its path, for messages.
        source: The file itself.
        reader: Reader of the file.
    """

    def __init__(self, path: str | Path, source: str | Path, reader: AudioReader) -> None:
        self.path, self.source, self.reader = path, source, reader
        self._mix: Mix | None = None
        self._missing: list[str] = []

    @property
    def flaws(self) -> dict[str, list[str]]:
        """What was wrong so far, and was corrected, by kind: ``sizes``, ``channels`` or ``level``; sentences."""
        mix = self._mix or Mix()
        return {
            "sizes": [f"{self.path}: {text}" for text in dict.fromkeys([*self.reader.warnings, *self._missing])],
            "channels": [f"{self.path}: {text}" for text in mix.warnings],
            "level": [f"{self.path}: {text}" for text in mix.scale_warnings],
        }

    @property
    def warnings(self) -> list[str]:
        """All flaws, a sentence each."""
        return [text for texts in self.flaws.values() for text in texts]

    def resampled(self, sample_rate: int, start: float = 0.0, end: float | None = None) -> Iterator[FloatSamples]:
        """Reads like `blocks`, and yields mono blocks float32 (samples,) at the target sample rate."""
        resampler = make_resampler(self.reader.sample_rate, self.path, sample_rate)
        for block in self.blocks(sample_rate, start, end):
            yield resampler.resample_chunk(block.mono) if resampler else block.mono
        if resampler:
            yield resampler.resample_chunk(np.empty(0, np.float32), last=True)

    def blocks(self, sample_rate: int, start: float = 0.0, end: float | None = None) -> Iterator[Block]:
        """Reads the recording, or a part of it, at its own sample rate.

        Args:
            sample_rate: Sample rate in Hz that it will be resampled to; bounds the size of the blocks.
            start, end: As for `decode_clip`.

        Raises:
            UserError: As `decode_clip`.
        """
        reader = self.reader
        first = round(start * reader.sample_rate)
        last = None if end is None else round(end * reader.sample_rate)
        # The same memory for any number of channels and any resampling ratio.
        size = max(1, BLOCK // max(reader.channels, sample_rate // reader.sample_rate // 8))
        position = first
        if last is None or first < last:
            for block in self._mixed(first, last, size):
                position += len(block.mono)
                yield block
        if position > first:
            self._find_missing(position, end)
        elif not first and last != 0:
            raise UserError(f"{self.path}: contains no samples")
        else:
            length = sum(map(len, reader.read(0, None, size))) / reader.sample_rate
            span = f"{start} to {'its end' if end is None else f'{end} s'}"
            raise UserError(f"{self.path}: is {length:.3f} s long, and does not contain {span}")

    def _find_missing(self, frames: int, end: float | None) -> None:
        rate, announced = self.reader.sample_rate, self.reader.frames
        if end is not None:
            if end - frames / rate > _TOLERANCE:
                self._missing.append(f"ends at {frames / rate:.3f} s, before the end of a clip at {end:g} s")
        elif announced is not None and frames < announced:
            missing = (announced - frames) / rate
            self._missing.append(f"is truncated or damaged; {missing:.3f} of {announced / rate:.3f} s are missing")

    def _mixed(self, first: int, last: int | None, size: int) -> Iterator[Block]:
        """Yields frames; their mix is that of the whole recording."""
        reader = self.reader
        finder = MixFinder(reader.sample_rate, reader.channels, reader.is_float)
        is_small = reader.frames is not None and reader.frames <= size
        if reader.channels == 1 and not reader.is_float:
            self._mix = Mix()
        elif not reader.is_live and (first or last is not None or (reader.is_float and not is_small)):
            status = os.stat(self.source)
            self._mix = _mix_of_file(str(self.source), status.st_size, status.st_mtime_ns)
        position, held = first, list[FloatSamples]()
        for samples in reader.read(first, last, size):
            require_finite(samples, self.path)
            if self._mix is None:
                is_decided = finder.push(samples)
                held.append(samples)
                if is_decided and (reader.is_live or not reader.is_float):
                    self._mix = finder.mix()
                elif finder.onset is not None or (reader.is_float and not reader.is_live):
                    continue
            for ready in held or [samples]:
                yield _block(self._mix or Mix(), ready, position)
                position += len(ready)
            held = []
        if held:
            self._mix = finder.mix()
        for ready in held:
            yield _block(self._mix or Mix(), ready, position)
            position += len(ready)


def _block(mix: Mix, samples: FloatSamples, position: int) -> Block:
    scaled = mix.scaled(samples)
    return Block(scaled, mix.apply(scaled, position))


@lru_cache(maxsize=64)
def _mix_of_file(path: str, _size: int, _modified: int) -> Mix:
    """Decides on the mix of a file of this size and modification time."""
    reader = open_reader(path)
    try:
        finder = MixFinder(reader.sample_rate, reader.channels, reader.is_float)
        for block in reader.read(0, None, min(BLOCK // reader.channels + 1, reader.sample_rate)):
            # A value that is not finite is reported for the parts that contain it only.
            finite = np.where(np.abs(block) <= MAX_SAMPLE_VALUE, block, np.float32(0)) if reader.is_float else block
            if finder.push(finite) and not reader.is_float:
                break
        return finder.mix()
    finally:
        reader.close()


def make_resampler(rate: int, path: str | Path, sample_rate: int) -> soxr.ResampleStream | None:
    """Creates a resampler for mono samples; None if the rates are equal.

    Args:
        rate: Sample rate of the input in Hz.
        path: Recording, for error messages.
        sample_rate: Sample rate of the output in Hz.

    Raises:
        UserError: An unsupported sample rate.
    """
    if not _MIN_RATE_RATIO <= rate / sample_rate <= _MAX_RATE_RATIO:
        raise UserError(
            f"{path}: unsupported sample rate {rate} Hz; {_MIN_RATE_RATIO * sample_rate:.0f} to "
            f"{_MAX_RATE_RATIO * sample_rate} Hz can be resampled to {sample_rate} Hz"
        )
    return soxr.ResampleStream(rate, sample_rate, 1) if rate != sample_rate else None


def require_finite(samples: FloatSamples, path: str | Path) -> None:
    """Rejects samples of any shape that are not finite, or far beyond full scale."""
    if samples.size and not (
        samples.max() <= MAX_SAMPLE_VALUE and samples.min() >= -MAX_SAMPLE_VALUE
    ):  # NaN is neither
        raise UserError(f"{path}: contains values that are not finite (NaN or Inf), or far beyond full scale")


def to_int16(samples: FloatSamples) -> Samples:
    """Converts float samples in [-1, 1) to int16, with clipping; lossless for 16-bit files."""
    scaled = samples * np.float32(FULL_SCALE)
    np.rint(scaled, out=scaled)
    return np.clip(scaled, -FULL_SCALE, FULL_SCALE - 1, out=scaled).astype(np.int16)


def to_float(samples: Samples | FloatSamples) -> FloatSamples:
    """Converts int16 samples to float32 in [-1, 1); float32 samples are returned as they are."""
    if samples.dtype == np.float32:
        return cast(FloatSamples, samples)
    return np.multiply(samples, 1 / FULL_SCALE, dtype=np.float32)
