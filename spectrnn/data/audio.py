"""Decoding of audio files of any format, sample rate and channel count to mono int16 at one rate, block by block."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from spectrnn.errors import UserError

EXTENSIONS = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64"}
FULL_SCALE = 32768.0  # of int16
BLOCK = 1 << 18  # values per read: bounds the memory, however long the recording
MAX_SAMPLE_VALUE = 2.0**31  # of float samples: 32-bit integers, stored as floats
_TOLERANCE = 0.01  # s by which the end of a clip may exceed its file
_MIN_RATE_RATIO, _MAX_RATE_RATIO = 1 / 100, 1000  # of a file's sample rate to the target's; others are broken headers

Samples = npt.NDArray[np.int16]
FloatSamples = npt.NDArray[np.float32]


def load_audio(
    path: str | Path, sample_rate: int, start: float = 0.0, end: float | None = None, copy: str | None = None
) -> Samples:
    """Decodes a recording, or a part of it.

    Args:
        path: File in a format of libsndfile, or address of one.
        sample_rate: Sample rate of the result in Hz.
        start: Start of the part in s.
        end: End of the part in s; None for the end of the file.
        copy: Local copy of the file at an address.

    Returns:
        Mono samples, int16 (samples,), full scale 32768.

    Raises:
        UserError: A file that is missing, empty, truncated or not audio, of an unsupported sample rate, or with
            non-finite values.
    """
    return np.concatenate(list(iter_blocks(path, sample_rate, start, end, copy)))


def decode_clip(
    path: str | Path, sample_rate: int, start: float = 0.0, end: float | None = None, copy: str | None = None
) -> tuple[Samples, list[str]]:
    """Decodes like `load_audio`, and returns the samples, int16 (samples,), and warnings that start with the path."""
    return load_audio(path, sample_rate, start, end, copy), []


def iter_blocks(
    path: str | Path, sample_rate: int, start: float = 0.0, end: float | None = None, copy: str | None = None
) -> Iterator[Samples]:
    """Decodes like `load_audio`, and yields blocks int16 (samples,)."""
    samples = 0
    with open_audio(path, copy) as file:
        for block in iter_resampled(file, path, sample_rate, start, end):
            samples += len(block)
            yield to_int16(block)
    if not samples:
        raise UserError(f"{path}: is too short for a sample at {sample_rate} Hz")


@contextmanager
def open_audio(path: str | Path, copy: str | None = None) -> Iterator[soundfile.SoundFile]:
    """Opens an audio file, or the copy of one; errors within the block become a `UserError` that names the path."""
    source = path if copy is None else copy
    if Path(path).suffix.lower() == ".raw":
        raise UserError(f"{path}: raw PCM has no header with its sample rate; save it as .wav")
    try:
        # Except on Windows, a file name is bytes and need not be Unicode.
        with soundfile.SoundFile(str(source) if os.name == "nt" else os.fsencode(source)) as file:
            yield file
    except (soundfile.SoundFileError, OSError) as error:
        raise UserError(f"{path}: {_reason(Path(source), error)}") from error


def _reason(path: Path, error: Exception) -> str:
    if path.is_dir():
        return "is a folder without audio files"
    if not path.is_file():
        return "no such file"
    if path.stat().st_size == 0:
        return "is empty (0 bytes)"
    reason = str(error).split(": ")[-1].rstrip(".")
    # The MP3 decoder reports a file without any MP3 frame as missing.
    reason = "Format not recognised" if reason.startswith("File does not exist") else reason
    return f"cannot be read as audio ({reason})"


def iter_resampled(
    file: soundfile.SoundFile, path: str | Path, sample_rate: int, start: float = 0.0, end: float | None = None
) -> Iterator[FloatSamples]:
    """Reads like `read_blocks`, and yields mono blocks float32 (samples,) at the target sample rate."""
    resampler = make_resampler(file.samplerate, path, sample_rate)
    for samples, is_last in read_blocks(file, path, sample_rate, start, end):
        yield resampler.resample_chunk(to_mono(samples), last=is_last) if resampler else to_mono(samples)


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


def read_blocks(
    file: soundfile.SoundFile, path: str | Path, sample_rate: int, start: float = 0.0, end: float | None = None
) -> Iterator[tuple[FloatSamples, bool]]:
    """Reads a recording, or a part of it, at its own sample rate.

    Args:
        file: File from `open_audio`.
        path: Path of the file, for error messages.
        sample_rate: Sample rate in Hz that it will be resampled to; bounds the size of the blocks.
        start, end: As for `load_audio`.

    Yields:
        float32 (samples, channels) with at most `BLOCK` values, and whether it is the last block.

    Raises:
        UserError: As `load_audio`.
    """
    first = round(start * file.samplerate)
    last = file.frames if end is None else round(end * file.samplerate)
    if 0 < last - file.frames <= _TOLERANCE * file.samplerate:
        last = file.frames
    if file.frames == 0:
        raise UserError(f"{path}: contains no samples")
    if not first < last <= file.frames:
        seconds = file.frames / file.samplerate
        raise UserError(f"{path}: is {seconds:.3f} s long, and does not contain {start} to {end} s")
    # libsndfile silently shortens a truncated file, and reports it in its log only. A writer that cannot know the
    # length, such as a pipe, announces the maximum.
    sizes = re.findall(r"^ *(?:data|SSND|Data Size|riff) *: (\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
    if any(int(actual) < int(announced) < 0x7FFF0000 for announced, actual in sizes):
        raise UserError(f"{path}: is truncated; its header announces more samples than it contains")
    if first:  # some formats can only be read from their start
        file.seek(first)
    # The same memory for any number of channels and any resampling ratio.
    block = max(1, BLOCK // max(file.channels, sample_rate // file.samplerate // 8))
    remaining = last - first
    while remaining:
        samples = file.read(min(block, remaining), dtype="float32", always_2d=True)
        if not len(samples):
            raise UserError(f"{path}: is truncated; {remaining} of {last - first} frames are missing")
        remaining -= len(samples)
        require_finite(samples, path)
        yield samples, not remaining


def require_finite(samples: FloatSamples, path: str | Path) -> None:
    """Rejects samples of any shape that are not finite, or far beyond full scale."""
    if not (np.abs(samples) <= MAX_SAMPLE_VALUE).all():
        raise UserError(f"{path}: contains values that are not finite (NaN or Inf), or far beyond full scale")


def to_mono(samples: FloatSamples) -> FloatSamples:
    """Averages the channels: (samples,) or (samples, channels) -> (samples,)."""
    if samples.ndim == 2 and samples.shape[1] == 1:
        return samples[:, 0]
    return samples if samples.ndim == 1 else samples.mean(axis=1, dtype=np.float32)


def to_int16(samples: FloatSamples) -> Samples:
    """Converts float samples in [-1, 1) to int16, with clipping; lossless for 16-bit files."""
    return np.clip(np.rint(samples * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def to_float(samples: Samples) -> FloatSamples:
    """Converts int16 samples to float32 in [-1, 1)."""
    return np.multiply(samples, 1 / FULL_SCALE, dtype=np.float32)
