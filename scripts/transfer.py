"""Compares training from scratch with a warm start, on few recordings of the Free Spoken Digit Dataset.

    python scripts/transfer.py speakers --digits FSDD --out transfer
    python scripts/transfer.py word --digits FSDD --out transfer

The first leaves a speaker out, has five clips per class of each of the others, and starts from a model of synthetic
speech, or has the features of a pretrained network (`--network`, the file of features=speech_embedding). The second
adds a word with 20 clips to a model of the others. Finished trainings are not repeated.
"""

import argparse
import csv
import json
import statistics
from pathlib import Path

from soundscapes import NAMES

from benchmarks.commands import SPECTRNN, run, train

_CLIPS = 5  # per class and speaker
_TRAINING_TAKES = range(5, 5 + _CLIPS)  # the first five are the official test split
_ADDED, _ADDED_CLIPS = "seven", 20
_COMMON = ["data=manifest", "data.sample_rate=8000", "trainer.report=false", "logger=[]"]
_EMBEDDING = ["data.sample_rate=16000", "features=speech_embedding", "features.path={network}", "normalize=global"]
VARIANTS = {
    "from scratch": [],
    "`init=SYNTHETIC`": ["init={initial}"],
    "`init=SYNTHETIC init_lr_factor=0.3`": ["init={initial}", "init_lr_factor=0.3"],
    "`features=speech_embedding model=gru`": [*_EMBEDDING, "model=gru", "augment=[]"],
}


def read_digits(folder: Path) -> list[tuple[Path, str, str, int]]:
    """Lists the recordings: path, name of the digit, speaker, and take."""
    paths = sorted(folder.glob("recordings/*.wav")) or sorted(folder.glob("*.wav"))
    parts = [path.stem.split("_") for path in paths]
    return [
        (path.resolve(), NAMES[int(digit)], speaker, int(take))
        for path, (digit, speaker, take) in zip(paths, parts, strict=True)
    ]


def write_table(path: Path, rows: list[tuple[Path, str, str]]) -> None:
    """Writes a manifest of paths, labels and splits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])


def trained(overrides: list[str], folder: Path) -> dict[str, float]:
    """Trains, unless that has been done, and returns the metrics of the test split and the seconds of the training."""
    if not (folder / "metrics.json").exists():
        train(overrides, folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    return {**metrics["test"], "seconds": metrics["train"]["seconds"]}


def evaluated(folder: Path, table: Path) -> float:
    """Returns the accuracy of a run on the test clips of a table."""
    settings = [f"run={folder}", *_COMMON[:2], f"data.path={table}", "format=json", "report=false"]
    lines = run([*SPECTRNN, "eval", *settings]).text.splitlines()
    return next(json.loads(line)["test"]["accuracy"] for line in lines if line.startswith("{"))


def speakers(out: Path, digits: Path, network: Path | None, seeds: int, variants: dict[str, list[str]]) -> None:
    """Prints the accuracy on all clips of the speaker left out: means over speakers and seeds, and their spread."""
    recordings = read_digits(digits)
    initial = out / "synthetic"
    trained(["data=synthetic_speech", "data.sample_rate=8000", *_COMMON[2:]], initial)
    names = sorted({speaker for _, _, speaker, _ in recordings})
    for name in names:
        rows = [
            (path, label, "test" if speaker == name else "train")
            for path, label, speaker, take in recordings
            if speaker == name or take in _TRAINING_TAKES
        ]
        write_table(out / f"{name}.csv", rows)
    print("| training | mean of the speakers | standard deviation over seeds | by speaker |\n|---|---|---|---|")
    for title, overrides in variants.items():
        given = [override.format(initial=initial, network=network) for override in overrides]
        number = list(VARIANTS).index(title)
        accuracies = {
            name: [
                trained(
                    [*_COMMON, *given, f"data.path={out / name}.csv", f"seed={seed}"],
                    out / f"{number}-{name}-{seed}",
                )["accuracy"]
                for seed in range(seeds)
            ]
            for name in names
        }
        means = [statistics.fmean(values) for values in zip(*accuracies.values(), strict=True)]
        spread = f"{100 * statistics.stdev(means):.1f}" if seeds > 1 else "-"
        each = ", ".join(f"{name} {100 * statistics.fmean(values):.0f}" for name, values in accuracies.items())
        print(f"| {title} | {100 * statistics.fmean(means):.1f} % | {spread} | {each} |", flush=True)


def word(out: Path, digits: Path, seeds: int) -> None:
    """Prints the accuracy on the official test clips of the old words, before and after a word was added to a model."""
    recordings = [(*recording[:2], recording[3]) for recording in read_digits(digits)]
    old = [(path, label, "test" if take < _CLIPS else "train") for path, label, take in recordings if label != _ADDED]
    clips = [(path, label, take) for path, label, take in recordings if label == _ADDED]
    test = [(path, label, "test") for path, label, take in clips if take < _CLIPS]
    added = [(path, label, "train") for path, label, take in clips if take >= _CLIPS]
    step = len(added) // _ADDED_CLIPS
    write_table(out / "old.csv", old)
    write_table(out / "added.csv", [*added[::step][:_ADDED_CLIPS], *test])
    print("| seed | old words before | old words after | added word | seconds of the training |\n|---|---|---|---|---|")
    for seed in range(seeds):
        initial, folder = out / f"old-{seed}", out / f"added-{seed}"
        before = trained([*_COMMON, f"data.path={out}/old.csv", f"seed={seed}"], initial)["accuracy"]
        settings = [f"data.path={out}/added.csv", "data.rehearsal_clips=20", f"seed={seed}", f"init={initial}"]
        seconds = trained([*_COMMON, *settings], folder)["seconds"]
        after, new = (evaluated(folder, out / table) for table in ("old.csv", "added.csv"))
        print(
            f"| {seed} | {100 * before:.1f} % | {100 * after:.1f} % | {100 * new:.1f} % | {seconds:.0f} |", flush=True
        )


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("study", choices=("speakers", "word"))
    parser.add_argument("--digits", type=Path, required=True, help="folder of the Free Spoken Digit Dataset")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables and runs")
    parser.add_argument("--network", type=Path, help="file of the pretrained network; README, section on embeddings")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--variants", type=int, nargs="*", help="numbers of the variants, from 0; all by default")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    if arguments.study == "word":
        word(out, arguments.digits, arguments.seeds)
        return
    network = arguments.network and arguments.network.resolve()
    chosen = range(len(VARIANTS) - (network is None)) if arguments.variants is None else arguments.variants
    variants = dict(list(VARIANTS.items())[number] for number in chosen)
    speakers(out, arguments.digits, network, arguments.seeds, variants)


if __name__ == "__main__":
    main()
