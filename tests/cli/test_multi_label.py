"""Several labels per clip, from training to prediction, as a user does it."""

import csv
import json
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

import spectrnn as package
from spectrnn.evaluation.predictions import read_predictions
from spectrnn.training.trainer import Trainer

FREQUENCIES = {"low": 300, "middle": 900, "high": 2700}
RATE = 8000


def mixture(names, seconds, generator):
    """Tones in noise."""
    time = np.arange(round(seconds * RATE)) / RATE
    wave = 0.01 * generator.normal(size=len(time))
    for name in names:
        wave += 0.15 * np.sin(2 * np.pi * FREQUENCIES[name] * generator.uniform(0.97, 1.03) * time)
    return wave


@pytest.fixture(scope="module")
def mixtures(tmp_path_factory):
    """Table of 64 clips of zero to three tones each."""
    root, generator = tmp_path_factory.mktemp("mixtures"), np.random.default_rng(0)
    with (root / "clips.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label"])
        for number in range(64):
            names = [name for bit, name in enumerate(FREQUENCIES) if number >> bit & 1]
            soundfile.write(root / f"{number}.wav", mixture(names, generator.uniform(0.2, 0.4), generator), RATE)
            table.writerow([f"{number}.wav", ";".join(names)])
    return root / "clips.csv"


@pytest.fixture
def overrides(tiny, mixtures):
    return [
        *(override for override in tiny if not override.startswith(("data=", "trainer.metric"))),
        *("task=multi_label", "data=manifest", f"data.path={mixtures}", "trainer.metric=map", "trainer.epochs=8"),
        *("augment=[noise,gain]", "trainer.report=true"),
    ]


@pytest.fixture
def run(spectrnn, overrides, tmp_path):
    assert spectrnn("train", *overrides, f"hydra.run.dir={tmp_path / 'run'}").code == 0
    return tmp_path / "run"


def test_classes_that_sound_together_are_found(spectrnn, run, mixtures, tmp_path):
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test"]["map"] > 0.95
    assert metrics["test"]["macro_f1"] > 0.9
    assert len(metrics["thresholds"]) == len(metrics["temperature"]) == 3
    assert (run / "report.html").is_file()
    weights = load_file(run / "model.safetensors")
    assert weights["task.thresholds"].tolist() == metrics["thresholds"]
    table = read_predictions(run / "predictions.csv").of_split("test")
    assert "" in {clip.label for clip in table.clips}
    assert (table.decisions == (table.probabilities >= np.float32(metrics["thresholds"]))).all()

    outcome = spectrnn("eval", f"run={run}", "data=manifest", f"data.path={mixtures}", "format=json")
    assert json.loads(outcome.out)["test"]["map"] == pytest.approx(metrics["test"]["map"])

    soundfile.write("two.wav", mixture(["low", "high"], 0.3, np.random.default_rng(1)), RATE)
    soundfile.write("none.wav", mixture([], 0.3, np.random.default_rng(1)), RATE)
    rows = list(csv.DictReader(spectrnn("predict", "two.wav", "none.wav", f"run={run}").out.splitlines()))
    assert [set(row["decision"].split(";")) for row in rows] == [{"high", "low"}, {""}]
    model = package.load(run)
    assert set(model.predict("two.wav").labels) == {"high", "low"}
    assert model.predict("none.wav").labels == []

    generator = np.random.default_rng(2)
    parts = [mixture(names, 1, generator) for names in ([], ["low"], ["low", "high"], ["high"], [])]
    soundfile.write("long.wav", np.concatenate(parts), RATE)
    events = {event.label: event for event in model.events("long.wav", window=0.3, hop=0.1)}
    assert events.keys() == {"low", "high"}
    assert (events["low"].start, events["low"].end) == pytest.approx((1, 3), abs=0.2)
    assert (events["high"].start, events["high"].end) == pytest.approx((2, 4), abs=0.2)


