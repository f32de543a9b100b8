"""Makes soundscapes of spoken digits in noise: short mixtures of several digits, or long recordings with annotations.

    python scripts/soundscapes.py mixtures --digits FSDD --out mixtures
    spectrnn train task=multi_label data=manifest data.path=mixtures/clips.csv

    python scripts/soundscapes.py recordings --digits FSDD --out recordings
    spectrnn train task=multi_label data=annotations data.root=recordings/raven

The speaker of the test mixtures is in no other ones; the takes of the last two recordings are the official test takes.
"""

import argparse
import csv
import os
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


def noise(samples: int, generator: np.random.Generator) -> Waveform:
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
        clip = noise(round(_SECONDS * SAMPLE_RATE), generator)
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
    recording, annotations = noise(round(seconds * SAMPLE_RATE), generator), []
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


def write_recordings(folder: Path, digits: Path, count: int, minutes: float, seed: int) -> None:
    """Writes recordings, the last two of the official test takes, with annotations in three formats.

    The folders ``raven`` and ``audacity`` have a label file per recording, ``csv`` has one table, ``events.csv``; the
    recordings are links to the same files.
    """
    generator = np.random.default_rng(seed)
    takes = [read_digits(digits, is_official) for is_official in (False, True)]
    folders = {name: folder / name for name in ("audio", "raven", "audacity", "csv")}
    for own in folders.values():
        own.mkdir(parents=True)
    events = ["path,start,end,label"]
    for number in range(count):
        waveform, annotations = soundscape(takes[number >= count - 2], 60 * minutes, generator)
        name = f"recording{number:02d}"
        _write(folders["audio"] / f"{name}.wav", waveform)
        for own in ("raven", "audacity", "csv"):
            os.symlink(f"../audio/{name}.wav", folders[own] / f"{name}.wav")
        times = [(f"{start:.4f}", f"{end:.4f}", label) for start, end, label in annotations]
        events += [f"{name}.wav,{','.join(row)}" for row in times]
        track = "".join("\t".join(row) + "\n" for row in times)
        (folders["audacity"] / f"{name}.txt").write_text(track)
        table = ["Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\tSpecies"]
        for row, (start, end, label) in enumerate(times, 1):
            views = ("Waveform 1", "Spectrogram 1")
            table += [f"{row}\t{view}\t1\t{start}\t{end}\t0.0\t4000.0\t{label}" for view in views]
        (folders["raven"] / f"{name}.Table.1.selections.txt").write_text("\n".join(table) + "\n")
    (folders["csv"] / "events.csv").write_text("\n".join(events) + "\n")


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kind", choices=["mixtures", "recordings"])
    parser.add_argument("--digits", type=Path, required=True, help="folder of the Free Spoken Digit Dataset")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, which must not exist")
    parser.add_argument("--count", type=int, help="number of mixtures (2000) or recordings (8)")
    parser.add_argument("--speaker", default="theo", help="speaker of the test mixtures")
    parser.add_argument("--minutes", type=float, default=10, help="length of a recording")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    out, digits, seed = arguments.out, arguments.digits, arguments.seed
    if arguments.kind == "mixtures":
        write_mixtures(out, digits, arguments.count or 2000, arguments.speaker, seed)
    else:
        write_recordings(out, digits, arguments.count or 8, arguments.minutes, seed)


if __name__ == "__main__":
    main()
