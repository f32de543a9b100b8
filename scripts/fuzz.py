"""Mutates thousands of recordings, and checks that each is decoded or rejected with a clear error.

    uv run scripts/fuzz.py                                # 5,000 mutants through the decoder, 500 through predict
    uv run scripts/fuzz.py --mutants 100000 --predict 0 --seed 1 --source RECORDINGS

The recordings are speech from the embedded synthesizer in every format, and those of a folder. A crash, a hang, memory
beyond a limit, or an error other than a sentence that names the file is a failure: it is printed, the file is kept, and
the exit code is 1. A mutant depends only on the seed, its number and the recordings.
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
from benchmarks.steps import compose_train
from fuzzing.decoding import DECODED, REPORTED, Decoder, Outcome
from fuzzing.mutations import Mutant, mutant
from fuzzing.originals import originals
from spectrnn.config.instantiate import instantiate
from spectrnn.data.audio import EXTENSIONS

RATE = 16000  # in Hz, of the decoded audio
SECONDS, MEGABYTES = 10.0, 300.0  # limits per mutant

Original = tuple[str, str, bytes]  # format, suffix, content
TINY = ("features.n_mels=20", "model.hidden_size=8", "model.num_layers=1", "trainer.epochs=1", "augment=[]")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=5000, help="number of mutants for the decoder")
    parser.add_argument("--predict", type=int, default=500, help="number of mutants for spectrnn predict")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--source", type=Path, help="folder of further recordings of any format, below 1 MB each")
    parser.add_argument("--run", help="run folder of the model for predict; by default a tiny one is trained")
    parser.add_argument("--kept", type=Path, default=Path("fuzz"), help="folder for the mutants that fail")
    arguments = parser.parse_args()
    files = [*originals(speech()), *(recordings(arguments.source) if arguments.source else [])]
    with tempfile.TemporaryDirectory() as scratch:
        failures = decoded(files, arguments.mutants, arguments.seed, Path(scratch), arguments.kept)
        if arguments.predict:
            failures += predicted(files, arguments.predict, arguments.seed, Path(scratch), arguments.run)
    print(f"{failures} failures" if failures else "no failures")
    sys.exit(1 if failures else 0)


def speech() -> list[np.ndarray]:
    """Returns words by a few voices, float64 (samples,) each."""
    source = instantiate(compose_train(["data.takes=1", "data.words=[seven,three]"]).data, "data")
    return [soundfile.read(clip.path)[0] for clip in source.clips()[::20]]


def recordings(folder: Path) -> Iterator[Original]:
    """Yields the files of a folder, with their suffix as the format."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in EXTENSIONS and path.stat().st_size < 1 << 20:
            yield path.suffix[1:].lower(), path.suffix, path.read_bytes()


def mutants(files: Sequence[Original], count: int, seed: int) -> Iterator[tuple[str, int, Mutant]]:
    """Yields format, number and mutant; the originals take turns."""
    for number in range(count):
        name, suffix, content = files[number % len(files)]
        yield name, number, mutant(content, suffix, f"{seed} {number}")


def decoded(files: Sequence[Original], count: int, seed: int, scratch: Path, kept: Path) -> int:
    """Decodes mutants, prints the outcomes, and returns the number of failures."""
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
    """Prints a Markdown table of the outcomes by format."""
    print("| format | mutants | decoded | reported | failed | max. s | max. MB |\n|---|---|---|---|---|---|---|")
    for name, outcomes in [*found.items(), ("all", [outcome for every in found.values() for outcome in every])]:
        kinds = Counter(outcome.kind for outcome in outcomes)
        failed = len(outcomes) - kinds[DECODED] - kinds[REPORTED]
        seconds, megabytes = (max((o[index] for o in outcomes), default=0.0) for index in (2, 3))
        print(
            f"| {name} | {len(outcomes)} | {kinds[DECODED]} | {kinds[REPORTED]} | {failed} | "
            f"{seconds:.2f} | {megabytes:.0f} |"
        )


def predicted(files: Sequence[Original], count: int, seed: int, scratch: Path, model: str | None) -> int:
    """Predicts mutants in one command, prints the outcomes, and returns the number of failures."""
    if model is None:
        model = str(scratch / "run")
        run([*SPECTRNN, "train", *TINY, f"hydra.run.dir={model}"])
    folder, table = scratch / "mutants", scratch / "labels.csv"
    folder.mkdir()
    paths = [folder / f"{number}{broken.suffix}" for _, number, broken in mutants(files, count, seed)]
    for path, (*_, broken) in zip(paths, mutants(files, count, seed), strict=True):
        path.write_bytes(broken.content)
    named = [str(path) for path in paths if path.suffix not in EXTENSIONS]  # in a folder, other suffixes are ignored
    command = [*SPECTRNN, "predict", str(folder), *named, f"run={model}", f"out={table}"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=600)
    labeled = {row["path"] for row in csv.DictReader(table.open())} if table.exists() else set()
    reported = {line.split(": ")[0].rpartition(" ")[2] for line in done.stderr.splitlines()}
    lost = [path for path in map(str, paths) if path not in labeled | reported]  # warnings are about labeled ones, too
    print(f"\npredict: exit code {done.returncode}, {len(labeled)} labeled, {len(paths) - len(labeled)} reported")
    if lost or done.returncode not in (0, 1) or "Traceback" in done.stderr:
        print(f"FAILED: {len(lost)} neither labeled nor reported: {lost[:5]}\n{done.stderr[-2000:]}")
        return max(1, len(lost))
    return 0


if __name__ == "__main__":
    main()
