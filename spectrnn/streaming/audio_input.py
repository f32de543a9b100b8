"""Live audio: the microphone, or standard input."""

import logging
import sys
from collections.abc import Iterator
from typing import Any

import soxr

from spectrnn.data.audio import to_float
from spectrnn.data.readers.reader import FloatSamples
from spectrnn.data.stdin_audio import STDIN, stdin_blocks
from spectrnn.errors import UserError

log = logging.getLogger(__name__)


def audio_chunks(source: str, sample_rate: int, block_ms: float, raw_sample_rate: int | None) -> Iterator[FloatSamples]:
    """Reads live audio.

    Args:
        source: ``-`` for standard input; ``microphone``, or the name or number of an input device; ``auto`` for
            standard input if it is a pipe or file, else the microphone.
        sample_rate: Sample rate of the result in Hz.
        block_ms: Length of a block from the microphone in ms.
        raw_sample_rate: Sample rate of raw samples on standard input in Hz, as for `stdin_blocks`.

    Yields:
        Blocks in [-1, 1), float32 (samples,), as they arrive.

    Raises:
        UserError: No such source, or audio that cannot be read.
    """
    if source == "auto":
        source = "microphone" if sys.stdin is None or sys.stdin.isatty() else STDIN
    if source == STDIN:
        yield from map(to_float, stdin_blocks(sample_rate, raw_sample_rate))
    else:
        yield from _record(source, sample_rate, block_ms)


def _record(source: str, sample_rate: int, block_ms: float) -> Iterator[FloatSamples]:
    sounddevice = _import_sounddevice(source)
    device = None if source == "microphone" else int(source) if source.isdecimal() else source
    try:
        try:
            sounddevice.check_input_settings(device=device, channels=1, dtype="float32", samplerate=sample_rate)
            rate = sample_rate
        except sounddevice.PortAudioError:
            rate = int(sounddevice.query_devices(device, "input")["default_samplerate"])
        size = max(1, round(block_ms * rate / 1000))
        resampler = soxr.ResampleStream(rate, sample_rate, 1) if rate != sample_rate else None
        is_reported = False
        with sounddevice.InputStream(rate, device=device, channels=1, dtype="float32") as stream:
            log.info("recording; press Ctrl-C to stop")
            while True:
                samples, overflowed = stream.read(size)
                if overflowed and not is_reported:
                    is_reported = True
                    log.warning("audio was lost, as this machine is too slow; a larger block_ms may help")
                yield resampler.resample_chunk(samples[:, 0]) if resampler else samples[:, 0]
    except (sounddevice.PortAudioError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"source={source}: cannot be recorded from ({reason}); "
            "python -m sounddevice lists the devices, and source=- reads standard input"
        ) from error


def _import_sounddevice(source: str) -> Any:
    alternative = "or pipe audio to standard input: arecord -t wav | spectrnn stream source=-"
    try:
        import sounddevice
    except ImportError as error:
        package = "the package sounddevice (pip install 'spectrnn[live]')"
        raise UserError(f"source={source}: needs {package}; {alternative}") from error
    except OSError as error:
        library = f"the library PortAudio ({error}; on Debian: apt install libportaudio2)"
        raise UserError(f"source={source}: needs {library}; {alternative}") from error
    return sounddevice
