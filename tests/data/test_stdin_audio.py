"""Audio from a pipe, compared with the same audio from a file."""

import io
import struct

import numpy as np
import pytest
import soundfile

from spectrnn.data.audio import decode_clip, load_audio
from spectrnn.data.stdin_audio import stream_blocks
from spectrnn.errors import UserError

RATE = 8000


def decode(content, max_bytes=1 << 20, raw_sample_rate=None):
    """Decodes a stream of which at most `max_bytes` are available at once."""
    file = io.BytesIO(content)
    return np.concatenate(list(stream_blocks(lambda n: file.read(min(n, max_bytes)), RATE, raw_sample_rate)))


def noise(samples, channels=1):
    return np.random.default_rng(samples).uniform(-0.9, 0.9, (samples, channels))


def wav(path, samples, rate=RATE, subtype="PCM_16", container="WAV"):
    soundfile.write(path, samples, rate, subtype=subtype, format=container)
    return path.read_bytes()


@pytest.mark.parametrize("max_bytes", [1, 7, 4096, 1 << 20])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_stream_of_every_subtype_equals_the_file(tmp_path, subtype, max_bytes):
    content = wav(tmp_path / "a.wav", noise(1000, 3), subtype=subtype)
    assert np.array_equal(decode(content, max_bytes), load_audio(tmp_path / "a.wav", RATE))


@pytest.mark.parametrize("container", ["WAVEX", "RF64"])
def test_extended_headers_are_read(tmp_path, container):
    content = wav(tmp_path / "a.wav", noise(1000, 2), container=container)
    assert np.array_equal(decode(content), load_audio(tmp_path / "a.wav", RATE))


@pytest.mark.parametrize("rate", [4000, 44100])
def test_stream_is_resampled_like_a_file(tmp_path, rate):
    content = wav(tmp_path / "a.wav", noise(5 * rate), rate=rate)
    expected = load_audio(tmp_path / "a.wav", RATE)
    decoded = decode(content, 5000)
    assert len(decoded) == len(expected)
    assert np.abs(decoded.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("max_bytes", [1, 3, 1 << 20])
def test_raw_samples(max_bytes):
    samples = (32767 * noise(1001)[:, 0]).astype("<i2")
    assert np.array_equal(decode(samples.tobytes(), max_bytes), samples)
    assert np.array_equal(decode(samples.tobytes() + b"\1", max_bytes), samples)  # an incomplete sample is dropped
    assert len(decode(samples.tobytes(), max_bytes, raw_sample_rate=4000)) == pytest.approx(2002, abs=2)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000])
def test_stream_of_unknown_length_is_read_to_the_end(tmp_path, size):
    content = wav(tmp_path / "a.wav", noise(1000))
    offset = content.index(b"data") + 4
    content = content[:offset] + struct.pack("<I", size) + content[offset + 4 :]
    assert np.array_equal(decode(content), load_audio(tmp_path / "a.wav", RATE))


def test_metadata_is_skipped(tmp_path):
    content = wav(tmp_path / "a.wav", noise(1000))
    metadata = b"LIST" + struct.pack("<I", 3) + b"abc\0"
    offset = content.index(b"data")
    content = content[:offset] + metadata + content[offset:] + metadata
    assert np.array_equal(decode(content), load_audio(tmp_path / "a.wav", RATE))


def test_blocks_are_yielded_as_they_arrive():
    parts = iter([b"\1\0\2\0", b"\3\0", b"\4\0"])  # the stream does not end
    blocks = stream_blocks(lambda count: next(parts), RATE)
    assert [next(blocks).tolist() for _ in range(3)] == [[1, 2], [3], [4]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: b"", "standard input is empty"),
        (lambda content: content[:44], "contains no samples"),
        (lambda content: content[:20], "cannot be read as audio"),
        (lambda content: content.replace(b"fmt ", b"form"), "cannot be read as audio"),
        (
            lambda content: content[:24] + b"\xff\xff\xff\x7f" + content[28:],
            "unsupported sample rate 2147483647 Hz; 80 to 8000000 Hz can be resampled to 8000 Hz",
        ),
    ],
)
def test_invalid_stream_is_reported(tmp_path, change, message):
    content = wav(tmp_path / "a.wav", noise(100))
    with pytest.raises(UserError, match=f"^-: {message}"):
        decode(change(content))


@pytest.mark.parametrize("share", [0, 0.5, 2])
@pytest.mark.parametrize("trailing", [b"", b"LIST\4\0\0\0abcd"])
def test_size_in_the_header_is_not_trusted(tmp_path, share, trailing):
    content = wav(tmp_path / "a.wav", noise(4 * RATE)) + trailing
    offset = content.index(b"data") + 4
    (tmp_path / "b.wav").write_bytes(
        content[:offset] + struct.pack("<I", int(8 * RATE * share)) + content[offset + 4 :]
    )
    expected, warnings = decode_clip(tmp_path / "b.wav", RATE)
    found = []
    file = io.BytesIO((tmp_path / "b.wav").read_bytes())
    assert np.array_equal(np.concatenate(list(stream_blocks(file.read, RATE, warnings=found))), expected)
    assert [text.partition(": ")[2] for text in found] == [text.partition(": ")[2] for text in warnings]
    assert len(found) == 1


@pytest.mark.parametrize(
    ("container", "subtype"),
    [
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("MP3", "MPEG_LAYER_III"),
        ("AIFF", "PCM_16"),
        ("AU", "PCM_16"),
        ("CAF", "PCM_16"),
        ("W64", "PCM_16"),
        ("NIST", "PCM_16"),
        ("VOC", "PCM_16"),
        ("WAV", "IMA_ADPCM"),
        ("WAV", "ULAW"),
    ],
)
@pytest.mark.parametrize("max_bytes", [999, 1 << 20])
def test_stream_of_every_format_equals_the_file(tmp_path, container, subtype, max_bytes):
    content = wav(tmp_path / "a", noise(2 * RATE, 2), subtype=subtype, container=container)
    assert np.array_equal(decode(content, max_bytes), load_audio(tmp_path / "a", RATE))


def test_channels_of_a_stream_are_mixed_as_those_of_the_file(tmp_path):
    mono = np.pad(noise(3 * RATE), ((RATE, 0), (0, 0)))
    content = wav(tmp_path / "a.wav", np.hstack([mono, -0.5 * mono, 0 * mono]))
    expected, warnings = decode_clip(tmp_path / "a.wav", RATE)
    assert len(warnings) == 2
    for max_bytes in (999, 1 << 20):
        assert np.array_equal(decode(content, max_bytes), expected)


def test_values_that_are_not_finite_are_reported(tmp_path):
    samples = noise(100)
    samples[50] = np.nan
    with pytest.raises(UserError, match=r"^-: contains values that are not finite"):
        decode(wav(tmp_path / "a.wav", samples, subtype="FLOAT"))
