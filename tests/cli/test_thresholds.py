"""`spectrnn tune-thresholds`, and the calibration of runs, end to end on tones."""

import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

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
from spectrnn.model import serialization
from spectrnn.model.header import read_header


@pytest.fixture(scope="module")
def negatives(tmp_path_factory):
    """Folder of two recordings, 72 s in total, of noise and tones of other frequencies than the classes have."""
    folder = tmp_path_factory.mktemp("negatives")
    generator = np.random.default_rng(0)
    for name, rate, seconds in (("a/one.wav", 8000, 40), ("two.flac", 16_000, 32)):
        frequency = np.repeat(generator.uniform(100, 3500, 4 * seconds), rate // 4)
        tones = 0.3 * np.sin(2 * np.pi * np.cumsum(frequency) / rate)
        (folder / name).parent.mkdir(exist_ok=True)
        soundfile.write(folder / name, tones + 0.01 * generator.normal(size=len(tones)), rate)
    (folder / "notes.txt").write_text("quiet")
    return folder


@pytest.fixture
def run(trained_run, tmp_path):
    """Writable copy of a run."""
    return shutil.copytree(trained_run, tmp_path / "run")


def test_thresholds_are_tuned_reported_and_stored_in_the_model_file(spectrnn, run, negatives, tmp_path):
    model, out = run / "model.safetensors", tmp_path / "out"
    weights, header = load_file(model), read_header(model)
    settings = {"max_false_alarms_per_hour": 200, "window": 0.4, "hop": 0.1, "smoothing_windows": 2}
    settings |= {"offset_ratio": 0.7, "min_event_seconds": 0, "background": ["middle"]}
    overrides = [f"{key}={value}".replace("'", "") for key, value in settings.items()]
    outcome = spectrnn("tune-thresholds", f"run={run}", f"negatives=[{negatives}]", f"out={out}", *overrides)
    assert outcome.code == 0, outcome.err
    assert "thresholds for at most 200 false alarms per hour and class, in 0.02 h of negatives" in outcome.out
    assert f"{model} now contains these thresholds, which predict and stream use" in outcome.err
    predictor, tuned = load(run), read_thresholds(model)
    assert predictor.tuned_thresholds == tuned
    assert {name: getattr(tuned, name) for name in (*settings, "hours")} == {**settings, "hours": 0.02}

    result = json.loads((out / "thresholds.json").read_text())
    assert {name: result[name] for name in (*settings, "hours")} == {**settings, "hours": 0.02}
    false_alarms: Counter[str] = Counter()
    for path in (negatives / "a" / "one.wav", negatives / "two.flac"):
        detector = EventDetector(predictor.labels, tuned.as_array(predictor.labels), 2, 0.7, 0)
        for spans, probabilities in sliding_window_predict(predictor, iter_blocks(path, 8000), 0.4, 0.1, 64):
            false_alarms.update(event.label for event in detector.push(spans, probabilities))
        false_alarms.update(event.label for event in detector.finish())
    assert result["per_class"].keys() == {"low", "high"}
    for label, row in result["per_class"].items():
        assert row["reached"]
        assert row["threshold"] == tuned.by_label[label]
        assert row["false_alarms_per_hour"] == pytest.approx(false_alarms[label] / 0.02)
        assert row["false_alarms_per_hour"] <= 200
    assert Image.open(out / "thresholds.png").size[0] > 300
    page = (out / "thresholds.html").read_text()
    data, *sounds = map(json.loads, re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page))
    assert "Content-Security-Policy\" content=\"default-src 'none'; img-src data:; media-src data:;" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page.partition("<script>")[0])
    assert [(row[0], row[5]) for row in data["classes"]] == [
        (label, [list(point) for point in zip(*result["per_class"][label]["curve"].values(), strict=True)])
        for label in sorted(result["per_class"], key=lambda label: result["per_class"][label]["recall"])
    ]
    alarms = [clip for clip in data["clips"] if clip[0] == "alarm"]
    assert Counter(clip[1] for clip in alarms) == +false_alarms
    assert [clip[5] for clip in alarms] == sorted((clip[5] for clip in alarms), reverse=True)
    assert len(sounds) == len(data["clips"]) == data["false_alarm_count"] + data["miss_count"]
    assert all(sound["audio"].startswith("data:audio/") and 0 < sound["seconds"] <= 6 for sound in sounds)
    assert all(torch.equal(load_file(model)[name], tensor) for name, tensor in weights.items())
    assert {**read_header(model), "tuned_thresholds": None} == header


