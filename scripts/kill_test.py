"""Kills trainings with SIGKILL at random moments, resumes them, and holds the results against a run that never stopped.

    uv run scripts/kill_test.py                          # 25 kills, on the embedded dataset
    uv run scripts/kill_test.py --kills 100 data=fsdd data.root=fsdd model=crnn

Further arguments are overrides of train.yaml. Each run is killed and resumed until it ends by itself; then another one
begins, until so many kills were dealt. Weights, metrics and TensorBoard's curves must be the same, bit by bit.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SPECTRNN = [sys.executable, "-m", "spectrnn", "train"]
# Small, with all that could be forgotten: a running average, gathered gradients, saves within epochs.
SMALL = [
    "data.takes=1",
    "model.hidden_size=24",
    "model.num_layers=1",
    "trainer.epochs=9",
    "trainer.ema_decay=0.9",
    "trainer.grad_accum_steps=2",
    "trainer.log_every_n_steps=4",
    "trainer.checkpoint_every_minutes=0",
]


def main() -> None:
    """Deals the kills, and exits with 1 where a result differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("overrides", nargs="*", help="of train.yaml")
    arguments = parser.parse_args()
    small = [override for override in SMALL if not (arguments.overrides and override.startswith("data."))]
    settings = [*small, *arguments.overrides]
    moments = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        subprocess.run(command(whole, settings), check=True, capture_output=True)  # builds the store, too
        shutil.rmtree(whole)
        start = time.perf_counter()
        subprocess.run(command(whole, settings), check=True, capture_output=True)
        duration = time.perf_counter() - start
        where: Counter[str] = Counter()
        finished = different = 0
        while where.total() < arguments.kills:
            run = Path(folder) / f"run{finished}"
            while not ended(run, settings, moments.uniform(0, 1.2 * duration)):
                where[state(run)] += 1
                print(f"kill {where.total()}: {state(run)}", flush=True)
            finished += 1
            found = differences(whole, run)
            different += bool(found)
            print(f"run {finished} ended{', and differs: ' + ', '.join(found) if found else ' as the whole one'}")
    print(f"\n{where.total()} kills in {finished} runs of {duration:.0f} s; {different} of them ended otherwise")
    for name, count in where.most_common():
        print(f"  {count:3}  {name}")
    sys.exit(1 if different else 0)


def command(run: Path, settings: list[str]) -> list[str]:
    """The command line that begins a run, or goes on with it once it can."""
    if (run / ".hydra" / "overrides.yaml").exists():
        return [*SPECTRNN, f"resume={run}"]
    return [*SPECTRNN, *settings, f"hydra.run.dir={run}"]


def ended(run: Path, settings: list[str], seconds: float) -> bool:
    """Whether a run ended by itself; else it was killed after so many seconds."""
    process = subprocess.Popen(command(run, settings), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return False
    if process.returncode:
        sys.exit(f"{run} did not go on:\n{output}")
    return True


def state(run: Path) -> str:
    """How far a killed run had come."""
    if not run.exists():
        return "before it had a folder"
    if (run / "metrics.json").exists():
        return "after its last write"
    if not (run / "last.ckpt").exists():
        return "before its first checkpoint"
    progress = torch.load(run / "last.ckpt", weights_only=True)["state"]["progress"]
    return f"after epoch {progress['epoch']}" + (", within the next" if progress["done"] else "")


def differences(whole: Path, run: Path) -> list[str]:
    """What of a run's outcome is not that of the whole run."""
    found = []
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (run, whole))
    if ours.keys() != theirs.keys() or not all(torch.equal(ours[name], theirs[name]) for name in theirs):
        found.append("weights")
    if metrics(run) != metrics(whole):
        found.append("metrics")
    before = curves(whole)
    found += [f"curve {name}" for name, points in curves(run).items() if points != before.get(name)]
    return found + [f"no curve {name}" for name in before.keys() - curves(run).keys()]


def metrics(run: Path) -> dict[str, Any]:
    """The metrics without what a clock decides."""
    figures: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    del figures["train"]["clips_per_second"]
    return figures


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of TensorBoard's curves; of what a clock decides, and of pictures, the steps alone."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0}).Reload()
    found = {
        name: [(e.step, 0.0 if name.endswith("clips_per_second") else e.value) for e in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }
    return found | {name: [(event.step, 0.0) for event in events.Images(name)] for name in events.Tags()["images"]}


if __name__ == "__main__":
    main()
