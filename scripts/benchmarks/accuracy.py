"""Time to accuracy: from the start of a command to an accuracy on the official test split of spoken digits."""

import csv
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import ENVIRONMENT
from benchmarks.commands import SPECTRNN, CommandError
from benchmarks.contention import Contention
from benchmarks.steps import compose_train
from benchmarks.tables import NOTE, OTHERS, Spread, others_percent
from spectrnn.config.instantiate import instantiate

_EPOCH = re.compile(r"^epoch +\d+ ")
# spectrnn prints the accuracy of the validation split, recipes that of the test split.
_ACCURACY = re.compile(r" (?:val .*accuracy|test) ([\d.]+)")


class Evaluated(NamedTuple):
    """A training that is evaluated after each epoch, and stopped when it reaches the accuracy.

    Attributes:
        seconds: Time from the start of the command in s, until the last evaluation.
        accuracies: Accuracy after each epoch; empty if the command does not evaluate.
        others: Fraction of the cores' time that other processes used.
    """

    seconds: float
    accuracies: list[float]
    others: float | None


def accuracy(
    digits: str, variants: Mapping[str, list[str]], recipes: Sequence[Path], target: float, epochs: int, rounds: int
) -> dict[str, dict[str, Any]]:
    """Measures the time that trainings take to reach an accuracy on the official test split.

    For spectrnn that is the validation split, which its unchanged command evaluates after each epoch, as recipes do
    with the test split; all train on all other clips. Its cache is empty, so the time includes decoding the dataset and
    compiling the kernels.

    Args:
        digits: Folder of the Free Spoken Digit Dataset.
        variants: Overrides of train.yaml for each training by spectrnn.
        recipes: Scripts of other trainings, which print ``epoch N ... test ACCURACY`` per epoch.
        target: Accuracy, 0 to 1.
        epochs: Maximum number of epochs.
        rounds: Number of repetitions; those of spectrnn differ in the seed.

    Returns:
        Medians over the rounds, and their range; a note for recipes that do not evaluate, or need a missing package.
    """
    table: dict[str, dict[str, Any]] = {}
    trainings: dict[str, list[Evaluated]] = {}
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "digits.csv"
        write_manifest(digits, manifest)
        for number in range(rounds):
            commands = {script.stem: [sys.executable, str(script), digits, str(epochs)] for script in recipes}
            dataset = ["data=manifest", f"data.path={manifest}", "data.sample_rate=8000"]
            run = [f"trainer.epochs={epochs}", "trainer.patience=null", f"seed={number}"]
            for index, (name, overrides) in enumerate(variants.items()):
                out = f"hydra.run.dir={folder}/{number}-{index}"
                commands[name] = [*SPECTRNN, "train", *dataset, *run, *overrides, out]
            for name in [name for name in commands if name not in table]:
                try:
                    training = train_until(commands[name], target)
                except CommandError as error:
                    if error.import_error is None:
                        raise
                    table[name] = {NOTE: f"skipped: {error.import_error}"}
                    continue
                trainings.setdefault(name, []).append(training)
                if not training.accuracies:
                    table[name] = {NOTE: "does not evaluate"}
    return {name: table.get(name) or _summarize(trainings[name], target) for name in commands}


def write_manifest(digits: str, path: Path) -> None:
    """Writes a manifest of the digits, with the official test split as validation split."""
    source = instantiate(compose_train(["data=fsdd", f"data.root={digits}"]).data, "data")
    rows = [[Path(x.path).resolve(), x.label, "val" if x.split == "test" else x.split] for x in source.clips()]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "split"], *rows])


def train_until(command: list[str], target: float) -> Evaluated:
    """Runs a training until an epoch whose accuracy reaches the target, or that is not evaluated.

    Raises:
        CommandError: A command that fails.
    """
    accuracies, seconds, lines = list[float](), 0.0, list[str]()
    with tempfile.TemporaryDirectory() as cache, Contention() as contention:
        environment = ENVIRONMENT | {"SPECTRNN_CACHE": cache, "PYTHONUNBUFFERED": "1"}
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


def _summarize(trainings: Sequence[Evaluated], target: float) -> dict[str, Any]:
    others = others_percent(training.others for training in trainings)
    reached = [training for training in trainings if training.accuracies[-1] >= target]
    if len(reached) < len(trainings):
        best = max(accuracy for training in trainings for accuracy in training.accuracies)
        return {NOTE: f"reached in {len(reached)} of {len(trainings)} trainings; highest {best:.4f}", OTHERS: others}
    return {
        f"s to {100 * target:g} %": Spread.of(training.seconds for training in trainings),
        "epochs": statistics.median(len(training.accuracies) for training in trainings),
        OTHERS: others,
    }