def test_thresholds_are_tuned_on_whole_clips(spectrnn, run, negatives, tmp_path):
    command = ("tune-thresholds", f"run={run}", f"negatives=[{negatives}]", "window=0.2", "hop=0.1")
    assert spectrnn(*command, f"out={tmp_path / 'whole'}").code == 0
    assert spectrnn(*command, f"out={tmp_path / 'cropped'}", "data.max_seconds=0.05").code == 0
    whole, cropped = (json.loads((tmp_path / name / "thresholds.json").read_text()) for name in ("whole", "cropped"))
    assert whole == cropped
    assert max(row["recall"] for row in whole["per_class"].values()) > 0


def test_thresholds_are_kept_until_the_classifier_changes(spectrnn, run, negatives, tmp_path):
    model = run / "model.safetensors"
    assert spectrnn("tune-thresholds", f"run={run}", f"negatives=[{negatives}]", "window=0.4").code == 0
    assert (run / "thresholds" / "thresholds.json").is_file()
    tuned = read_thresholds(model)
    assert tuned is not None
    assert spectrnn("eval", f"run={run}", f"out={tmp_path / 'out'}").code == 0
    assert spectrnn("train", f"resume={run}").code == 0  # it is complete
    assert read_thresholds(model) == tuned
    before = load_file(model)
    assert spectrnn("train", f"resume={run}", "trainer.epochs=4").code == 0
    after = load_file(model)
    assert not all(torch.equal(after[name], before[name]) for name in before)  # a better epoch was found
    assert read_thresholds(model) is None


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ([], "negatives: missing; name recordings without any event"),
        (["negatives=[nowhere.wav]"], "negatives: nowhere.wav: no such file"),
        (["negatives=[empty]"], "negatives: empty: is a folder without audio files"),
        (["negatives=[broken.wav]"], "negatives: broken.wav: cannot be read as audio (Format not recognised)"),
        (
            ["negatives=[negatives]", "hop=0.5", "window=0.3"],
            "hop=0.5: longer than the window of 0.3 s, so audio would be skipped",
        ),
        (
            ["negatives=[negatives]", "background=[hihg]"],
            "background: the model has no label 'hihg'; did you mean high?",
        ),
        (
            ["negatives=[negatives]", "background=[low,middle,high]"],
            "background: covers every label with a threshold, so nothing could be detected",
        ),
        (
            ["negatives=[negatives]", "max_false_alarms_per_hour=-1"],
            "max_false_alarms_per_hour=-1: should be greater than or equal to 0",
        ),
        (
            ["negatives=[negatives]", "smoothing_windows=0"],
            "smoothing_windows=0: should be greater than 0, or null",
        ),
    ],
)
def test_invalid_settings_are_reported_and_nothing_is_written(spectrnn, run, negatives, tmp_path, settings, error):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.wav").write_bytes(b"not audio")
    (tmp_path / "negatives").symlink_to(negatives)
    before = (run / "model.safetensors").read_bytes()
    assert spectrnn("tune-thresholds", f"run={run}", "out=out", *settings).error() == f"spectrnn: {error}"
    assert not (tmp_path / "out").exists()
    assert (run / "model.safetensors").read_bytes() == before


def test_several_errors_are_reported_at_once(spectrnn, run):
    outcome = spectrnn("tune-thresholds", f"run={run}", "negatives=[a.wav,b.wav]", "hop=3", "background=[x]")
    assert outcome.error() == "spectrnn: several errors"
    assert outcome.err.split("several errors\n")[1].splitlines() == [
        "  hop=3: longer than the window of 0.42 s, so audio would be skipped",
        "  background: the model has no label 'x'; known here: high, low, middle",
        "  negatives: a.wav: no such file",
        "  negatives: b.wav: no such file",
    ]


