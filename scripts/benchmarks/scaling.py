"""Scaling: the cost per clip of a dataset of a million clips, next to one of a thousand."""

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

RATE, SECONDS = 8000, 0.05  # sample rate in Hz and duration of the clips


def scaling(counts: list[int], rounds: int) -> dict[str, dict[str, float]]:
    """Measures synthetic datasets of the given numbers of clips, each in a process of its own."""
    from benchmarks.commands import run

    with tempfile.TemporaryDirectory() as scratch:
        environment = {"PYTHONPATH": str(Path(__file__).resolve().parents[1]), "SPECTRNN_CACHE": f"{scratch}/cache"}

        def measured(what: str, *sizes: int) -> Any:
            command = [sys.executable, "-m", "benchmarks.scaling", what, scratch, str(rounds), *map(str, sizes)]
            return json.loads(run(command, **environment).text.splitlines()[-1])

        found: dict[str, dict[str, float]] = {}
        for count in counts:
            make(Path(scratch), count)
            measured("open", count)  # decodes the dataset
            found[f"{count:,} clips"] = measured("open", count)
        for count, milliseconds in zip(counts, measured("gather", *counts), strict=True):
            found[f"{count:,} clips"]["ms to gather a batch"] = milliseconds
        return found


def make(scratch: Path, count: int, rate: int = RATE, seconds: float = SECONDS) -> list[str]:
    """Writes recordings of noise and a manifest of clips in them; returns the overrides that select it."""
    generator = np.random.default_rng(0)
    clips_per_file = round(500 / seconds)
    with (scratch / f"{count}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split", "start", "end"])
        for first in range(0, count, clips_per_file):
            name = f"{first}.wav"
            if not (scratch / name).exists():
                noise = generator.integers(-3000, 3000, round(seconds * rate) * clips_per_file, dtype=np.int16)
                soundfile.write(scratch / name, noise, rate)
            for number in range(min(clips_per_file, count - first)):
                split = "val" if number % 10 == 0 else "train"
                start, end = number * seconds, (number + 1) * seconds
                writer.writerow([name, f"class {number % 7}", split, f"{start:.3f}", f"{end:.3f}"])
    return ["data=manifest", f"data.path={scratch}/{count}.csv", f"data.sample_rate={rate}"]


def open_made(scratch: Path, count: int) -> Any:
    """Opens a dataset that `make` wrote, as training does."""
    import torch

    from benchmarks.steps import compose_train
    from spectrnn.config.instantiate import instantiate
    from spectrnn.data.dataset import open_dataset

    config = compose_train(["data=manifest", f"data.path={scratch}/{count}.csv", f"data.sample_rate={RATE}"])
    return open_dataset(instantiate(config.data, "data"), torch.device("cpu"))


def measure_open(scratch: Path, count: int) -> dict[str, float]:
    """Opens a dataset and gathers batches: duration and memory."""
    import torch

    from benchmarks.steps import compose_train

    def resident_mb() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6

    compose_train([])  # the start of Hydra is not part of the measurement
    before, start = resident_mb(), time.perf_counter()
    dataset = open_made(scratch, count)
    epoch = dataset.batches("train", 64, torch.device("cpu"), 0).epoch(0)
    next(epoch)
    seconds, opened = time.perf_counter() - start, resident_mb()
    for _ in islice(epoch, 2000):
        pass
    clip = dataset.clips[-1]  # a tuple and its two floats; many clips share the same strings
    return {
        "seconds to the first batch": seconds,
        "clip table, bytes per clip": sys.getsizeof(clip) + sys.getsizeof(clip.start) + sys.getsizeof(clip.end) + 8,
        "memory, bytes per clip": (opened - before) * 1e6 / count,
        "memory of 2,000 batches, MB": resident_mb() - opened,
    }


def measure_gather(scratch: Path, counts: list[int], rounds: int) -> list[float]:
    """Milliseconds per batch over whole epochs, in turn, with as many batches each as the largest dataset has."""
    import torch

    datasets = [open_made(scratch, count).batches("train", 64, torch.device("cpu"), 0) for count in counts]
    times: list[list[float]] = [[] for _ in datasets]
    for _ in range(rounds):
        for batches, measured in zip(datasets, times, strict=True):
            epochs = -(-max(map(len, datasets)) // len(batches))
            start = time.perf_counter()
            done = sum(1 for epoch in range(epochs) for _ in batches.epoch(epoch))
            measured.append(1000 * (time.perf_counter() - start) / done)
    return [statistics.median(measured) for measured in times]


if __name__ == "__main__":
    what, folder, rounds, *counts = sys.argv[1:]
    if what == "open":
        print(json.dumps(measure_open(Path(folder), int(counts[0]))))
    else:
        print(json.dumps(measure_gather(Path(folder), [int(count) for count in counts], int(rounds))))
