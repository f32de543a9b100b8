"""Formats that libsndfile does not read: from files, parts of them, and a stream; and without the package av."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest

from fuzzing.originals import encode_with_ffmpeg
from spectrnn.data.audio import decode_clip, load_audio
from spectrnn.data.stdin_audio import stream_blocks
from spectrnn.errors import UserError

pytest.importorskip("av", reason="needs the package av")

SECONDS = 4
# By ending: demuxer, encoder, sample rate in Hz, and number of frames that the encoder may add.
FORMATS = {
    "m4a": ("ipod", "aac", 16000, 2048),
    "mp4": ("mp4", "alac", 16000, 0),
    "aac": ("adts", "aac", 16000, 2048),
    "3gp": ("3gp", "libopencore_amrnb", 8000, 320),
    "amr": ("amr", "libopencore_amrnb", 8000, 320),
    "webm": ("webm", "libopus", 48000, 0),
    "wma": ("asf", "wmav2", 16000, 4096),
    "caf": ("caf", "adpcm_ima_qt", 16000, 0),
    "wv": ("wv", "wavpack", 16000, 0),
}


def encoded(ending: str) -> bytes:
    """A tone of 440 Hz whose level rises."""
    container, codec, rate, _ = FORMATS[ending]
    time = np.arange(SECONDS * rate) / rate
    samples = 0.1 * (1 + time) * np.sin(2 * np.pi * 440 * time)
    return encode_with_ffmpeg(samples, rate, container, codec)


@pytest.mark.parametrize("ending", FORMATS)
def test_file_parts_and_stream_are_the_same(tmp_path: Path, ending: str):
    rate, added = FORMATS[ending][2:]
    content = encoded(ending)
    path = tmp_path / f"a.{ending}"
    path.write_bytes(content)
    samples, warnings = decode_clip(path, rate)
    assert warnings == []
    assert -1024 <= len(samples) - SECONDS * rate <= added
    middle = samples[rate : 3 * rate] / 32768
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert spectrum.argmax() == 880  # of 2 s
    assert middle.std() == pytest.approx(0.3 / 2**0.5, rel=0.25)
    for start, end in ((0.01, 0.5), (2.345, 3.1), (3.5, None)):
        stop = None if end is None else round(end * rate)
        assert load_audio(path, rate, start, end).tolist() == samples[round(start * rate) : stop].tolist()
    file = io.BytesIO(content)
    streamed = list(stream_blocks(lambda count: file.read(min(count, 3000)), rate))
    assert np.concatenate(streamed).tolist() == samples.tolist()


def test_content_decides_and_not_the_ending(tmp_path: Path):
    (tmp_path / "a.wav").write_bytes(encoded("m4a"))
    (tmp_path / "a.m4a").write_bytes(encoded("m4a"))
    assert load_audio(tmp_path / "a.wav", 16000).tolist() == load_audio(tmp_path / "a.m4a", 16000).tolist()


@pytest.mark.parametrize("ending", ["aac", "webm", "amr"])
def test_truncated_file_is_used_up_to_its_end(tmp_path: Path, ending: str):
    rate, content = FORMATS[ending][2], encoded(ending)
    (tmp_path / "whole").write_bytes(content)
    (tmp_path / "half").write_bytes(content[: len(content) // 2])
    samples = load_audio(tmp_path / "half", rate)
    assert len(samples) > rate
    assert samples[: rate // 2].tolist() == load_audio(tmp_path / "whole", rate)[: rate // 2].tolist()


def test_playlist_is_not_followed(tmp_path: Path):
    (tmp_path / "secret.aac").write_bytes(encoded("aac"))
    (tmp_path / "a.m4a").write_text(f"#EXTM3U\n#EXTINF:4,\n{tmp_path}/secret.aac\n#EXT-X-ENDLIST\n")
    with pytest.raises(UserError, match=r"a.m4a: cannot be read as audio"):
        load_audio(tmp_path / "a.m4a", 16000)


def test_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.m4a").write_bytes(encoded("m4a"))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(
        UserError, match=r"a.m4a: cannot be read as audio \(Format not recognised\); .*spectrnn\[ffmpeg\]"
    ):
        load_audio(tmp_path / "a.m4a", 16000)


def test_integers_of_64_bits_are_reported(tmp_path: Path):
    import av

    with av.open(str(tmp_path / "a.wav"), "w", format="wav") as container:
        stream = container.add_stream("pcm_s64le", rate=8000)
        stream.codec_context.layout, stream.codec_context.format = "mono", "s64"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        for converted in av.AudioResampler("s64", "mono", 8000).resample(frame):
            container.mux(stream.encode(converted))
        container.mux(stream.encode(None))
    with pytest.raises(UserError, match=r"a.wav: cannot be read as audio"):
        load_audio(tmp_path / "a.wav", 8000)


def test_eight_planar_channels_are_read(tmp_path: Path):
    import av

    with av.open(str(tmp_path / "a.wv"), "w", format="wv") as container:
        stream = container.add_stream("wavpack", rate=8000)
        stream.codec_context.layout, stream.codec_context.format = "7.1", "s16p"
        frame = av.AudioFrame.from_ndarray(np.repeat(np.arange(800, dtype=np.int16), 8)[None], "s16", "7.1")
        frame.sample_rate = 8000
        for planar in av.AudioResampler("s16p", "7.1", 8000).resample(frame):
            container.mux(stream.encode(planar))
        container.mux(stream.encode(None))
    assert load_audio(tmp_path / "a.wv", 8000).tolist() == list(range(800))