def test_results_are_kept_if_the_model_file_cannot_be_written(spectrnn, run, negatives, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    commands = [
        ["mount", "-t", "tmpfs", "tmpfs", disk],
        ["cp", run / "model.safetensors", disk],
        ["mount", "-o", "remount,ro", disk],
    ]
    try:
        for command in commands:
            if subprocess.run(command, check=False, capture_output=True).returncode:
                pytest.skip("needs the right to mount")
        outcome = spectrnn("tune-thresholds", f"run={disk}", f"negatives=[{negatives}]", "window=0.4", "out=out")
        assert outcome.error().startswith(
            f"spectrnn: {disk / 'model.safetensors'}: the thresholds cannot be written to it ("
        )
        assert json.loads((tmp_path / "out" / "thresholds.json").read_text())["per_class"].keys() == {
            "high",
            "low",
            "middle",
        }
    finally:
        subprocess.run(["umount", "-l", disk], check=False, capture_output=True)


def test_run_is_calibrated_on_its_validation_split(spectrnn, trained_run, tmp_path):
    metrics = json.loads((trained_run / "metrics.json").read_text())
    calibrated = load_file(trained_run / "model.safetensors")
    assert calibrated["temperature"].item() == metrics["temperature"] != 1

    def evaluate(run):
        assert spectrnn("eval", f"run={run}", "split=val", f"out={tmp_path / 'out'}").code == 0
        return json.loads((tmp_path / "out" / "metrics.json").read_text())["val"]

    val = evaluate(trained_run)
    assert val["ece"] == pytest.approx(metrics["val"]["ece"], abs=1e-6)
    copy = shutil.copytree(trained_run, tmp_path / "uncalibrated")
    classifier, config = serialization.load(copy / "model.safetensors")
    classifier.temperature.fill_(1)
    serialization.save(classifier, config, copy / "model.safetensors")
    assert evaluate(copy)["ece"] == pytest.approx(val["ece_uncalibrated"], abs=1e-6)
    outcome = spectrnn("train", f"resume={copy}")  # as after a kill before the calibration
    assert f"temperature {metrics['temperature']:.2f}: calibration error of val" in outcome.err
    resumed = load_file(copy / "model.safetensors")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in calibrated.items())


