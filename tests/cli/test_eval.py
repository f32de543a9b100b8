"""`spectrnn eval`, end to end on tones."""

import json
import shutil

import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file


def test_eval_repeats_the_runs_own_test_accuracy(spectrnn, trained, tmp_path):
    outcome = spectrnn("eval", f"run={trained}", f"out={tmp_path / 'report'}")
    assert outcome.code == 0, outcome.err
    report = json.loads((tmp_path / "report" / "metrics.json").read_text())["test"]
    own = json.loads((trained / "metrics.json").read_text())["test"]
    assert report["accuracy"] == own["accuracy"]
    assert report["loss"] == pytest.approx(own["loss"], abs=1e-5)
    for name in ("balanced_accuracy", "macro_f1", "ece", "per_class", "confusion", "intervals_95"):
        assert name in report
    low, high = report["intervals_95"]["accuracy"]
    assert low <= report["accuracy"] <= high
    assert sum(map(sum, report["confusion"]["counts"])) == report["clips"] == 6
    assert Image.open(tmp_path / "report" / "confusion.png").size[0] > 300
    assert "precision" in (tmp_path / "report" / "report.txt").read_text()


def test_a_model_file_alone_is_enough(spectrnn, trained, tmp_path):
    shutil.copy(trained / "model.safetensors", tmp_path / "given.safetensors")
    assert spectrnn("eval", f"run={tmp_path / 'given.safetensors'}", f"out={tmp_path / 'out'}").code == 0
    assert spectrnn("eval", "split=train", f"run={tmp_path / 'given.safetensors'}").code == 0
    assert (tmp_path / "eval" / "train" / "metrics.json").is_file()


def test_unknown_labels_are_named_and_left_out(spectrnn, trained, tones, tone, tmp_path):
    shutil.copytree(tones / "low", tmp_path / "dataset" / "low")
    for number in range(3):
        tone(tmp_path / "dataset" / "siren" / f"{number}.wav")
    arguments = ("data=folder", f"data.root={tmp_path / 'dataset'}", "split=all", f"out={tmp_path / 'out'}")
    outcome = spectrnn("eval", f"run={trained}", *arguments)
    assert outcome.code == 0, outcome.err
    assert "'siren' (3 clips)" in outcome.err
    report = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert report["unknown_labels"] == {"siren": 3}
    assert report["all"]["clips"] == 12


def test_a_corpus_of_other_labels_is_refused(spectrnn, trained, tone, tmp_path):
    for label in ("a", "b"):
        tone(tmp_path / "dataset" / label / "0.wav")
    told = spectrnn("eval", f"run={trained}", "data=folder", f"data.root={tmp_path / 'dataset'}", "split=all").mistake()
    assert "the model knows none of the dataset's labels ('a', 'b')" in told


def test_the_printed_config_is_what_runs(spectrnn, trained, tones):
    text = spectrnn("eval", f"run={trained}", "data.fold=3", "--cfg", "job").out
    assert f"root: {tones}" in text
    assert "sample_rate: 8000" in text
    assert "fold: 3" in text


def test_an_unknown_split_is_refused(spectrnn, trained):
    assert (
        "split=tset: should be 'train', 'val', 'test' or 'all'"
        in spectrnn("eval", f"run={trained}", "split=tset").mistake()
    )


def test_a_split_drawn_otherwise_than_in_training_is_told(spectrnn, trained, tmp_path):
    outcome = spectrnn("eval", f"run={trained}", "data.split_seed=5", f"out={tmp_path / 'out'}")
    assert outcome.code == 0
    assert "may hold clips that the model was trained on: data.split_seed=5 (trained with 0)" in outcome.err


def test_a_corpus_that_grew_since_the_training_is_told_of(spectrnn, tiny, tones, tone, tmp_path):
    root = shutil.copytree(tones, tmp_path / "dataset")
    assert spectrnn("train", *tiny, f"data.root={root}", f"hydra.run.dir={tmp_path / 'run'}").code == 0
    command = ("eval", f"run={tmp_path / 'run'}", f"out={tmp_path / 'out'}")
    assert "has changed" not in spectrnn(*command).err
    for number in range(10):
        tone(root / "low" / f"new{number}.wav")
    told = "the dataset has changed since the training: its test split had 6 clips and has 8, which may hold"
    assert told in spectrnn(*command).err
    assert "has changed" not in spectrnn(*command, "split=all").err
    assert "has changed" not in spectrnn(*command, f"data.root={tones}").err  # another dataset


def test_a_model_of_before_the_splits_were_written_down(spectrnn, trained, tmp_path):
    model = tmp_path / "old.safetensors"
    with safe_open(trained / "model.safetensors", "np") as file:
        header = json.loads(file.metadata()["spectrnn"])
    del header["splits"]
    save_file(load_file(trained / "model.safetensors"), model, metadata={"spectrnn": json.dumps(header)})
    outcome = spectrnn("eval", f"run={model}", f"out={tmp_path / 'out'}")
    assert outcome.code == 0
    assert "the model does not say what its test split was" in outcome.err


def test_a_report_on_clips_of_the_training_promises_nothing_of_new_ones(spectrnn, trained, tmp_path):
    for split, fresh in {"test": "true", "train": "false", "all": "false"}.items():
        assert spectrnn("eval", f"run={trained}", f"split={split}", f"out={tmp_path / split}").code == 0
        assert f'"fresh":{fresh}' in (tmp_path / split / "report.html").read_text()
