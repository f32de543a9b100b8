"""How fast spectrnn is on this machine: side by side with other recipes, and beside the machine's own limits.

    uv run scripts/benchmark.py                                     # on the embedded dataset
    uv run scripts/benchmark.py --digits DIGITS --yardstick RECIPE.py --yardstick OTHER.py
    uv run scripts/benchmark.py --only stream                       # a packet of 20 ms, of one core
    uv run scripts/benchmark.py --only training step --clips 50000 'augment=[speech]' trainer.batch_size=1024

DIGITS is a folder of the Free Spoken Digit Dataset. RECIPE.py is a script that takes that folder and a number of epochs
and prints a line ``epoch N ... CLIPS clips/s``. Both train a bidirectional GRU of 2 x 128 on log-mel 64 with batches of
64 clips. The last line benchmarks what a GPU does with clips of one second. Printed are medians, as tables, and with
--json all of it. Further arguments are overrides of train.yaml.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.commands import SPECTRNN, run
from benchmarks.growth import growth, make
from benchmarks.limits import limits, machine
from benchmarks.prediction import folder, long_recordings, nights
from benchmarks.starting import starting
from benchmarks.steps import composed, steps
from benchmarks.streaming import streaming
from benchmarks.training import VARIANTS, trainings
from spectrnn.config.instantiate import instantiate
from spectrnn.devices import pick_device

Variants = Mapping[str, list[str]]

SECTIONS = ("training", "step", "prediction", "scan", "stream", "starting", "growth")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="of train.yaml, such as data=folder data.root=recordings")
    parser.add_argument("--only", choices=SECTIONS, nargs="+", default=SECTIONS, help="some of the measurements")
    parser.add_argument("--digits", help="folder of the Free Spoken Digit Dataset")
    parser.add_argument("--yardstick", type=Path, action="append", default=[], help="script to compare with")
    parser.add_argument("--epochs", type=int, default=4, help="of each training; the first is not counted")
    parser.add_argument("--rounds", type=int, default=3, help="of each measurement, in turn with the others")
    parser.add_argument("--clips", type=int, help="made-up clips of 1 s at 16 kHz to train on, instead of recordings")
    parser.add_argument("--hours", type=float, nargs="+", default=[1, 10], help="of recordings that are scanned")
    parser.add_argument("--model", type=Path, help="run or model file that scans them, instead of one of an epoch")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    arguments = parser.parse_args()

    device = pick_device(arguments.device)
    figures: dict[str, Any] = {"machine": machine(device), "limits": limits(device)}
    print(figures["machine"], "\n")
    show("limits", {name: {"": value} for name, value in figures["limits"].items()})
    with tempfile.TemporaryDirectory() as scratch:
        dataset = [f"trainer.device={arguments.device}", *_corpus(arguments, Path(scratch))]
        variants = {"spectrnn": arguments.overrides} if arguments.overrides else VARIANTS
        variants = {name: [*dataset, *overrides] for name, overrides in variants.items()}
        for section in arguments.only:
            figures[section] = MEASURES[section](arguments, dataset, variants)
            show(section, figures[section])
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


def _corpus(arguments: argparse.Namespace, scratch: Path) -> list[str]:
    if arguments.clips:
        return make(scratch, arguments.clips, 16000, 1.0)
    return ["data=fsdd", f"data.root={arguments.digits}"] if arguments.digits else []


def _prediction(arguments: argparse.Namespace, dataset: list[str], _: Variants) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        run([*SPECTRNN, "train", *dataset, "trainer.epochs=1", f"hydra.run.dir={scratch}/run"])
        model = Path(scratch) / "run"
        clips = instantiate(composed(dataset).data, "data").clips()
        return {
            "a folder of short files": folder(model, [clip.path for clip in clips], arguments.rounds),
            **long_recordings(model, Path(scratch), [1, 60, 180], arguments.rounds),
        }


def _scan(arguments: argparse.Namespace, dataset: list[str], _: Variants) -> dict[str, Any]:
    clips = instantiate(composed(dataset).data, "data").clips()
    with tempfile.TemporaryDirectory() as scratch:
        model = arguments.model or Path(scratch) / "run"
        if not arguments.model:
            run([*SPECTRNN, "train", *dataset, "trainer.epochs=1", f"hydra.run.dir={model}"])
        return nights(model, Path(scratch), clips, arguments.hours, ["window=2", "hop=0.5"])


MEASURES = {
    "training": lambda a, _, variants: trainings(variants, a.digits, a.yardstick, a.epochs, a.rounds),
    "step": lambda a, _, variants: {
        name: steps(overrides, pick_device(a.device), a.rounds) for name, overrides in variants.items()
    },
    "prediction": _prediction,
    "scan": _scan,
    "stream": lambda a, *_: streaming(20, a.rounds),
    "starting": lambda a, dataset, _: {name: {"s": value} for name, value in starting(dataset, a.rounds).items()},
    "growth": lambda a, *_: growth([1_000, 10_000, 100_000, 1_000_000], a.rounds),
}


def show(title: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints a table that Markdown reads."""
    flat = {name: _flat(row) for name, row in rows.items()}
    columns = list(dict.fromkeys(column for row in flat.values() for column in row))
    print("|", " | ".join([title, *columns]), "|")
    print("|" + "---|" * (1 + len(columns)))
    for name, row in flat.items():
        print("|", " | ".join([name, *(_text(row.get(column)) for column in columns)]), "|")
    print(flush=True)


def _flat(row: Mapping[str, Any]) -> dict[str, float]:
    found = {}
    for name, value in row.items():
        found |= (
            {f"{inner}, ms": number for inner, number in value.items()} if isinstance(value, dict) else {name: value}
        )
    return found


def _text(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
