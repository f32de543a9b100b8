"""Decoding against closed forms for every format, bit depth, sample rate and channel count; and broken files."""

import io
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from spectrnn.data import audio
from spectrnn.data.audio import EXTENSIONS, Samples, iter_blocks, load_audio
from spectrnn.errors import UserError

RANDOM = np.random.default_rng(0)
NOISE = RANDOM.integers(-32768, 32768, 3000, dtype=np.int16)
NOISE[:4] = -32768, 32767, -1, 0

LOSSLESS = ["a.wav", "a.WAV", "a.flac", "a.aif", "a.aiff", "a.au", "a.caf", "a.w64"]
LOSSY = {"a.ogg": "VORBIS", "a.oga": "VORBIS", "a.opus": "OPUS", "a.mp3": None}


def sine(frequency: float, rate: int, samples: int, amplitude: float = 0.5) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * frequency / rate * np.arange(samples))


def write(path: Path, samples: np.ndarray, rate: int = 8000, **settings: str) -> Path:
    soundfile.write(path, samples, rate, **settings)
    return path


@pytest.mark.parametrize("name", LOSSLESS)
def test_16_bit_files_at_the_same_rate_are_unchanged(tmp_path: Path, name: str):
    container = {".aif": "AIFF"}.get(Path(name).suffix)
    decoded = load_audio(write(tmp_path / name, NOISE, subtype="PCM_16", format=container), 8000)
    assert decoded.dtype == np.int16
    assert decoded.tolist() == NOISE.tolist()


@pytest.mark.parametrize("container", ["wav", "flac"])
def test_24_bit_files_are_rounded(tmp_path: Path, container: str):
    samples = RANDOM.integers(-(2**23), 2**23, 3000, dtype=np.int32)
    path = write(tmp_path / f"a.{container}", samples << 8, subtype="PCM_24")
    assert load_audio(path, 8000).tolist() == np.clip(np.rint(samples / 2**8), -32768, 32767).tolist()


def test_8_bit_files_are_scaled(tmp_path: Path):
    samples = np.arange(-128, 128, dtype=np.int16) * 256
    assert load_audio(write(tmp_path / "a.wav", samples, subtype="PCM_U8"), 8000).tolist() == samples.tolist()


def test_32_bit_files_are_rounded(tmp_path: Path):
    samples = RANDOM.integers(-(2**31), 2**31, 3000, dtype=np.int32)
    decoded = load_audio(write(tmp_path / "a.wav", samples, subtype="PCM_32"), 8000)
    assert np.abs(decoded - np.clip(np.rint(samples / 2**16), -32768, 32767)).max() <= 1


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_floats_are_rounded_and_clipped_to_full_scale(tmp_path: Path, subtype: str):
    samples = np.array([0.5, -0.25, 1.4 / 32768, 1.6 / 32768, 1.0, -1.0, 2.0, -3.0])
    decoded = load_audio(write(tmp_path / "a.wav", samples, subtype=subtype), 8000)
    assert decoded.tolist() == [16384, -8192, 1, 2, 32767, -32768, 32767, -32768]


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_formats_preserve_waveform_and_position(tmp_path: Path, name: str):
    wave = sine(440, 16000, 32000)
    container = None if name == "a.mp3" else "OGG"
    decoded = load_audio(write(tmp_path / name, wave, 16000, format=container, subtype=LOSSY[name]), 16000) / 32768
    assert len(decoded) == len(wave)
    middle = slice(4000, -4000)
    assert np.abs(decoded[middle] - wave[middle]).std() < 0.02 * wave.std()


def test_common_endings_are_known():
    assert {Path(name).suffix.lower() for name in [*LOSSLESS, *LOSSY]} <= EXTENSIONS


