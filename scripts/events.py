"""Measures event detection with labels of windows, and with labels of frames, in recordings of spoken digits.

    python scripts/events.py --digits FSDD --out events

Eight recordings of ten minutes have digits at known times in noise (`scripts/soundscapes.py recordings`). Six are for
training and validation; the takes of the other two are in none of these. Smoothing and thresholds are chosen on the
validation recording, by the F1 score of events with a tolerance of 200 ms. Finished steps are not repeated.
"""

import argparse
import csv
import itertools
import json
import statistics
from pathlib import Path

from soundscapes import write_recordings

from benchmarks.commands import SPECTRNN, run, train

_TEST = 2  # recordings, of the official test takes
_COMMON = ["task=multi_label", "data=annotations", "data.sample_rate=8000", "data.test_fraction=0"]
_COMMON += ["trainer.report=false", "logger=[]"]
# Settings of the training, and those of the detection to choose from.
VARIANTS = {
    "windows": (
        ["data.window=0.8"],
        {
            "hop": ["0.05"],
            "smoothing_windows": ["1", "3", "5"],
            "threshold": ["0.3", "0.5", "0.7"],
            "offset_ratio": ["0.5", "0.8"],
            "trim_seconds": ["0.19"],
        },
    ),
    "frames": (
        ["head=frames", "data.hop=1"],
        {
            "smoothing_windows": ["7", "15", "25"],
            "threshold": ["0.2", "0.3", "0.4", "0.5"],
            "offset_ratio": ["0.5"],
            "min_event_seconds": ["0", "0.15"],
        },
    ),
}


def make(out: Path, digits: Path) -> None:
    """Writes the recordings: those for training with label files, and a table of the events of all."""
    write_recordings(out / "recordings", digits, count=8, minutes=10, seed=0)
    (out / "train").mkdir()
    for path in sorted((out / "recordings" / "audio").iterdir())[:-_TEST]:
        for own in (out / "recordings" / "raven").glob(f"{path.stem}.*"):
            (out / "train" / own.name).symlink_to(own)


def score(folder: Path, split: str, recordings: list[Path], out: Path, settings: list[str]) -> float:
    """Returns the F1 score of the events that a run detects in some of the recordings."""
    results = folder / split / ("-".join(settings) or "defaults").replace("=", "") / "events.json"
    if not results.exists():
        with (out / "recordings" / "csv" / "events.csv").open(newline="") as file:
            header, *rows = csv.reader(file)
        names = {path.name for path in recordings}
        table = folder / f"{split}.csv"
        with table.open("w", newline="") as file:
            csv.writer(file).writerows([header, *(row for row in rows if row[0] in names)])
        places = [table, f"recordings=[{','.join(map(str, recordings))}]", f"run={folder}", f"out={results.parent}"]
        run([*SPECTRNN, "eval-events", *map(str, places), *settings])
    return json.loads(results.read_text())["micro"]["f1"]


def validation_recordings(folder: Path) -> set[str]:
    """Names of the recordings of a run's validation split."""
    with (folder / "predictions.csv").open(newline="") as file:
        return {Path(row["path"]).name for row in csv.DictReader(file) if row["split"] == "val"}


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--digits", type=Path, required=True, help="folder of the Free Spoken Digit Dataset")
    parser.add_argument("--out", type=Path, required=True, help="folder of the recordings and runs")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--variants", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("overrides", nargs="*", help="more settings of spectrnn train, after --")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    if not out.exists():
        make(out, arguments.digits)
    audio = sorted((out / "recordings" / "audio").iterdir())
    print("| labels of | F1 of events, mean | standard deviation | with defaults | chosen settings |")
    print("|---|---|---|---|---|")
    for name in arguments.variants:
        overrides, choices = VARIANTS[name]
        values, defaults, chosen = [], [], []
        for seed in range(arguments.seeds):
            folder = out / f"{name}-{seed}"
            if not (folder / "metrics.json").exists():
                settings = [*_COMMON, *overrides, f"data.root={out / 'train'}", f"seed={seed}"]
                train([*settings, *arguments.overrides], folder)
            names = validation_recordings(folder)
            validation = [path for path in audio if path.name in names]
            grid = [
                [f"{key}={x}" for key, x in zip(choices, c, strict=True)] for c in itertools.product(*choices.values())
            ]
            best = max(grid, key=lambda settings: score(folder, "val", validation, out, settings))
            values.append(score(folder, "test", audio[-_TEST:], out, best))
            defaults.append(score(folder, "test", audio[-_TEST:], out, []))
            chosen.append(" ".join(best))
        spread = f"{statistics.stdev(values):.3f}" if len(values) > 1 else "-"
        mean, default = statistics.fmean(values), statistics.fmean(defaults)
        print(f"| {name} | {mean:.3f} | {spread} | {default:.3f} | {'; '.join(chosen)} |", flush=True)


if __name__ == "__main__":
    main()
