"""Time to accuracy: from the start of a command to an accuracy on the official test split of spoken digits."""

import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import ENVIRONMENT
from benchmarks.commands import CommandError, train
from benchmarks.contention import Contention
from benchmarks.tables import NOTE, OTHERS, Spread, others_percent
from spectrnn.runs import read_run

LENGTHS = (3, 5, 8, 12)  # epochs of shorter trainings than the default
_EPOCH = re.compile(r"^epoch +\d+ ")
_ACCURACY = re.compile(r" test ([\d.]+)")


class Evaluated(NamedTuple):
    """A training that is evaluated on the test split.

    Attributes:
        seconds: Time from the start of the command in s, until it ends, or until the last evaluation.
        accuracies: Accuracy of each evaluation; empty if the command does not evaluate.
        others: Fraction of the cores' time that other processes used.
    """

    seconds: float
    accuracies: list[float]
    others: float | None


Job = Callable[[int], Evaluated]  # of the seed


def accuracy(
    digits: str, overrides: Sequence[str], recipes: Sequence[Path], target: float, epochs: int, rounds: int
) -> dict[str, dict[str, Any]]:
    """Measures the time that trainings take to reach an accuracy on the official test split.

    spectrnn is measured until its complete command ends, which validates on a tenth of the training clips, and tests
    the best epoch once. As its learning rate falls to zero by the last epoch, that is the shortest
    training that reaches the accuracy; the default length is measured, too. A recipe is measured until an epoch whose
    test accuracy reaches the target. The cache is empty, so the time includes decoding the dataset and compiling the
    kernels.

    Args:
        digits: Folder of the Free Spoken Digit Dataset.
        overrides: Overrides of train.yaml.
        recipes: Scripts of other trainings, which print ``epoch N ... test ACCURACY`` per epoch.
        target: Accuracy, 0 to 1.
        epochs: Maximum number of epochs of the recipes.
        rounds: Number of repetitions; those of spectrnn differ in the seed.

    Returns:
        The table of `times_to_accuracy`.
    """
    command = ["data=fsdd", f"data.root={digits}", *overrides]
    lengths = {f"spectrnn, {n} epochs": partial(train_completely, [*command, f"trainer.epochs={n}"]) for n in LENGTHS}
    own: dict[str, Job] = {**shortest(lengths, target, rounds), "spectrnn": partial(train_completely, command)}
    commands = {script.stem: [sys.executable, str(script), digits, str(epochs)] for script in recipes}
    others = {name: partial(_train_recipe, command, target) for name, command in commands.items()}
    return times_to_accuracy(own, others, target, rounds)


def shortest(lengths: Mapping[str, Job], target: float, rounds: int) -> dict[str, Job]:
    """Returns the first of some trainings, in order of length, that reaches the accuracy with all seeds, if any."""
    for name, job in lengths.items():
        if all(job(seed).accuracies[-1] >= target for seed in range(rounds)):
            return {name: job}
    return {}


def times_to_accuracy(
    own: Mapping[str, Job], recipes: Mapping[str, Job], target: float, rounds: int
) -> dict[str, dict[str, Any]]:
    """Measures trainings, which run in turn.

    Args:
        own: Trainings by spectrnn.
        recipes: Other trainings. Those that need a missing package, or do not evaluate, are skipped.
        target: Accuracy, 0 to 1.
        rounds: Number of repetitions.

    Returns:
        Medians over the rounds, and their range. Ratios of the times of spectrnn to those of the fastest recipe are
        paired by round. A note for trainings that are skipped or do not reach the accuracy.
    """
    table: dict[str, dict[str, Any]] = {}
    trainings: dict[str, list[Evaluated]] = {}
    jobs = {**own, **recipes}
    for number in range(rounds):
        # The order alternates, so that a drift of the machine's speed affects all equally.
        for name in reversed([*jobs]) if number % 2 else jobs:
            if name in table:
                continue
            try:
                training = jobs[name](number)
            except CommandError as error:
                if error.import_error is None:
                    raise
                table[name] = {NOTE: f"skipped: {error.import_error}"}
                continue
            trainings.setdefault(name, []).append(training)
            if not training.accuracies:
                table[name] = {NOTE: "does not evaluate"}
    table |= {name: _summarize(trainings[name], target) for name in jobs if name not in table}
    reached = [name for name in jobs if NOTE not in table[name]]
    rivals = {name: statistics.median(x.seconds for x in trainings[name]) for name in recipes if name in reached}
    for name in rivals:
        table[name]["epochs"] = statistics.median(len(training.accuracies) for training in trainings[name])
    for name in own:
        if rivals and name in reached:
            fastest = min(rivals, key=rivals.__getitem__)
            pairs = zip(trainings[name], trainings[fastest], strict=True)
            table[name][f"time / time of {fastest}"] = Spread.of(
                ours.seconds / theirs.seconds for ours, theirs in pairs
            )
    return {name: table[name] for name in jobs}


def train_completely(overrides: Sequence[str], seed: int) -> Evaluated:
    """Trains a classifier with overrides of train.yaml, from an empty cache, and reads its accuracy on the test split.

    Raises:
        CommandError: A command that fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        outcome = train([*overrides, f"seed={seed}"], run, SPECTRNN_CACHE=str(Path(folder) / "cache"))
        value = read_run(run, "accuracy", "test").value
    assert value is not None
    return Evaluated(outcome.seconds, [value], outcome.others)


def train_until(command: list[str], target: float) -> Evaluated:
    """Runs a training until an epoch whose accuracy reaches the target, or that is not evaluated.

    Raises:
        CommandError: A command that fails.
    """
    accuracies, seconds, lines = list[float](), 0.0, list[str]()
    with Contention() as contention:
        environment = ENVIRONMENT | {"PYTHONUNBUFFERED": "1"}
        start = time.perf_counter()
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            start_new_session=True,  # so that its workers can be stopped, too
        ) as process:
            stopped = False
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    lines.append(line)
                    if _EPOCH.match(line):
                        found = _ACCURACY.search(line)
                        if found:
                            seconds = time.perf_counter() - start
                            accuracies.append(float(found[1]))
                        if not found or accuracies[-1] >= target:
                            stopped = True
                            break
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
    if process.returncode and not stopped:
        raise CommandError(command, "".join(lines))
    return Evaluated(seconds, accuracies, contention.fraction)


def _train_recipe(command: list[str], target: float, _: int) -> Evaluated:
    """Runs a recipe, whose seed is its own."""
    return train_until(command, target)


def _summarize(trainings: Sequence[Evaluated], target: float) -> dict[str, Any]:
    reached = sum(training.accuracies[-1] >= target for training in trainings)
    row: dict[str, Any] = {"accuracy": Spread.of(max(training.accuracies) for training in trainings)}
    if reached == len(trainings):
        row[f"s to {100 * target:g} %"] = Spread.of(training.seconds for training in trainings)
    else:
        row[NOTE] = f"reached in {reached} of {len(trainings)} trainings"
    return {**row, OTHERS: others_percent(training.others for training in trainings)}
