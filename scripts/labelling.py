"""Simulates rounds of labelling: clips that `spectrnn review` would choose, against clips drawn at random.

    python scripts/labelling.py --table esc10.csv --out labelling

Each fold of the table is the test set in turn. The first clips are drawn at random, the same for both; each round then
trains a classifier, chooses clips among those without a label, and adds their true labels. The table shows the accuracy
on the test set by the number of labelled clips: mean and standard deviation over folds and seeds, and of
their differences.
"""

import argparse
import csv
import itertools
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import spectrnn
from spectrnn.embeddings.selection import choose

_MODEL = ("model=bigru", "model.hidden_size=32", "model.num_layers=1", "augment=[noise,gain,shift]", "logger=[]")
_TRAINER = ("trainer.report=false", "trainer.batch_size=16", "data.val_fraction=0", "optimizer.lr=0.005")


class Clip(NamedTuple):
    """A row of the table: absolute path, label, and fold."""

    path: str
    label: str
    fold: str


def read_table(path: Path) -> list[Clip]:
    """Reads the columns path, label and fold."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [Clip(str((path.parent / row["path"]).resolve()), row["label"], row["fold"]) for row in rows]


def train(
    folder: Path, labelled: Sequence[Clip], test: Sequence[Clip], seed: int, args: argparse.Namespace
) -> spectrnn.Run:
    """Trains on labelled clips and evaluates on the test clips; a finished run is kept."""
    if (folder / "run" / "metrics.json").exists():
        return spectrnn.Run(folder / "run")
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was interrupted
    folder.mkdir(parents=True)
    with (folder / "clips.csv").open("w", newline="", encoding="utf-8") as file:
        splits = [("train", labelled), ("test", test)]
        rows = [(clip.path, clip.label, split) for split, clips in splits for clip in clips]
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    data = ("data=manifest", f"data.path={folder}/clips.csv", f"data.sample_rate={args.rate}")
    settings = (*data, *_MODEL, *_TRAINER, f"trainer.epochs={args.epochs}", f"seed={seed}", *args.overrides)
    return spectrnn.train(settings, folder=folder / "run")


def choose_by_model(run: spectrnn.Run, unlabelled: Sequence[Clip], count: int) -> list[int]:
    """Chooses clips as `spectrnn review` does."""
    vectors = run.model.embed([clip.path for clip in unlabelled])
    predictor = run.model._predictor
    probabilities = torch.from_numpy(predictor.probabilities_of(vectors))
    return choose(vectors, predictor.classifier.task.uncertainty(probabilities).numpy(), count)


def simulate(fold: str, seed: int, by_model: bool, clips: Sequence[Clip], args: argparse.Namespace) -> list[float]:
    """Returns the accuracy on a fold after each round."""
    generator = np.random.default_rng(int(fold) + 1000 * seed)
    pool, test = ([c for c in clips if (c.fold == fold) == is_test] for is_test in (False, True))
    pool = [pool[index] for index in generator.permutation(len(pool))]
    # The first ones have every label, as a classifier needs; both ways start with them.
    first = [next(index for index, clip in enumerate(pool) if clip.label == name) for name in sorted({*labels(pool)})]
    first += [index for index in range(len(pool)) if index not in first][: args.per_round - len(first)]
    labelled = [pool[index] for index in first]
    accuracies = []
    for number in range(1, args.rounds + 1):
        way = "review" if by_model and number > 1 else "random" if number > 1 else "first"
        run = train(args.out / f"fold{fold}-{seed}-{way}-{number}", labelled, test, seed, args)
        accuracies.append(run.metrics["test"]["accuracy"])
        unlabelled = [clip for clip in pool if clip not in labelled]
        count = min(args.per_round, len(unlabelled))
        chosen = choose_by_model(run, unlabelled, count) if by_model else range(count)
        labelled += [unlabelled[index] for index in chosen]
    return accuracies


def labels(clips: Sequence[Clip]) -> list[str]:
    """The label of each clip."""
    return [clip.label for clip in clips]


def main() -> None:
    """Runs all folds, and prints and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True, help="table with the columns path, label and fold")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs and results.json")
    parser.add_argument("--rounds", type=int, default=5, help="trainings per way")
    parser.add_argument("--folds", type=int, help="number of folds that are test sets in turn; default: all")
    parser.add_argument("--seeds", type=int, default=1, help="first clips and weights per fold")
    parser.add_argument("--per-round", type=int, default=20, help="clips that are labelled per round")
    parser.add_argument("--epochs", type=int, default=40, help="epochs per training")
    parser.add_argument("--rate", type=int, default=16000, help="sample rate in Hz")
    parser.add_argument("overrides", nargs="*", help="settings of spectrnn train")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    clips = read_table(args.table)
    results: dict[str, list[list[float]]] = {"random": [], "review": []}
    for seed, fold in itertools.product(range(args.seeds), sorted({clip.fold for clip in clips})[: args.folds]):
        for way, accuracies in results.items():
            accuracies.append(simulate(fold, seed, way == "review", clips, args))
            values = " ".join(f"{value:.3f}" for value in accuracies[-1])
            print(f"fold {fold}, seed {seed}, {way}: {values}", flush=True)
        (args.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(f"{'clips':>6}  {'random':>15}  {'review':>15}  {'difference':>15}")
    random, review = (np.array(results[way]) for way in ("random", "review"))
    for number in range(args.rounds):
        columns = (values[:, number] for values in (random, review, review - random))
        cells = "  ".join(f"{100 * column.mean():7.1f} ± {100 * column.std(ddof=1):5.1f}" for column in columns)
        print(f"{(number + 1) * args.per_round:>6}  {cells}")


if __name__ == "__main__":
    main()
