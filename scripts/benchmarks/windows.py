"""Windows: the cost of windows that are drawn from annotated recordings, next to that of clips of the same length."""

import csv
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from spectrnn.data.labels import LABEL_SET, ONE_LABEL

RATE, MINUTES = 8000, 60  # sample rate in Hz and length of a recording
EVENTS_PER_MINUTE = 20


def windows(scratch: Path, hours: int, rounds: int) -> dict[str, dict[str, float]]:
    """Measures epochs of windows and of clips of 1 s, in turn: milliseconds per batch of 64, and their paired ratio."""
    make(scratch, hours)
    annotations = ["data=annotations", f"data.root={scratch}", f"data.annotations={scratch}/events.csv"]
    clips = opened(["data=manifest", f"data.path={scratch}/clips.csv"], ONE_LABEL)
    drawn = opened([*annotations, "data.guard=0.1"], LABEL_SET)
    times: dict[str, list[float]] = {"clips": [], "windows": []}
    for number in range(rounds + 1):  # the first one reads the files
        for name, batches in (("clips", clips), ("windows", drawn)):
            start = time.perf_counter()
            done = sum(1 for _ in batches.epoch(number))
            times[name].append(1000 * (time.perf_counter() - start) / done)
    ratios = [own / other for own, other in zip(times["windows"][1:], times["clips"][1:], strict=True)]
    return {
        f"clips of {hours} h": {"ms per batch": statistics.median(times["clips"][1:])},
        f"windows of {hours} h": {
            "ms per batch": statistics.median(times["windows"][1:]),
            "times that of clips": statistics.median(ratios),
        },
    }


def make(scratch: Path, hours: int) -> None:
    """Writes recordings of noise, a table of random events in them, and a manifest of clips of 1 s."""
    generator = np.random.default_rng(0)
    tables = {name: (scratch / f"{name}.csv").open("w", newline="") for name in ("events", "clips")}
    writers = {name: csv.writer(file) for name, file in tables.items()}
    for writer in writers.values():
        writer.writerow(["path", "start", "end", "label"])
    for number in range(hours * 60 // MINUTES):
        name, seconds = f"{number}.wav", 60 * MINUTES
        soundfile.write(scratch / name, generator.integers(-3000, 3000, seconds * RATE, dtype=np.int16), RATE)
        writers["clips"].writerows([name, second, second + 1, f"class {second % 7}"] for second in range(seconds))
        for start in np.sort(generator.uniform(0, seconds - 3, MINUTES * EVENTS_PER_MINUTE)):
            end = start + generator.uniform(0.2, 3)
            writers["events"].writerow([name, f"{start:.3f}", f"{end:.3f}", f"class {generator.integers(7)}"])
    for file in tables.values():
        file.close()


def opened(overrides: list[str], label_format: Any) -> Any:
    """Returns the training batches of a dataset."""
    import torch

    from benchmarks.steps import compose_train
    from spectrnn.config.instantiate import instantiate
    from spectrnn.data.dataset import open_dataset

    config = compose_train([*overrides, f"data.sample_rate={RATE}"])
    dataset = open_dataset(instantiate(config.data, "data"), torch.device("cpu"), label_format)
    return dataset.batches("train", 64, torch.device("cpu"), 0)
