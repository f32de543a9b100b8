"""The model file: everything saved is restored, and files that are not models are rejected with one sentence."""

import json
import pickle
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from spectrnn.detection.thresholds import TunedThresholds, read_thresholds
from spectrnn.errors import UserError
from spectrnn.model.classifier import STAGES, Classifier, build_stages
from spectrnn.model.header import ENSEMBLE_FORMAT, FORMAT, read_header
from spectrnn.model.serialization import load, save, save_thresholds


@pytest.fixture
def config(stages):
    return {**stages(), "seed": 3, "data": {"sample_rate": 8000}}


@pytest.fixture
def model(classifier, config, tmp_path):
    """Path of a model file."""
    save(classifier(), config, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def tuned():
    return TunedThresholds(
        by_label={"one": 0.75, "two": 1},
        background=["three"],
        max_false_alarms_per_hour=0.5,
        hours=2.25,
        window=1.5,
        hop=0.25,
        smoothing_windows=3,
        offset_ratio=0.8,
        min_event_seconds=0,
    )


def rewrite_header(model, change):
    """Replaces the header of a model file by `change(header)`; None removes it."""
    header = change(read_header(model))
    save_file(load_file(model), model, metadata=None if header is None else {"spectrnn": json.dumps(header)})
    return model


def assert_rejected(path, message):
    """Checks that the file is rejected with one sentence: its path and the message."""
    for read in (load, read_header):
        with pytest.raises(UserError, match=f"^{path}: {message}") as caught:
            read(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("normalize", ["global", "relaxed", "cmvn", "none"])
@pytest.mark.parametrize("model", ["gru", "bilstm", "crnn", "conv1d_rnn"])
@pytest.mark.parametrize("pooling", ["last", "attention", "stats"])
def test_loaded_model_gives_identical_logits(classifier, stages, clips, tmp_path, normalize, model, pooling):
    choices = {"features": "mfcc", "normalize": normalize, "model": model, "pooling": pooling}
    before = classifier(**choices, augment=("noise", "specaugment")).train()
    before.normalization.fit([before.features(*clips)])
    before(*clips).sum().backward()  # updates running statistics
    save(before, stages(**choices), tmp_path / "model.safetensors")
    after, _ = load(tmp_path / "model.safetensors")
    assert not after.training
    assert torch.equal(after(*clips), before.eval()(*clips))


def test_model_of_a_version_without_compression_is_loaded(model):
    clip = torch.randn(1, 4000) * 0.1, torch.tensor([4000])
    expected = load(model)[0](*clip)

    def remove_keys(header):
        features = header["config"]["features"]
        for name in [name for name in features if name.startswith("pcen_") or name == "compression"]:
            del features[name]
        return header

    assert torch.equal(load(rewrite_header(model, remove_keys))[0](*clip), expected)


def test_thresholds_are_restored(classifier, config, tuned, tmp_path):
    save(classifier(), config, tmp_path / "model.safetensors", tuned_thresholds=asdict(tuned))
    assert read_thresholds(tmp_path / "model.safetensors") == tuned
    assert tuned.as_array(["one", "two", "three"]).tolist() == [0.75, 1, np.inf]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"by_label": {"elsewhere": 0.5}}, "'elsewhere' is not one of its labels"),
        ({"background": ["elsewhere"]}, "'elsewhere' is not one of its labels"),
        ({"by_label": {"one": 1.5}}, "by_label=.*: should be less than or equal to 1"),
        ({"by_label": 3}, "by_label=3: should be a valid dictionary"),
        ({"window": -1}, "window=-1: should be greater than 0"),
        ({"more": 1}, "more: no such key"),
        ({"window": 1e308}, "window=.*: should be less than or equal to 3600"),
        ({"hop": 1e-300}, "hop=.*: should be greater than or equal to 0.001"),
        ({"hop": 2}, "hop=2 is longer than window=1.5"),
        (None, "should be a mapping"),
    ],
    ids=str,
)
def test_invalid_thresholds_are_rejected(model, tuned, change, reason):
    invalid = [1] if change is None else asdict(tuned) | change
    rewrite_header(model, lambda header: header | {"tuned_thresholds": invalid})
    with pytest.raises(UserError, match=rf"^{model}: its thresholds are invalid \({reason}"):
        read_thresholds(model)


