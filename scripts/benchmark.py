"""Measures the speed of spectrnn on this machine, next to other recipes, another checkout, and the machine's limits.

    uv run scripts/benchmark.py                                     # on the embedded dataset
    uv run scripts/benchmark.py --digits DIGITS --baseline RECIPE.py --baseline OTHER.py
    uv run scripts/benchmark.py --only training --digits DIGITS --against CHECKOUT
    uv run scripts/benchmark.py --only stream                       # blocks of 20 ms, on one core
    uv run scripts/benchmark.py --only training step --clips 50000 'augment=[speech]' trainer.batch_size=1024

DIGITS is the folder of the Free Spoken Digit Dataset. RECIPE.py is a script that takes that folder and a number of
epochs, and prints a line ``epoch N ... CLIPS clips/s`` per epoch. Both train a bidirectional GRU of 2 x 128 on log-mel
64 with batches of 64 clips. CHECKOUT is the folder of another version of spectrnn: it trains with the same overrides,
or with --against-overrides if keys were renamed, in turn with this version; the ratio of the speeds is paired by round.
The last line measures a GPU with clips of one second. Medians are printed as tables, and --json writes all results.
Further arguments are overrides of train.yaml.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.commands import train
from benchmarks.limits import limits, machine
from benchmarks.prediction import detection, folder, long_recordings
from benchmarks.scaling import make, scaling
from benchmarks.startup import startup
from benchmarks.steps import compose_train, steps
from benchmarks.streaming import streaming
from benchmarks.training import VARIANTS, trainings
from spectrnn.config.instantiate import instantiate
from spectrnn.devices import pick_device

SECTIONS = ("training", "step", "prediction", "detection", "stream", "startup", "scaling")


def main() -> None:
    """Runs the measurements, and prints a table per section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "overrides", nargs="*", help="overrides of train.yaml, such as data=folder data.root=recordings"
    )
    parser.add_argument("--only", choices=SECTIONS, nargs="+", default=SECTIONS, help="sections to run")
    parser.add_argument("--digits", help="folder of the Free Spoken Digit Dataset")
    parser.add_argument("--baseline", type=Path, action="append", default=[], help="training script to compare with")
    parser.add_argument("--against", type=Path, help="checkout of another version of spectrnn to compare with")
    parser.add_argument("--against-overrides", nargs="*", help="its overrides of train.yaml, instead of the same ones")
    parser.add_argument("--epochs", type=int, default=4, help="epochs per training; all but the first are measured")
    parser.add_argument(
        "--rounds", type=int, default=3, help="repetitions of each measurement, in turn with the others"
    )
    parser.add_argument("--clips", type=int, help="train on so many synthetic clips of 1 s at 16 kHz")
    parser.add_argument("--hours", type=float, nargs="+", default=[1, 10], help="durations of scanned recordings")
    parser.add_argument("--model", type=Path, help="run or model file for them, instead of a training of one epoch")
    parser.add_argument("--device", default="auto", help="device of the trainings: auto, cpu or cuda")
    parser.add_argument("--json", type=Path, help="file for all results")
    arguments = parser.parse_intermixed_args()

    device = pick_device(arguments.device)
    results: dict[str, Any] = {"machine": machine(device), "limits": limits(device)}
    print(results["machine"], "\n")
    show("limits", {name: {"": value} for name, value in results["limits"].items()})
    with tempfile.TemporaryDirectory() as scratch:
        for section in arguments.only:
            results[section] = measure(section, arguments, Path(scratch))
            show(section, results[section])
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


def measure(section: str, arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Runs one section: a row per variant, a column per quantity."""
    rounds, dataset = arguments.rounds, [f"trainer.device={arguments.device}"]
    if arguments.clips:
        dataset += make(scratch, arguments.clips, 16000, 1.0)
    elif arguments.digits:
        dataset += ["data=fsdd", f"data.root={arguments.digits}"]
    renamed = arguments.against_overrides
    variants = {"spectrnn": arguments.overrides} if arguments.overrides or renamed is not None else VARIANTS
    others = {name: [*dataset, *(own if renamed is None else renamed)] for name, own in variants.items()}
    variants = {name: [*dataset, *own] for name, own in variants.items()}
    match section:
        case "training":
            baselines = [[str(script), arguments.digits] for script in arguments.baseline if arguments.digits]
            return trainings(variants, baselines, arguments.against, others, arguments.epochs, rounds)
        case "step":
            return {name: steps(overrides, rounds) for name, overrides in variants.items()}
        case "stream":
            return streaming(20, rounds)
        case "startup":
            return {name: {"s": seconds} for name, seconds in startup(dataset, rounds).items()}
        case "scaling":
            return scaling([1_000, 10_000, 100_000, 1_000_000], rounds)
    clips = instantiate(compose_train(dataset).data, "data").clips()
    model = arguments.model or scratch / "model"
    if not model.exists():
        train([*dataset, "trainer.epochs=1"], model)
    if section == "detection":
        return detection(model, scratch, clips, arguments.hours, ["window=2", "hop=0.5"])
    short = folder(model, [clip.path for clip in clips], rounds)
    return {"folder of short files": short, **long_recordings(model, scratch, [1, 60, 180], rounds)}


def show(title: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints a Markdown table."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    print("|", " | ".join([title, *columns]), "|")
    print("|" + "---|" * (1 + len(columns)))
    for name, row in rows.items():
        print("|", " | ".join([name, *(_format(row.get(column)) for column in columns)]), "|")
    print(flush=True)


def _format(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
