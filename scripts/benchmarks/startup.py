"""Startup: the time until a command does something."""

import statistics
import sys
import tempfile
import time

from benchmarks.commands import SPECTRNN, run

# Prints the time at the first optimizer step, and exits.
_FIRST_STEP = """
import os, sys, time
from torch.optim.optimizer import register_optimizer_step_post_hook
def report(*_):
    print("first step at", time.time(), flush=True)
    os._exit(0)
register_optimizer_step_post_hook(report)
from spectrnn.cli.main import main
main()
"""


def startup(dataset: list[str], rounds: int) -> dict[str, float]:
    """Measures median durations in seconds.

    Args:
        dataset: Overrides that select the dataset.
        rounds: Number of repetitions.
    """
    found: dict[str, list[float]] = {}
    completion = {"COMP_LINE": "spectrnn train model=", "COMP_POINT": "21"}
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(rounds):
            python = run([sys.executable, "-c", "pass"]).seconds
            completed = run([*SPECTRNN, "-sc", "query=bash"], **completion)
            assert "model=bigru" in completed.text
            with tempfile.TemporaryDirectory() as empty:
                decoding = _first_step(dataset, empty)
            _first_step(dataset, cache)
            for name, seconds in {
                "Python": python,
                "spectrnn --help, without Python": run([*SPECTRNN, "--help"]).seconds - python,
                "completion, without Python": completed.seconds - python,
                "first step, dataset not decoded": decoding,
                "first step, dataset decoded": _first_step(dataset, cache),
            }.items():
                found.setdefault(name, []).append(seconds)
    return {name: statistics.median(values) for name, values in found.items()}


def _first_step(dataset: list[str], cache: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-P", "-c", _FIRST_STEP, "train", *dataset, f"hydra.run.dir={folder}/run"]
        start = time.time()
        outcome = run(command, SPECTRNN_CACHE=cache)
    return float(outcome.text.split("first step at ")[1].split()[0]) - start
