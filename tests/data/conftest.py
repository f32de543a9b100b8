"""Tiny copies of the published datasets, of silence."""

import csv
import functools
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from spectrnn.data.clips import DataSource
from spectrnn.data.sources.published import WORDS


@pytest.fixture(scope="session")
def dataset(source: Callable[..., DataSource]) -> Callable[..., DataSource]:
    """Builds a published dataset: `dataset("fsdd", root, ...)` for `data=fsdd data.root=... ...`."""
    return lambda name, root, **settings: source(name, root=root, **settings)


@pytest.fixture(scope="session")
def recording() -> Callable[..., None]:
    """Writes silence: `recording(path, seconds)`, at 8 kHz."""
    return _record


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    for digit in range(10):
        for speaker in ("ann", "bob", "cid"):
            for index in (0, 4, 5, 49):
                _record(tmp_path / "fsdd" / "recordings" / f"{digit}_{speaker}_{index}.wav")
    return tmp_path / "fsdd"


@pytest.fixture(scope="session")
def speech_commands() -> Callable[[Path, int], Path]:
    """Writes Speech Commands of a version into a folder: `speech_commands(root, 1)` -> root."""
    return _speech_commands


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    return _speech_commands(tmp_path / "commands", 2)


@pytest.fixture
def esc50(tmp_path: Path) -> Path:
    rows: list[dict[str, object]] = []
    for fold in range(1, 6):
        for target, category in enumerate(("dog", "rain")):
            for take in "AB":
                name, recording = f"{fold}-{fold}{target}-{take}-{target}.wav", f"{fold}{target}"
                row = {"filename": name, "fold": fold, "target": target, "category": category, "esc10": True}
                rows.append({**row, "src_file": recording, "take": take})
                _record(tmp_path / "audio" / name)
    _table(tmp_path / "meta" / "esc50.csv", rows)
    return tmp_path


@pytest.fixture
def urbansound8k(tmp_path: Path) -> Path:
    rows: list[dict[str, object]] = []
    for fold in range(1, 11):
        for number, sound in enumerate(("siren", "drilling")):
            for occurrence in range(2):
                name, recording = f"{fold}{number}-{number}-0-{occurrence}.wav", f"{fold}{number}"
                row = {"slice_file_name": name, "fsID": recording, "start": 0.0, "end": 4.0, "salience": 1}
                rows.append({**row, "fold": fold, "classID": number, "class": sound})
                _record(tmp_path / "audio" / f"fold{fold}" / name)
    _table(tmp_path / "metadata" / "UrbanSound8K.csv", rows)
    return tmp_path


def _record(path: Path, seconds: float = 0.05) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_silence(seconds))


@functools.cache
def _silence(seconds: float) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, np.zeros(round(8000 * seconds), np.int16), 8000, format="WAV")
    return content.getvalue()


def _table(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def _speech_commands(root: Path, version: int) -> Path:
    """Writes every word by 12 speakers (8 train, 1 val, 3 test); noise of 61, 30.5 and 2 s (too short to be used)."""
    speakers = [f"{number:08x}" for number in range(12)]
    lists: dict[str, list[str]] = {"validation_list.txt": [], "testing_list.txt": []}
    for word in WORDS[version]:
        for number, speaker in enumerate(speakers):
            name = f"{word}/{speaker}_nohash_{number % 3}.wav"
            _record(root / name)
            if number >= 8:
                lists["validation_list.txt" if number == 8 else "testing_list.txt"].append(name)
    for name, lines in lists.items():
        (root / name).write_text("\n".join(lines) + "\n")
    for name, seconds in {"tap": 61.0, "bike": 30.5, "click": 2.0}.items():
        _record(root / "_background_noise_" / f"{name}.wav", seconds)
    return root
