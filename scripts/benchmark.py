"""Measures the speed of spectrnn on this machine, next to other recipes, another checkout, and the machine's limits.

    uv run scripts/benchmark.py                                           # on the embedded dataset
    uv run scripts/benchmark.py --digits DIGITS --baseline RECIPE.py --baseline OTHER.py
    uv run scripts/benchmark.py --only training --digits DIGITS --baseline RECIPE.py --busy 0 1 2
    uv run scripts/benchmark.py --only parallel --digits DIGITS --baseline RECIPE.py
    uv run scripts/benchmark.py --only accuracy --digits DIGITS --baseline RECIPE.py
    uv run scripts/benchmark.py --only training step --esc10 ESC10.csv
    uv run scripts/benchmark.py --only training --digits DIGITS --against CHECKOUT
    uv run scripts/benchmark.py --only windows                            # drawn from 10 h of annotated recordings
    uv run scripts/benchmark.py --only stream                             # blocks of 20 ms, on one core
    uv run scripts/benchmark.py --only training step --clips 500000 'augment=[speech]' trainer.batch_size=1024

DIGITS is the folder of the Free Spoken Digit Dataset. RECIPE.py is a script that takes that folder and a number of
epochs, and prints a line ``epoch N ... CLIPS clips/s`` per epoch, for the section accuracy with ``test ACCURACY``. A
recipe that needs a missing package is skipped. The first variant of spectrnn trains the model of the recipes: a
bidirectional GRU of 2 x 128 on log-mel 64 with mean pooling, without dropout, and batches of 64 clips. ESC10.csv is a
manifest of ESC-10 with folds, for a CNN + RNN. CHECKOUT is the folder of another version of spectrnn: it trains with
the same overrides, or with --against-overrides if keys were renamed. All trainings run in turn; ratios of speeds are
paired by round, and given as median (lowest to highest). The last line measures a GPU with clips of one second.

Other processes that use more than 5 % of the cores make measurements unreliable. Each section waits for an idle
machine, for at most a minute; an asterisk marks what was measured while the machine was not idle. Tables are printed in
Markdown, and --json writes all results. Further arguments are overrides of train.yaml.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy import accuracy
from benchmarks.commands import CommandError, train
from benchmarks.contention import Contention, is_contended, wait_until_idle
from benchmarks.limits import limits, machine
from benchmarks.prediction import detection, folder, long_recordings
from benchmarks.scaling import make, scaling
from benchmarks.startup import startup
from benchmarks.steps import compose_train, steps
from benchmarks.streaming import streaming
from benchmarks.tables import OTHERS, others_percent, show
from benchmarks.training import VARIANTS, parallel, recipe_job, spectrnn_job, trainings
from benchmarks.windows import windows
from spectrnn.config.instantiate import instantiate
from spectrnn.devices import autocast_dtype, pick_device
from spectrnn.errors import UserError

SECTIONS = ("training", "step", "prediction", "detection", "stream", "startup", "scaling")
ON_REQUEST = ("windows", "parallel", "accuracy")
SIZES = [1_000, 10_000, 100_000, 1_000_000]  # of datasets, in clips
CRNN = ["experiment=environment", "data=manifest", "data.fold=1"]
_IDLE_SECONDS = 60.0  # maximum time to wait for an idle machine


def main() -> None:
    """Runs the measurements, and prints a table per section."""
    arguments = parse()
    device = pick_device(arguments.device)
    trainer = compose_train(arguments.overrides).trainer
    results: dict[str, Any] = {
        "machine": machine(device, autocast_dtype(trainer.precision, device, "trainer.precision"))
    }
    print(*(f"{name}: {value}" for name, value in results["machine"].items()), sep="\n", end="\n\n")
    contended = []
    with tempfile.TemporaryDirectory() as scratch:
        for section in ("limits", *arguments.only):
            fraction = wait_until_idle(_IDLE_SECONDS)
            if arguments.require_idle and is_contended(fraction):
                sys.exit(f"not idle: other processes use {100 * fraction:.0f} % of the cores")
            with Contention() as contention:
                results[section] = rows = measure(section, arguments, device, Path(scratch))
            percent = others_percent([contention.fraction, *((row.get(OTHERS) or 0) / 100 for row in rows.values())])
            results.setdefault(OTHERS, {})[section] = percent
            busy = is_contended((percent or 0) / 100)
            show(f"{section} *" if busy else section, rows)
            if busy:
                contended.append(f"{section} ({percent:.0f} %)")
                if arguments.require_idle:
                    break
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    if contended:
        print(f"* not idle: other processes used the cores during {', '.join(contended)}; repeat these measurements")
        sys.exit(1 if arguments.require_idle else 0)


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("overrides", nargs="*", help="overrides of train.yaml, such as data=folder data.root=recordings")
    add(
        "--only",
        choices=SECTIONS + ON_REQUEST,
        nargs="+",
        default=SECTIONS,
        help=f"sections to run: {', '.join(SECTIONS + ON_REQUEST)}; default: all but the last {len(ON_REQUEST)}",
        metavar="SECTION",
    )
    add("--digits", help="folder of the Free Spoken Digit Dataset")
    add("--esc10", type=Path, metavar="CSV", help="manifest of ESC-10 with folds: also trains a CNN + RNN on it")
    add(
        "--baseline",
        type=Path,
        action="append",
        default=[],
        metavar="RECIPE.py",
        help="training script to compare with, on the digits; may be repeated, the main one first",
    )
    add("--against", type=Path, metavar="CHECKOUT", help="checkout of another version of spectrnn to compare with")
    add("--against-overrides", nargs="*", help="its overrides of train.yaml, instead of the same ones")
    add("--epochs", type=int, help="epochs per training, of which the first is not measured; default: 4, on a GPU 20")
    add("--rounds", type=int, default=3, help="repetitions of each measurement, in turn with the others; default: 3")
    add(
        "--busy",
        type=int,
        nargs="+",
        default=[0],
        metavar="N",
        help="repeat the section training beside N busy single-threaded processes, for each N; default: 0",
    )
    add("--target", type=float, default=0.98, help="accuracy to reach in the section accuracy; default: 0.98")
    add("--max-epochs", type=int, default=30, help="maximum number of epochs of RECIPE.py in it; default: 30")
    add("--clips", type=int, help="train on so many synthetic clips of 1 s at 16 kHz")
    add("--hours", type=float, nargs="+", default=[1, 10], help="durations of scanned recordings; default: 1 10")
    add("--model", type=Path, help="run or model file for them, instead of a training of one epoch")
    add("--device", default="auto", help="device of the trainings: auto, cpu or cuda; default: auto")
    add("--require-idle", action="store_true", help="exit with code 1 if the machine is not idle")
    add("--json", type=Path, help="file for all results")
    arguments = parser.parse_intermixed_args()
    if not arguments.digits and (arguments.baseline or "accuracy" in arguments.only):
        parser.error("--baseline and the section accuracy need --digits")
    if arguments.baseline and arguments.clips:
        parser.error("--clips: the recipes of --baseline train on the digits; omit one of the two")
    if arguments.esc10 and arguments.against_overrides is not None:
        parser.error("--against-overrides: applies to one training, and --esc10 adds another; omit one of the two")
    return arguments


def measure(section: str, arguments: argparse.Namespace, device: torch.device, scratch: Path) -> dict[str, Any]:
    """Runs one section: a row per variant, a column per quantity."""
    rounds, device_override = arguments.rounds, [f"trainer.device={arguments.device}"]
    dataset = list(device_override)
    if arguments.clips:
        dataset += make(scratch, arguments.clips, 16000, 1.0)
    elif arguments.digits:
        dataset += ["data=fsdd", f"data.root={arguments.digits}"]
    renamed = arguments.against_overrides
    settings = {"spectrnn": arguments.overrides} if arguments.overrides or renamed is not None else VARIANTS
    variants = {name: [*dataset, *own] for name, own in settings.items()}
    if arguments.esc10:
        crnn = [*device_override, *CRNN, f"data.path={arguments.esc10.resolve()}"]
        variants["spectrnn, CNN + RNN on ESC-10"] = [*crnn, *arguments.overrides]
    match section:
        case "limits":
            return {name: {"": value} for name, value in limits(device).items()}
        case "training" | "parallel":
            epochs = arguments.epochs or (20 if device.type == "cuda" else 4)
            jobs = {script.stem: recipe_job(script, arguments.digits, epochs) for script in arguments.baseline}
            jobs |= {name: spectrnn_job(overrides, epochs) for name, overrides in variants.items()}
            if section == "parallel":
                return parallel(jobs, rounds)
            recipes = {script.stem: script.stem for script in arguments.baseline}
            rivals = {name: dict(recipes) for name in settings}
            if checkout := arguments.against:
                environment = {"PYTHONPATH": str(checkout.resolve()), "SPECTRNN_CACHE": str(scratch / "cache")}
                for name, overrides in variants.items():
                    others = overrides if renamed is None else [*dataset, *renamed]
                    jobs[f"{name}, in {checkout}"] = spectrnn_job(others, epochs, **environment)
                    rivals.setdefault(name, {})[str(checkout)] = f"{name}, in {checkout}"
            return trainings(jobs, rivals, rounds, arguments.busy)
        case "accuracy":
            own, limit = [*device_override, *arguments.overrides], arguments.max_epochs
            return accuracy(arguments.digits, own, arguments.baseline, arguments.target, limit, rounds)
        case "step":
            return {name: steps(overrides, rounds) for name, overrides in variants.items()}
        case "stream":
            return streaming(20, rounds)
        case "startup":
            return {name: {"s": seconds} for name, seconds in startup(dataset, rounds).items()}
        case "windows" | "scaling":
            return windows(scratch, 10, rounds) if section == "windows" else scaling(SIZES, rounds)
    clips = instantiate(compose_train(dataset).data, "data").clips()
    model = arguments.model or scratch / "model"
    if not model.exists():
        train([*dataset, "trainer.epochs=1"], model)
    if section == "detection":
        return detection(model, scratch, clips, arguments.hours, ["window=2", "hop=0.5"])
    short = folder(model, [clip.path for clip in clips], rounds)
    return {"folder of short files": short, **long_recordings(model, scratch, [1, 60, 180], rounds)}


if __name__ == "__main__":
    try:
        main()
    except (CommandError, UserError) as error:
        sys.exit(str(error))
