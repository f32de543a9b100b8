"""The model file: what is saved comes back, and what is no model of ours is refused in one sentence."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from spectrnn.detection.thresholds import TunedThresholds, read_thresholds
from spectrnn.errors import UserError
from spectrnn.model.header import FORMAT, read_header
from spectrnn.model.serialization import load, save, save_thresholds


@pytest.fixture
def config(stages):
    return {**stages(), "seed": 3, "data": {"sample_rate": 8000}}


@pytest.fixture
def model(classifier, config, tmp_path):
    """A saved model."""
    save(classifier(), config, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def rewritten(model, change):
    """The model file with another header: `change` takes the header and returns what to write, or None to drop it."""
    header = change(read_header(model))
    save_file(load_file(model), model, metadata=None if header is None else {"spectrnn": json.dumps(header)})
    return model


def refused(path, sentence):
    for read in (load, read_header):
        with pytest.raises(UserError, match=sentence) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("normalize", ["global", "cmvn", "none"])
@pytest.mark.parametrize("model", ["gru", "bilstm", "crnn", "conv1d_rnn"])
@pytest.mark.parametrize("pooling", ["last", "attention", "stats"])
def test_a_model_saved_and_loaded_gives_identical_logits(
    classifier, stages, clips, tmp_path, normalize, model, pooling
):
    choices = {"features": "mfcc", "normalize": normalize, "model": model, "pooling": pooling}
    before = classifier(**choices, augment=("noise", "specaugment")).train()
    before.normalization.fit([before.features(*clips)])
    before(*clips).sum().backward()  # running statistics move
    save(before, stages(**choices), tmp_path / "model.safetensors")
    after, _ = load(tmp_path / "model.safetensors")
    assert not after.training
    assert torch.equal(after(*clips), before.eval()(*clips))


def test_decisions_come_back(classifier, config, tmp_path):
    one = classifier()
    tuned_thresholds = TunedThresholds(
        thresholds={one.labels[0]: 0.75, one.labels[1]: 1},
        background=[one.labels[2]],
        max_false_alarms_per_hour=0.5,
        hours=2.25,
        window=1.5,
        hop=0.25,
        smoothing_windows=3,
        offset_ratio=0.8,
        min_event_seconds=0,
    )
    save(one, config, tmp_path / "model.safetensors", tuned_thresholds=tuned_thresholds)
    assert read_thresholds(tmp_path / "model.safetensors") == tuned_thresholds
    assert tuned_thresholds.of(one.labels).tolist() == [0.75, 1, np.inf]


@pytest.mark.parametrize(
    "change",
    [
        {"thresholds": {"elsewhere": 0.5}},
        {"thresholds": {"a": 1.5}},
        {"thresholds": 3},
        {"window": -1},
        {"more": 1},
        {"window": 1e308},
        {"hop": 1e-300},
        {"hop": 2},
    ],
)
def test_decisions_of_a_stranger_are_checked(model, change):
    label = read_header(model)["labels"][0]
    good = {
        "thresholds": {label: 0.5},
        "background": [],
        "max_false_alarms_per_hour": 1,
        "hours": 1,
        "window": 1,
        "hop": 1,
        "smoothing_windows": 1,
        "offset_ratio": 1,
        "min_event_seconds": 0,
    }
    assert read_thresholds(rewritten(model, lambda header: header | {"tuned_thresholds": good})) is not None
    bad = rewritten(model, lambda header: header | {"tuned_thresholds": good | change})
    with pytest.raises(UserError, match=r"model.safetensors: its tuned_thresholds are damaged \("):
        read_thresholds(bad)


@pytest.fixture
def tuned_thresholds():
    return TunedThresholds(
        thresholds={"one": 0.5, "two": 0.999999},
        background=["three"],
        max_false_alarms_per_hour=2,
        hours=8,
        window=1,
        hop=0.25,
        smoothing_windows=3,
        offset_ratio=0.8,
        min_event_seconds=0.2,
    )


def test_deciding_changes_the_decisions_alone(model, tuned_thresholds):
    header, tensors = read_header(model), load_file(model)
    save_thresholds(model, tuned_thresholds)
    assert read_thresholds(model) == tuned_thresholds
    assert {**read_header(model), "tuned_thresholds": None} == header
    after = load_file(model)
    assert after.keys() == tensors.keys()
    assert all(torch.equal(after[name], tensors[name]) for name in tensors)
    again = model.read_bytes()
    save_thresholds(model, tuned_thresholds)
    assert model.read_bytes() == again
    assert [path.name for path in model.parent.iterdir()] == ["model.safetensors"]


def test_saving_a_classifier_forgets_what_was_decided_for_another(model, tuned_thresholds, classifier, config):
    save_thresholds(model, tuned_thresholds)
    save(classifier(), config, model)
    assert read_thresholds(model) is None


def test_deciding_for_what_is_no_model_is_refused(model, tuned_thresholds, tmp_path):
    other = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, other)
    before = other.read_bytes()
    with pytest.raises(UserError, match="holds no model of spectrnn"):
        save_thresholds(other, tuned_thresholds)
    assert other.read_bytes() == before


def test_a_file_that_is_not_to_be_written_keeps_its_content(model, tuned_thresholds, monkeypatch):
    before = model.read_bytes()
    monkeypatch.setattr("os.access", lambda path, mode: False)  # as for a user who is not the superuser
    with pytest.raises(UserError, match=r"model.safetensors: the thresholds cannot be written into it \(.*denied"):
        save_thresholds(model, tuned_thresholds)
    assert model.read_bytes() == before


def test_labels_and_config_come_back(model, config):
    after, restored = load(model)
    assert after.labels == ["one", "two", "three"]
    assert restored == config


def test_the_header_is_read_without_the_weights(model, config):
    header = read_header(model)
    assert header["labels"] == ["one", "two", "three"]
    assert header["config"] == config
    assert set(load_file(model)) == set(load(model)[0].state_dict())


def test_labels_may_be_in_any_script(config, tmp_path):
    from spectrnn.model.classifier import Classifier

    save(Classifier(config, ["да", "은행", 'a "b" \\ c']), config, tmp_path / "m.safetensors")
    assert load(tmp_path / "m.safetensors")[0].labels == ["да", "은행", 'a "b" \\ c']


def test_saving_again_replaces_the_file_whole_and_leaves_nothing_beside_it(model, classifier, config):
    torch.manual_seed(1)
    other = classifier()
    save(other, config, model)
    assert torch.equal(load(model)[0].head[1].weight, other.head[1].weight)
    assert [path.name for path in model.parent.iterdir()] == ["model.safetensors"]


def test_a_write_that_fails_leaves_the_old_file(model, classifier, config):
    before = model.read_bytes()
    with pytest.raises(TypeError):
        save(classifier(), {**config, "strange": object()}, model)
    assert model.read_bytes() == before
    assert [path.name for path in model.parent.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: None])
def test_a_file_that_is_missing_empty_or_a_folder_is_refused(tmp_path, make):
    make(tmp_path / "model.safetensors")
    refused(tmp_path / "model.safetensors", "no such model file|is no model file")


def test_what_is_no_safetensors_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    for content in (b"RIFF....WAVE", b"\xff" * 4096, b"{}", b"PK\x03\x04" + bytes(200)):
        path.write_bytes(content)
        refused(path, "is no model file")


def test_safetensors_of_others_are_refused(model):
    refused(rewritten(model, lambda header: None), "holds no model of spectrnn")


def test_a_newer_format_is_refused(model):
    refused(
        rewritten(model, lambda header: header | {"format": FORMAT + 1}),
        f"is of format {FORMAT + 1}, .* format {FORMAT}: update spectrnn",
    )


@pytest.mark.parametrize("share", [0.0001, 0.3, 0.9, 0.9999])
def test_a_truncated_file_is_refused(model, share):
    content = model.read_bytes()
    model.write_bytes(content[: int(share * len(content))])
    refused(model, "is no model file")


@pytest.mark.parametrize(
    "header",
    [
        [],
        5,
        {},
        {"format": FORMAT},
        {"format": FORMAT, "labels": ["a"], "config": []},
        {"format": FORMAT, "config": {}},
    ],
    ids=str,
)
def test_a_header_with_holes_is_refused(model, header):
    refused(rewritten(model, lambda _: header), "is of format None|is incomplete")


FOREIGN = [
    "os.system",
    "torch.nn.Linear",
    "spectrnn.data.sources.published.Folder",
    "spectrnn.model.serialization.save_file",  # a name that our module imports
    "spectrnn.frontend.features.create_dct",
    "spectrnn.model.serialization.load",
    "spectrnn.frontend.augmentation.Gain",  # ours, but no stage of this kind
    "spectrnn.model.",
    None,
    7,
]


@pytest.mark.parametrize("stage", ["features", "normalize", "model", "pooling", "head"])
@pytest.mark.parametrize("target", FOREIGN)
def test_a_stage_that_is_none_of_ours_is_refused(model, stage, target):
    def change(header):
        header["config"][stage]["_target_"] = target
        return header

    with pytest.raises(UserError, match=f"{model}: {stage}._target_={target!r} is no stage in"):
        load(rewritten(model, change))


@pytest.mark.parametrize("stage", ["features", "normalize", "model", "pooling", "head"])
def test_a_missing_stage_is_refused(model, stage):
    def change(header):
        del header["config"][stage]
        return header

    with pytest.raises(UserError, match=rf"{model}: {stage}._target_=None is no stage"):
        load(rewritten(model, change))


def test_a_file_from_a_stranger_writes_nothing(model, tmp_path):
    def change(header):
        attack = {
            "_target_": "spectrnn.model.serialization.save_file",
            "tensors": {},
            "filename": str(tmp_path / "owned"),
        }
        header["config"]["features"] = attack
        return header

    with pytest.raises(UserError):
        load(rewritten(model, change))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("stage", "setting", "value"), [("model", "hidden_size", 9), ("model", "num_layers", 3), ("features", "n_mels", 17)]
)
def test_weights_that_do_not_fit_the_config_are_refused(model, stage, setting, value):
    def change(header):
        header["config"][stage][setting] = value
        header["config"]["pooling"]["num_heads"] = 1
        return header

    with pytest.raises(UserError, match=f"{model}: its weights do not fit its config"):
        load(rewritten(model, change))


def test_labels_that_do_not_fit_the_weights_are_refused(model):
    with pytest.raises(UserError, match=f"{model}: its weights do not fit its config"):
        load(rewritten(model, lambda header: header | {"labels": ["one", "two"]}))


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("write", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))])
def test_nothing_is_ever_unpickled(tmp_path, write):
    path = tmp_path / "model.safetensors"
    write({"weights": Trap(tmp_path / "sprung")}, path)
    refused(path, "is no model file")
    assert not (tmp_path / "sprung").exists()


def test_loading_a_model_takes_no_pickle(model, monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("a model file is read without pickle")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, forbidden)
    load(model)
