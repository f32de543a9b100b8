"""Audio files with speech, in every format that the decoder reads."""

import io
import struct
from collections.abc import Iterator, Sequence

import numpy as np
import soundfile

WAV = (
    "PCM_U8",
    "PCM_16",
    "PCM_24",
    "PCM_32",
    "FLOAT",
    "DOUBLE",
    "ALAW",
    "ULAW",
    "IMA_ADPCM",
    "MS_ADPCM",
    "GSM610",
    "G721_32",
    "NMS_ADPCM_16",
)
OTHERS = {
    "wavex": ("WAVEX", "PCM_24", ".wav"),
    "rf64": ("RF64", "PCM_16", ".wav"),
    "flac": ("FLAC", "PCM_16", ".flac"),
    "vorbis": ("OGG", "VORBIS", ".ogg"),
    "opus": ("OGG", "OPUS", ".opus"),
    "mp3": ("MP3", None, ".mp3"),
    "aiff": ("AIFF", "PCM_16", ".aiff"),
    "aiff float": ("AIFF", "FLOAT", ".aif"),
    "au": ("AU", "PCM_16", ".au"),
    "au ulaw": ("AU", "ULAW", ".au"),
    "caf": ("CAF", "PCM_24", ".caf"),
    "caf alac": ("CAF", "ALAC_16", ".caf"),
    "w64": ("W64", "PCM_16", ".w64"),
}
FORMATS = {f"wav {subtype.lower()}": ("WAV", subtype, ".wav") for subtype in WAV} | OTHERS
SHAPES = ((8000, 1), (16000, 2))  # rate in Hz, and channels
MONO_ONLY = {"GSM610", "G721_32", "NMS_ADPCM_16"}


def originals(speech: Sequence[np.ndarray]) -> Iterator[tuple[str, str, bytes]]:
    """Yields every format, mono and stereo; the recordings take turns.

    Args:
        speech: Waveforms, float64 (samples,) each.

    Yields:
        The format's name, the file's suffix and its content.
    """
    number = 0
    for rate, channels in SHAPES:
        for name, (container, subtype, suffix) in FORMATS.items():
            if channels > 1 and subtype in MONO_ONLY:
                continue
            number += 1
            samples = np.repeat(speech[number % len(speech)][:, None], channels, axis=1)
            yield name, suffix, _encoded(samples, rate, container, subtype)
        yield "wav mp3", ".wav", _mp3_in_wav(_encoded(samples, rate, "MP3", None), rate, channels, len(samples))


def _encoded(samples: np.ndarray, rate: int, container: str, subtype: str | None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=container, subtype=subtype)
    return buffer.getvalue()


def _mp3_in_wav(frames: bytes, rate: int, channels: int, samples: int) -> bytes:
    """Wraps frames, which libsndfile cannot write, in a header of Microsoft's mmreg.h (MPEGLAYER3WAVEFORMAT)."""
    fmt = struct.pack("<HHIIHHHHIHHH", 0x55, channels, rate, 8000, 1, 0, 12, 1, 2, 144, 1, 1393)
    chunks = b"".join(
        name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
        for name, content in ((b"fmt ", fmt), (b"fact", struct.pack("<I", samples)), (b"data", frames))
    )
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks
