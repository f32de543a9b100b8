"""Cross-validation: a run per fold, and results over all clips."""

import csv
import json
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from sklearn.metrics import balanced_accuracy_score, f1_score

import spectrnn as spectrnn_package
from spectrnn.evaluation.predictions import Predictions
from spectrnn.runs import read_run
from spectrnn.study import cross_validation

GROUPED = "data.group='([0-9])[.]wav$'"  # ten groups, of which two have twice as many clips


@pytest.fixture(scope="module")
def arguments(tones, tiny):
    """Arguments that train a tiny classifier of the tones."""
    return ["train", *tiny, f"data.root={tones}", GROUPED]


@pytest.fixture(scope="module")
def finished(arguments, tmp_path_factory):
    """Read-only folder of a finished cross-validation with three folds, and a report."""
    folder = tmp_path_factory.mktemp("cross_validation") / "study"
    command = [sys.executable, "-m", "spectrnn", *arguments, f"hydra.run.dir={folder}", "folds=3"]
    done = subprocess.run([*command, "trainer.report=true"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def read_table(folder):
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def read_metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.glob("fold-*/model.safetensors")}


def test_every_clip_is_in_one_fold_with_its_group(finished, tones):
    rows = read_table(finished)
    assert {row["path"] for row in rows} == {str(path) for path in tones.glob("*/*.wav")}
    assert len(rows) == 36
    folds = {}
    for row in rows:
        folds.setdefault(row["group"], set()).add(row["fold"])
    assert all(len(names) == 1 for names in folds.values())
    assert set.union(*folds.values()) == {"1", "2", "3"}


def test_pooled_metrics_equal_an_independent_computation(finished):
    rows, metrics = read_table(finished), read_metrics(finished)
    labels = ["high", "low", "middle"]
    target, predicted = [row["label"] for row in rows], [row["predicted"] for row in rows]
    probabilities = np.array([[float(row[label]) for label in labels] for row in rows])
    assert [labels[index] for index in probabilities.argmax(1)] == predicted
    pooled = metrics["pooled"]
    assert pooled["accuracy"] == pytest.approx(np.mean([t == p for t, p in zip(target, predicted, strict=True)]))
    assert pooled["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(target, predicted))
    assert pooled["macro_f1"] == pytest.approx(f1_score(target, predicted, average="macro"))
    assert pooled["loss"] == pytest.approx(np.mean([-np.log(float(row[row["label"]])) for row in rows]))
    for name, value in pooled.items():
        values = [fold[name] for fold in metrics["folds"].values()]
        assert metrics["mean"][name] == pytest.approx(np.mean(values))
        assert metrics["std"][name] == pytest.approx(np.std(values, ddof=1))
        if name != "ece":
            low, high = metrics["intervals_95"]["pooled"][name]
            assert low - 1e-9 <= value <= high + 1e-9
    accuracies = [
        np.mean([row["label"] == row["predicted"] for row in rows if row["fold"] == fold]) for fold in ("1", "2", "3")
    ]
    assert [fold["accuracy"] for fold in metrics["folds"].values()] == pytest.approx(accuracies)
    assert (metrics["clips"], len(metrics["groups"])) == (36, 10)
    of_group = [row["label"] == row["predicted"] for row in rows if row["group"] == "7"]
    assert metrics["groups"]["7"] == {"clips": 3, "accuracy": pytest.approx(np.mean(of_group))}


def test_fold_is_an_ordinary_run(spectrnn, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "study")
    outcome = spectrnn("eval", f"run={tmp_path / 'study' / 'fold-2'}", "report=false")
    assert outcome.code == 0, outcome.err
    assert "warning" not in outcome.err
    evaluated = json.loads((tmp_path / "study" / "fold-2" / "eval" / "test" / "metrics.json").read_text())["test"]
    expected = read_metrics(finished)["folds"]["2"]
    assert {name: evaluated[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    config = yaml.safe_load((finished / "fold-2" / "config.yaml").read_text())
    assert (config["data"]["folds"], config["data"]["fold"], config["folds"]) == (3, "2", None)
    assert "epoch   2" in (finished / "fold-2" / "train.log").read_text()


def test_report_has_all_clips(finished, browser):
    page = browser.new_page()
    page.goto((finished / "report.html").as_uri())
    text = page.inner_text("body")
    assert "Cross-validation with 3 folds" in text
    assert page.evaluate("document.querySelectorAll('script[id^=clip-]').length") == 36
    assert not page.is_visible("#map-title")  # the vectors of different models have no common plane
    assert not (finished / "fold-1" / "report.html").exists()
    page.close()


def test_repeated_command_trains_nothing_again(spectrnn, arguments, finished, tmp_path):
    study = shutil.copytree(finished, tmp_path / "study")
    before = times(study)
    assert spectrnn(*arguments, "folds=3", "trainer.report=true", f"hydra.run.dir={study}").code == 0
    assert times(study) == before
    (study / "metrics.json").unlink()
    (study / "predictions.csv").unlink()
    assert spectrnn("train", f"resume={study}").code == 0
    assert times(study) == before
    assert read_metrics(study) == read_metrics(finished)
    assert read_table(study) == read_table(finished)


@pytest.mark.slow
def test_killed_cross_validation_ends_with_the_same_result(arguments, finished, tmp_path):
    study = tmp_path / "study"
    command = [sys.executable, "-m", "spectrnn", *arguments, f"hydra.run.dir={study}", "folds=3", "trainer.report=true"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not (study / "fold-2" / "last.ckpt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    before = (study / "fold-1" / "model.safetensors").stat().st_mtime_ns
    assert not (study / "metrics.json").exists()
    subprocess.run(command, check=True, capture_output=True)
    assert (study / "fold-1" / "model.safetensors").stat().st_mtime_ns == before
    assert (study / "predictions.csv").read_text() == (finished / "predictions.csv").read_text()
    for fold in ("fold-1", "fold-2", "fold-3"):
        ours, theirs = (load_file(folder / fold / "model.safetensors") for folder in (study, finished))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    ours, theirs = read_metrics(study), read_metrics(finished)
    assert ours.pop("train")
    assert theirs.pop("train")
    assert ours == theirs


@pytest.mark.parametrize("final", ["refit", "ensemble"])
def test_final_model_is_trained_on_all_clips(spectrnn, arguments, finished, tmp_path, final):
    study = shutil.copytree(finished, tmp_path / "study")
    before = times(study)
    settings = ("folds=3", "trainer.report=true", f"hydra.run.dir={study}", f"final={final}")
    outcome = spectrnn(*arguments, *settings)
    assert outcome.code == 0, outcome.err
    assert times(study) == before
    model = spectrnn_package.load(study)
    results = [read_metrics(study / f"fold-{number}") for number in (1, 2, 3)]
    if final == "refit":
        own = read_metrics(study / "final")
        seen = np.mean([result["best_epoch"] * result["train"]["clips"] for result in results])
        assert own["train"]["clips"] == 36
        assert own["epochs"] == max(1, round(seen / 36))
        temperature = np.prod([result["temperature"] for result in results]) ** (1 / 3)
        assert float(model.classifier.temperature) == pytest.approx(temperature)
    else:
        waveform = np.random.default_rng(0).normal(scale=0.1, size=3000).astype(np.float32)
        folds = [spectrnn_package.load(study / f"fold-{number}").predict(waveform, 8000) for number in (1, 2, 3)]
        for label, probability in model.predict(waveform, 8000).probabilities.items():
            assert probability == pytest.approx(np.mean([fold.probabilities[label] for fold in folds]), abs=1e-6)
    model_written = (study / "model.safetensors").stat().st_mtime_ns
    assert spectrnn(*arguments, *settings).code == 0
    assert (study / "model.safetensors").stat().st_mtime_ns == model_written


def test_folds_and_final_model_of_automatic_length(spectrnn, arguments, tmp_path):
    automatic = ("trainer.epochs=auto", "trainer.steps=3", "trainer.batch_size=auto", "trainer.report=true")
    study = tmp_path / "study"
    outcome = spectrnn(*arguments, *automatic, "folds=2", "final=refit", f"hydra.run.dir={study}")
    assert outcome.code == 0, outcome.err
    assert (study / "report.html").exists()
    configs = [yaml.safe_load((study / name / "config.yaml").read_text()) for name in ("fold-1", "fold-2", "final")]
    assert [config["trainer"]["batch_size"] for config in configs] == [16] * 3
    results = [read_metrics(study / name) for name in ("fold-1", "fold-2", "final")]
    assert [config["trainer"]["epochs"] for config in configs] == [result["max_epochs"] for result in results]
    seen = np.mean([result["best_epoch"] * result["train"]["clips"] for result in results[:2]])
    assert results[2]["epochs"] == max(1, round(seen / 36))
    before = times(study)
    assert spectrnn("train", f"resume={study}").code == 0
    assert times(study) == before


def test_refit_takes_the_batch_size_of_most_folds(tmp_path, monkeypatch):
    folds = [cross_validation.Fold(str(number), tmp_path / str(number)) for number in range(3)]
    for fold, batch_size, best_epoch in zip(folds, (16, 32, 16), (4, 8, 6), strict=True):
        fold.folder.mkdir()
        (fold.folder / "config.yaml").write_text(f"trainer: {{batch_size: {batch_size}}}")
        content = {"best_epoch": best_epoch, "train": {"clips": 1000}, "temperature": 2.0, "thresholds": None}
        (fold.folder / "metrics.json").write_text(json.dumps(content))
    monkeypatch.setattr(
        cross_validation, "_held_out_predictions", lambda fold: Predictions([None] * 500, None, None, [])
    )
    # On average (4 + 8 / 2 + 6) / 3 epochs of 1,000 clips in batches of 16.
    length = {"trainer.epochs": round(14 / 3 * 1000 / 1500), "trainer.steps": None, "trainer.batch_size": 16}
    assert cross_validation._length_and_calibration(folds) == (length, pytest.approx(2), None)


def test_groups_are_left_out_in_turn(spectrnn, arguments, tmp_path):
    settings = ("data.group='0?([01])[0-9][.]wav$'", "folds=groups", "trainer.epochs=1", "data.val_fraction=0")
    outcome = spectrnn(*arguments, *settings, f"hydra.run.dir={tmp_path / 'study'}")
    assert outcome.code == 0, outcome.err
    rows = read_table(tmp_path / "study")
    assert {(row["group"], row["fold"]) for row in rows} == {("0", "0"), ("1", "1")}
    low, high = read_metrics(tmp_path / "study")["intervals_95"]["pooled"]["loss"]
    assert low < high  # groups are resampled: within a fold there is a single one


def test_failed_fold_does_not_stop_the_others(spectrnn, arguments, finished, tmp_path):
    study = shutil.copytree(finished, tmp_path / "study")
    for name in ("metrics.json", "fold-1/metrics.json"):
        (study / name).unlink()
    (study / "fold-1" / "last.ckpt").write_bytes(b"damaged")
    message = spectrnn("train", f"resume={study}").error()
    assert message.startswith(f"spectrnn: fold 1: {study}/fold-1/last.ckpt: cannot be read as a checkpoint")
    assert not (study / "metrics.json").exists()


def test_summary_is_the_pooled_metric(finished):
    run = read_run(finished)
    assert (run.is_finished, run.split, run.metric) == (True, "pooled", "accuracy")
    assert run.value == read_metrics(finished)["pooled"]["accuracy"]
    assert run.overrides["folds"] == "3"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["folds=all"],
            "folds=all: the dataset has no folds; folds=5 draws some, folds=groups leaves out a group each",
        ),
        (["folds=1"], "folds=1: should be greater than or equal to 2"),
        (["folds=some"], "folds="),
        (["folds=30"], "data.folds=30: the clips are of 10 groups; at most 10 folds"),
        (["folds=groups", "data.group=null"], "data.folds=groups: "),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_impossible_folds_are_reported(spectrnn, arguments, tmp_path, settings, message):
    error = spectrnn(*arguments, *settings, f"hydra.run.dir={tmp_path / 'study'}").error()
    assert error.startswith(f"spectrnn: {message}")
    assert not (tmp_path / "study").exists()


def test_folder_of_something_else_is_not_used(spectrnn, arguments, finished, trained_run, tmp_path):
    run = shutil.copytree(trained_run, tmp_path / "run")
    study = shutil.copytree(finished, tmp_path / "study")
    ours = spectrnn(*arguments, "folds=3", f"hydra.run.dir={run}").error()
    assert ours.startswith(f"spectrnn: hydra.run.dir={run}: contains a run already")
    theirs = spectrnn(*arguments, f"hydra.run.dir={study}").error()
    assert theirs.startswith(f"spectrnn: hydra.run.dir={study}: contains a cross-validation; resume=RUN continues it")
    other = spectrnn(*arguments, "folds=3", "seed=1", f"hydra.run.dir={study}").error()
    assert other == f"spectrnn: resume={study}: the run was started with other settings: seed was 0 and is 1"
    assert yaml.safe_load((study / ".hydra" / "overrides.yaml").read_text()) == yaml.safe_load(
        (finished / ".hydra" / "overrides.yaml").read_text()
    )
