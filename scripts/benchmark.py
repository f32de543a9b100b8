"""How fast spectrnn is on this machine: side by side with other recipes, and beside the machine's own limits.

    uv run scripts/benchmark.py                                     # on the embedded corpus
    uv run scripts/benchmark.py --digits DIGITS --yardstick RECIPE.py --yardstick OTHER.py
    uv run scripts/benchmark.py --only step --device cuda data=speech_commands data.root=COMMANDS augment=[speech]

DIGITS is a folder of the Free Spoken Digit Dataset. RECIPE.py is a script that takes that folder and a number of epochs
and prints a line ``epoch N ... CLIPS clips/s``. Both train a bidirectional GRU of 2 x 128 on log-mel 64 with batches of
64 clips. Printed are medians, as tables, and with --json all of it. Further arguments are overrides of train.yaml.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from measures.commands import SPECTRNN, run
from measures.growth import growth
from measures.limits import limits, machine
from measures.prediction import folder, long_recordings
from measures.starting import starting
from measures.steps import steps
from measures.training import PLAIN, trainings
from spectrnn.data.corpus import cache_folder
from spectrnn.devices import pick_device

SECTIONS = ("training", "step", "prediction", "starting", "growth")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="of train.yaml, such as data=folder data.root=recordings")
    parser.add_argument("--only", choices=SECTIONS, nargs="+", default=SECTIONS, help="some of the measurements")
    parser.add_argument("--digits", help="folder of the Free Spoken Digit Dataset")
    parser.add_argument("--yardstick", type=Path, action="append", default=[], help="script to compare with")
    parser.add_argument("--epochs", type=int, default=4, help="of each training; the first is not counted")
    parser.add_argument("--rounds", type=int, default=3, help="of each measurement, in turn with the others")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    arguments = parser.parse_args()

    corpus = [*(["data=fsdd", f"data.root={arguments.digits}"] if arguments.digits else []), *arguments.overrides]
    device = pick_device(arguments.device)
    figures: dict[str, Any] = {"machine": machine(device), "limits": limits(device)}
    print(figures["machine"], "\n")
    show("limits", {name: {"": value} for name, value in figures["limits"].items()})
    for section in arguments.only:
        figures[section] = MEASURES[section](arguments, corpus, figures["limits"])
        show(section, figures[section])
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


def _step(arguments: argparse.Namespace, corpus: list[str], limit: Mapping[str, float]) -> dict[str, Any]:
    rate = limit["float32 matrix product, GFLOP/s"]
    variants = {"default": [], "GRU, mean, no augmentation": PLAIN,
                "LSTM, mean, no augmentation": [*PLAIN, "model=bilstm"]}  # fmt: skip
    return {name: steps([*corpus, *overrides], arguments.device, rate, arguments.rounds)
            for name, overrides in variants.items()}  # fmt: skip


def _prediction(arguments: argparse.Namespace, corpus: list[str], _: Mapping[str, float]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        run([*SPECTRNN, "train", *corpus, "trainer.epochs=1", f"hydra.run.dir={scratch}/run"])
        model = Path(scratch) / "run"
        recordings = [f"{arguments.digits}/recordings"] if arguments.digits else _spoken(model)
        return {"a folder of short files": folder(model, recordings, arguments.rounds),
                **long_recordings(model, Path(scratch), [1, 10, 60], arguments.rounds)}  # fmt: skip


def _spoken(model: Path) -> list[str]:
    """The recordings that the embedded corpus keeps."""
    from omegaconf import OmegaConf

    from spectrnn.config import build

    source = build(OmegaConf.load(model / "config.yaml").data, "data")
    assert cache_folder(source)
    return [clip.path for clip in source.clips()]


MEASURES = {
    "training": lambda a, corpus, _: trainings(corpus, a.digits, a.yardstick, a.epochs, a.rounds),
    "step": _step,
    "prediction": _prediction,
    "starting": lambda a, corpus, _: {name: {"s": value} for name, value in starting(corpus, a.rounds).items()},
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
