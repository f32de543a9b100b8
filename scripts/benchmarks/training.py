"""Whole trainings, run in turn with other recipes: clips a second, and the peak memory of the main process."""

import re
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.commands import SPECTRNN, run

PLAIN = ["pooling=mean", "augment=[]"]  # what the recipes do: no augmentation, the mean over time
VARIANTS = {
    "spectrnn, GRU": PLAIN,
    "spectrnn, LSTM": [*PLAIN, "model=bilstm"],
    "spectrnn's default: GRU, attention, augmentation": [],
}  # of a training, where nothing else is asked for


def trainings(
    variants: dict[str, list[str]], digits: str | None, recipes: list[Path], epochs: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Medians over rounds, and over their epochs but the first; ratios are to the recipes' fastest.

    Args:
        variants: of our trainings, a name and the overrides of train.yaml.
        digits: folder of the Free Spoken Digit Dataset, which the recipes read.
        recipes: scripts that take that folder and a number of epochs, and print ``epoch N ... CLIPS clips/s``.
        epochs: of each training.
        rounds: of all of them in turn.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for recipe in recipes if digits else []:
            outcome = run([sys.executable, str(recipe), str(digits), str(epochs)])
            speeds = [float(speed) for speed in re.findall(r"^epoch.* ([\d.]+) clips/s", outcome.text, re.MULTILINE)]
            found.setdefault(recipe.stem, []).append((statistics.median(speeds[1:]), outcome.peak_mb))
        for name, overrides in variants.items():
            with tempfile.TemporaryDirectory() as folder:
                settings = [*overrides, f"trainer.epochs={epochs}", f"hydra.run.dir={folder}/run"]
                outcome = run([*SPECTRNN, "train", *settings])
            # A bar that was on the screen stands before the epoch's line.
            speeds = [float(speed) for speed in re.findall(r" ([\d.]+) clips/s(?:  \*)?$", outcome.text, re.MULTILINE)]
            found.setdefault(name, []).append((statistics.median(speeds[1:]), outcome.peak_mb))
    medians = {
        name: {
            "clips/s": statistics.median(speed for speed, _ in values),
            "peak MB": statistics.median(peak for _, peak in values),
        }
        for name, values in found.items()
    }
    base = max((medians[recipe.stem]["clips/s"] for recipe in recipes if recipe.stem in medians), default=None)
    if base:
        for figures in medians.values():
            figures["ratio"] = figures["clips/s"] / base
    return medians
