"""Sound from a pipe, however it comes: against the same sound in a file."""

import io
import struct

import numpy as np
import pytest
import soundfile

from spectrnn.data.audio import load_audio
from spectrnn.data.stdin_audio import stream_blocks
from spectrnn.errors import UserError

RATE = 8000


def dripping(content, most):
    """A reader that has no more than so many bytes at once."""
    file = io.BytesIO(content)
    return lambda count: file.read(min(count, most))


def heard(content, most=1 << 20, sample_rate=RATE, raw_sample_rate=None):
    return np.concatenate(list(stream_blocks(dripping(content, most), sample_rate, raw_sample_rate)))


def noise(samples, channels=1):
    return np.random.default_rng(samples).uniform(-0.9, 0.9, (samples, channels))


def wav(path, samples, rate=RATE, subtype="PCM_16", form="WAV"):
    soundfile.write(path, samples, rate, subtype=subtype, format=form)
    return path.read_bytes()


@pytest.mark.parametrize("most", [1, 7, 4096, 1 << 20])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_wav_of_every_kind_is_what_the_file_is(tmp_path, subtype, most):
    content = wav(tmp_path / "a.wav", noise(1000, 3), subtype=subtype)
    assert np.array_equal(heard(content, most), load_audio(tmp_path / "a.wav", RATE))


@pytest.mark.parametrize("form", ["WAVEX", "RF64"])
def test_the_wider_headers_are_read(tmp_path, form):
    content = wav(tmp_path / "a.wav", noise(1000, 2), form=form)
    assert np.array_equal(heard(content), load_audio(tmp_path / "a.wav", RATE))


@pytest.mark.parametrize("rate", [4000, 44100])
def test_another_rate_is_resampled_as_a_file_is(tmp_path, rate):
    content = wav(tmp_path / "a.wav", noise(5 * rate), rate=rate)
    expected = load_audio(tmp_path / "a.wav", RATE)
    found = heard(content, 5000)
    assert len(found) == len(expected)
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("most", [1, 3, 1 << 20])
def test_raw_samples(most):
    samples = (32767 * noise(1001)[:, 0]).astype("<i2")
    assert np.array_equal(heard(samples.tobytes(), most), samples)
    assert np.array_equal(heard(samples.tobytes() + b"\1", most), samples)  # half a sample is none
    assert len(heard(samples.tobytes(), most, raw_sample_rate=4000)) == pytest.approx(2002, abs=2)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000])
def test_a_writer_that_did_not_know_the_length_goes_on_to_the_end(tmp_path, size):
    content = wav(tmp_path / "a.wav", noise(1000))
    place = content.index(b"data") + 4
    endless = content[:place] + struct.pack("<I", size) + content[place + 4 :]
    assert np.array_equal(heard(endless), load_audio(tmp_path / "a.wav", RATE))


def test_what_follows_the_samples_is_not_heard(tmp_path):
    content = wav(tmp_path / "a.wav", noise(1000))
    notes = b"LIST" + struct.pack("<I", 3) + b"abc\0"
    place = content.index(b"data")
    assert np.array_equal(
        heard(content[:place] + notes + content[place:] + notes), load_audio(tmp_path / "a.wav", RATE)
    )


def test_blocks_come_before_the_end():
    given = iter([b"\1\0\2\0", b"\3\0", b"\4\0"])  # and then nothing, not even an end
    blocks = stream_blocks(lambda count: next(given), RATE)
    assert next(blocks).tolist() == [1, 2, 3]
    assert next(blocks).tolist() == [4]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda content: b"", "holds no samples"),
        (lambda content: content[:20], "broken WAV header"),
        (lambda content: content[:38], "ends within its WAV header"),
        (lambda content: content[:-10], "is truncated; its header promises 10 more bytes"),
        (lambda content: content[:44] + b"", "is truncated"),
        (lambda content: content.replace(b"WAVE", b"AVI "), "is RIFF, but no WAV"),
        (lambda content: content.replace(b"fmt ", b"form"), "is WAV without a format"),
        (lambda content: content[:20] + b"\6" + content[21:], "is WAV of format 6 with 16 bits"),
        (lambda content: content[:24] + b"\xff\xff\xff\x7f" + content[28:], "is absurd"),
    ],
)
def test_what_is_no_sound_is_told(tmp_path, change, sentence):
    content = wav(tmp_path / "a.wav", noise(100))
    with pytest.raises(UserError, match=r"^-: ") as error:
        heard(change(content))
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("form", "subtype", "name"),
    [
        ("FLAC", "PCM_16", "FLAC"),
        ("OGG", "VORBIS", "Ogg"),
        ("AIFF", "PCM_16", "AIFF"),
        ("AU", "PCM_16", "AU"),
        ("CAF", "PCM_16", "CAF"),
    ],
)
def test_recordings_of_other_formats_are_not_taken_for_raw_samples(tmp_path, form, subtype, name):
    with pytest.raises(UserError, match=f"^-: standard input is {name}, where WAV"):
        heard(wav(tmp_path / "a", noise(4000), subtype=subtype, form=form))


def test_values_that_are_not_finite_are_told(tmp_path):
    samples = noise(100)
    samples[50] = np.nan
    with pytest.raises(UserError, match="not finite"):
        heard(wav(tmp_path / "a.wav", samples, subtype="FLOAT"))
