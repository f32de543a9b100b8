"""Compares the ways in which negatives can train a keyword detector: recall at a rate of false alarms per hour.

    python scripts/negatives.py --digits FSDD --sounds ESC10.csv --out negatives

The keywords are two digits. Half an hour of negatives for training, and an hour of others for the measurement, have
spoken digits that are no keywords, environmental sounds and noise; takes, sounds and noise of the two have nothing in
common. A tenth of the training negatives serves validation in each variant. Finished trainings are not repeated.
"""

import argparse
import csv
import json
import statistics
from pathlib import Path

import numpy as np
import soundfile
import torch
from soundscapes import SAMPLE_RATE, Digit, Waveform, noise, read_digits
from torchaudio.functional import resample

from benchmarks.commands import SPECTRNN, run, train

KEYWORDS = ("seven", "two")
_TRAINING_FOLDS = {"1", "2", "3"}  # of the sounds
_MINUTES = {"train": 30, "test": 60}
_RECORDING_MINUTES = 5
_CLIP_SECONDS = 1.0  # of the extra class
_SHARE = 0.75  # of the clips of an epoch that are negatives
COMMON = [
    "data=manifest",
    "data.sample_rate=8000",
    "trainer.epochs=60",
    "trainer.batch_size=32",
    "trainer.report=false",
    "logger=[]",
    "model=gru",
    "augment=[pad,speech]",
]
_WINDOWS = ["data.path=keywords.csv", "data.negatives=[train]", f"data.negative_share={_SHARE}"]
_AVERAGE = ["trainer.select=last", "trainer.average_last=5"]  # as experiment=wake_word with so few held-out negatives
VARIANTS = {
    "an extra class (`single_label`)": ["task=single_label", "data.path=extra_class.csv"],
    "the same clips, without a label (`multi_label`)": ["task=multi_label", "data.path=no_label.csv"],
    "windows of negatives": ["task=multi_label", *_WINDOWS, "data.hard_share=0"],
    "windows, hard ones more often": ["task=multi_label", *_WINDOWS, "data.hard_share=0.5"],
    "windows, hard ones, mean of 5 epochs": ["task=multi_label", *_WINDOWS, "data.hard_share=0.5", *_AVERAGE],
}


def read_sounds(table: Path) -> dict[bool, list[Waveform]]:
    """Reads the environmental sounds, with an RMS level of 0.1: those for training (True), and the others."""
    sounds: dict[bool, list[Waveform]] = {True: [], False: []}
    for row in csv.DictReader(table.open()):
        samples, rate = soundfile.read(table.parent / row["path"], dtype="float32", always_2d=True)
        sound = resample(torch.from_numpy(samples.mean(1)), rate, SAMPLE_RATE).numpy()
        if level := np.sqrt(np.square(sound).mean()):
            sounds[row["fold"] in _TRAINING_FOLDS].append(sound * (0.1 / level))
    return sounds


def negative(words: list[Digit], sounds: list[Waveform], minutes: float, generator: np.random.Generator) -> Waveform:
    """Returns a recording of words, now and then a sound, and pauses, in noise."""
    recording = noise(round(60 * minutes * SAMPLE_RATE), generator)
    position = 0
    while position < len(recording):
        is_word = generator.random() < 0.8
        sound = words[generator.integers(len(words))].waveform if is_word else sounds[generator.integers(len(sounds))]
        part = recording[position : position + len(sound)]
        part += 10 ** (generator.uniform(-6, 6) / 20) * sound[: len(part)]
        position += len(sound) + round(generator.uniform(0.1, 1.0) * SAMPLE_RATE)
    return np.clip(recording, -1, 1)


