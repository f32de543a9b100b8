"""Whole trainings, in turn with other recipes and another version of spectrnn."""

import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from benchmarks.commands import Outcome, run, train

PLAIN = ["pooling=mean", "augment=[]"]  # as the recipes: no augmentation, the mean over time
VARIANTS = {
    "spectrnn, GRU": PLAIN,
    "spectrnn, LSTM": [*PLAIN, "model=bilstm"],
    "spectrnn's default: GRU, attention, augmentation": [],
}


def trainings(
    variants: Mapping[str, list[str]],
    baselines: list[list[str]],
    checkout: Path | None,
    others: Mapping[str, list[str]],
    epochs: int,
    rounds: int,
) -> dict[str, dict[str, float]]:
    """Measures the speed and the peak memory of trainings, which run in turn.

    Args:
        variants: Overrides of train.yaml for each training of this version.
        baselines: Script and arguments of other recipes, which print ``epoch N ... CLIPS clips/s`` per epoch.
        checkout: Folder of another version of spectrnn; None for no comparison.
        others: Overrides of the other version for each of the variants.
        epochs: Number of epochs per training; the first is not measured unless it is the only one.
        rounds: Number of repetitions.

    Returns:
        Medians over the rounds. Ratios are to the fastest baseline, and to the other version; the latter are paired by
        round, with their range.
    """
    jobs: dict[str, Callable[[], Outcome]] = {}
    speeds: dict[str, list[float]] = {}
    peaks: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as cache:
        for script, *arguments in baselines:
            jobs[Path(script).stem] = partial(run, [sys.executable, script, *arguments, str(epochs)])
        for name, overrides in variants.items():
            jobs[name] = partial(_train, overrides, epochs)
            if checkout:
                environment = {"PYTHONPATH": str(checkout.resolve()), "SPECTRNN_CACHE": cache}
                jobs[f"{name}, in {checkout}"] = partial(_train, others[name], epochs, **environment)
        for number in range(rounds):
            # The order alternates, so that a drift of the machine's speed affects both versions equally.
            for name in reversed(jobs) if number % 2 else jobs:
                outcome = jobs[name]()
                found = [float(speed) for speed in re.findall(r"epoch.* ([\d.]+) clips/s", outcome.text)]
                speeds.setdefault(name, []).append(statistics.median(found[1:] or found))
                peaks.setdefault(name, []).append(outcome.peak_mb)
    median = statistics.median
    table = {name: {"clips/s": median(speeds[name]), "peak MB": median(peaks[name])} for name in jobs}
    fastest = max((table[Path(script).stem]["clips/s"] for script, *_ in baselines), default=None)
    for name in variants:
        if fastest:
            table[name]["ratio to baseline"] = table[name]["clips/s"] / fastest
        if checkout:
            pairs = zip(speeds[name], speeds[f"{name}, in {checkout}"], strict=True)
            ratios = [speed / other for speed, other in pairs]
            table[name] |= {"paired ratio": median(ratios), "lowest": min(ratios), "highest": max(ratios)}
    return table


def _train(overrides: list[str], epochs: int, **environment: str) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        return train([*overrides, f"trainer.epochs={epochs}"], Path(folder) / "run", **environment)