def test_report_shows_several_labels_per_clip(spectrnn, run, mixtures, open_page):
    assert spectrnn("eval", f"run={run}", "split=all", "out=out").code == 0
    metrics, table = (
        json.loads(Path("out/metrics.json").read_text())["all"],
        read_predictions(Path("out/predictions.csv")),
    )
    page, messages = open_page(Path("out/report.html").absolute())
    assert page.inner_text("h1") == f"Mean average precision {100 * metrics['map']:.1f}\u00a0% (64 clips)"
    correct = metrics["correct"]
    assert f"{correct} of 64 clips are classified with exactly their classes (exact match " in page.inner_text("#lead")
    thresholds = json.loads((run / "metrics.json").read_text())["thresholds"]
    cells = page.locator("#classes tbody tr").all_inner_texts()
    assert sorted(row.split("\t")[1] for row in cells) == sorted(f"{threshold:.3f}" for threshold in thresholds)

    labels, counts = metrics["confusion"]["labels"], np.array(metrics["confusion"]["counts"])
    assert labels[-1] == "(nothing)"
    for row, column in np.argwhere(counts).tolist():  # a cell lists the clips that count in it
        page.click(f".matrix td[data-true='{row}'][data-predicted='{column}']")
        assert page.inner_text("#count") == f"{counts[row, column]} of 64 clips"

    page.click("#reset")
    page.select_option("#show", "all")
    with page.expect_download() as download:
        page.click("#save")
    shutil.copy(download.value.path(), "shown.csv")
    shown = {row["path"]: row for row in csv.DictReader(Path("shown.csv").read_text().splitlines())}
    for number, clip in enumerate(table.clips):
        row = shown[clip.path]
        assert (row["labels"], row["predicted"]) == (clip.label, table.predicted(number))
        assert [float(row[name]) for name in FREQUENCIES] == pytest.approx(table.probabilities[number, [1, 2, 0]])

    page.select_option("#true", "(nothing)")
    assert page.inner_text("#count") == "8 of 64 clips"
    page.locator(".clip").first.focus()
    first = page.locator(".clip").first.locator(".top li span:first-child").all_inner_texts()[:2]
    page.keyboard.press("2")
    page.keyboard.press("1")
    page.locator(".clip").nth(1).focus()
    page.keyboard.press("1")
    page.keyboard.press("1")
    with page.expect_download() as download:
        page.click("#save-marks")
    shutil.copy(download.value.path(), "corrected.csv")
    marks = list(csv.DictReader(Path("corrected.csv").read_text().splitlines()))
    assert [mark["label"] for mark in marks] == [";".join(sorted(first)), ""]
    assert messages == []


def test_comparison_lists_the_clips_of_a_cell(spectrnn, run, tmp_path, open_page):
    other = shutil.copytree(run, tmp_path / "other")
    lines = (other / "predictions.csv").read_text().splitlines()
    column = lines[0].split(",").index("predicted")
    for number, line in enumerate(lines[1:], 1):
        cells = line.split(",")
        cells[column] = ";".join({*filter(None, cells[column].split(";"))} ^ {"low"})  # one class is always wrong
        lines[number] = ",".join(cells)
    (other / "predictions.csv").write_text("\n".join(lines) + "\n")
    outcome = spectrnn("compare", run, other, "out=page.html")
    assert outcome.code == 0, outcome.err
    page, messages = open_page(tmp_path / "page.html")
    heads = page.locator(".matrix tbody th").all_inner_texts()
    assert heads == ["high", "low", "middle", "(nothing)"]
    page.click(f".matrix td[data-true='{heads.index('low')}'][data-predicted='{heads.index('(nothing)')}']")
    titles = page.locator(".clip h3 > span").all_inner_texts()
    assert titles
    assert all("low" in title.split("; ") for title in titles)
    page.click(f".matrix td[data-true='{heads.index('(nothing)')}'][data-predicted='{heads.index('low')}']")
    titles = page.locator(".clip h3 > span").all_inner_texts()
    assert titles
    assert not any("low" in title for title in titles)
    assert messages == []