def make(out: Path, digits: Path, sounds: Path) -> None:
    """Writes the negatives, and the tables of the keywords, with and without an extra class for the negatives."""
    generator, found = np.random.default_rng(0), read_sounds(sounds)
    rows: list[list[object]] = []
    extra: list[list[object]] = []
    for split, is_official in (("train", False), ("test", True)):
        words = [digit for digit in read_digits(digits, is_official) if digit.name not in KEYWORDS]
        (out / split).mkdir()
        for number in range(_MINUTES[split] // _RECORDING_MINUTES):
            path = out / split / f"{number:02d}.wav"
            recording = negative(words, found[split == "train"], _RECORDING_MINUTES, generator)
            soundfile.write(path, recording, SAMPLE_RATE)
            if split == "train":
                starts = np.arange(0, 60 * _RECORDING_MINUTES, _CLIP_SECONDS)
                for start in starts:
                    own = "val" if start % 10 == 0 else "train"
                    extra.append([path, "background", own, start, start + _CLIP_SECONDS])
        (out / "keywords").mkdir(exist_ok=True)
        keywords = [digit for digit in read_digits(digits, is_official) if digit.name in KEYWORDS]
        for number, digit in enumerate(keywords):
            path = out / "keywords" / f"{split}{number}.wav"
            soundfile.write(path, digit.waveform, SAMPLE_RATE)
            own = "test" if is_official else ("val" if number % 10 == 0 else "train")
            rows.append([path, digit.name, own, "", ""])
    unlabelled = [[path, "", *rest] for path, _, *rest in extra]
    for name, table in (("keywords", rows), ("extra_class", rows + extra), ("no_label", rows + unlabelled)):
        with (out / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["path", "label", "split", "start", "end"], *table])


def measure(out: Path, name: str, variant: list[str], overrides: list[str], seed: int, rate: float) -> float:
    """Trains a variant, and returns the mean recall of the keywords at a rate of false alarms per hour."""
    folder = out / "runs" / f"{list(VARIANTS).index(name)}-{seed}"
    results = folder / "thresholds" / "thresholds.json"
    is_set = "task=multi_label" in variant
    if not results.exists():
        places = {"data.path=": f"data.path={out}/", "=[train]": f"=[{out / 'train'}]"}
        for before, after in places.items():
            variant = [value.replace(before, after) for value in variant]
        train([*COMMON, *variant, *overrides, f"seed={seed}"], folder)
        settings = [f"run={folder}", "data=manifest", f"data.path={out / 'keywords.csv'}", "split=test", "window=0.6"]
        settings += [f"negatives=[{out / 'test'}]", f"max_false_alarms_per_hour={rate}", "hop=0.1"]
        run([*SPECTRNN, "tune-thresholds", *settings, *([] if is_set else ["background=[background]"])])
    per_class = json.loads(results.read_text())["per_class"]
    return statistics.fmean(per_class[word]["recall"] for word in KEYWORDS)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--digits", type=Path, required=True, help="folder of the Free Spoken Digit Dataset")
    parser.add_argument("--sounds", type=Path, required=True, help="manifest of ESC-10 with folds")
    parser.add_argument("--out", type=Path, required=True, help="folder of the recordings and runs")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--variants", type=int, nargs="*", help="numbers of the variants, from 0; all by default")
    parser.add_argument("--rate", type=float, default=1.0, help="maximum number of false alarms per hour and keyword")
    parser.add_argument("overrides", nargs="*", help="more settings of spectrnn train, after --")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    if not (out / "extra_class.csv").exists():
        out.mkdir(parents=True)
        make(out, arguments.digits, arguments.sounds)
    print(f"| negatives as | recall at {arguments.rate:g} false alarms per hour | standard deviation |\n|---|---|---|")
    numbers = range(len(VARIANTS)) if arguments.variants is None else arguments.variants
    for name, variant in [list(VARIANTS.items())[number] for number in numbers]:
        values = [
            measure(out, name, variant, arguments.overrides, seed, arguments.rate) for seed in range(arguments.seeds)
        ]
        spread = f"{statistics.stdev(values):.3f}" if len(values) > 1 else "-"
        print(f"| {name} | {statistics.fmean(values):.3f} | {spread} |", flush=True)


if __name__ == "__main__":
    main()
