"""Small made-up sounds: noise whose colour and loudness wander, so that no two are alike."""

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
    """Two classes of 30 clips of 0.5 to 0.7 s; the last third of each tests."""
    return [
        Clip(
            str(written(tmp_path / f"{label}{letter}.wav", _sound(30 * row + number))),
            label,
            "test" if number >= 20 else "train",
        )
        for row, label in enumerate(("cat", "dog"))
        for number, letter in enumerate("abcdefghijklmnopqrstuvwxyzABCD")
    ]


@pytest.fixture
def manifest(source: Callable[..., DataSource], tmp_path: Path) -> Callable[[Sequence[Clip]], DataSource]:
    """Writes clips as a table: `manifest(clips)` -> its source."""

    def write(clips: Sequence[Clip]) -> DataSource:
        with (tmp_path / "table.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(Clip._fields)
            writer.writerows(clips)
        return source("manifest", path=tmp_path / "table.csv", sample_rate=RATE, val_fraction=0)

    return write


@pytest.fixture(scope="session")
def write() -> Callable[..., Path]:
    """`write(path, wave, rate, **of soundfile.write)` -> path."""
    return written


def written(path: Path, wave: np.ndarray, rate: int = RATE, **settings: str) -> Path:
    # Formats round otherwise: what is to be the same in all must be whole numbers
    soundfile.write(path, wave if settings else np.rint(wave * 32767).astype(np.int16), rate, **settings)
    return path


def _sound(seed: int, seconds: float | None = None) -> np.ndarray:
    generator = np.random.default_rng(seed)
    samples = round((seconds or generator.uniform(0.5, 0.7)) * RATE)
    wave = np.zeros(samples)
    time = np.arange(samples)
    for _ in range(6):  # gliding partials under noise, each with a loudness of its own
        knots = np.linspace(0, samples, 6)
        frequency = np.interp(time, knots, generator.uniform(200, 3500, 6))
        wave += np.interp(time, knots, generator.uniform(0, 0.1, 6)) * np.sin(2 * np.pi * np.cumsum(frequency) / RATE)
    return (wave + generator.normal(0, 0.01, samples)).astype(np.float32)
