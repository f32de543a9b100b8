"""Prediction: files and seconds of sound a second over a folder, and over long recordings, with their memory."""

import csv
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.commands import SPECTRNN, run
from spectrnn.data.audio import load_audio
from spectrnn.data.clips import Clip
from spectrnn.inference.pipeline import audio_paths, predict_recordings
from spectrnn.inference.predictor import load
from spectrnn.inference.tasks import ClipTask


def folder(model: Path, recordings: list[str], rounds: int) -> dict[str, float]:
    """Medians over a folder of short recordings, without the start of the command."""
    predictor = load(model)
    paths = list(audio_paths(recordings))
    total = sum(soundfile.info(path).duration for path in paths)
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        for heap in predict_recordings(predictor, ClipTask(predictor, None), paths, 64):
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


def nights(
    model: Path, scratch: Path, clips: Sequence[Clip], hours: list[float], settings: list[str]
) -> dict[str, dict[str, float]]:
    """The whole command over recordings of faint noise with a clip every minute or so, scanned for events.

    Args:
        model: a run or model file.
        scratch: a folder for the recordings.
        clips: that are put into them.
        hours: the length of each recording.
        settings: of predict.yaml, such as ``window=2``.

    Returns:
        For each length, how fast, in which memory, which share of the clips was heard where they lie by their label,
        and how many events an hour were none.
    """
    rate = load(model).sample_rate
    found = {}
    for length in hours:
        path, out = scratch / "night.wav", scratch / "night.csv"
        placed = _night(path, rate, clips, length)
        outcome = run([*SPECTRNN, "predict", str(path), f"run={model}", f"out={out}", *settings])
        with out.open(newline="") as file:
            events = [(float(row["start"]), float(row["end"]), row["label"]) for row in csv.DictReader(file)]
        heard = [
            any(start < until and end > since and label == said for start, end, label in events)
            for since, until, said in placed
        ]
        none = [not any(start < until and end > since for since, until, _ in placed) for start, end, _ in events]
        found[f"{length:g} h, {' '.join(settings)}"] = {
            "seconds of sound a second": 3600 * length / outcome.seconds,
            "peak MB": outcome.peak_mb,
            "clips": len(placed),
            "heard": float(np.mean(heard)),
            "false events an hour": sum(none) / length,
        }
        path.unlink()
    return found


def _night(path: Path, rate: int, clips: Sequence[Clip], hours: float) -> list[tuple[float, float, str]]:
    """Writes a recording, minute by minute; where each clip begins and ends, s, and its label."""
    generator = np.random.default_rng(0)
    placed = []
    with soundfile.SoundFile(path, "w", rate, 1, "PCM_16") as file:
        for minute in range(round(60 * hours)):
            sound = generator.normal(0, 10, 60 * rate)
            clip = clips[generator.integers(len(clips))]
            wave = load_audio(clip.path, rate, clip.start, clip.end)[: 40 * rate]
            start = int(generator.integers(5 * rate, 15 * rate))
            sound[start : start + len(wave)] += wave
            file.write(np.clip(sound, -32768, 32767).astype(np.int16))
            placed.append((60 * minute + start / rate, 60 * minute + (start + len(wave)) / rate, clip.label))
    return placed
