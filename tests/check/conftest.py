"""Small synthetic datasets: gliding partials in noise, so that no two clips are alike."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from spectrnn.data.clips import Clip, DataSource

RATE = 8000  # Hz


@pytest.fixture(scope="session")
def sound() -> Callable[..., np.ndarray]:
    """`sound(seed, seconds)` -> float32 (samples,) at 8 kHz."""
    return _sound


@pytest.fixture
def dataset(tmp_path: Path) -> list[Clip]:
    """Two classes of 30 clips of 0.5 to 0.7 s; the last third of each class is the test split."""
    return [
        Clip(
            str(_write_clip(tmp_path / f"{label}{letter}.wav", _sound(30 * row + number))),
            label,
            "test" if number >= 20 else "train",
        )
        for row, label in enumerate(("cat", "dog"))
        for number, letter in enumerate("abcdefghijklmnopqrstuvwxyzABCD")
    ]


@pytest.fixture
def manifest(source: Callable[..., DataSource], tmp_path: Path) -> Callable[[Sequence[Clip]], DataSource]:
    """Writes clips as a manifest: `manifest(clips)` -> its data source."""

    def write(clips: Sequence[Clip]) -> DataSource:
        with (tmp_path / "table.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(Clip._fields)
            writer.writerows(clips)
        return source("manifest", path=tmp_path / "table.csv", sample_rate=RATE, val_fraction=0)

    return write


@pytest.fixture(scope="session")
def write_clip() -> Callable[..., Path]:
    """`write_clip(path, waveform, rate, **settings of soundfile.write)` -> path."""
    return _write_clip


def _write_clip(path: Path, waveform: np.ndarray, rate: int = RATE, **settings: str) -> Path:
    # Rounded here, as encoders round differently: the samples must be the same in all lossless formats.
    soundfile.write(path, waveform if settings else np.rint(waveform * 32767).astype(np.int16), rate, **settings)
    return path


def _sound(seed: int, seconds: float | None = None) -> np.ndarray:
    generator = np.random.default_rng(seed)
    samples = round((seconds or generator.uniform(0.5, 0.7)) * RATE)
    waveform = np.zeros(samples)
    time = np.arange(samples)
    for _ in range(6):
        knots = np.linspace(0, samples, 6)
        frequency = np.interp(time, knots, generator.uniform(200, 3500, 6))
        amplitude = np.interp(time, knots, generator.uniform(0, 0.1, 6))
        waveform += amplitude * np.sin(2 * np.pi * np.cumsum(frequency) / RATE)
    return (waveform + generator.normal(0, 0.01, samples)).astype(np.float32)
