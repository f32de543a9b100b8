"""Prediction: files and seconds of sound a second over a folder, and over long recordings, with their memory."""

import statistics
import time
from pathlib import Path

import numpy as np
import soundfile

from measures.commands import SPECTRNN, run
from spectrnn.inference.hearing import Whole
from spectrnn.inference.predictor import load
from spectrnn.inference.recordings import audio_paths, hear


def folder(model: Path, recordings: list[str], rounds: int) -> dict[str, float]:
    """Medians over a folder of short recordings, without the start of the command."""
    predictor = load(model)
    paths = list(audio_paths(recordings))
    total = sum(soundfile.info(path).duration for path in paths)
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        for heap in hear(predictor, Whole(predictor, None), paths, 64):
            for heard in heap:
                if heard.error:
                    raise heard.error
        times.append(time.perf_counter() - start)
    seconds = statistics.median(times[1:])
    return {"files": len(paths), "files/s": len(paths) / seconds, "seconds of sound a second": total / seconds}


def long_recordings(model: Path, scratch: Path, minutes: list[int], rounds: int) -> dict[str, dict[str, float]]:
    """Medians of the whole command over one recording of noise."""
    rate = load(model).sample_rate
    found = {}
    for length in minutes:
        path = scratch / f"{length}.wav"
        with soundfile.SoundFile(path, "w", rate, 1, "PCM_16") as file:
            generator = np.random.default_rng(0)
            for _ in range(length):
                file.write(generator.normal(0, 3000, 60 * rate).astype(np.int16))
        outcomes = [run([*SPECTRNN, "predict", str(path), f"run={model}"]) for _ in range(rounds)]
        seconds = statistics.median(outcome.seconds for outcome in outcomes)
        found[f"{length} minutes"] = {
            "seconds of sound a second": 60 * length / seconds,
            "peak MB": statistics.median(outcome.peak_mb for outcome in outcomes),
        }
        path.unlink()
    return found