def test_saving_thresholds_changes_nothing_else(model, tuned):
    header, tensors = read_header(model), load_file(model)
    assert read_thresholds(model) is None
    save_thresholds(model, asdict(tuned))
    assert read_thresholds(model) == tuned
    assert {**read_header(model), "tuned_thresholds": None} == header
    after = load_file(model)
    assert after.keys() == tensors.keys()
    assert all(torch.equal(after[name], tensors[name]) for name in tensors)
    content = model.read_bytes()
    save_thresholds(model, asdict(tuned))
    assert model.read_bytes() == content
    assert [path.name for path in model.parent.iterdir()] == ["model.safetensors"]


def test_saving_a_classifier_removes_the_thresholds_of_the_previous_one(model, tuned, classifier, config):
    save_thresholds(model, asdict(tuned))
    save(classifier(), config, model)
    assert read_thresholds(model) is None


def test_thresholds_are_only_saved_in_a_model_file(tuned, tmp_path):
    other = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, other)
    before = other.read_bytes()
    with pytest.raises(UserError, match=r"is a safetensors file, but not a spectrnn model$"):
        save_thresholds(other, asdict(tuned))
    assert other.read_bytes() == before


def test_thresholds_are_not_saved_in_a_read_only_file(model, tuned, monkeypatch):
    before = model.read_bytes()
    monkeypatch.setattr("os.access", lambda path, mode: False)  # the superuser may write every file
    with pytest.raises(UserError, match=rf"^{model}: the thresholds cannot be written to it \(.*denied"):
        save_thresholds(model, asdict(tuned))
    assert model.read_bytes() == before


def test_labels_and_config_are_restored(model, config):
    after, restored = load(model)
    assert after.labels == ["one", "two", "three"]
    assert restored == config


def test_header_contains_labels_and_config(model, config):
    header = read_header(model)
    assert header["labels"] == ["one", "two", "three"]
    assert header["config"] == config
    assert set(load_file(model)) == set(load(model)[0].state_dict())


def test_labels_may_be_in_any_script(config, tmp_path):
    labels = ["да", "은행", 'a "b" \\ c']
    save(Classifier(build_stages(config, 3), labels), config, tmp_path / "model.safetensors")
    assert load(tmp_path / "model.safetensors")[0].labels == labels


def test_saving_again_replaces_the_file_and_leaves_no_other(model, classifier, config):
    torch.manual_seed(1)
    other = classifier()
    save(other, config, model)
    assert torch.equal(load(model)[0].head[1].weight, other.head[1].weight)
    assert [path.name for path in model.parent.iterdir()] == ["model.safetensors"]