@pytest.mark.parametrize("channels", [2, 3, 6])
def test_channels_are_averaged(tmp_path: Path, channels: int):
    samples = RANDOM.integers(-32768, 32768, (1000, channels), dtype=np.int16)
    decoded = load_audio(write(tmp_path / "a.wav", samples), 8000)
    assert np.abs(decoded - samples.mean(axis=1)).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("rate", "sample_rate"), [(8000, 16000), (44100, 16000), (48000, 8000), (11025, 16000), (16000, 44100)]
)
def test_resampling_preserves_frequency_amplitude_and_phase(
    tmp_path: Path, tone: Callable[..., Path], rate: int, sample_rate: int, channels: int
):
    decoded = load_audio(tone(tmp_path / "a.wav", 0.4, rate, channels, frequency=440), sample_rate) / 32768
    assert len(decoded) == 0.4 * sample_rate
    middle = slice(sample_rate // 20, -sample_rate // 20)
    assert np.abs(decoded - sine(440, sample_rate, len(decoded)))[middle].max() < 2e-4


def test_downsampling_does_not_alias(tmp_path: Path, tone: Callable[..., Path]):
    decoded = load_audio(tone(tmp_path / "a.wav", 0.5, 16000, frequency=5000), 8000) / 32768
    assert np.abs(decoded[200:-200]).max() < 1e-3  # without a filter it would be a loud 3 kHz


@pytest.mark.parametrize("sample_rate", [8000, 11025, 16000])
@pytest.mark.parametrize("size", [1, 997, 2999, 3000, 3001])
def test_result_does_not_depend_on_the_block_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, sample_rate: int
):
    path = write(tmp_path / "a.wav", NOISE // 2)
    whole = load_audio(path, sample_rate)
    monkeypatch.setattr(audio, "BLOCK", size)
    blocks = list(iter_blocks(path, sample_rate))
    assert len(blocks) == -(-3000 // size)
    assert np.abs(np.concatenate(blocks).astype(int) - whole).max() <= (0 if sample_rate == 8000 else 1)


def test_blocks_of_a_part_have_the_block_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(audio, "BLOCK", 100)
    path = write(tmp_path / "a.wav", NOISE)
    assert {len(block) for block in iter_blocks(path, 8000, 0.01, 0.31)} == {100}


@pytest.mark.parametrize(("rate", "channels", "frames"), [(8000, 20, 5), (100, 1, 10), (100, 20, 5), (1000, 1, 100)])
def test_blocks_are_shorter_with_many_channels_or_low_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: int, channels: int, frames: int
):
    monkeypatch.setattr(audio, "BLOCK", 100)
    path = write(tmp_path / "a.wav", np.repeat(NOISE[:1000, None], channels, axis=1), rate)
    blocks = list(iter_blocks(path, 8000))
    assert len(blocks) == 1000 / frames
    assert sum(map(len, blocks)) == 1000 * 8000 / rate


def test_format_that_is_not_seekable_is_read_from_its_start(tmp_path: Path):
    wave = sine(440, 8000, 16000)
    decoded = load_audio(write(tmp_path / "a.wav", wave, subtype="GSM610"), 8000) / 32768
    assert len(decoded) == len(wave)
    assert np.abs(decoded - wave).std() < 0.1 * wave.std()


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.1), (0.05, None), (0.1, 0.25), (0.0, None), (0.25, 0.375)])
def test_part_equals_a_slice(tmp_path: Path, start: float, end: float | None):
    path = write(tmp_path / "a.flac", NOISE)
    stop = None if end is None else round(8000 * end)
    assert load_audio(path, 8000, start, end).tolist() == NOISE[round(8000 * start) : stop].tolist()


def test_resampled_part_equals_a_slice(tmp_path: Path, tone: Callable[..., Path]):
    decoded = load_audio(tone(tmp_path / "a.wav", 1.0, 8000), 16000, 0.25, 0.75) / 32768
    assert len(decoded) == 8000
    assert np.abs(decoded - sine(440, 16000, 12000)[4000:])[800:-800].max() < 2e-4


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.5), (0.375, None), (1.0, 2.0), (0.2, 0.2), (0.2, 0.1)])
def test_part_outside_the_file_is_reported(tmp_path: Path, start: float, end: float | None):
    path = write(tmp_path / "a.wav", NOISE)
    message = f"{path}: is 0.375 s long, and does not contain {start} to {end} s"
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        load_audio(path, 8000, start, end)


