"""Starting: how long a user waits before anything happens."""

import statistics
import sys
import tempfile
import time

from benchmarks.commands import SPECTRNN, run

# Prints the time of day at the first optimizer step, and ends there.
_FIRST_STEP = """
import os, sys, time
from torch.optim.optimizer import register_optimizer_step_post_hook
def told(*_):
    print("first step at", time.time(), flush=True)
    os._exit(0)
register_optimizer_step_post_hook(told)
from spectrnn.cli import main
main()
"""


def starting(dataset: list[str], rounds: int) -> dict[str, float]:
    """Median seconds.

    Args:
        dataset: overrides that choose the dataset.
        rounds: of each.
    """
    found: dict[str, list[float]] = {}
    line = {"COMP_LINE": "spectrnn train model=", "COMP_POINT": "21"}
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(rounds):
            bare = run([sys.executable, "-c", "pass"]).seconds
            found.setdefault("bare Python", []).append(bare)
            found.setdefault("spectrnn --help, beyond bare Python", []).append(
                run([*SPECTRNN, "--help"]).seconds - bare
            )
            completed = run([*SPECTRNN, "-sc", "query=bash"], **line)
            assert "model=bigru" in completed.text
            found.setdefault("completion, beyond bare Python", []).append(completed.seconds - bare)
            with tempfile.TemporaryDirectory() as empty:
                unbuilt = _first_step(dataset, empty)
            found.setdefault("first step, store not built", []).append(unbuilt)
            _first_step(dataset, cache)
            found.setdefault("first step, store built", []).append(_first_step(dataset, cache))
    return {name: statistics.median(values) for name, values in found.items()}


def _first_step(dataset: list[str], cache: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", _FIRST_STEP, "train", *dataset, f"hydra.run.dir={folder}/run"]
        start = time.time()
        outcome = run(command, SPECTRNN_CACHE=cache)
    return float(outcome.text.split("first step at ")[1].split()[0]) - start
