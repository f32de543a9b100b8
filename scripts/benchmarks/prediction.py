"""Prediction and event detection: speed and memory for a folder and for long recordings."""

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
from spectrnn.inference.shards import work_units
from spectrnn.inference.tasks import ClipTask

Segment = tuple[float, float, str]  # start and end in seconds, label


def folder(model: Path, recordings: list[str], rounds: int) -> dict[str, float]:
    """Measures medians for a folder of short recordings, without the startup of the command."""
    predictor = load(model)
    paths = list(audio_paths(recordings))
    duration = sum(soundfile.info(path).duration for path in paths)
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        for group in predict_recordings(predictor, ClipTask(predictor, None), work_units(paths), 64):
            for result in group:
                if result.error:
                    raise result.error
        times.append(time.perf_counter() - start)
    seconds = statistics.median(times[1:])
    return {"files": len(paths), "files/s": len(paths) / seconds, "times real time": duration / seconds}


def long_recordings(model: Path, scratch: Path, minutes: list[int], rounds: int) -> dict[str, dict[str, float]]:
    """Measures medians of the whole command for one recording of noise."""
    rate = load(model).sample_rate
    generator = np.random.default_rng(0)
    found = {}
    for length in minutes:
        path = scratch / f"{length}.wav"
        with soundfile.SoundFile(path, "w", rate, 1, "PCM_16") as file:
            for _ in range(length):
                file.write(generator.normal(0, 3000, 60 * rate).astype(np.int16))
        outcomes = [run([*SPECTRNN, "predict", str(path), f"run={model}"]) for _ in range(rounds)]
        found[f"{length} minutes"] = {
            "times real time": 60 * length / statistics.median(outcome.seconds for outcome in outcomes),
            "peak MB": statistics.median(outcome.peak_mb for outcome in outcomes),
        }
        path.unlink()
    return found


def detection(
    model: Path, scratch: Path, clips: Sequence[Clip], hours: list[float], settings: list[str]
) -> dict[str, dict[str, float]]:
    """Measures event detection in recordings of faint noise with about one clip per minute.

    Args:
        model: Run or model file.
        scratch: Folder for the recordings.
        clips: Clips to insert.
        hours: Durations of the recordings in hours.
        settings: Overrides of predict.yaml, such as ``window=2``.

    Returns:
        For each recording: speed, memory, recall, and false events per hour.
    """
    rate = load(model).sample_rate
    found = {}
    for length in hours:
        path, out = scratch / "scanned.wav", scratch / "scanned.csv"
        inserted = _write_recording(path, rate, clips, length)
        outcome = run([*SPECTRNN, "predict", str(path), f"run={model}", f"out={out}", *settings])
        with out.open(newline="") as file:
            events = [(float(row["start"]), float(row["end"]), row["label"]) for row in csv.DictReader(file)]
        detected = [any(_overlap(event, clip) and event[2] == clip[2] for event in events) for clip in inserted]
        num_false = sum(not any(_overlap(event, clip) for clip in inserted) for event in events)
        found[f"{length:g} h, {' '.join(settings)}"] = {
            "times real time": 3600 * length / outcome.seconds,
            "peak MB": outcome.peak_mb,
            "clips": len(inserted),
            "recall": float(np.mean(detected)),
            "false events per hour": num_false / length,
        }
        path.unlink()
        out.unlink()
    return found


def _overlap(first: Segment, second: Segment) -> bool:
    return first[0] < second[1] and first[1] > second[0]


def _write_recording(path: Path, rate: int, clips: Sequence[Clip], hours: float) -> list[Segment]:
    """Writes a recording minute by minute; returns the inserted clips."""
    generator = np.random.default_rng(0)
    inserted = []
    with soundfile.SoundFile(path, "w", rate, 1, "PCM_16") as file:
        for minute in range(round(60 * hours)):
            samples = generator.normal(0, 10, 60 * rate)
            clip = clips[generator.integers(len(clips))]
            waveform = load_audio(clip.path, rate, clip.start, clip.end, clip.copy)[: 40 * rate]
            start = int(generator.integers(5 * rate, 15 * rate))
            samples[start : start + len(waveform)] += waveform
            file.write(np.clip(samples, -32768, 32767).astype(np.int16))
            inserted.append((60 * minute + start / rate, 60 * minute + (start + len(waveform)) / rate, clip.label))
    return inserted
