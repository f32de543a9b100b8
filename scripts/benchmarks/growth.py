"""Growth: what a dataset of a million clips costs, beside one of a thousand."""

import csv
import json
import resource
import statistics
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

RATE, SECONDS = 8000, 0.05  # of the clips here


def growth(counts: list[int], rounds: int) -> dict[str, dict[str, float]]:
    """Figures of made-up datasets of so many clips of 0.05 s, each in a process of its own."""
    from benchmarks.commands import run

    with tempfile.TemporaryDirectory() as scratch:
        environment = {"PYTHONPATH": str(Path(__file__).resolve().parents[1]), "SPECTRNN_CACHE": f"{scratch}/cache"}

        def measured(question: str, *sizes: int) -> dict[str, Any]:
            command = [sys.executable, "-m", "benchmarks.growth", question, scratch, str(rounds), *map(str, sizes)]
            return json.loads(run(command, **environment).text.splitlines()[-1])

        found: dict[str, dict[str, float]] = {}
        for count in counts:
            make(Path(scratch), count)
            measured("alone", count)  # the first opening decodes, the second is measured
            found[f"{count:,} clips"] = measured("alone", count)
        for count, figures in measured("together", *counts).items():
            found[f"{int(count):,} clips"] |= figures
    return found


def make(scratch: Path, count: int, rate: int = RATE, seconds: float = SECONDS) -> list[str]:
    """Writes files of noise, and a manifest of their parts; the overrides that choose it."""
    generator = np.random.default_rng(0)
    clips_a_file = round(500 / seconds)
    with (scratch / f"{count}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split", "start", "end"])
        for first in range(0, count, clips_a_file):
            name, clips = f"{first}.wav", min(clips_a_file, count - first)
            if not (scratch / name).exists():
                noise = generator.integers(-3000, 3000, round(seconds * rate) * clips_a_file, dtype=np.int16)
                soundfile.write(scratch / name, noise, rate)
            for number in range(clips):
                split = "val" if number % 10 == 0 else "train"
                start, end = number * seconds, (number + 1) * seconds
                writer.writerow([name, f"class {number % 7}", split, f"{start:.3f}", f"{end:.3f}"])
    return made(scratch, count, rate)


def made(scratch: Path, count: int, rate: int = RATE) -> list[str]:
    """The overrides that choose a dataset that was made."""
    return ["data=manifest", f"data.path={scratch}/{count}.csv", f"data.sample_rate={rate}"]


def opened(scratch: Path, count: int) -> Any:
    """The dataset, as training opens it."""
    import torch

    from benchmarks.steps import composed
    from spectrnn.config.instantiate import instantiate
    from spectrnn.data.dataset import open_dataset

    config = composed(made(scratch, count))
    return open_dataset(instantiate(config.data, "data"), torch.device("cpu"))


def resident_mb() -> float:
    """Memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def alone(scratch: Path, count: int) -> dict[str, float]:
    """Opens a dataset, draws an epoch's batches, and says what it took."""
    import torch

    from benchmarks.steps import composed

    composed([])  # Hydra's start is not the dataset's
    before, start = resident_mb(), time.perf_counter()
    dataset = opened(scratch, count)
    batches = dataset.batches("train", 64, torch.device("cpu"), 0)
    epoch = batches.epoch(0)
    next(epoch)
    first = time.perf_counter() - start
    drawn = resident_mb()
    for _ in islice(epoch, 2000):
        pass
    # A tuple, its two floats; the strings are shared by many clips.
    clip = dataset.clips[-1]
    table = sys.getsizeof(clip) + sys.getsizeof(clip.start) + sys.getsizeof(clip.end) + 8
    return {
        "seconds to the first batch": first,
        "clip table, bytes a clip": table,
        "memory, bytes a clip": (drawn - before) * 1e6 / count,
        "memory of 2,000 batches, MB": resident_mb() - drawn,
    }


def together(scratch: Path, counts: list[int], rounds: int) -> dict[int, dict[str, float]]:
    """Time per batch over whole epochs, in turn, of as many batches each as the largest dataset has."""
    import torch

    datasets = {count: opened(scratch, count).batches("train", 64, torch.device("cpu"), 0) for count in counts}
    wanted = len(datasets[max(counts)])
    times: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(rounds):
        for count, batches in datasets.items():
            start, drawn, epoch = time.perf_counter(), 0, 0
            while drawn < wanted:
                drawn += sum(1 for _ in batches.epoch(epoch))
                epoch += 1
            times[count].append((time.perf_counter() - start) / drawn)
    return {count: {"ms to gather a batch": 1000 * statistics.median(values)} for count, values in times.items()}


if __name__ == "__main__":
    asked, folder, repetitions, *sizes = sys.argv[1:]
    if asked == "together":
        print(json.dumps(together(Path(folder), [int(size) for size in sizes], int(repetitions))))
    else:
        print(json.dumps(alone(Path(folder), int(sizes[0]))))
