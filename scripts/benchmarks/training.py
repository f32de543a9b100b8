"""Whole trainings, in turn with other recipes and another version of spectrnn, on an idle and on a busy machine."""

import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.commands import CommandError, Outcome, busy_processes, run, train
from benchmarks.tables import NOTE, OTHERS, Spread, others_percent

Job = Callable[[], Outcome]

# The model of the recipes: no dropout, no augmentation, the mean over time.
PLAIN = ["features.n_mels=64", "normalize=global", "pooling=mean", "augment=[]", "model.dropout=0", "head.dropout=0"]
VARIANTS = {
    "spectrnn, GRU": ["model=bigru", *PLAIN],
    "spectrnn, LSTM": ["model=bilstm", *PLAIN],
    "spectrnn's default: CNN + GRU, attention, augmentation, dropout": [],
}


def spectrnn_job(overrides: list[str], epochs: int, **environment: str) -> Job:
    """A training by spectrnn, with overrides of train.yaml and additional environment variables."""

    def job() -> Outcome:
        with tempfile.TemporaryDirectory() as folder:
            length = [f"trainer.epochs={epochs}", "trainer.patience=null"]
            return train([*overrides, *length], Path(folder) / "run", **environment)

    return job


def recipe_job(script: Path, digits: str, epochs: int) -> Job:
    """A training by a recipe, which prints ``epoch N ... CLIPS clips/s`` per epoch."""
    return partial(run, [sys.executable, str(script), digits, str(epochs)])


def speed(outcome: Outcome) -> float:
    """Median speed in clips/s of the epochs; the first is not measured unless it is the only one.

    Raises:
        ValueError: Output without a line ``epoch N ... CLIPS clips/s``.
    """
    found = [float(value) for value in re.findall(r"epoch.* ([\d.]+) clips/s", outcome.text)]
    if not found:
        raise ValueError(f"no line 'epoch N ... CLIPS clips/s' in the output:\n{outcome.text}")
    return statistics.median(found[1:] or found)


def trainings(
    jobs: Mapping[str, Job], rivals: Mapping[str, Mapping[str, str]], rounds: int, loads: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """Measures the speed and the peak memory of trainings, which run in turn.

    Args:
        jobs: Trainings by name. Those that need a missing package are skipped.
        rivals: For each training that is compared: names of the others, by the name of the column.
        rounds: Number of repetitions.
        loads: Numbers of busy single-threaded processes beside the training.

    Returns:
        Medians over the rounds. Ratios of speeds are paired by round, with their range.
    """
    outcomes: dict[tuple[str, int], list[Outcome]] = {}
    skipped: dict[str, dict[str, Any]] = {}
    for number in range(rounds):
        for load in loads:
            # The order alternates, so that a drift of the machine's speed affects all equally.
            for name in reversed([*jobs]) if number % 2 else jobs:
                if name not in skipped:
                    try:
                        with busy_processes(load):
                            outcomes.setdefault((name, load), []).append(jobs[name]())
                    except CommandError as error:
                        skipped[name] = _skip(error)
    speeds = {key: list(map(speed, group)) for key, group in outcomes.items()}
    table: dict[str, dict[str, Any]] = {}
    for name in jobs:
        if name in skipped:
            table[name] = skipped[name]
            continue
        row = table[name] = {}
        for load in loads:
            beside = f", {load} busy" if load else ""
            own = speeds[name, load]
            row[f"clips/s{beside}"] = statistics.median(own)
            if load and 0 in loads:
                row[f"fraction of the idle speed{beside}"] = Spread.of(_ratios(own, speeds[name, 0]))
            for column, rival in rivals.get(name, {}).items():
                if rival not in skipped:
                    row[f"ratio to {column}{beside}"] = Spread.of(_ratios(own, speeds[rival, load]))
        row["peak MB"] = statistics.median(outcome.peak_mb for outcome in outcomes[name, loads[0]])
        row[OTHERS] = others_percent(outcome.others for load in loads for outcome in outcomes[name, load])
    return table


def parallel(jobs: Mapping[str, Job], rounds: int) -> dict[str, dict[str, Any]]:
    """Measures two trainings at once next to one alone.

    Args:
        jobs: Trainings by name. Those that need a missing package are skipped.
        rounds: Number of repetitions.

    Returns:
        Medians over the rounds: the speed of one alone, the sum of the speeds of two, and their ratio with its range.
    """
    table: dict[str, dict[str, Any]] = {}
    for name, job in jobs.items():
        alone, both, others = list[float](), list[float](), list[float | None]()
        try:
            for _ in range(rounds):
                outcome = job()
                with ThreadPoolExecutor() as pool:
                    pair = [future.result() for future in (pool.submit(job), pool.submit(job))]
                alone.append(speed(outcome))
                both.append(sum(map(speed, pair)))
                others += [result.others for result in (outcome, *pair)]
        except CommandError as error:
            table[name] = _skip(error)
            continue
        table[name] = {
            "clips/s, one alone": statistics.median(alone),
            "clips/s, sum of two": statistics.median(both),
            "sum of two / one alone": Spread.of(_ratios(both, alone)),
            OTHERS: others_percent(others),
        }
    return table


def _ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    return [value / other for value, other in zip(values, others, strict=True)]


def _skip(error: CommandError) -> dict[str, Any]:
    """Returns the row of a training that needs a missing package; other errors end the benchmark."""
    if error.import_error is None:
        raise error
    return {NOTE: f"skipped: {error.import_error}"}