def test_temperature_that_raises_the_calibration_error_is_not_applied(spectrnn, tones, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("spectrnn.training.run_folder.fit_temperatures", lambda *_: np.array(20.0))
    run = tmp_path / "run"
    outcome = spectrnn("train", *tiny, f"data.root={tones}", "trainer.epochs=5", f"hydra.run.dir={run}")
    assert "temperature 1: 20.00, fitted to val, would raise its calibration error from" in outcome.err
    assert json.loads((run / "metrics.json").read_text())["temperature"] == 1


def test_run_without_validation_split_is_not_calibrated(spectrnn, tones, tiny, tmp_path):
    run = tmp_path / "run"
    settings = ("data.val_fraction=0", "trainer.epochs=1", f"hydra.run.dir={run}")
    outcome = spectrnn("train", *tiny, f"data.root={tones}", *settings)
    assert outcome.code == 0, outcome.err
    assert "calibration error of val" not in outcome.err
    assert load_file(run / "model.safetensors")["temperature"].item() == 1


def test_low_recall_and_negatives_of_the_training_are_warned_about(spectrnn, run, tones, negatives, tmp_path):
    command = ("tune-thresholds", f"run={run}", "window=0.2", "hop=0.1", f"out={tmp_path / 'out'}")
    outcome = spectrnn(*command, f"negatives=[{negatives}]")
    assert outcome.code == 0, outcome.err
    assert " of the training, such as " not in outcome.err
    assert " of a labelled clip" not in outcome.err
    assert f"spectrnn predict RECORDINGS window=model run={run}" in outcome.err
    copy = shutil.copy(tones / "low" / "11.wav", tmp_path / "copy.wav")
    outcome = spectrnn(*command, f"negatives=[{copy},{negatives},{tones}]", "max_false_alarms_per_hour=0")
    assert outcome.code == 0, outcome.err
    assert re.search(rf"30 of the negatives were part of the training, such as {tones}/", outcome.err), outcome.err
    assert "negatives: 37 recordings are copies of labelled clips, taken for sounds of no class; " in outcome.err
    assert f"remove such copies: {copy} ({tones}/low/11.wav), " in outcome.err
    per_class = json.loads((tmp_path / "out" / "thresholds.json").read_text())["per_class"]
    low = [f"{label} ({row['recall']:.3f})" for label, row in per_class.items() if row["recall"] < 0.5]
    assert low
    assert f"few events will be detected, by their recall in clips, of {', '.join(low)}; " in outcome.err


def test_events_of_annotated_recordings_are_scored(spectrnn, run, tones, tone, tmp_path):
    """A recording of tones with pauses: what predict detects is its own truth, with an event more and one less."""
    silence = np.zeros(8000)
    waves = [soundfile.read(tones / label / "11.wav")[0] for label in ("low", "high", "low")]
    soundfile.write("night.wav", np.concatenate([part for wave in waves for part in (silence, wave)] + [silence]), 8000)
    settings = (f"run={run}", "window=0.2", "hop=0.05", "threshold=0.6", "background=[middle]")
    assert spectrnn("predict", "night.wav", *settings, "out=detected.csv").code == 0
    header, *rows = Path("detected.csv").read_text().splitlines()
    assert len(rows) >= 2
    labels = [row.split(",")[3] for row in rows]
    first = labels[0]
    extra = [f"night.wav,0.1,0.2,{first},1", "night.wav,0.5,0.6,middle,1"]
    Path("true.csv").write_text("\n".join([header, *rows[1:], *extra]))

    outcome = spectrnn("eval-events", "true.csv", *settings, "format=json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert result == json.loads((run / "eval" / "events" / "events.json").read_text())
    count = len(rows)
    share = (count - 1) / count
    assert result["micro"] == {
        "events": count,
        "detected": count,
        "correct": count - 1,
        "precision": pytest.approx(share),
        "recall": pytest.approx(share),
        "f1": pytest.approx(share),
    }
    assert result["unknown_labels"] == {"middle": 1}
    assert result["per_class"][first]["detected"] == labels.count(first)
    table = (run / "eval" / "events" / "events.csv").read_text().splitlines()
    outcomes = Counter(row.rpartition(",")[2] for row in table[1:])
    assert outcomes == {"correct": count - 1, "false": 1, "missed": 1}
    text = spectrnn("eval-events", "true.csv", *settings)
    assert re.search(rf"^all events +{share:.3f} +{share:.3f} +{share:.3f} +{count} ", text.out, re.MULTILINE), text.out
    assert max(map(len, text.out.splitlines())) <= 80

    Path("tracks").mkdir()
    Path("tracks/night.txt").write_text("\n".join("\t".join(row.split(",")[1:4]) for row in rows))
    tone(Path("noise.wav"), 2, amplitude=0.001)
    Path("quiet.csv").write_text("path,start,end,label\nnoise.wav,,,noise\n")
    recordings = "recordings=[night.wav]"
    outcome = spectrnn("eval-events", "tracks", "quiet.csv", recordings, *settings, "format=json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert (result["recordings"], result["micro"]["correct"], result["micro"]["events"]) == (2, count, count)
    assert result["hours"] == pytest.approx((len(soundfile.read("night.wav")[0]) / 8000 + 2) / 3600)
    assert result["unknown_labels"] == {"noise": 1}


def test_recordings_without_detected_events_are_noted(spectrnn, run, tone, tmp_path):
    tone(tmp_path / "quiet.wav", 2, amplitude=0)
    outcome = spectrnn("predict", tmp_path / "quiet.wav", f"run={run}", "window=0.2", "threshold=1")
    assert outcome.code == 0, outcome.err
    assert outcome.out == "path,start,end,label,probability\n"
    assert (
        "no event was detected in 1 recording; a threshold=NUMBER below that of the model detects more" in outcome.err
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [],
            "events: missing; name tables of the true events, or folders of label files: "
            "spectrnn eval-events events.csv run=...",
        ),
        (["none.csv"], "events=none.csv: no such file"),
        (["true.csv", "threshold=none"], "threshold=none: labels windows, and detects no events; model, or a number"),
        (["true.csv"], "events: none is of a label that the model detects: 'high', 'low', 'middle'"),
        (
            ["untimed.csv"],
            "events: rows of night.wav have no start and end, and labels that the model detects; "
            "only rows of recordings without events may be without times",
        ),
    ],
)
def test_events_that_cannot_be_scored_are_reported(spectrnn, trained_run, tone, tmp_path, arguments, message):
    tone(tmp_path / "night.wav", 1)
    (tmp_path / "true.csv").write_text("path,start,end,label\nnight.wav,0,1,cat\n")
    (tmp_path / "untimed.csv").write_text("path,label\nnight.wav,low\n")
    assert spectrnn("eval-events", *arguments, f"run={trained_run}").error() == f"spectrnn: {message}"
