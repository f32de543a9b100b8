"""The microphone, played by a module of the same functions as sounddevice."""

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
    """A sine of 100 Hz from an input of one rate; each fourth packet comes too late."""

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
        begun = self.reads * size
        self.reads += 1
        wave = np.sin(2 * np.pi * 100 * np.arange(begun, begun + size) / self.rate)
        return wave.astype(np.float32)[:, None], self.reads % 4 == 0


@pytest.mark.parametrize(("rate", "late"), [(8000, 0), (48000, 100)])
def test_a_microphone_gives_its_sound_at_the_models_rate(monkeypatch, rate, late):
    monkeypatch.setitem(sys.modules, "sounddevice", Device(rate).module())
    heard = np.concatenate([*itertools.islice(audio_chunks("microphone", 8000, 20, None), 50)])
    assert 6900 <= len(heard) <= 8000  # a resampler holds some back
    expected = np.sin(2 * np.pi * 100 * np.arange(len(heard)) / 8000)
    np.testing.assert_allclose(heard[late:], expected[late:], atol=1e-3)


def test_lost_sound_is_told_once(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "sounddevice", Device(8000).module())
    assert len([*itertools.islice(audio_chunks("3", 8000, 20, None), 50)]) == 50
    assert [record.message for record in caplog.records if "lost" in record.message] == [
        "sound was lost: this machine does not keep up; a larger block_ms may help"
    ]


def test_an_input_that_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", Device(8000).module())
    with pytest.raises(UserError, match=r"source=gone: cannot be recorded from \(No input device matching 'gone'\)"):
        next(audio_chunks("gone", 8000, 20, None))


def test_a_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(UserError, match=r"needs the package sounddevice \(pip install 'spectrnn\[live\]'\)"):
        next(audio_chunks("microphone", 8000, 20, None))


def test_a_missing_library(monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"needs the library PortAudio \(PortAudio library not found"):
        next(audio_chunks("microphone", 8000, 20, None))
