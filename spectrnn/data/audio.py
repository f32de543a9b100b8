"""From a file of any format, rate and channel count to mono int16 at one rate, block by block."""

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
_ROUNDING = 0.01  # s by which a clip's end may overshoot its file
BLOCK = 1 << 18  # frames read at a time: bounds the memory, however long the recording
_MIN_RATE_RATIO, _MAX_RATE_RATIO = (
    1 / 100,
    1000,
)  # a file's rate over the result's: what a broken header claims is beyond
MAX_SAMPLE_VALUE = 2.0**31  # of float samples: integers of 32 bits, written as floats

Samples = npt.NDArray[np.int16]


def load_audio(path: str | Path, sample_rate: int, start: float = 0.0, end: float | None = None) -> Samples:
    """Decodes a recording, or a part of it.

    Args:
        path: a file that libsndfile reads.
        sample_rate: of the result, Hz.
        start, end: the part to decode, in seconds; ``end=None`` is the file's end.

    Returns:
        int16 of shape (samples,), mono, full scale 32768.

    Raises:
        UserError: the file is missing, empty, truncated, no audio, of an absurd sample rate, or holds values that are
            not finite.
    """
    return np.concatenate(list(iter_blocks(path, sample_rate, start, end)))


def iter_blocks(path: str | Path, sample_rate: int, start: float = 0.0, end: float | None = None) -> Iterator[Samples]:
    """`load_audio` piece by piece: yields int16 arrays of shape (samples,)."""
    samples = 0
    with open_audio(path) as file:
        for block in iter_resampled(file, path, sample_rate, start, end):
            samples += len(block)
            yield to_int16(block)
    if not samples:
        raise UserError(f"{path}: is too short to hold a sample at {sample_rate} Hz")


@contextmanager
def open_audio(path: str | Path) -> Iterator[soundfile.SoundFile]:
    """A file open for reading; what goes wrong with it within the block is a `UserError` that names it."""
    if Path(path).suffix.lower() == ".raw":
        raise UserError(f"{path}: is raw, without a header that says its sample rate; save it as .wav")
    try:
        with soundfile.SoundFile(_native(path)) as file:
            yield file
    except (soundfile.SoundFileError, OSError) as error:
        raise UserError(f"{path}: {_reason(path, error)}") from error


def to_mono(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(samples,) or (samples, channels) -> (samples,), the mean of the channels."""
    return samples if samples.ndim == 1 else samples.mean(axis=1, dtype=np.float32)


def iter_resampled(
    file: soundfile.SoundFile, path: str | Path, sample_rate: int, start: float = 0.0, end: float | None = None
) -> Iterator[npt.NDArray[np.float32]]:
    """`frames` as mono at one rate: yields float32 arrays of shape (samples,)."""
    resampler = make_resampler(file.samplerate, path, sample_rate)
    for samples, last in read_blocks(file, path, sample_rate, start, end):
        yield resampler.resample_chunk(to_mono(samples), last=last) if resampler else to_mono(samples)


def make_resampler(rate: int, path: str | Path, sample_rate: int) -> soxr.ResampleStream | None:
    """What turns mono samples into such at another rate; None where that is their own.

    Args:
        rate: of the samples, Hz.
        path: of the recording, for messages.
        sample_rate: of the result, Hz.

    Raises:
        UserError: the recording claims an absurd rate.
    """
    if not _MIN_RATE_RATIO <= rate / sample_rate <= _MAX_RATE_RATIO:
        raise UserError(
            f"{path}: its sample rate, {rate} Hz, is absurd; {_MIN_RATE_RATIO * sample_rate:.0f} to "
            f"{_MAX_RATE_RATIO * sample_rate} Hz can be resampled to {sample_rate} Hz"
        )
    return soxr.ResampleStream(rate, sample_rate, 1) if rate != sample_rate else None


def read_blocks(
    file: soundfile.SoundFile, path: str | Path, sample_rate: int, start: float = 0.0, end: float | None = None
) -> Iterator[tuple[npt.NDArray[np.float32], bool]]:
    """A recording, or a part of it, as it lies in the file.

    Args:
        file: what `opened` gave.
        path: of the file, for messages.
        sample_rate: that it is to be resampled to, Hz; bounds what is read at once.
        start, end: as for `load_audio`.

    Yields:
        float32 (samples, channels) of at most `BLOCK` values, and whether they are the last.

    Raises:
        UserError: as `load_audio` does.
    """
    first = round(start * file.samplerate)
    last = file.frames if end is None else round(end * file.samplerate)
    if 0 < last - file.frames <= _ROUNDING * file.samplerate:
        last = file.frames
    if not first < last <= file.frames:
        length = f"{file.frames / file.samplerate:.3f} s long"
        raise UserError(
            f"{path}: holds no samples"
            if file.frames == 0
            else f"{path}: is {length}, and does not hold {start} to {end} s"
        )
    if _is_truncated(file):
        raise UserError(f"{path}: is truncated; its header promises more samples than it holds")
    if first:  # some formats can only be read from their start
        file.seek(first)
    block = max(1, BLOCK // max(file.channels, sample_rate // file.samplerate // 8))  # as much memory, whatever comes
    left = last - first
    while left:
        samples = file.read(min(block, left), dtype="float32", always_2d=True)
        if not len(samples):
            raise UserError(f"{path}: is truncated; {left} of {last - first} frames are missing")
        left -= len(samples)
        if not (np.abs(samples) <= MAX_SAMPLE_VALUE).all():
            raise UserError(f"{path}: holds values that are not finite (NaN or Inf), or far beyond full scale")
        yield samples, not left


def to_int16(samples: npt.NDArray[np.float32]) -> Samples:
    """float in [-1, 1) -> int16, clipped where it lies outside; 16-bit files come back as they were."""
    return np.clip(np.rint(samples * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def _is_truncated(file: soundfile.SoundFile) -> bool:
    # libsndfile quietly shortens a file whose samples end early; only its log tells. A writer that could not know the
    # length, such as a pipe, leaves the largest number there is: that is no promise.
    promises = re.findall(
        r"^ *(?:data|SSND|Data Size|riff) *: (\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE
    )
    return any(int(found) < int(promised) < 0x7FFF0000 for promised, found in promises)


def _reason(path: str | Path, error: Exception) -> str:
    file = Path(path)
    if file.is_dir():
        return "is a folder without audio files"
    if not file.is_file():
        return "no such file"
    if file.stat().st_size == 0:
        return "is empty (0 bytes)"
    reason = str(error).split(": ")[-1].rstrip(".")
    # The MP3 decoder says of a file without any MP3 in it that there is no such file.
    return (
        f"cannot be read as audio ({'Format not recognised' if reason.startswith('File does not exist') else reason})"
    )


def _native(path: str | Path) -> str | bytes:
    # Elsewhere than on Windows a name is bytes, and need not be Unicode.
    return str(path) if os.name == "nt" else os.fsencode(path)
