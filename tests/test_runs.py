"""Which model `run=` names: the latest run, a folder, the best of comparable runs."""

import json
import logging
import os

import pytest
import yaml

from spectrnn.errors import UserError
from spectrnn.runs import find_model, find_runs, read_run, with_run_paths


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """Writes the files of a finished run in outputs/: `make_run(name, value, metric, data={...})` -> its model file."""
    monkeypatch.chdir(tmp_path)
    written = []

    def write(name, value, metric="accuracy", split="val", model="model.safetensors", **data):
        folder = tmp_path / "outputs" / name
        (folder / ".hydra").mkdir(parents=True)
        (folder / ".hydra" / "overrides.yaml").write_text("[model=gru, seed=1]")
        (folder / model).write_text("")
        data = {"_target_": "spectrnn.data.sources.local.Folder", "root": "tones", "cache": "~/.cache", **data}
        (folder / "config.yaml").write_text(yaml.safe_dump({"data": data}))
        content = {"metric": metric, "higher_is_better": metric != "loss", split: {metric: value}}
        (folder / "metrics.json").write_text(json.dumps(content))
        written.append(folder)
        for age, path in enumerate(reversed(written)):  # the last one is the latest
            for file in path.glob("*.*"):
                os.utime(file, (1e9 - age, 1e9 - age))
        return folder / model

    return write


def test_best_run_has_the_highest_accuracy_or_the_lowest_loss(make_run, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    make_run("a", 0.7)
    best = make_run("b", 0.9)
    make_run("c", 0.8)
    assert find_model("best").resolve() == best
    assert caplog.messages == ["run=best is outputs/b: val accuracy 0.9000, the best of 3 runs"]
    lowest = make_run("losses/0", 0.3, "loss")
    make_run("losses/1", 0.4, "loss")
    assert find_model("best").resolve() == lowest
    assert "the best of 2 runs; 3 others are not comparable" in caplog.messages[-1]
    assert find_model("latest").parent.name == "1"


def test_only_runs_on_the_corpus_of_the_latest_are_compared(make_run):
    make_run("other corpus", 0.99, root="words")
    make_run("other split", 0.98, split_seed=1)
    make_run("no validation", 0.97, split="test")
    best = make_run("best", 0.9, cache="/elsewhere", sample_rate=8000)
    make_run("latest", 0.8)
    assert find_model("best").resolve() == best


def test_best_run_of_a_sweep_may_be_on_any_corpus(make_run, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    make_run("elsewhere", 1.0)
    best = make_run("sweep/2", 0.95, max_seconds=2, root="b")
    make_run("sweep/10", 0.9)
    (tmp_path / "outputs" / "sweep" / "11" / ".hydra").mkdir(parents=True)  # has just started
    assert find_model("outputs/sweep").resolve() == best
    assert caplog.messages == ["run=outputs/sweep is outputs/sweep/2: val accuracy 0.9500, the best of 2 runs"]
    assert [path.name for path in find_runs(tmp_path / "outputs" / "sweep")] == ["2", "10", "11"]


def test_a_run_folder_or_model_file_names_itself(make_run):
    make_run("better", 0.9)
    model = make_run("worse", 0.1)
    assert find_model(str(model.parent)) == find_model(str(model)) == model


def test_unfinished_runs_are_not_the_best(make_run):
    best = make_run("finished", 0.5)
    (make_run("resumed", 0.9).parent / "metrics.json").unlink()
    make_run("diverged", float("nan"))
    make_run("without a model", 0.9, model="other.txt")
    assert find_model("best").resolve() == best


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("best", "run=best: no finished run in outputs/ contains a model.safetensors; train one, or name a folder"),
        ("none", "run=none: no such run folder or model file"),
        ("empty", "run=empty: the folder contains no model.safetensors, and no finished run that has one"),
    ],
)
def test_missing_runs_are_reported(make_run, tmp_path, run, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=f"^{message}$"):
        find_model(run)


def test_cross_validation_has_no_single_model(make_run, tmp_path):
    make_run("cv/fold-1", 0.9)
    (tmp_path / "outputs" / "cv" / "metrics.json").write_text(json.dumps({"pooled": {"accuracy": 0.9}}))
    message = "it is a cross-validation, so name a fold, as in run=outputs/cv/fold-1"
    with pytest.raises(UserError, match=message):
        find_model("outputs/cv")
    assert read_run(tmp_path / "outputs" / "cv").split == "pooled"
    with pytest.raises(UserError, match=r"^run=best: no finished run"):
        find_model("best")


@pytest.mark.parametrize("text", ["{", "[]", '{"val": 3}', '{"val": {"accuracy": "high"}}'])
def test_damaged_metrics_are_reported(make_run, text):
    (make_run("a", 0.9).parent / "metrics.json").write_text(text)
    with pytest.raises(UserError, match=r"outputs/a/metrics\.json: cannot be read as the metrics of a run"):
        find_model("best")


def test_damaged_configs_are_reported(make_run):
    config = make_run("a", 0.9).parent / "config.yaml"
    for text in ("data: [", "3"):
        config.write_text(text)
        with pytest.raises(UserError, match=r"outputs/a/config\.yaml: "):
            find_model("best")


@pytest.mark.parametrize(
    ("file", "run"), [("run/.hydra/hydra.yaml", "run/fold-1"), ("sweep/multirun.yaml", "sweep"), (None, "run")]
)
def test_relative_paths_of_a_run_lead_to_where_they_led(tmp_path, monkeypatch, file, run):
    start, run = tmp_path / "start", tmp_path / run
    (start / "tones").mkdir(parents=True)
    run.mkdir(parents=True)
    if file:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(yaml.safe_dump({"hydra": {"runtime": {"cwd": str(start)}}}))
    data = {"root": "tones", "path": "gone.csv", "cache": "cache"}
    monkeypatch.chdir(tmp_path)
    assert with_run_paths(data, run) == data | ({"root": str(start / "tones")} if file else {})
    monkeypatch.chdir(start)
    assert with_run_paths(data, run) == data
    for other in ({"root": str(tmp_path)}, {"root": None, "path": 5}, None, "data"):
        assert with_run_paths(other, run) == other
