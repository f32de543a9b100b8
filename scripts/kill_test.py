"""Kills trainings with SIGKILL at random moments, resumes them, and compares the results with an uninterrupted run.

    uv run scripts/kill_test.py                          # 25 kills, on the embedded dataset
    uv run scripts/kill_test.py --kills 100 data=fsdd data.root=fsdd model=crnn
    uv run scripts/kill_test.py --kills 10 data=manifest data.path=esc10.csv folds=all
    uv run scripts/kill_test.py --kills 10 data=annotations data.root=nights task=multi_label head=frames
    uv run scripts/kill_test.py --kills 10 data=manifest data.path=clips.csv task=multi_label 'data.negatives=[days]'

Further arguments are overrides of train.yaml. Each run is killed and resumed until it finishes; then the next one is
started, up to the given number of kills. Weights, predictions, metrics and TensorBoard's curves must be bit-identical,
and no fold of a cross-validation that has finished may be trained again.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SPECTRNN = [sys.executable, "-m", "spectrnn", "train"]
# Small, with everything that a checkpoint must hold: averaged weights, accumulated gradients, saves within an epoch.
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
    """Runs the trainings, and exits with 1 if a result differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25, help="number of kills")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    parser.add_argument("overrides", nargs="*", help="overrides of train.yaml")
    arguments = parser.parse_args()
    small = [override for override in SMALL if not (arguments.overrides and override.startswith("data."))]
    settings = [*small, *arguments.overrides]
    moments = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "reference"
        subprocess.run(command(reference, settings), check=True, capture_output=True)  # also decodes the dataset
        shutil.rmtree(reference)
        start = time.perf_counter()
        subprocess.run(command(reference, settings), check=True, capture_output=True)
        duration = time.perf_counter() - start
        states: Counter[str] = Counter()
        finished = different = 0
        while states.total() < arguments.kills:
            run = Path(folder) / f"run{finished}"
            while not train(run, settings, moments.uniform(0, 1.2 * duration)):
                states[state(run)] += 1
                print(f"kill {states.total()}: {state(run)}", flush=True)
            finished += 1
            found = differences(reference, run)
            different += bool(found)
            print(f"run {finished}: {'different ' + ', '.join(found) if found else 'identical to the reference'}")
    print(f"\n{states.total()} kills in {finished} runs of {duration:.0f} s; {different} runs differ")
    for name, count in states.most_common():
        print(f"  {count:3}  {name}")
    sys.exit(1 if different else 0)


def command(run: Path, settings: list[str]) -> list[str]:
    """The command line that starts a run, or resumes it if that is possible; a cross-validation is repeated."""
    if not is_cross_validation(settings) and (run / ".hydra" / "overrides.yaml").exists():
        return [*SPECTRNN, f"resume={run}"]
    return [*SPECTRNN, *settings, f"hydra.run.dir={run}"]


def is_cross_validation(settings: list[str]) -> bool:
    """Whether overrides ask for several folds."""
    return any(setting.startswith("folds=") for setting in settings)


def train(run: Path, settings: list[str], seconds: float) -> bool:
    """Starts or resumes a run, and kills it after some seconds; returns whether it finished before."""
    finished = {path: path.stat().st_mtime_ns for path in run.glob("*/metrics.json")}
    try:
        return finishes(run, settings, seconds)
    finally:
        for path, written in finished.items():
            if path.stat().st_mtime_ns != written:
                sys.exit(f"{path.parent} had finished, and was trained again")


def finishes(run: Path, settings: list[str], seconds: float) -> bool:
    """Starts or resumes a run, and kills it after some seconds; returns whether it finished before."""
    process = subprocess.Popen(command(run, settings), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return False
    if process.returncode:
        sys.exit(f"{run} failed:\n{output}")
    return True


def state(run: Path) -> str:
    """The progress of a killed run."""
    if not run.exists():
        return "before its folder was made"
    if (run / "metrics.json").exists():
        return "after its last write"
    if folds := sorted(run.glob("fold-*")):
        return f"in fold {len(folds)}, {state(folds[-1])}"
    if not (run / "last.ckpt").exists():
        return "before its first checkpoint"
    progress = torch.load(run / "last.ckpt", weights_only=True)["state"]["progress"]
    return f"after epoch {progress['epoch']}" + (", within the next" if progress["batches_done"] else "")


def differences(reference: Path, run: Path) -> list[str]:
    """Names of the results that differ between two runs."""
    if folds := sorted(reference.glob("fold-*")):
        found = [f"{fold.name}: {name}" for fold in folds for name in differences(fold, run / fold.name)]
        return found + [name for name in ("metrics", "predictions") if RESULTS[name](run) != RESULTS[name](reference)]
    found = []
    weights, expected = (load_file(folder / "model.safetensors") for folder in (run, reference))
    if weights.keys() != expected.keys() or not all(torch.equal(weights[name], expected[name]) for name in expected):
        found.append("weights")
    found += [name for name, read in RESULTS.items() if read(run) != read(reference)]
    ours, theirs = curves(run), curves(reference)
    return found + [
        f"curve {name}" for name in sorted(ours.keys() | theirs.keys()) if ours.get(name) != theirs.get(name)
    ]


def metrics(run: Path) -> dict[str, Any]:
    """The metrics of a run without the speed."""
    content = json.loads((run / "metrics.json").read_text())
    return content | {"train": content["train"] | {"clips_per_second": None, "seconds": None}}


def predictions(run: Path) -> bytes:
    """The table of predictions."""
    return (run / "predictions.csv").read_bytes()


RESULTS: dict[str, Callable[[Path], Any]] = {"metrics": metrics, "predictions": predictions}


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of TensorBoard's curves; of the speed and of images, the steps only."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0}).Reload()
    scalars = {
        name: [(e.step, 0.0 if name.endswith("clips_per_second") else e.value) for e in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }
    return scalars | {name: [(event.step, 0.0) for event in events.Images(name)] for name in events.Tags()["images"]}


if __name__ == "__main__":
    main()