def test_failed_save_keeps_the_previous_file(model, classifier, config):
    before = model.read_bytes()
    with pytest.raises(TypeError):
        save(classifier(), {**config, "strange": object()}, model)
    assert model.read_bytes() == before
    assert [path.name for path in model.parent.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("create", [Path.mkdir, lambda path: None], ids=["folder", "missing"])
def test_missing_file_is_rejected(tmp_path, create):
    create(tmp_path / "model.safetensors")
    assert_rejected(tmp_path / "model.safetensors", "no such model file$")


@pytest.mark.parametrize("content", [b"", b"RIFF....WAVE", b"\xff" * 4096, b"{}", b"PK\x03\x04" + bytes(200)])
def test_file_that_is_not_safetensors_is_rejected(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert_rejected(path, r"is not a model file \(.+\)$")


def test_safetensors_file_without_a_header_is_rejected(model):
    rewrite_header(model, lambda header: None)
    assert_rejected(model, "is a safetensors file, but not a spectrnn model$")


@pytest.mark.parametrize("fraction", [0.0001, 0.3, 0.9, 0.9999])
def test_truncated_file_is_rejected(model, fraction):
    content = model.read_bytes()
    model.write_bytes(content[: int(fraction * len(content))])
    assert_rejected(model, r"is not a model file \(.+\)$")


@pytest.mark.parametrize("header", [[], 5, {}], ids=str)
def test_header_without_a_format_is_rejected(model, header):
    rewrite_header(model, lambda _: header)
    formats = f"formats {FORMAT} and {ENSEMBLE_FORMAT}"
    assert_rejected(model, f"has format None, but this version reads {formats}; update spectrnn$")


@pytest.mark.parametrize("content", [{}, {"labels": ["a"], "config": []}, {"labels": ["a"]}, {"config": {}}], ids=str)
def test_incomplete_header_is_rejected(model, content):
    rewrite_header(model, lambda _: {"format": FORMAT, **content})
    assert_rejected(model, "is incomplete; its header lacks the labels or the config$")


FOREIGN = {
    "os.system": "os",
    "torch.nn.Linear": "torch",
    "spectrnn.data.sources.published.Folder": None,
    "spectrnn.model.serialization.save_file": None,  # imported by that module
    "spectrnn.frontend.features.create_dct": None,
    "spectrnn.model.serialization.load": None,
    "spectrnn.model.ensemble._Poolings": None,  # of an ensemble, which no config describes
    "spectrnn.frontend.augmentation.Gain": None,  # a built-in class of another kind
    "spectrnn.model.": None,
    "pooling": None,
    "\x1b[2J.Pooling": None,
    None: None,
    7: None,
    7.5: None,
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("target", "package"), FOREIGN.items(), ids=ascii)
def test_stage_that_is_not_built_in_is_rejected(model, stage, target, package):
    rewrite_header(model, lambda header: header["config"][stage].update(_target_=target) or header)
    remedy = f"; if you trust this file and that package, add trust=[{package}]" if package else ""
    with pytest.raises(UserError) as caught:
        load(model)
    assert str(caught.value) == f"{model}: {stage}._target_={target!r} is not a built-in stage{remedy}"


@pytest.mark.parametrize("stage", STAGES)
def test_missing_stage_is_rejected(model, stage):
    rewrite_header(model, lambda header: header["config"].pop(stage) and header)
    with pytest.raises(UserError, match=rf"^{model}: {stage}._target_=None is not a built-in stage$"):
        load(model)


def test_function_named_by_a_file_is_not_called(model, tmp_path):
    attack = {
        "_target_": "spectrnn.model.serialization.save_file",
        "tensors": {},
        "filename": str(tmp_path / "created"),
    }
    rewrite_header(model, lambda header: header["config"].update(features=attack) or header)
    with pytest.raises(UserError, match="is not a built-in stage"):
        load(model)
    assert not (tmp_path / "created").exists()


@pytest.mark.parametrize(
    ("stage", "setting", "value"), [("model", "hidden_size", 9), ("model", "num_layers", 3), ("features", "n_mels", 17)]
)
def test_weights_that_do_not_fit_the_config_are_rejected(model, stage, setting, value):
    def change(header):
        header["config"][stage][setting] = value
        header["config"]["pooling"]["num_heads"] = 1
        return header

    rewrite_header(model, change)
    with pytest.raises(UserError, match=rf"^{model}: its weights do not fit its config \("):
        load(model)


def test_labels_that_do_not_fit_the_weights_are_rejected(model):
    rewrite_header(model, lambda header: header | {"labels": ["one", "two"]})
    with pytest.raises(UserError, match=rf"^{model}: its weights do not fit its config \(head\."):
        load(model)


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))], ids=["torch", "pickle"]
)
def test_pickle_is_rejected_without_being_read(tmp_path, write):
    path = tmp_path / "model.safetensors"
    write({"weights": Trap(tmp_path / "created")}, path)
    assert_rejected(path, r"is not a model file \(.+\)$")
    assert not (tmp_path / "created").exists()


def test_loading_does_not_use_pickle(model, monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("a model file is read without pickle")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, forbidden)
    load(model)
