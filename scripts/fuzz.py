"""Breaks thousands of real recordings, and sees that each is decoded or reported.

    uv run scripts/fuzz.py                                # 5,000 mutants through the decoder, 500 through predict
    uv run scripts/fuzz.py --mutants 100000 --predict 0 --seed 1 --source RECORDINGS

The recordings are speech from the embedded synthesizer in every format, and those of a folder besides. A crash, a hang,
memory beyond a bound, or an error other than a sentence that names the file is a failure: it is printed, its file is
kept, and the exit code is 1. A mutant depends on the seed, its number and the recordings alone.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.commands import SPECTRNN, run
from benchmarks.steps import composed
from fuzzing.decoding import DECODED, REPORTED, Decoder, Outcome
from fuzzing.mutations import Mutant, mutant
from fuzzing.originals import originals
from spectrnn.config.instantiate import instantiate
from spectrnn.data.audio import EXTENSIONS

RATE = 16000  # Hz that mutants are decoded to
SECONDS, MEGABYTES = 10.0, 300.0  # that a mutant may take

Original = tuple[str, str, bytes]  # format, suffix, content
TINY = ("features.n_mels=20", "model.hidden_size=8", "model.num_layers=1", "trainer.epochs=1", "augment=[]")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=5000, help="through the decoder")
    parser.add_argument("--predict", type=int, default=500, help="of them through spectrnn predict, in one command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--source", type=Path, help="a folder of further recordings, of any format, below 1 MB each")
    parser.add_argument("--run", help="the model that predicts; without it one is trained in seconds")
    parser.add_argument("--kept", type=Path, default=Path("fuzz"), help="where mutants that fail are kept")
    arguments = parser.parse_args()
    files = [*originals(speech()), *(recordings(arguments.source) if arguments.source else [])]
    with tempfile.TemporaryDirectory() as scratch:
        failures = decoded(files, arguments.mutants, arguments.seed, Path(scratch), arguments.kept)
        if arguments.predict:
            failures += predicted(files, arguments.predict, arguments.seed, Path(scratch), arguments.run)
    print(f"{failures} failures" if failures else "no failures")
    sys.exit(1 if failures else 0)


def speech() -> list[np.ndarray]:
    """Words by a few voices: arrays (samples,)."""
    source = instantiate(composed(["data.takes=1", "data.words=[seven,three]"]).data, "data")
    return [soundfile.read(clip.path)[0] for clip in source.clips()[::20]]


def recordings(folder: Path) -> Iterator[Original]:
    """The files of a folder, with their suffix for a format."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in EXTENSIONS and path.stat().st_size < 1 << 20:
            yield path.suffix[1:].lower(), path.suffix, path.read_bytes()


def mutants(files: Sequence[Original], count: int, seed: int) -> Iterator[tuple[str, int, Mutant]]:
    """The format, the number and the mutant; every original in turn."""
    for number in range(count):
        name, suffix, content = files[number % len(files)]
        yield name, number, mutant(content, suffix, f"{seed} {number}")


def decoded(files: Sequence[Original], count: int, seed: int, scratch: Path, kept: Path) -> int:
    """Mutants through the decoder; prints what became of them, and returns how many failed."""
    found: dict[str, list[Outcome]] = {}
    failures = 0
    with Decoder(RATE, SECONDS, MEGABYTES) as decoder:
        for name, number, broken in mutants(files, count, seed):
            path = scratch / f"{number}{broken.suffix}"
            path.write_bytes(broken.content)
            outcome = decoder.decode(path)
            found.setdefault(name, []).append(outcome)
            if outcome.kind not in (DECODED, REPORTED):
                failures += 1
                kept.mkdir(exist_ok=True)
                copy = kept / f"{seed}-{number}-{name.replace(' ', '-')}{broken.suffix}"
                copy.write_bytes(broken.content)
                print(f"FAILED {copy} ({broken.what}): {outcome.kind}: {outcome.text}", flush=True)
            path.unlink()
    show(found)
    return failures


def show(found: dict[str, list[Outcome]]) -> None:
    """Prints a table that Markdown reads."""
    print("| format | mutants | decoded | reported | failed | worst, s | worst, MB |\n|---|---|---|---|---|---|---|")
    for name, outcomes in [*found.items(), ("all", [outcome for every in found.values() for outcome in every])]:
        kinds = Counter(outcome.kind for outcome in outcomes)
        failed = len(outcomes) - kinds[DECODED] - kinds[REPORTED]
        seconds, megabytes = (max((o[index] for o in outcomes), default=0.0) for index in (2, 3))
        print(
            f"| {name} | {len(outcomes)} | {kinds[DECODED]} | {kinds[REPORTED]} | {failed} | "
            f"{seconds:.2f} | {megabytes:.0f} |"
        )


def predicted(files: Sequence[Original], count: int, seed: int, scratch: Path, model: str | None) -> int:
    """Mutants through one command; prints what became of them, and returns how many failed."""
    if model is None:
        model = str(scratch / "run")
        run([*SPECTRNN, "train", *TINY, f"hydra.run.dir={model}"])
    folder, table = scratch / "mutants", scratch / "labels.csv"
    folder.mkdir()
    paths = [folder / f"{number}{broken.suffix}" for _, number, broken in mutants(files, count, seed)]
    for path, (*_, broken) in zip(paths, mutants(files, count, seed), strict=True):
        path.write_bytes(broken.content)
    named = [str(path) for path in paths if path.suffix not in EXTENSIONS]  # a folder's are left out
    command = [*SPECTRNN, "predict", str(folder), *named, f"run={model}", f"out={table}"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=600)
    labelled = {row["path"] for row in csv.DictReader(table.open())} if table.exists() else set()
    reported = {line.split(": ")[0].rpartition(" ")[2] for line in done.stderr.splitlines()}
    lost = [path for path in map(str, paths) if (path in labelled) == (path in reported)]
    print(f"\npredict: exit code {done.returncode}, {len(labelled)} labelled, {len(paths) - len(labelled)} reported")
    if lost or done.returncode not in (0, 1) or "Traceback" in done.stderr:
        print(f"FAILED: {len(lost)} neither labelled nor reported, or both: {lost[:5]}\n{done.stderr[-2000:]}")
        return max(1, len(lost))
    return 0


if __name__ == "__main__":
    main()
