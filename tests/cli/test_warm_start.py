"""`train init=`: the stages that it implies, and what it rejects."""

import json
from pathlib import Path

import yaml

from spectrnn.model.header import read_header


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
    overrides = yaml.safe_load(Path("warm/.hydra/overrides.yaml").read_text())
    assert {"model=bigru", "model.hidden_size=12", "features=logmel", f"init='{path}'"} <= {*overrides}


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
    from safetensors.torch import load_file, save_file

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
