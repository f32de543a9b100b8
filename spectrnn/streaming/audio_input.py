"""Sound as it happens: the microphone, or standard input."""

import logging
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from spectrnn.data import stdin_audio
from spectrnn.data.audio import FULL_SCALE
from spectrnn.errors import UserError

log = logging.getLogger(__name__)

AudioChunk = npt.NDArray[np.float32]  # (samples,) in [-1, 1)

MICROPHONE = "microphone"


def audio_chunks(source: str, sample_rate: int, block_ms: float, raw_sample_rate: int | None) -> Iterator[AudioChunk]:
    """The packets of a source, as they come.

    Args:
        source: ``-`` for standard input; ``microphone``, or an input's name or number; ``auto`` for standard input
            where something is sent there, else the microphone.
        sample_rate: of the result, Hz.
        block_ms: of what the microphone gives at once.
        raw_sample_rate: as for `data.streams.stdin_blocks`.

    Raises:
        UserError: there is no such source, or its sound cannot be read.
    """
    if source == "auto":
        source = MICROPHONE if sys.stdin is None or sys.stdin.isatty() else stdin_audio.STDIN
    if source == stdin_audio.STDIN:
        for block in stdin_audio.stdin_blocks(sample_rate, raw_sample_rate):
            yield block.astype(np.float32) / np.float32(FULL_SCALE)
    else:
        yield from _record(source, sample_rate, block_ms)


def _record(source: str, sample_rate: int, block_ms: float) -> Iterator[AudioChunk]:
    sounddevice = _sounddevice(source)
    device = None if source == MICROPHONE else int(source) if source.isdecimal() else source
    try:
        rate = _rate(sounddevice, device, sample_rate)
        size = max(1, round(block_ms * rate / 1000))
        resampler = soxr.ResampleStream(rate, sample_rate, 1) if rate != sample_rate else None
        told = False
        with sounddevice.InputStream(rate, device=device, channels=1, dtype="float32") as stream:
            log.info("listening; Ctrl-C ends it")
            while True:
                samples, overflowed = stream.read(size)
                if overflowed and not told:
                    told = True
                    log.warning("sound was lost: this machine does not keep up; a larger block_ms may help")
                yield resampler.resample_chunk(samples[:, 0]) if resampler else samples[:, 0]
    except (sounddevice.PortAudioError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"source={source}: cannot be recorded from ({reason}); "
            "python -m sounddevice lists the inputs, and source=- reads standard input"
        ) from error


def _rate(sounddevice: Any, device: str | int | None, sample_rate: int) -> int:
    """The rate to record at, Hz: the wanted one, or where the device does not have that, its own."""
    try:
        sounddevice.check_input_settings(device=device, channels=1, dtype="float32", samplerate=sample_rate)
    except sounddevice.PortAudioError:
        return int(sounddevice.query_devices(device, "input")["default_samplerate"])
    return sample_rate


def _sounddevice(source: str) -> Any:
    other = "or send sound to standard input: arecord -t wav | spectrnn stream source=-"
    try:
        import sounddevice
    except ImportError as error:
        raise UserError(
            f"source={source}: needs the package sounddevice (pip install 'spectrnn[live]'); {other}"
        ) from error
    except OSError as error:
        library = f"the library PortAudio ({error}; on Debian: apt install libportaudio2)"
        raise UserError(f"source={source}: needs {library}; {other}") from error
    return sounddevice
