"""`train init=`: the stages that it implies, and what it rejects."""

import csv
import json
from collections import Counter
from pathlib import Path

import yaml
from safetensors.torch import load_file, save_file

from spectrnn.model.header import read_header


def table(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def test_stages_are_those_of_the_model_unless_they_are_named(spectrnn, trained_run, tones):
    data = ("data=folder", f"data.root={tones}", "data.sample_rate=8000", "data.labels={low: bass}")
    short = ("trainer.epochs=1", "trainer.batch_size=8", "augment=[]", "logger=[]", "trainer.report=false")
    run = spectrnn("train", f"init={trained_run}", *data, *short, "pooling=mean", "hydra.run.dir=warm")
    assert run.code == 0, run
    path = (trained_run / "model.safetensors").absolute()
    assert f"init={path}: started with its weights; 2 classes known to it, 1 new (bass)" in run.err
    header = read_header(Path("warm/model.safetensors"))
    assert header["labels"] == ["bass", "high", "middle"]
    before, after = read_header(path)["config"], header["config"]
    for group in ("features", "normalize", "model"):
        assert after[group] == before[group]
    assert after["pooling"]["_target_"].endswith("MeanPooling")
    changed = "data.labels={'low': 'bass'} (trained with None)"
    assert f"the split may contain clips that init={path} was trained on: {changed}" in run.err
    overrides = yaml.safe_load(Path("warm/.hydra/overrides.yaml").read_text())
    assert {"model=bigru", "model.hidden_size=12", "features=logmel", f"init='{path}'"} <= {*overrides}


def test_rehearsed_clips_are_of_the_splits_of_the_model(spectrnn, trained_run, tone):
    for number in range(12):
        tone(Path(f"new/chirp/{number}.wav"), 0.2, frequency=1500 + 10 * number)
    data = ("data=folder", "data.root=new", "data.sample_rate=8000", "data.rehearsal_clips=2", "data.val_fraction=0.2")
    short = ("trainer.epochs=1", "trainer.batch_size=8", "augment=[]", "logger=[]", "trainer.report=false")
    run = spectrnn("train", f"init={trained_run}", *data, *short, "hydra.run.dir=warm")
    assert run.code == 0, run
    assert "3 classes known to it, 1 new (chirp)" in run.err
    assert "was trained on" not in run.err  # it has none of the new clips, and the old ones stay in their splits
    splits = {row["path"]: row["split"] for row in table(trained_run / "predictions.csv")}
    rows = table("warm/predictions.csv")
    old = [row for row in rows if row["label"] != "chirp"]
    assert all(row["split"] == splits[row["path"]] for row in old)
    assert Counter((row["split"], row["label"]) for row in old)["test", "low"] == 2
    evaluated = spectrnn("eval", "run=warm", "format=json")
    assert evaluated.code == 0, evaluated
    assert "warning" not in evaluated.err
    results = json.loads(Path("warm/metrics.json").read_text()), json.loads(evaluated.out)
    assert results[0]["test"]["accuracy"] == results[1]["test"]["accuracy"]
    assert {row["support"] for row in results[1]["test"]["per_class"].values()} == {2}


def test_nothing_to_rehearse_is_reported(spectrnn, tones):
    run = spectrnn("train", "data=folder", f"data.root={tones}", "data.rehearsal_clips=2", "logger=[]")
    assert run.error() == "spectrnn: data.rehearsal_clips=2: needs init=RUN, whose dataset is rehearsed"


def test_a_model_of_another_sample_rate_is_rejected(spectrnn, trained_run, tones):
    run = spectrnn("train", f"init={trained_run}", "data=folder", f"data.root={tones}")
    path = (trained_run / "model.safetensors").absolute()
    rates = "its sample rate is 8000 Hz, not data.sample_rate=16000; data.sample_rate=8000 resamples the recordings"
    assert run.error() == f"spectrnn: init={path}: {rates}"


def test_no_single_model_is_rejected(spectrnn, trained_run):
    assert spectrnn("train", "init=nothing").error() == "spectrnn: init=nothing: no such run folder or model file"
    run = spectrnn("train", "-m", f"init={trained_run},nothing")
    assert (
        run.error() == "spectrnn: init: should be one run or model file; train from several of them in a command each"
    )


def test_stages_of_an_untrusted_file_are_options(spectrnn, trained_run, tmp_path):
    file = trained_run / "model.safetensors"
    header = read_header(file)
    for node, problem in (
        ({"_target_": "os.system"}, "its model is 'os.system', which is not an option of model; name another"),
        (
            {**header["config"]["model"], "hidden_size": "${oc.env:HOME}"},
            "its model.hidden_size is not a key of model=bigru, or not a plain value",
        ),
    ):
        changed = {**header, "config": {**header["config"], "model": node}}
        save_file(load_file(file), tmp_path / "model.safetensors", metadata={"spectrnn": json.dumps(changed)})
        assert spectrnn("train", "init=model.safetensors").error().endswith(problem)
