"""A classifier of recorded digits, end to end: report, thresholds, a long recording, a live stream, export."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

LABELS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
NOISE_LEVEL = 0.003  # standard deviation, as a fraction of full scale
BACKGROUND = "background=[background]"

pytestmark = pytest.mark.slow


def noise(seconds, seed):
    return np.random.default_rng(seed).normal(0, NOISE_LEVEL, round(seconds * 8000))


@pytest.fixture(scope="module")
def run(real_digits, tmp_path_factory):
    """Run folder of a causal GRU trained on a third of the digits, and on noise as another class."""
    root = tmp_path_factory.mktemp("digits")
    rows = [("path", "label", "split", "group")]
    for path in sorted(real_digits.rglob("*.wav")):
        digit, speaker, number = path.stem.split("_")
        if int(number) < 20:
            rows.append((path, LABELS[int(digit)], "test" if int(number) < 5 else "train", speaker))
    for number in range(90):
        soundfile.write(root / f"{number}.wav", noise(0.5, number), 8000)
        rows.append((root / f"{number}.wav", "background", "test" if number < 20 else "train", "noise"))
    with (root / "clips.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    folder = root / "run"
    command = [
        sys.executable,
        "-m",
        "spectrnn",
        "train",
        "experiment=streaming",
        "data=manifest",
        "augment=[]",
        f"data.path={root / 'clips.csv'}",
        "data.sample_rate=8000",
        "model.hidden_size=64",
        "trainer.epochs=8",
        "optimizer.lr=4e-3",
        "task.label_smoothing=0",
        f"hydra.run.dir={folder}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def night(real_digits, tmp_path_factory):
    """Recording of noise with a digit of the test split every 3 s: its path, and start and label of each digit."""
    samples, events = noise(30, 1000), []
    for number, digit in enumerate([3, 1, 4, 0, 5, 9, 2, 6, 8]):
        clip, _ = soundfile.read(next(real_digits.rglob(f"{digit}_jackson_{number % 5}.wav")))
        start = 8000 * (3 * number + 2)
        samples[start : start + len(clip)] += clip
        events.append((start / 8000, LABELS[digit]))
    path = tmp_path_factory.mktemp("night") / "night.wav"
    soundfile.write(path, samples, 8000)
    return path, events


def count_detected(rows, expected):
    """Returns the number of expected events that were detected within 0.7 s."""
    return sum(
        any(row["label"] == label and abs(float(row["start"]) - start) < 0.7 for row in rows)
        for start, label in expected
    )


def test_run_writes_a_report(run):
    assert json.loads((run / "metrics.json").read_text())["test"]["accuracy"] > 0.8
    page = (run / "report.html").read_text()
    assert "0_jackson_0.wav" in page
    assert len(page) < 5_000_000


def test_thresholds_are_tuned_and_used(spectrnn, run, night, tmp_path):
    soundfile.write(tmp_path / "quiet.flac", noise(240, 2000), 8000)
    model = tmp_path / "model.safetensors"
    model.write_bytes((run / "model.safetensors").read_bytes())
    scan = ("window=0.6", "hop=0.1", BACKGROUND)
    negatives = (f"negatives=[{tmp_path / 'quiet.flac'}]", "max_false_alarms_per_hour=15")
    outcome = spectrnn("tune-thresholds", f"run={model}", *negatives, *scan)
    assert outcome.code == 0, outcome.err
    per_class = json.loads((tmp_path / "thresholds" / "thresholds.json").read_text())["per_class"]
    assert set(per_class) == set(LABELS)
    assert all(row["false_alarms_per_hour"] <= 15 for row in per_class.values())
    assert (tmp_path / "thresholds" / "thresholds.png").is_file()
    path, events = night
    outcome = spectrnn("predict", path, f"run={model}", "window=model")
    assert outcome.code == 0, outcome.err
    assert count_detected(list(csv.DictReader(outcome.out.splitlines())), events) >= 6


def test_events_of_a_long_recording_and_a_live_stream_are_detected(spectrnn, run, night, tmp_path, monkeypatch):
    path, events = night
    settings = (f"run={run}", BACKGROUND, "threshold=0.6", "window=0.6", "hop=0.1")
    outcome = spectrnn("predict", path, *settings, f"out={tmp_path / 'events.csv'}")
    assert outcome.code == 0, outcome.err
    assert count_detected(list(csv.DictReader((tmp_path / "events.csv").open())), events) >= 6
    with path.open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        outcome = spectrnn("stream", *settings, "source=-", "format=csv")
    assert outcome.code == 0, outcome.err
    assert count_detected(list(csv.DictReader(outcome.out.splitlines())), events) >= 6


@pytest.mark.parametrize("kind", [(), ("quantize=int8",), ("streaming=true",)], ids=["float", "int8", "streaming"])
def test_export_is_verified_in_another_folder(spectrnn, run, tmp_path, kind):
    pytest.importorskip("onnxruntime")
    outcome = spectrnn("export", f"run={run}", f"out={tmp_path / 'export'}", *kind)
    assert outcome.code == 0, outcome.err
    card = (tmp_path / "export" / "README.md").read_text()
    assert "background" in card
    moved = (tmp_path / "export").rename(tmp_path / "elsewhere")
    outcome = spectrnn("verify", moved / "model.onnx")
    assert outcome.code == 0, outcome.err
    example = subprocess.run(
        [sys.executable, "example.py", next((moved / "golden").glob("*.wav"))],
        cwd=moved,
        capture_output=True,
        text=True,
        check=False,
    )
    assert example.returncode == 0, example.stderr