def test_end_that_was_rounded_beyond_the_file_is_tolerated(tone: Callable[..., Path], tmp_path: Path):
    path = tone(tmp_path / "a.wav", 0.2, 8000)
    assert len(load_audio(path, 8000, 0.1, 0.205)) == 800
    with pytest.raises(UserError, match=r"a.wav: is 0.200 s long, and does not contain 0.1 to 0.3 s$"):
        load_audio(path, 8000, 0.1, 0.3)


def encoded(container: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, sine(440, 8000, 16000), 8000, format=container)
    return buffer.getvalue()


def with_header_field(offset: int, value: int) -> bytes:
    """Two seconds at 8 kHz, with another value in the header."""
    content = bytearray(encoded("WAV"))
    content[offset : offset + 4] = value.to_bytes(4, "little")
    return bytes(content)


def with_sample(value: float) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.array([0.0, value, 0.5]), 8000, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


BROKEN = {
    "zero.wav": (b"", "is empty (0 bytes)"),
    "zero.mp3": (b"", "is empty (0 bytes)"),
    "text.wav": (100 * b"a line of text\n", "cannot be read as audio"),
    "text.flac": (100 * b"a line of text\n", "cannot be read as audio"),
    "text.mp3": (100 * b"a line of text\n", "cannot be read as audio"),
    "header.wav": (encoded("WAV")[:20], "cannot be read as audio"),
    "silent.wav": (encoded("WAV")[:40] + bytes(4), "contains no samples"),
    "half.wav": (encoded("WAV")[:16000], "truncated"),
    "almost.wav": (encoded("WAV")[:-2], "truncated"),
    "half.flac": (encoded("FLAC")[: len(encoded("FLAC")) // 2], "cannot be read as audio"),
    "almost.flac": (encoded("FLAC")[:-100], "cannot be read as audio"),
    "half.mp3": (encoded("MP3")[: len(encoded("MP3")) // 2], "truncated"),
    "half.ogg": (encoded("OGG")[: len(encoded("OGG")) // 2], "cannot be read as audio"),
    "half.aiff": (encoded("AIFF")[:16000], "truncated"),
    "half.au": (encoded("AU")[:16000], "truncated"),
    "half.w64": (encoded("W64")[:16000], "truncated"),
    "nan.wav": (with_sample(np.nan), "not finite"),
    "inf.wav": (with_sample(-np.inf), "not finite"),
    "loud.wav": (with_sample(1e30), "far beyond full scale"),
    "samples.raw": (encoded("WAV")[44:], "raw PCM has no header with its sample rate; save it as .wav"),
    "slow.wav": (
        with_header_field(24, 79),
        "unsupported sample rate 79 Hz; 80 to 8000000 Hz can be resampled to 8000 Hz",
    ),
    "fast.wav": (with_header_field(24, 8_000_001), "unsupported sample rate 8000001 Hz; 80 to 8000000 Hz can"),
    "ten_hours.wav": (with_header_field(40, 10 * 3600 * 8000 * 2), "truncated"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_file_is_reported_in_one_line(tmp_path: Path, name: str):
    content, reason = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"^{re.escape(str(tmp_path / name))}: .*{re.escape(reason)}") as error:
        load_audio(tmp_path / name, 8000)
    assert "\n" not in str(error.value)


def test_missing_file_is_reported(tmp_path: Path):
    with pytest.raises(UserError, match=r"none.wav: no such file$"):
        load_audio(tmp_path / "none.wav", 8000)


def test_file_that_is_too_short_to_resample_is_reported(tmp_path: Path):
    with pytest.raises(UserError, match=r"a.wav: is too short for a sample at 100 Hz$"):
        load_audio(write(tmp_path / "a.wav", NOISE[:1], 48000), 100)


def test_header_with_unknown_length_is_accepted(tmp_path: Path):
    content = bytearray(encoded("WAV"))
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"  # as ffmpeg writes into a pipe
    (tmp_path / "a.wav").write_bytes(content)
    expected: Samples = np.rint(sine(440, 8000, 16000) * 32767).astype(np.int16)
    assert np.abs(load_audio(tmp_path / "a.wav", 8000) - expected).max() <= 1


def test_file_name_need_not_be_unicode(tmp_path: Path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav")
    os.rename(write(tmp_path / "a.wav", NOISE), path)
    assert load_audio(path, 8000).tolist() == NOISE.tolist()
