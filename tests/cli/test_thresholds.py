"""`spectrnn eval negatives=...`, end to end on tones: thresholds for a wanted rate of false alarms."""

import json
import shutil
import subprocess
from collections import Counter

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from safetensors.torch import load_file

from spectrnn.data.audio import iter_blocks
from spectrnn.detection.events import EventDetector
from spectrnn.detection.thresholds import read_thresholds
from spectrnn.inference.predictor import load
from spectrnn.inference.sliding_window import sliding_window_predict
from spectrnn.model.header import read_header


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """A folder of two recordings, 72 s together, with noise and tones that are none of the three."""
    folder = tmp_path_factory.mktemp("night")
    generator = np.random.default_rng(0)
    for name, rate, seconds in (("a/one.wav", 8000, 40), ("two.flac", 16_000, 32)):
        frequency = np.repeat(generator.uniform(100, 3500, 4 * seconds), rate // 4)
        tones = 0.3 * np.sin(2 * np.pi * np.cumsum(frequency) / rate)
        (folder / name).parent.mkdir(exist_ok=True)
        soundfile.write(folder / name, tones + 0.01 * generator.normal(size=len(tones)), rate)
    (folder / "notes.txt").write_text("quiet")
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """A copy of a run, to be written to."""
    return shutil.copytree(trained, tmp_path / "run")


def test_thresholds_are_chosen_told_and_kept_in_the_model_file(spectrnn, run, night, tmp_path):
    before = load_file(run / "model.safetensors"), read_header(run / "model.safetensors")
    settings = (
        "max_false_alarms_per_hour=200",
        "window=0.4",
        "hop=0.1",
        "background=[middle]",
        "smoothing_windows=2",
        "offset_ratio=0.7",
    )
    outcome = spectrnn("eval", f"run={run}", f"negatives=[{night}]", f"out={tmp_path / 'out'}", *settings)
    assert outcome.code == 0, outcome.err
    assert f"false alarms are at most 200 an hour and class are in {run / 'model.safetensors'} now" in outcome.err
    predictor = load(run)
    tuned_thresholds = predictor.tuned_thresholds
    assert (
        tuned_thresholds.max_false_alarms_per_hour,
        tuned_thresholds.window,
        tuned_thresholds.hop,
        tuned_thresholds.smoothing_windows,
    ) == (200, 0.4, 0.1, 2)
    assert (tuned_thresholds.offset_ratio, tuned_thresholds.background, tuned_thresholds.hours) == (
        0.7,
        ["middle"],
        0.02,
    )
    table = json.loads((tmp_path / "out" / "metrics.json").read_text())["test"]["thresholds"]
    heard: Counter[str] = Counter()
    for path in (night / "a" / "one.wav", night / "two.flac"):
        detector = EventDetector(predictor.labels, tuned_thresholds.of(predictor.labels), 2, 0.7, 0)
        for spans, probabilities in sliding_window_predict(predictor, iter_blocks(path, 8000), 0.4, 0.1, 64):
            heard.update(event.label for event in detector.push(spans, probabilities))
        heard.update(event.label for event in detector.finish())
    assert table["per_class"].keys() == {"low", "high"}
    for label, row in table["per_class"].items():
        assert row["threshold"] == tuned_thresholds.thresholds[label]
        assert row["max_false_alarms_per_hour"] == pytest.approx(heard[label] / 0.02)
        assert row["max_false_alarms_per_hour"] <= 200
    text = (tmp_path / "out" / "report.txt").read_text()
    assert "thresholds where false alarms are at most 200 an hour and class, in 0.02 h" in text
    assert Image.open(tmp_path / "out" / "thresholds.png").size[0] > 300
    after = load_file(run / "model.safetensors"), read_header(run / "model.safetensors")
    assert all(torch.equal(after[0][name], tensor) for name, tensor in before[0].items())
    assert {**after[1], "tuned_thresholds": None} == before[1]


def test_decisions_stay_while_the_classifier_stays(spectrnn, run, night, tones, tmp_path):
    model = run / "model.safetensors"
    assert spectrnn("eval", f"run={run}", f"negatives=[{night}]", "window=0.4").code == 0
    chosen = read_thresholds(model)
    assert chosen is not None
    plain = spectrnn("eval", f"run={run}", f"out={tmp_path / 'out'}")
    assert plain.code == 0
    assert "thresholds" not in json.loads((tmp_path / "out" / "metrics.json").read_text())["test"]
    assert not (tmp_path / "out" / "thresholds.png").exists()
    assert spectrnn("train", f"resume={run}").code == 0  # has ended already
    assert read_thresholds(model) == chosen
    before = load_file(model)
    assert spectrnn("train", f"resume={run}", "trainer.epochs=4").code == 0
    after = load_file(model)
    assert not all(torch.equal(after[name], before[name]) for name in before)  # a better one was found
    assert read_thresholds(model) is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["negatives=[nowhere.wav]"], "negatives: nowhere.wav: no such file"),
        (["negatives=[empty]"], "negatives: empty: is a folder without audio files"),
        (["negatives=[broken.wav]"], "negatives: broken.wav: cannot be read as audio (Format not recognised)"),
        (["negatives=[night]", "hop=0.5", "window=0.3"], "hop=0.5: is longer than the window of 0.3 s"),
        (["negatives=[night]", "background=[hihg]"], "'hihg' is no label of the model; did you mean high?"),
        (["negatives=[night]", "background=[low,middle,high]"], "background=[low, middle, high]: names all classes"),
        (["negatives=[night]", "max_false_alarms_per_hour=-1"], "max_false_alarms_per_hour=-1: "),
        (["negatives=[night]", "smoothing_windows=0"], "smoothing_windows=0: "),
    ],
)
def test_mistakes_end_in_a_sentence_and_write_nothing(spectrnn, run, night, tmp_path, arguments, told):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    (tmp_path / "night").symlink_to(night)
    before = (run / "model.safetensors").read_bytes()
    assert told in spectrnn("eval", f"run={run}", "out=out", *arguments).mistake()
    assert not (tmp_path / "out").exists()
    assert (run / "model.safetensors").read_bytes() == before


