"""Training on a frozen ONNX network, from the command line."""

import hashlib
import re

import pytest
import torch
from safetensors.torch import load_file

from spectrnn.frontend.onnx_network import WindowNetwork, load_network

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture
def arguments(tiny, tones, tiny_network, tmp_path):
    path = tiny_network(tmp_path / "tiny.onnx")
    kept = [override for override in tiny if not override.startswith(("features", "augment"))]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    network = ("features=onnx_embedding", f"features.path={path}", f"features.sha256={digest}")
    return (*kept, *network, f"data.root={tones}", "features.window_ms=50", "features.hop_ms=20")


def test_resumed_run_equals_an_uninterrupted_one(spectrnn, arguments, tmp_path):
    arguments = (*arguments, "augment=[specaugment]", "scheduler=constant")
    assert spectrnn("train", *arguments, f"hydra.run.dir={tmp_path / 'whole'}").code == 0
    assert spectrnn("train", *arguments, "trainer.epochs=1", f"hydra.run.dir={tmp_path / 'run'}").code == 0
    load_network.cache_clear()
    outcome = spectrnn("train", f"resume={tmp_path / 'run'}", "trainer.epochs=2", "features.cache_gb=0")
    assert outcome.code == 0, outcome
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_later_trainings_and_evaluations_find_the_vectors_on_disk(spectrnn, arguments, tmp_path, monkeypatch):
    cache = f"data.cache={tmp_path / 'cache'}"
    arguments = (*arguments, cache, "augment=[specaugment]", "trainer.epochs=1")
    computed, run = [], WindowNetwork._run
    monkeypatch.setattr(WindowNetwork, "_run", lambda self, x: computed.append(len(x)) or run(self, x))
    assert spectrnn("train", *arguments, f"hydra.run.dir={tmp_path / 'first'}").code == 0
    assert sum(computed) > 50
    train = ("train", *arguments, f"hydra.run.dir={tmp_path / 'second'}")
    evaluate = ("eval", f"run={tmp_path}/first", cache, "report=false")
    for command, tried in ((train, [1]), (evaluate, [1, 5, 5])):  # as the network, and as the model file, is loaded
        load_network.cache_clear()
        computed.clear()
        assert spectrnn(*command).code == 0
        assert computed == tried
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_augmentation_of_the_waveform_is_warned_about(spectrnn, arguments, tmp_path):
    run = tmp_path / "run"
    outcome = spectrnn("train", *arguments, "augment=[gain,specaugment]", "trainer.epochs=1", f"hydra.run.dir={run}")
    assert outcome.code == 0, outcome
    warning = "computed again in each epoch, as augmentation changes the waveform (Gain); trainer.augmented_versions=8"
    assert warning in outcome.err
    (tmp_path / "tiny.onnx").unlink()
    assert spectrnn("eval", f"run={run}").code == 0  # the model file contains the network


def test_preset_refuses_another_sample_rate_and_another_file(spectrnn, arguments):
    arguments = ["features=birdnet" if "onnx_embedding" in argument else argument for argument in arguments]
    arguments = [argument for argument in arguments if not argument.startswith(("features.sha256", "features.window"))]
    outcome = spectrnn("train", *arguments)
    assert outcome.code == 1
    assert "features.sample_rate=48000: differs from data.sample_rate=8000; use the same\n" in outcome.err
    error = spectrnn("train", *arguments, "data.sample_rate=48000").error()
    assert re.fullmatch(
        r"spectrnn: features\.sha256=c8f8\w{60}: the networks have the SHA-256 \w{64}; set it if .*", error
    )