def test_resumed_run_is_the_same_to_the_bit(spectrnn, run, overrides, tmp_path):
    copy = tmp_path / "resumed"
    assert spectrnn("train", *overrides, f"hydra.run.dir={copy}", "trainer.epochs=3", "scheduler=constant").code == 0
    whole = tmp_path / "whole"
    assert spectrnn("train", *overrides, f"hydra.run.dir={whole}", "trainer.epochs=5", "scheduler=constant").code == 0
    assert spectrnn("train", f"resume={copy}", "trainer.epochs=5").code == 0
    expected, found = load_file(whole / "model.safetensors"), load_file(copy / "model.safetensors")
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_export_is_certified_with_thresholds(spectrnn, run):
    pytest.importorskip("onnxruntime")
    outcome = spectrnn("export", f"run={run}", "out=exported")
    assert outcome.code == 0, outcome.err
    import onnxruntime

    session = onnxruntime.InferenceSession("exported/model.onnx")
    metadata = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    thresholds = next(node["thresholds"] for node in [metadata, *metadata.values()] if "thresholds" in node)
    assert thresholds == json.loads((run / "metrics.json").read_text())["thresholds"]


def test_folders_name_several_classes_with_commas(spectrnn, overrides, tmp_path, mixtures):
    rows = list(csv.DictReader(mixtures.open()))
    for row in rows:
        folder = tmp_path / "tones" / (row["label"].replace(";", ",") or "low,middle")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(mixtures.parent / row["path"], folder)
    kept = [override for override in overrides if not override.startswith("data")]
    settings = ["data=folder", "data.root=tones", "data.sample_rate=8000", "trainer.epochs=1", "trainer.report=false"]
    outcome = spectrnn("train", *kept, *settings, "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    assert " of 3 classes, " in outcome.err


def test_empty_label_needs_the_task(spectrnn, overrides, mixtures):
    kept = [override for override in overrides if not override.startswith("task=")]
    error = spectrnn("train", *kept, "trainer.metric=accuracy").error()
    assert error.startswith("spectrnn: 8 clips have an empty label, such as ")
    assert error.endswith("and task=multi_label trains with those in which nothing sounds")


def test_check_counts_each_label_of_a_clip(spectrnn, mixtures):
    outcome = spectrnn("check", "task=multi_label", "data=manifest", f"data.path={mixtures}", "format=json")
    counts = {row["label"]: row["clips"] for row in json.loads(outcome.out)["classes"]}
    assert counts == {"low": 32, "middle": 32, "high": 32, "(nothing)": 8}
    outcome = spectrnn("check", "data=manifest", f"data.path={mixtures}")
    assert outcome.code == 1
    assert "nothing sounds" in " ".join(outcome.out.split())


def test_cross_validation_ensemble_has_the_mean_thresholds(spectrnn, overrides):
    outcome = spectrnn("train", *overrides, "folds=2", "final=ensemble", "trainer.epochs=1", "hydra.run.dir=study")
    assert outcome.code == 0, outcome.err
    folds = [load_file(f"study/fold-{number}/model.safetensors")["task.thresholds"] for number in (1, 2)]
    torch.testing.assert_close(load_file("study/model.safetensors")["task.thresholds"], torch.stack(folds).mean(0))
    assert {"map", "macro_f1"} <= json.loads(Path("study/metrics.json").read_text())["pooled"].keys()


@pytest.fixture
def negatives(tmp_path):
    """Folder with 30 s of noise, and of a tone between those of the classes."""
    generator, time = np.random.default_rng(5), np.arange(15 * RATE) / RATE
    (tmp_path / "negatives").mkdir()
    for number, amplitude in enumerate((0.0, 0.15)):
        wave = 0.01 * generator.normal(size=len(time)) + amplitude * np.sin(2 * np.pi * 1600 * time)
        soundfile.write(tmp_path / "negatives" / f"{number}.wav", wave, RATE)
    return tmp_path / "negatives"


def test_negatives_select_the_epoch_and_resume_to_the_bit(spectrnn, overrides, negatives, monkeypatch):
    settings = [f"data.negatives=[{negatives}]"]
    metric = ["metrics=[recall_at_fah]", "trainer.metric=recall_at_fah"]
    settings += [*metric, "trainer.select=best", "scheduler=constant"]
    kept = [override for override in overrides if not override.startswith(("trainer.metric", "trainer.report"))]
    kept.append("trainer.report=false")
    outcome = spectrnn("train", *kept, *settings, "hydra.run.dir=whole", "trainer.epochs=4")
    assert outcome.code == 0, outcome.err
    assert " and 0.01 h of negatives " in outcome.err
    metrics = json.loads(Path("whole/metrics.json").read_text())
    assert metrics["metric"] == "recall_at_fah"
    assert 0 <= metrics["test"]["recall_at_fah"] <= 1
    step = Trainer.train_step

    def interrupted(trainer, batch):
        if (trainer.epoch, trainer.batches_done) == (2, 3):  # hard windows have been found twice
            signal.raise_signal(signal.SIGTERM)
        return step(trainer, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", interrupted)
        outcome = spectrnn("train", *kept, *settings, "hydra.run.dir=part", "trainer.epochs=4")
    assert outcome.code == 143
    assert "spectrnn: stopped after epoch 2, 3 of " in outcome.err
    assert spectrnn("train", "resume=part").code == 0
    expected, found = load_file("whole/model.safetensors"), load_file("part/model.safetensors")
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_last_epoch_is_kept_if_few_negatives_would_decide(spectrnn, overrides, negatives):
    settings = [f"data.negatives=[{negatives}]", "metrics=[recall_at_fah]", "trainer.metric=recall_at_fah"]
    kept = [override for override in overrides if not override.startswith(("trainer.metric", "trainer.epochs"))]
    outcome = spectrnn("train", *kept, *settings, "trainer.report=false", "trainer.epochs=1", "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    text = re.sub(r"\s+", " ", outcome.err)
    reason = r"[\d.]+ h without events in the validation split are too few for recall at 1 false alarms per hour"
    assert re.search(f"trainer.select=auto: the last epoch is kept, as {reason}", text), outcome.err


def test_negatives_may_be_for_validation_only(spectrnn, overrides, negatives):
    settings = [f"data.negatives=[{negatives}]", "data.negative_share=0", "trainer.epochs=1", "trainer.report=false"]
    kept = [override for override in overrides if not override.startswith(("trainer.epochs", "trainer.report"))]
    outcome = spectrnn("train", *kept, *settings, "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    table = read_predictions(Path("run/predictions.csv"))
    assert any(clip.path.startswith(str(negatives)) for clip in table.clips)


def test_metric_of_false_alarms_is_an_option(spectrnn, overrides):
    kept = [override for override in overrides if not override.startswith("trainer.metric")]
    error = spectrnn("train", *kept, "trainer.metric=recall_at_fah").error()
    assert error.endswith("trainer.metric=recall_at_fah: no such metric; metrics=[recall_at_fah] adds it")


def test_metric_of_false_alarms_needs_clips_without_labels(spectrnn, overrides, mixtures, tmp_path):
    rows = list(csv.DictReader(mixtures.open()))
    with (tmp_path / "labelled.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows({**row, "path": mixtures.parent / row["path"]} for row in rows if row["label"])
    kept = [override for override in overrides if not override.startswith(("data.path", "trainer.metric"))]
    settings = ["data.path=labelled.csv", "metrics=[recall_at_fah]", "trainer.metric=recall_at_fah"]
    error = spectrnn("train", *kept, *settings).error()
    assert error.startswith("spectrnn: trainer.metric=recall_at_fah: cannot be measured on the validation split")