def test_several_mistakes_are_told_at_once(spectrnn, run):
    outcome = spectrnn("eval", f"run={run}", "negatives=[a.wav,b.wav]", "hop=3", "background=[x]")
    told = [line.split(":")[0].strip() for line in outcome.err.splitlines() if not line.startswith("spectrnn:")]
    assert told == ["hop=3.0", "background=[x]", "negatives", "negatives"]


def test_a_model_file_that_cannot_be_written_leaves_the_report(spectrnn, run, night, tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    mounted = [
        ["mount", "-t", "tmpfs", "tmpfs", place],
        ["cp", run / "model.safetensors", place],
        ["mount", "-o", "remount,ro", place],
    ]
    try:
        for command in mounted:
            if subprocess.run(command, check=False, capture_output=True).returncode:
                pytest.skip("needs the right to mount")
        outcome = spectrnn("eval", f"run={place}", f"negatives=[{night}]", "window=0.4", "out=out")
        told = outcome.mistake()
        assert f"{place / 'model.safetensors'}: the thresholds cannot be written into it" in told
        assert "thresholds" in json.loads((tmp_path / "out" / "metrics.json").read_text())["test"]
    finally:
        subprocess.run(["umount", "-l", place], check=False, capture_output=True)


def test_a_run_is_calibrated_on_its_validation_split(trained, spectrnn, tones, tiny, tmp_path):
    metrics = json.loads((trained / "metrics.json").read_text())
    assert load_file(trained / "model.safetensors")["temperature"].item() == metrics["temperature"] != 1
    report = tmp_path / "out" / "metrics.json"
    assert spectrnn("eval", f"run={trained}", "split=val", f"out={report.parent}").code == 0
    val = json.loads(report.read_text())["val"]
    assert val["ece"] == pytest.approx(metrics["val"]["ece"], abs=1e-6)
    copy = shutil.copytree(trained, tmp_path / "uncalibrated")
    predictor = load(copy)
    predictor.classifier.temperature.fill_(1)
    from spectrnn.model import serialization

    serialization.save(
        predictor.classifier, read_header(copy / "model.safetensors")["config"], copy / "model.safetensors"
    )
    assert spectrnn("eval", f"run={copy}", "split=val", f"out={report.parent}").code == 0
    assert json.loads(report.read_text())["val"]["ece"] == pytest.approx(val["ece_uncalibrated"], abs=1e-6)
    outcome = spectrnn("train", f"resume={copy}")  # as one that was killed before it was calibrated
    assert f"temperature {metrics['temperature']:.2f}: calibration error of val" in outcome.err
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (copy, trained))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_without_a_validation_split_there_is_no_temperature(spectrnn, tones, tiny, tmp_path):
    run = tmp_path / "run"
    settings = ("data.val_fraction=0", "trainer.epochs=1", f"hydra.run.dir={run}")
    outcome = spectrnn("train", *tiny, f"data.root={tones}", *settings)
    assert outcome.code == 0, outcome.err
    assert "calibration error of val" not in outcome.err
    assert load_file(run / "model.safetensors")["temperature"].item() == 1
