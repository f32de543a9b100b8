"""Annotated recordings, from the label files of other tools and of `predict` to a model, as a user does it."""

import csv
import importlib.util
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from spectrnn.training.trainer import Trainer

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "soundscapes.py"
RATE = 8000


@pytest.fixture(scope="module")
def soundscapes(tmp_path_factory):
    """Folder that scripts/soundscapes.py writes: six recordings of 12 s, of tones in place of three spoken digits."""
    spec = importlib.util.spec_from_file_location("soundscapes", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    root = tmp_path_factory.mktemp("soundscapes")
    for digit, frequency in enumerate((300, 900, 2700)):
        for take in range(10):  # half of them are the official test takes
            wave = 0.3 * np.sin(2 * np.pi * frequency * 1.01**take * np.arange(RATE // 3) / RATE)
            soundfile.write(root / f"{digit}_tone_{take}.wav", wave, RATE)
    script.write_recordings(root / "recordings", root, count=6, minutes=0.2, seed=0)
    return root / "recordings"


@pytest.fixture
def overrides(tiny):
    own = ("task=multi_label", "data=annotations", "data.window=0.5", "trainer.metric=loss", "trainer.epochs=1")
    kept = [override for override in tiny if not override.startswith(("data=", "trainer.metric", "trainer.epochs"))]
    return [*kept, *own, "augment=[noise,gain]", "model.hidden_size=8"]


def weights(spectrnn, name, *settings):
    outcome = spectrnn("train", *settings, f"hydra.run.dir={name}")
    assert outcome.code == 0, outcome.err
    return load_file(f"{name}/model.safetensors")


def same(a, b):
    return all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def test_all_formats_train_to_the_same_weights(spectrnn, overrides, soundscapes):
    raven = weights(spectrnn, "raven-run", *overrides, f"data.root={soundscapes / 'raven'}")
    audacity = weights(spectrnn, "audacity-run", *overrides, f"data.root={soundscapes / 'audacity'}")
    root, table = soundscapes / "csv", soundscapes / "csv" / "events.csv"
    assert same(raven, audacity)
    assert same(raven, weights(spectrnn, "csv-run", *overrides, f"data.root={root}", f"data.annotations={table}"))
    rows = table.read_text().splitlines()
    (table.parent / "fewer.csv").write_text("\n".join(rows[:-1]) + "\n")
    fewer = f"data.annotations={table.parent / 'fewer.csv'}"
    assert not same(raven, weights(spectrnn, "other-run", *overrides, f"data.root={root}", fewer))


def test_events_are_detected_from_frames(spectrnn, overrides, soundscapes, tmp_path, monkeypatch):
    """A run that was interrupted and resumed has the same weights, and its frames give the events of tones."""
    root = f"data.root={soundscapes / 'csv'}"
    augment = "augment=[trim,shift,speed,stretch,mixup]"
    own = (*overrides, root, f"data.annotations={soundscapes / 'csv' / 'events.csv'}", "head=frames", augment)
    own = (*own, "data.unannotated=unknown", "trainer.batch_size=8", "trainer.log_every_n_steps=1", "trainer.epochs=2")
    whole = weights(spectrnn, "whole", *own)
    step, steps = Trainer.train_step, []

    def interrupted(trainer, batch):
        steps.append(batch.events)
        if len(steps) == 2:
            signal.raise_signal(signal.SIGTERM)
        return step(trainer, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", interrupted)
        assert spectrnn("train", *own, "hydra.run.dir=run").code == 143
    assert all(events is not None for events in steps)
    assert spectrnn("train", "resume=run").code == 0
    assert same(whole, load_file("run/model.safetensors"))

    weights(spectrnn, "run8", *own, "data.unannotated=quiet", "augment=[]", "trainer.epochs=12", "optimizer.lr=0.02")
    table = soundscapes / "csv" / "events.csv"
    outcome = spectrnn("eval-events", table, "run=run8", "window=1", "format=json", "batch_size=16", "psds=true")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert result["micro"]["f1"] > 0.9
    assert result["intersection"]["micro"]["f1"] > 0.9
    assert (result["intersection"]["dtc"], result["intersection"]["gtc"]) == (0.7, 0.7)
    assert result["psds"]["score"] > 0.9
    recording = soundscapes / "csv" / "recording00.wav"
    events = spectrnn("predict", recording, "run=run8", "window=1").out.splitlines()[1:]
    durations = [float(end) - float(start) for _, start, end, *_ in csv.reader(events)]
    assert np.median(durations) == pytest.approx(1 / 3, abs=0.05)  # the tones, not windows
    assert spectrnn("predict", recording, "run=run8").code == 0  # the recording as one clip


def test_frames_need_several_labels(spectrnn, tiny, tones):
    message = "head=frames: several classes, or none, sound in a frame; set task=multi_label"
    assert spectrnn("train", *tiny, f"data.root={tones}", "head=frames").error() == f"spectrnn: {message}"


def test_events_of_predict_are_annotations_once_they_are_corrected(spectrnn, overrides, soundscapes, tmp_path):
    """All formats, with a corrected line each, name the same events of recordings in subfolders."""
    recordings = tmp_path / "recordings"
    for number, path in enumerate(sorted((soundscapes / "audio").glob("*.wav"))):
        folder = recordings / f"night{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
    weights(spectrnn, "run", *overrides, f"data.root={soundscapes / 'raven'}", "trainer.epochs=8")
    detection = (recordings, "run=run", "window=0.5", "hop=0.25", "smoothing_windows=1")  # in ms, as in CSV
    outputs = {"csv": "events.csv", "jsonl": "events.jsonl", "raven": "events.txt", "audacity": "labels"}
    for form, out in outputs.items():
        assert spectrnn("predict", *detection, f"format={form}", f"out={out}").code == 0
    events = list(csv.DictReader(Path("events.csv").read_text().splitlines()))
    assert {event["path"] for event in events} == set(map(str, recordings.glob("*/*.wav")))
    corrected = max(events, key=lambda event: float(event["probability"]))
    first = [event for event in events if event["path"] == corrected["path"]].index(corrected)
    at = events.index(corrected)
    for out, line in (("events.csv", at + 1), ("events.jsonl", at), ("events.txt", at + 1)):
        lines = Path(out).read_text().splitlines()
        lines[line] = lines[line].replace(corrected["label"], "whistle")
        assert "whistle" in lines[line]
        Path(out).write_text("\n".join(lines) + "\n")
    track = Path("labels", Path(corrected["path"]).relative_to(recordings)).with_suffix(".wav.txt")
    lines = track.read_text().splitlines()
    lines[first] = lines[first].replace(corrected["label"], "whistle")
    track.write_text("\n".join(lines) + "\n")

    trained = {}
    for form, out in outputs.items():
        settings = (f"data.root={recordings}", f"data.annotations={out}", "data.val_fraction=0", "data.fold=none")
        trained[form] = weights(spectrnn, form, *overrides, *settings)
        assert "whistle" in Path(form, "model.safetensors").read_bytes()[:20_000].decode(errors="replace")
    assert all(same(trained["csv"], other) for other in trained.values())
