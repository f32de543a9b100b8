"""The microphone, with a fake module in place of sounddevice."""

import itertools
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from spectrnn.errors import UserError
from spectrnn.streaming.audio_input import audio_chunks


class PortAudioError(Exception):
    pass


class Device:
    """Input device of one sample rate with a sine of 100 Hz; every fourth block reports an overflow."""

    def __init__(self, rate):
        self.rate, self.reads = rate, 0

    def module(self):
        return SimpleNamespace(
            PortAudioError=PortAudioError,
            check_input_settings=self.check,
            query_devices=lambda device, kind: {"default_samplerate": float(self.rate)},
            InputStream=self.open,
        )

    def check(self, device, channels, dtype, samplerate):
        if samplerate != self.rate:
            raise PortAudioError("Invalid sample rate")

    def open(self, rate, device, channels, dtype):
        if device == "gone":
            raise ValueError("No input device matching 'gone'")
        assert (rate, channels, dtype) == (self.rate, 1, "float32")
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def read(self, size):
        start = self.reads * size
        self.reads += 1
        wave = np.sin(2 * np.pi * 100 * np.arange(start, start + size) / self.rate)
        return wave.astype(np.float32)[:, None], self.reads % 4 == 0


@pytest.mark.parametrize(("rate", "settling"), [(8000, 0), (48000, 100)])
def test_microphone_is_resampled_to_the_sample_rate_of_the_model(monkeypatch, rate, settling):
    monkeypatch.setitem(sys.modules, "sounddevice", Device(rate).module())
    samples = np.concatenate([*itertools.islice(audio_chunks("microphone", 8000, 20, None), 50)])
    assert 6900 <= len(samples) <= 8000  # the resampler has a delay
    expected = np.sin(2 * np.pi * 100 * np.arange(len(samples)) / 8000)
    np.testing.assert_allclose(samples[settling:], expected[settling:], atol=1e-3)


def test_lost_audio_is_reported_once(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "sounddevice", Device(8000).module())
    assert len([*itertools.islice(audio_chunks("3", 8000, 20, None), 50)]) == 50
    assert [record.message for record in caplog.records if "lost" in record.message] == [
        "audio was lost, as this machine is too slow; a larger block_ms may help"
    ]


def test_unknown_device_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", Device(8000).module())
    with pytest.raises(UserError) as caught:
        next(audio_chunks("gone", 8000, 20, None))
    assert str(caught.value) == (
        "source=gone: cannot be recorded from (No input device matching 'gone'); "
        "python -m sounddevice lists the devices, and source=- reads standard input"
    )


def test_missing_package_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(
        UserError,
        match=r"^source=microphone: needs the package sounddevice \(pip install 'spectrnn\[live\]'\); or pipe ",
    ):
        next(audio_chunks("microphone", 8000, 20, None))


def test_missing_library_is_reported(monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        UserError, match=r"^source=microphone: needs the library PortAudio \(PortAudio library not found; "
    ):
        next(audio_chunks("microphone", 8000, 20, None))
