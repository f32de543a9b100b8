"""`spectrnn eval`, end to end on tones."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from spectrnn.evaluation.predictions import read_predictions


def test_eval_reproduces_the_test_metrics_of_the_run(spectrnn, trained_run, tmp_path):
    outcome = spectrnn("eval", f"run={trained_run}", f"out={tmp_path / 'report'}")
    assert outcome.code == 0, outcome.err
    report = json.loads((tmp_path / "report" / "metrics.json").read_text())["test"]
    expected = json.loads((trained_run / "metrics.json").read_text())["test"]
    assert report["accuracy"] == expected["accuracy"]
    assert report["loss"] == pytest.approx(expected["loss"], abs=1e-5)
    for name in ("balanced_accuracy", "macro_f1", "ece", "per_class", "confusion", "intervals_95"):
        assert name in report
    low, high = report["intervals_95"]["accuracy"]
    assert low <= report["accuracy"] <= high
    assert sum(map(sum, report["confusion"]["counts"])) == report["clips"] == 6
    assert Image.open(tmp_path / "report" / "confusion.png").size[0] > 300
    text = (tmp_path / "report" / "report.txt").read_text()
    assert "precision" in text
    assert outcome.out == text  # progress and warnings are on standard error
    outcome = spectrnn("eval", f"run={trained_run}", f"out={tmp_path / 'report'}", "format=json", "report=false")
    assert json.loads(outcome.out)["test"] == report
    predictions = read_predictions(tmp_path / "report" / "predictions.csv")
    assert predictions.clips == read_predictions(trained_run / "predictions.csv").of_split("test").clips
    assert np.mean(predictions.probabilities.argmax(1) == predictions.targets) == pytest.approx(report["accuracy"])


def test_model_file_is_sufficient(spectrnn, trained_run, tmp_path):
    model = shutil.copy(trained_run / "model.safetensors", tmp_path / "given.safetensors")
    assert spectrnn("eval", f"run={model}", f"out={tmp_path / 'out'}").code == 0
    assert spectrnn("eval", "split=train", f"run={model}").code == 0
    assert (tmp_path / "eval" / "train" / "metrics.json").is_file()


def test_clips_with_unknown_labels_are_skipped_and_reported(spectrnn, trained_run, tones, tone, tmp_path):
    shutil.copytree(tones / "low", tmp_path / "dataset" / "low")
    for number in range(3):
        tone(tmp_path / "dataset" / "siren" / f"{number}.wav")
    arguments = ("data=folder", f"data.root={tmp_path / 'dataset'}", "split=all", f"out={tmp_path / 'out'}")
    outcome = spectrnn("eval", f"run={trained_run}", *arguments)
    assert outcome.code == 0, outcome.err
    assert "labels that the model does not know were skipped: 'siren' (3 clips)" in outcome.err
    report = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert report["unknown_labels"] == {"siren": 3}
    assert report["all"]["clips"] == 12


def test_dataset_without_known_labels_is_rejected(spectrnn, trained_run, tone, tmp_path):
    for label in ("a", "b"):
        tone(tmp_path / "dataset" / label / "0.wav")
    arguments = ("data=folder", f"data.root={tmp_path / 'dataset'}", "split=all")
    error = spectrnn("eval", f"run={trained_run}", *arguments).error()
    assert "the model knows none of the dataset's labels ('a', 'b')" in error


def test_printed_config_is_the_one_that_runs(spectrnn, trained_run, tones):
    text = spectrnn("eval", f"run={trained_run}", "data.fold=3", "--cfg", "job").out
    assert f"root: {tones}" in text
    assert "sample_rate: 8000" in text
    assert "fold: 3" in text


def test_unknown_split_is_rejected(spectrnn, trained_run):
    error = spectrnn("eval", f"run={trained_run}", "split=tset").error()
    assert error == "spectrnn: split=tset: should be 'train', 'val', 'test' or 'all'"


def test_changed_split_settings_are_reported(spectrnn, trained_run, tmp_path):
    outcome = spectrnn("eval", f"run={trained_run}", "data.split_seed=5", f"out={tmp_path / 'out'}")
    assert outcome.code == 0
    warning = "the split may contain clips that the model was trained on: data.split_seed=5 (trained with 0)"
    assert warning in outcome.err


def test_dataset_that_grew_since_training_is_reported(spectrnn, tiny, tones, tone, tmp_path):
    root = shutil.copytree(tones, tmp_path / "dataset")
    assert spectrnn("train", *tiny, f"data.root={root}", f"hydra.run.dir={tmp_path / 'run'}").code == 0
    command = ("eval", f"run={tmp_path / 'run'}", f"out={tmp_path / 'out'}")
    assert "has changed" not in spectrnn(*command).err
    for number in range(10):
        tone(root / "low" / f"new{number}.wav")
    warning = (
        "the dataset has changed since the training of the model: its test split had 6 clips and has 8, "
        "which may contain clips that it was trained on"
    )
    assert warning in spectrnn(*command).err
    assert "has changed" not in spectrnn(*command, "split=all").err
    assert "has changed" not in spectrnn(*command, f"data.root={tones}").err  # another dataset


def test_model_file_without_split_checksums_is_reported(spectrnn, trained_run, tmp_path):
    model = tmp_path / "old.safetensors"
    with safe_open(trained_run / "model.safetensors", "np") as file:
        header = json.loads(file.metadata()["spectrnn"])
    del header["splits"]
    save_file(load_file(trained_run / "model.safetensors"), model, metadata={"spectrnn": json.dumps(header)})
    outcome = spectrnn("eval", f"run={model}", f"out={tmp_path / 'out'}")
    assert outcome.code == 0
    warning = "does not describe its test split: it may contain clips that the model was trained on"
    assert f"the model file {warning}" in outcome.err


@pytest.mark.parametrize(("split", "is_held_out"), [("test", "true"), ("train", "false"), ("all", "false")])
def test_report_states_whether_clips_are_held_out(spectrnn, trained_run, tmp_path, split, is_held_out):
    assert spectrnn("eval", f"run={trained_run}", f"split={split}", f"out={tmp_path}").code == 0
    assert f'"is_held_out":{is_held_out}' in (tmp_path / "report.html").read_text()


def test_pictures_that_cannot_be_drawn_are_warnings(spectrnn, trained_run, tones, tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError("cannot allocate")

    monkeypatch.setattr("spectrnn.evaluation.report.text.confusion_figure", fail)
    monkeypatch.setattr("spectrnn.evaluation.evaluate.write_page", fail)
    outcome = spectrnn("eval", f"run={trained_run}", f"data.root={tones}", f"out={tmp_path / 'out'}", "report=true")
    assert outcome.code == 0, outcome.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"metrics.json", "report.txt", "predictions.csv"}
    for name in ("confusion.png", "report.html"):
        assert f"warning: {name} cannot be drawn (MemoryError: cannot allocate)" in outcome.err
