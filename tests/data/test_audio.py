"""Decoding against closed forms for every format, bit depth, sample rate and channel count; and broken files."""

import io
import os
import re
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile

from spectrnn.data import audio
from spectrnn.data.audio import EXTENSIONS, Samples, decode_clip, iter_blocks, load_audio, open_audio
from spectrnn.data.readers.libsndfile import LibsndfileReader
from spectrnn.data.readers.mpeg import Frame
from spectrnn.errors import UserError

RANDOM = np.random.default_rng(0)
NOISE = RANDOM.integers(-32768, 32768, 3000, dtype=np.int16)
NOISE[:4] = -32768, 32767, -1, 0

LOSSLESS = ["a.wav", "a.WAV", "a.flac", "a.aif", "a.aiff", "a.au", "a.caf", "a.w64"]
LOSSY = {"a.ogg": "VORBIS", "a.oga": "VORBIS", "a.opus": "OPUS", "a.mp3": None}


def sine(frequency: float, rate: int, samples: int, amplitude: float = 0.5) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * frequency / rate * np.arange(samples))


def write(path: Path, samples: np.ndarray, rate: int = 8000, **settings: object) -> Path:
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
def test_floats_beyond_full_scale_are_divided_by_their_maximum(tmp_path: Path, subtype: str):
    samples = np.array([0.5, -0.25, 1.4 / 32768, 1.6 / 32768, 1.0, -1.0, 2.0, -3.0])
    decoded = load_audio(write(tmp_path / "a.wav", samples, subtype=subtype), 8000)
    assert decoded.tolist() == (np.rint(samples / 3 * 32768).clip(-32768, 32767)).tolist()


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
    assert (
        -(-3000 // size) - (size == 1) <= len(blocks) <= -(-3000 // size) + 1 or size == 1
    )  # the resampler has a delay
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
    with open_audio(path) as recording:
        assert [len(block.mono) for block in recording.blocks(8000)] == [frames] * (1000 // frames)
    assert len(load_audio(path, 8000)) == 1000 * 8000 / rate


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


@pytest.mark.parametrize(("start", "end"), [(0.375, 0.5), (0.375, None), (1.0, 2.0), (0.2, 0.2), (0.2, 0.1)])
def test_part_outside_the_file_is_reported(tmp_path: Path, start: float, end: float | None):
    path = write(tmp_path / "a.wav", NOISE)
    message = f"{path}: is 0.375 s long, and does not contain {start} to {f'{end} s' if end else 'its end'}"
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        load_audio(path, 8000, start, end)


def test_end_that_was_rounded_beyond_the_file_is_tolerated(tone: Callable[..., Path], tmp_path: Path):
    path = tone(tmp_path / "a.wav", 0.2, 8000)
    samples, warnings = decode_clip(path, 8000, 0.1, 0.205)
    assert (len(samples), warnings) == (800, [])


def test_clip_whose_end_is_missing_is_used_up_to_the_end(tone: Callable[..., Path], tmp_path: Path):
    path = tone(tmp_path / "a.wav", 0.2, 8000)
    samples, warnings = decode_clip(path, 8000, 0.1, 0.3)
    assert samples.tolist() == load_audio(path, 8000)[800:].tolist()
    assert warnings == [f"{path}: ends at 0.200 s, before the end of a clip at 0.3 s"]


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
    "half.ogg": (encoded("OGG")[: len(encoded("OGG")) // 2], "cannot be read as audio"),
    "nan.wav": (with_sample(np.nan), "not finite"),
    "inf.wav": (with_sample(-np.inf), "not finite"),
    "loud.wav": (with_sample(1e30), "far beyond full scale"),
    "samples.raw": (encoded("WAV")[44:], "raw PCM has no header with its sample rate; save it as .wav"),
    "slow.wav": (
        with_header_field(24, 79),
        "unsupported sample rate 79 Hz; 80 to 8000000 Hz can be resampled to 8000 Hz",
    ),
    "fast.wav": (with_header_field(24, 8_000_001), "unsupported sample rate 8000001 Hz; 80 to 8000000 Hz can"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_file_is_reported_in_one_line(tmp_path: Path, name: str):
    content, reason = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"^{re.escape(str(tmp_path / name))}: .*{re.escape(reason)}") as error:
        load_audio(tmp_path / name, 8000)
    assert "\n" not in str(error.value)


def patched(content: bytes, marker: bytes, offset: int, form: str, value: int) -> bytes:
    """Content with a number at an offset after the first occurrence of a marker."""
    changed = bytearray(content)
    struct.pack_into(form, changed, content.index(marker) + offset, value)
    return bytes(changed)


# Where containers announce the size of their samples.
SIZES = {
    "WAV": ("PCM_16", b"data", 4, "<I"),
    "AIFF": ("PCM_16", b"SSND", 4, ">I"),
    "AU": ("PCM_16", b".snd", 8, ">I"),
    "W64": ("PCM_16", b"data\xf3", 16, "<Q"),
    "CAF": ("PCM_16", b"data", 4, ">Q"),
    "RF64": ("PCM_16", b"ds64", 16, "<Q"),
}


@pytest.mark.parametrize("share", [0, 0.5, 2, None])
@pytest.mark.parametrize("container", SIZES)
def test_size_in_the_header_is_not_trusted(tmp_path: Path, container: str, share: float | None):
    _, marker, offset, form = SIZES[container]
    content, bits = encoded(container), 8 * struct.calcsize(form)
    (size,) = struct.unpack_from(form, content, content.index(marker) + offset)
    value = (1 << bits) - 1 if share is None else round(share * size)
    (tmp_path / "right").write_bytes(content)
    (tmp_path / "wrong").write_bytes(patched(content, marker, offset, form, value))
    samples, warnings = decode_clip(tmp_path / "wrong", 8000)
    assert samples.tolist() == load_audio(tmp_path / "right", 8000).tolist()
    announced = {0: "no samples", 0.5: "its header announces ", 2: "is truncated", None: ""}[share]
    assert len(warnings) == (share is not None)
    assert all(announced in warning for warning in warnings)
    part = decode_clip(tmp_path / "wrong", 8000, 1.25, 1.75)[0]
    assert part.tolist() == samples[10000:14000].tolist()


@pytest.mark.parametrize("trailing", [b"LIST\4\0\0\0abcd", b"own \4\0\0\0abcd", b"TAG" + bytes(125)])
def test_metadata_after_the_samples_is_not_sound(tmp_path: Path, trailing: bytes):
    (tmp_path / "a.wav").write_bytes(encoded("WAV") + trailing)
    samples, warnings = decode_clip(tmp_path / "a.wav", 8000)
    assert (len(samples), warnings) == (16000, [])


def test_size_that_wrapped_at_4_gib_is_corrected(tmp_path: Path):
    content = encoded("WAV")
    with (tmp_path / "a.wav").open("wb") as file:  # sparse
        file.write(content)
        file.truncate(44 + (1 << 32) + 32000)
    samples, warnings = decode_clip(tmp_path / "a.wav", 8000, 268_435.0, 268_437.0)
    assert len(samples) == 16000
    assert warnings == [
        f"{tmp_path / 'a.wav'}: its header announces 2.000 s; all of the 268437.456 s that follow are used"
    ]
    assert (
        load_audio(tmp_path / "a.wav", 8000, 0.5, 1.5).tolist()
        == load_audio(write(tmp_path / "b.wav", sine(440, 8000, 16000)), 8000, 0.5, 1.5).tolist()
    )


@pytest.mark.parametrize("container", ["WAV", "FLAC", "AIFF", "AU", "W64", "CAF", "RF64", "MP3", "OGG"])
def test_truncated_file_is_used_up_to_its_end(tmp_path: Path, container: str):
    generator = np.random.default_rng(0)
    buffer = io.BytesIO()
    soundfile.write(buffer, generator.uniform(-0.3, 0.3, 80000), 8000, format=container)
    (tmp_path / "whole").write_bytes(buffer.getvalue())
    (tmp_path / "half").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    samples, warnings = decode_clip(tmp_path / "half", 8000)
    assert 20000 < len(samples) < 45000
    sound = slice(0, len(samples) - 1200)  # without the last frames of MP3
    assert samples[sound].tolist() == load_audio(tmp_path / "whole", 8000)[: len(samples)][sound].tolist()
    assert "truncated" in warnings[0]


@pytest.mark.parametrize("total", [0, 20000, 160000])
def test_number_of_samples_of_flac_is_not_trusted(tmp_path: Path, total: int):
    content = bytearray(write(tmp_path / "a.flac", RANDOM.integers(-9999, 9999, 80000, dtype=np.int16)).read_bytes())
    content[22:26] = struct.pack(">I", total)
    (tmp_path / "b.flac").write_bytes(content)
    samples, warnings = decode_clip(tmp_path / "b.flac", 8000)
    assert samples.tolist() == load_audio(tmp_path / "a.flac", 8000).tolist()
    assert len(warnings) == (total > 0)
    assert load_audio(tmp_path / "b.flac", 8000, 5, 6).tolist() == samples[40000:48000].tolist()


def long_mp3(path: Path, mode: str, level: float) -> bytes:
    """20 s of noise that is loud at first, so that the first frames are no measure of the others."""
    samples = np.random.default_rng(0).normal(size=20 * 16000) * np.repeat([0.2, 1e-4], 10 * 16000)
    samples += 0.1 * np.sin(np.arange(len(samples)) / 9)
    soundfile.write(path, samples.astype(np.float32), 16000, bitrate_mode=mode, compression_level=level)
    return path.read_bytes()


def first_frame(content: bytes) -> int:
    frame = Frame.parse(content[:4])
    assert frame
    return frame.size


@pytest.mark.parametrize(("mode", "level"), [("VARIABLE", 0.5), ("VARIABLE", 0.99), ("CONSTANT", 0.9)])
def test_mp3_without_a_xing_header_is_read_to_its_end(tmp_path: Path, mode: str, level: float):
    content = long_mp3(tmp_path / "a.mp3", mode, level)
    (tmp_path / "b.mp3").write_bytes(content[first_frame(content) :])
    samples, warnings = decode_clip(tmp_path / "b.mp3", 16000)
    assert 320_000 <= len(samples) < 323_000
    assert warnings == []
    (tmp_path / "c.mp3").write_bytes(content[first_frame(content) + 5 :])  # entered within a frame
    assert len(load_audio(tmp_path / "c.mp3", 16000)) > 318_000
    with pytest.raises(UserError, match=r"b.mp3: is 20\.\d* s long, and does not contain 30 to 31 s"):
        load_audio(tmp_path / "b.mp3", 16000, 30, 31)


@pytest.mark.parametrize("block", [1000, 1 << 18])
def test_blocks_of_mp3_are_seamless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int):
    long_mp3(tmp_path / "a.mp3", "VARIABLE", 0.99)
    whole = soundfile.read(tmp_path / "a.mp3", dtype="float32")[0]  # in one call, without seeking
    monkeypatch.setattr(audio, "BLOCK", block)
    assert np.abs(load_audio(tmp_path / "a.mp3", 16000) / 32768 - whole).max() < 1e-4


def test_joined_files_are_read_to_their_end(tmp_path: Path):
    content = long_mp3(tmp_path / "a.mp3", "VARIABLE", 0.5)
    (tmp_path / "b.mp3").write_bytes(content + content)
    samples, warnings = decode_clip(tmp_path / "b.mp3", 16000)
    assert len(samples) == pytest.approx(640_000, abs=4000)
    assert "announces 20.0" in warnings[0]
    for subtype in ("VORBIS", "OPUS"):
        soundfile.write(tmp_path / "a.ogg", sine(440, 16000, 32000), 16000, format="OGG", subtype=subtype)
        (tmp_path / "b.ogg").write_bytes(2 * (tmp_path / "a.ogg").read_bytes())
        once, twice = (load_audio(tmp_path / name, 16000) for name in ("a.ogg", "b.ogg"))
        assert twice.tolist() == [*once, *once]
        assert load_audio(tmp_path / "b.ogg", 16000, 1.5, 2.5).tolist() == twice[24000:40000].tolist()


SOUGHT = {
    "a.mp3": {"bitrate_mode": "VARIABLE", "compression_level": 0.99},
    "b.mp3": {"bitrate_mode": "CONSTANT", "compression_level": 0.5},
    "a.ogg": {"subtype": "VORBIS"},
    "a.opus": {"format": "OGG", "subtype": "OPUS"},
    "a.flac": {},
    "alac.caf": {"subtype": "ALAC_16"},
    "ima.wav": {"subtype": "IMA_ADPCM"},
    "ms.wav": {"subtype": "MS_ADPCM"},
    "gsm.wav": {"subtype": "GSM610"},
    "g721.au": {"subtype": "G721_32"},
    "nms.wav": {"subtype": "NMS_ADPCM_16"},
    "a.sds": {},
}


@pytest.mark.parametrize("name", SOUGHT)
def test_part_of_every_format_equals_a_slice(tmp_path: Path, name: str):
    rate = 16000
    noise = np.random.default_rng(1).normal(size=8 * rate) * (0.001 + 0.1 * np.sin(np.arange(8 * rate) / 3000) ** 2)
    path = write(
        tmp_path / name, (noise + 0.2 * np.sin(np.arange(8 * rate) / 7)).astype(np.float32), rate, **SOUGHT[name]
    )
    with soundfile.SoundFile(path) as file:
        rate = file.samplerate
    whole = load_audio(path, rate)
    tolerance = 1 if name.endswith("mp3") else 0  # libmpg123 may round another way
    for start, end in ((0.01, 0.5), (3.21, 3.9), (7.1, 7.9)):
        part, expected = load_audio(path, rate, start, end), whole[round(start * rate) : round(end * rate)]
        assert len(part) == len(expected)
        assert np.abs(part.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize(("first", "second"), [(0, 0), (3000, 0), (0, 12000)])
def test_channels_of_opposite_phase_do_not_cancel(tmp_path: Path, first: int, second: int):
    mono = np.pad(RANDOM.integers(-9000, 9000, 30000, dtype=np.int16), (first, second))
    path = write(tmp_path / "a.wav", np.stack([mono, -mono], axis=1))
    samples, warnings = decode_clip(path, 8000)
    assert samples.tolist() in (mono.tolist(), (-mono).tolist())
    assert warnings == [f"{path}: channel 2 is the opposite of channel 1, and inverted before the average"]
    assert load_audio(path, 8000, 1.5, 2).tolist() == samples[12000:16000].tolist()


def test_dead_channel_does_not_lower_the_level(tmp_path: Path):
    samples = RANDOM.integers(-9000, 9000, 16000, dtype=np.int16)
    path = write(tmp_path / "a.flac", np.stack([np.zeros_like(samples), samples], axis=1))
    decoded, warnings = decode_clip(path, 8000)
    assert decoded.tolist() == samples.tolist()
    assert warnings == [f"{path}: channel 1 is silent at its beginning, and not counted in the average"]


@pytest.mark.parametrize("magnitude", [32768, 8388608, 2147483648])
def test_integers_in_floats_are_scaled_by_their_magnitude(tmp_path: Path, magnitude: int):
    samples = RANDOM.integers(-20000, 20000, 30000, dtype=np.int16)
    samples[:10000] //= 5000
    path = write(tmp_path / "a.wav", samples / 32768 * magnitude, subtype="DOUBLE")
    decoded, warnings = decode_clip(path, 8000)
    assert np.abs(decoded - samples.astype(int)).max() <= 1
    assert f"are divided by {magnitude:g}" in warnings[0]
    assert load_audio(path, 8000, 0.5, 1.5).tolist() == decoded[4000:12000].tolist()


def test_decoders_print_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    content = bytearray(long_mp3(tmp_path / "a.mp3", "CONSTANT", 0.9))
    content[5000:5200] = bytes(200)
    (tmp_path / "b.mp3").write_bytes(content)
    load_audio(tmp_path / "b.mp3", 16000)
    os.write(2, b"still printed\n")
    assert capfd.readouterr().err == "still printed\n"


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


@pytest.mark.parametrize("start", [1, 8, 11])
def test_samples_within_the_header_are_read_or_reported(tmp_path: Path, start: int):
    (tmp_path / "a.au").write_bytes(b".snd" + struct.pack(">5I", start, 4, 3, 8000, 1) + bytes(1000))
    with suppress(UserError):  # versions of libsndfile differ
        assert len(load_audio(tmp_path / "a.au", 8000)) <= 512


def test_sizes_beyond_64_bits_of_offsets_are_reported(tmp_path: Path):
    path = write(tmp_path / "a.w64", NOISE)
    content = bytearray(path.read_bytes())
    content[40 + 16 : 40 + 24] = b"\xff" * 7 + b"\x7f"  # of the chunk before the samples
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a.w64: cannot be read as audio"):
        load_audio(path, 8000)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_values_that_are_not_finite_are_reported_for_their_part_only(tmp_path: Path, channels: int, value: float):
    samples = np.full((800, channels), 0.25)
    samples[20] = value
    soundfile.write(tmp_path / "a.wav", samples, 8000, subtype="FLOAT")
    for start, end in ((0.0, None), (0.002, 0.08)):
        with pytest.raises(UserError, match=r"a.wav: contains values that are not finite"):
            load_audio(tmp_path / "a.wav", 8000, start, end)
    assert load_audio(tmp_path / "a.wav", 8000, 0.05, 0.08).tolist() == [8192] * 240


def test_mp3_that_ends_within_its_first_frame_is_read_or_reported(tmp_path: Path):
    content = encoded("MP3")
    end = content.index(b"Info") if b"Info" in content else content.index(b"Xing")
    for size in range(end, end + 20):
        (tmp_path / "a.mp3").write_bytes(content[:size])
        with suppress(UserError):
            load_audio(tmp_path / "a.mp3", 8000)


def test_length_that_a_file_cannot_hold_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write(tmp_path / "a.wav", NOISE)
    assert LibsndfileReader(path, has_frames=True, prints=False).frames == len(NOISE)
    monkeypatch.setattr("spectrnn.data.readers.libsndfile._MAX_FRAMES_PER_BYTE", 0.1)
    with pytest.raises(soundfile.SoundFileError, match="its length is damaged"):
        LibsndfileReader(path, has_frames=True, prints=False)
