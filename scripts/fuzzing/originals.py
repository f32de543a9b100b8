"""Audio files with speech, in every format that the decoder reads; those of FFmpeg if the package av is installed."""

import importlib.util
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
FFMPEG = {  # demuxer, encoder, suffix, and sample rate in Hz
    "m4a aac": ("ipod", "aac", ".m4a", 16000),
    "mp4 alac": ("mp4", "alac", ".mp4", 16000),
    "adts": ("adts", "aac", ".aac", 16000),
    "amr": ("amr", "libopencore_amrnb", ".amr", 8000),
    "3gp": ("3gp", "libopencore_amrnb", ".3gp", 8000),
    "webm": ("webm", "libopus", ".webm", 48000),
    "wma": ("asf", "wmav2", ".wma", 16000),
    "caf ima4": ("caf", "adpcm_ima_qt", ".caf", 16000),
    "wavpack": ("wv", "wavpack", ".wv", 16000),
    "tta": ("tta", "tta", ".tta", 16000),
}
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
    if importlib.util.find_spec("av"):
        for name, (container, encoder, suffix, rate) in FFMPEG.items():
            yield name, suffix, encode_with_ffmpeg(speech[0], rate, container, encoder)


def _encoded(samples: np.ndarray, rate: int, container: str, subtype: str | None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=container, subtype=subtype)
    return buffer.getvalue()


def encode_with_ffmpeg(samples: np.ndarray, rate: int, container: str, encoder: str) -> bytes:
    """Encodes mono samples in [-1, 1), float64 (samples,), by a muxer and an encoder of FFmpeg."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(encoder, rate=rate, layout="mono")
        stream.bit_rate = 12200 if rate == 8000 else 64000
        frame = av.AudioFrame.from_ndarray((samples * 32767).astype("<i2")[None], format="s16", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(format=stream.format.name, layout="mono", rate=rate)
        fifo = av.AudioFifo()
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            fifo.write(part)
        while part := fifo.read(stream.codec_context.frame_size or 1024, partial=True):
            output.mux(stream.encode(part))
        output.mux(stream.encode(None))
    return buffer.getvalue()


def _mp3_in_wav(frames: bytes, rate: int, channels: int, samples: int) -> bytes:
    """Wraps frames, which libsndfile cannot write, in a header of Microsoft's mmreg.h (MPEGLAYER3WAVEFORMAT)."""
    fmt = struct.pack("<HHIIHHHHIHHH", 0x55, channels, rate, 8000, 1, 0, 12, 1, 2, 144, 1, 1393)
    chunks = b"".join(
        name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
        for name, content in ((b"fmt ", fmt), (b"fact", struct.pack("<I", samples)), (b"data", frames))
    )
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks
