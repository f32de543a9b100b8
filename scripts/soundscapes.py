"""Makes soundscapes of spoken digits in noise: short mixtures of several digits, or long recordings with annotations.

    python scripts/soundscapes.py mixtures --digits FSDD --out mixtures
    spectrnn train task=multi_label data=manifest data.path=mixtures/clips.csv

The speaker of the test split is in no other one. Files are made anew, the same from the same seed.
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile

SAMPLE_RATE = 8000  # Hz
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_SECONDS = 1.5  # of a mixture
_OFFICIAL_TAKES = 5  # per digit and speaker, of the official test split
_GAIN_DB = 6.0  # of a digit, up or down
_SNR_DB = (10.0, 30.0)  # of a digit of average level

Waveform = npt.NDArray[np.float32]


class Digit(NamedTuple):
    """A recording of a digit: waveform (samples,) with an RMS level of 0.1, name, and speaker."""

    waveform: Waveform
    name: str
    speaker: str


class Annotation(NamedTuple):
    """A digit in a recording: start and end in s, and name."""

    start: float
    end: float
    label: str


def read_digits(folder: Path, is_official: bool) -> list[Digit]:
    """Reads the recordings of the Free Spoken Digit Dataset: the official test takes, or all others."""
    paths = sorted(folder.glob("recordings/*.wav")) or sorted(folder.glob("*.wav"))
    digits = []
    for path in paths:
        digit, speaker, take = path.stem.split("_")
        if (int(take) < _OFFICIAL_TAKES) == is_official:
            waveform = soundfile.read(path, dtype="float32")[0]
            waveform *= 0.1 / np.sqrt(np.square(waveform).mean())
            digits.append(Digit(waveform, NAMES[int(digit)], speaker))
    return digits


def _noise(samples: int, generator: np.random.Generator) -> Waveform:
    """Noise with a random slope of its spectrum, from white to red."""
    spectrum = np.fft.rfft(generator.normal(size=samples))
    spectrum *= np.arange(1, len(spectrum) + 1) ** -generator.uniform(0, 1)
    noise = np.fft.irfft(spectrum, samples)
    level = 0.1 * 10 ** (-generator.uniform(*_SNR_DB) / 20)
    return (noise * level / np.sqrt(np.square(noise).mean())).astype(np.float32)


def _add(recording: Waveform, digit: Digit, start: int, generator: np.random.Generator) -> Annotation:
    gain = 10 ** (generator.uniform(-_GAIN_DB, _GAIN_DB) / 20)
    end = min(start + len(digit.waveform), len(recording))
    recording[start:end] += gain * digit.waveform[: end - start]
    return Annotation(start / SAMPLE_RATE, end / SAMPLE_RATE, digit.name)


def mixtures(digits: list[Digit], count: int, generator: np.random.Generator) -> Iterator[tuple[Waveform, list[str]]]:
    """Yields clips of zero to three different digits that overlap at random, with their sorted names."""
    for _ in range(count):
        clip = _noise(round(_SECONDS * SAMPLE_RATE), generator)
        names: set[str] = set()
        for index in generator.choice(len(digits), generator.integers(4), replace=False):
            digit = digits[index]
            if digit.name not in names and len(digit.waveform) <= len(clip):
                _add(clip, digit, int(generator.integers(len(clip) - len(digit.waveform) + 1)), generator)
                names.add(digit.name)
        yield clip, sorted(names)


def soundscape(
    digits: list[Digit], seconds: float, generator: np.random.Generator, gap: tuple[float, float] = (0.3, 3.0)
) -> tuple[Waveform, list[Annotation]]:
    """Returns a recording of digits one after the other in noise, with pauses in s, and its annotations."""
    recording, annotations = _noise(round(seconds * SAMPLE_RATE), generator), []
    position = round(generator.uniform(*gap) * SAMPLE_RATE)
    while True:
        digit = digits[generator.integers(len(digits))]
        if position + len(digit.waveform) > len(recording):
            return recording, annotations
        annotations.append(_add(recording, digit, position, generator))
        position += len(digit.waveform) + round(generator.uniform(*gap) * SAMPLE_RATE)


def _write(path: Path, waveform: Waveform) -> None:
    soundfile.write(path, np.clip(waveform, -1, 1), SAMPLE_RATE)


def write_mixtures(folder: Path, digits: Path, count: int, speaker: str, seed: int) -> Path:
    """Writes mixtures and their table ``clips.csv``: 70 % for training, 10 % for validation, 20 % of one speaker.

    Training and validation are of the other takes than those of the official test split, of different mixtures.
    """
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    known = [digit for digit in read_digits(digits, is_official=False) if digit.speaker != speaker]
    unseen = [digit for digit in read_digits(digits, is_official=True) if digit.speaker == speaker]
    parts = {"train": (known, count * 7 // 10), "val": (known, count // 10), "test": (unseen, count // 5)}
    with (folder / "clips.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "split"])
        for split, (own, clips) in parts.items():
            for number, (waveform, names) in enumerate(mixtures(own, clips, generator)):
                _write(folder / f"{split}{number}.wav", waveform)
                table.writerow([f"{split}{number}.wav", ";".join(names), split])
    return folder / "clips.csv"


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kind", choices=["mixtures"])
    parser.add_argument("--digits", type=Path, required=True, help="folder of the Free Spoken Digit Dataset")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, which must not exist")
    parser.add_argument("--count", type=int, default=2000, help="number of mixtures")
    parser.add_argument("--speaker", default="theo", help="speaker of the test split")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write_mixtures(arguments.out, arguments.digits, arguments.count, arguments.speaker, arguments.seed)


if __name__ == "__main__":
    main()
