"""Compares task=single_label with task=multi_label on exclusive classes: the digits of the Free Spoken Digit Dataset.

    python scripts/tasks.py --digits FSDD --out tasks
    python scripts/tasks.py --digits FSDD --out tasks --seeds 1 trainer.epochs=10

The class of a clip is the most probable one for both tasks. Further arguments are overrides of train.yaml. Finished
trainings are not repeated.
"""

import argparse
import json
import statistics
from pathlib import Path

import numpy as np

from benchmarks.commands import train
from spectrnn.evaluation.predictions import PREDICTIONS, read_predictions

TASKS = ("single_label", "multi_label")


def measured(folder: Path, overrides: list[str]) -> dict[str, float]:
    """Trains, unless that has been done, and returns the accuracy and the mean average precision of the test split."""
    if not (folder / "metrics.json").exists():
        train(overrides, folder)
    predictions = read_predictions(folder / PREDICTIONS)
    predictions = predictions.rows([row for row, clip in enumerate(predictions.clips) if clip.split == "test"])
    found = np.array(predictions.labels)[predictions.probabilities.argmax(1)]
    accuracy = float(np.mean(found == [clip.label for clip in predictions.clips]))
    return {"accuracy": accuracy, "mAP": json.loads((folder / "metrics.json").read_text())["test"]["map"]}


def main() -> None:
    """Trains and prints a table of the means over the seeds, and the values of each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("overrides", nargs="*", help="overrides of train.yaml, such as trainer.epochs=10")
    parser.add_argument("--digits", type=Path, required=True, help="folder of the Free Spoken Digit Dataset")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    arguments = parser.parse_args()
    own = ["data=fsdd", f"data.root={arguments.digits.resolve()}", "trainer.report=false", "logger=[]"]
    print("| task | accuracy | of each seed | mAP | of each seed |\n|---|---|---|---|---|")
    for task in TASKS:
        results = [
            measured(arguments.out / f"{task}-{seed}", [*own, f"task={task}", f"seed={seed}", *arguments.overrides])
            for seed in range(arguments.seeds)
        ]
        cells = []
        for name in ("accuracy", "mAP"):
            values = [100 * result[name] for result in results]
            cells += [f"{statistics.fmean(values):.1f} %", ", ".join(f"{value:.1f}" for value in values)]
        print(f"| {task} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
