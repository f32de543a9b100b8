"""Ensembles: the mean of the members' probabilities, and their model file."""

import json
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import load_file, save_file

from spectrnn.detection.thresholds import TunedThresholds, read_thresholds
from spectrnn.errors import UserError
from spectrnn.frontend.features import LogMelSpectrogram
from spectrnn.model.classifier import Classifier, build_stages
from spectrnn.model.ensemble import Ensemble
from spectrnn.model.header import ENSEMBLE_FORMAT, FORMAT, MAX_MEMBERS, read_header
from spectrnn.model.serialization import load, save, save_thresholds


@pytest.fixture
def model(members, stages, tmp_path):
    """Path of the model file of an ensemble of three."""
    save(Ensemble(members(3)), stages(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def rewrite(model, header, tensors=lambda tensors: tensors):
    """Writes the file again with entries of its header replaced."""
    content = json.dumps(read_header(model) | header)
    save_file(tensors(load_file(model)), model, metadata={"spectrnn": content})


def mean_probabilities(members, clips):
    with torch.inference_mode():
        return torch.stack([member.probabilities(*clips) for member in members]).double().mean(0)


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"model": "crnn", "normalize": "cmvn", "pooling": "stats"},
        {"model": "lstm", "normalize": "none", "pooling": "mean", "features": "mfcc"},
        {"model": "conv1d_rnn", "pooling": "last"},
    ],
    ids=lambda choices: choices.get("model", "default"),
)
def test_probabilities_are_the_mean_of_those_of_the_members(members, clips, choices):
    trained = members(3, **choices)
    expected = mean_probabilities(trained, clips)
    ensemble = Ensemble(trained)
    with torch.inference_mode():
        probabilities, logits = ensemble.probabilities(*clips), ensemble(*clips)
        single = torch.cat([ensemble.probabilities(*clips.alone(row)) for row in range(len(clips.lengths))])
    assert not ensemble.training
    assert (probabilities - expected).abs().max() < 1e-6
    assert (logits.exp() - expected).abs().max() < 1e-6
    assert (single - expected).abs().max() < 1e-5
    assert probabilities.std(0).max() > 0.01  # the probabilities depend on the clip
    assert min((member.probabilities(*clips) - expected).abs().max() for member in trained) > 0.01


def test_own_temperature_applies_to_the_mean(members, clips):
    ensemble = Ensemble(members(2))
    powers = ensemble.probabilities(*clips).sqrt()
    ensemble.temperature.fill_(2)
    torch.testing.assert_close(ensemble.probabilities(*clips), powers / powers.sum(1, keepdim=True))


def test_certain_members_give_finite_logits(members, clips):
    ensemble = Ensemble(members(2))
    for head in ensemble.head.members:
        head[1].bias.data = torch.tensor([1e6, 0, 0])
    assert ensemble(*clips).isfinite().all()
    torch.testing.assert_close(ensemble.probabilities(*clips), torch.tensor([1.0, 0, 0]).expand(len(clips.lengths), 3))


def test_features_are_computed_once(members, clips):
    calls, ensemble = [], Ensemble(members(3))
    ensemble.features.register_forward_hook(lambda *_: calls.append(1))
    ensemble(*clips)
    assert len(calls) == 1


def test_activations_are_those_of_the_members(members, clips):
    trained = members(2)
    traces = [member.trace(*clips) for member in trained]
    actual = Ensemble(trained).trace(*clips)
    for name in ("features", "states", "pooled"):
        assert torch.equal(getattr(actual, name), torch.cat([getattr(trace, name) for trace in traces], -1)), name
    assert torch.equal(actual.state_lengths, traces[0].state_lengths)
    expected = torch.cat([trace.attention for trace in traces], 1).mean(1, keepdim=True)
    torch.testing.assert_close(actual.attention, expected)
    assert Ensemble(members(2, pooling="mean")).trace(*clips).attention is None


def test_summary_counts_the_parameters_of_all_members(members):
    trained = members(3)
    rows, single = Ensemble(trained).summary(0.5), trained[0].summary(0.5)
    assert [row.parameters for row in rows] == [3 * row.parameters for row in single]
    assert rows[-1].shape == single[-1].shape
    assert Ensemble(trained).architecture == [*trained[0].architecture, "ensemble of 3"]


def test_longest_training_clip_is_that_of_all_members(members):
    assert int(Ensemble(members(3)).max_train_samples) == 2001


def test_members_that_differ_in_more_than_weights_are_rejected(members, stages):
    first, other = members(1)[0], stages()
    same = "the members of an ensemble should have the same labels and the same stages"
    for different in (Classifier(build_stages(other, 3), ["one", "three", "two"]), members(1, model="lstm")[0]):
        with pytest.raises(UserError, match=f"^{same}$"):
            Ensemble([first, different])
    with pytest.raises(UserError, match=r"^the members of an ensemble should not be ensembles$"):
        Ensemble([Ensemble([first])])
    other["features"]["fmin"] = 200
    with pytest.raises(UserError, match=r"^the members of an ensemble should have the same features"):
        Ensemble([first, Classifier(build_stages(other, 3), first.labels)])
    for count in (0, MAX_MEMBERS + 1):
        with pytest.raises(UserError, match=f"^an ensemble has 1 to 100 members, not {count}$"):
            Ensemble([first] * count)


@pytest.mark.parametrize("choices", [{}, {"model": "crnn", "pooling": "stats"}], ids=["bigru", "crnn"])
def test_loaded_ensemble_gives_identical_logits(members, stages, clips, tmp_path, choices):
    before, config = Ensemble(members(3, **choices)), {**stages(**choices), "seed": 3}
    save(before, config, tmp_path / "model.safetensors", splits={"test": "2 abc"})
    after, restored = load(tmp_path / "model.safetensors")
    assert isinstance(after, Ensemble)
    assert (after.num_members, after.labels, restored) == (3, before.labels, config)
    assert after.temperatures.tolist() == [1, 0.5, 1.5, 2.5]
    assert int(after.max_train_samples) == 2001
    assert torch.equal(after(*clips), before(*clips))
    header = read_header(tmp_path / "model.safetensors")
    assert (header["format"], header["members"], header["splits"]) == (ENSEMBLE_FORMAT, 3, {"test": "2 abc"})


def test_file_of_a_single_classifier_is_that_of_earlier_versions(classifier, stages, tmp_path):
    save(classifier(), stages(), tmp_path / "model.safetensors")
    header = read_header(tmp_path / "model.safetensors")
    assert header["format"] == FORMAT == 4
    assert header.keys() == {"format", "labels", "config", "splits", "tuned_thresholds"}


def test_thresholds_are_stored_in_an_ensemble(model, clips):
    before, _ = load(model)
    tuned = TunedThresholds(
        by_label={"one": 0.75},
        background=[],
        max_false_alarms_per_hour=0.5,
        hours=2.25,
        window=1.5,
        hop=0.25,
        smoothing_windows=3,
        offset_ratio=0.8,
        min_event_seconds=0,
    )
    save_thresholds(model, asdict(tuned))
    assert read_thresholds(model) == tuned
    assert torch.equal(load(model)[0](*clips), before(*clips))


@pytest.mark.parametrize(
    "count", [0, -1, MAX_MEMBERS + 1, 10**9, 10**400, True, 3.0, "3", None, [3], "x" * 10**5], ids=lambda n: str(n)[:9]
)
def test_number_of_members_is_limited(model, count):
    rewrite(model, {"members": count})
    for read in (load, read_header):
        with pytest.raises(UserError) as caught:
            read(model)
        assert str(caught.value) == f"{model}: is an ensemble of {count!r:.40} members, not of 1 to 100"


def test_number_of_members_is_required(model):
    header = read_header(model)
    del header["members"]
    save_file(load_file(model), model, metadata={"spectrnn": json.dumps(header)})
    with pytest.raises(UserError, match=r"is an ensemble of None members, not of 1 to 100$"):
        load(model)


def replaced(name, value):
    return lambda tensors: {**tensors, name: torch.tensor(value)}


@pytest.mark.parametrize(
    ("header", "tensors", "message"),
    [
        *(({"members": count}, dict, r"its weights do not fit its config \(") for count in (1, 2)),
        ({"members": 100}, dict, r"its weights do not fit its config \(75 tensors, and 100 members need 2400\)$"),
        ({"members": 4}, dict, r"its weights do not fit its config \(75 tensors, and 4 members need 96\)$"),
        ({"format": FORMAT}, dict, r"its weights do not fit its config \("),
        (
            {},
            lambda tensors: {name: x for name, x in tensors.items() if name != "head.members.2.1.bias"},
            r"its weights do not fit its config \(head.members.2.1.bias is None, not \('F32', \(3,\)\)\)$",
        ),
        ({}, replaced("head.temperatures", [1.0, 1.0]), r"its weights do not fit its config \(head.temperatures is "),
        ({}, replaced("head.temperatures", [1, 1, 1]), r"its weights do not fit its config \(head.temperatures is "),
        ({}, replaced("head.temperatures", [1.0, -0.5, 1.0]), "its temperature is -0.5, not above 0$"),
        ({}, replaced("temperature", 0.0), "its temperature is 0.0, not above 0$"),
        (
            {},
            replaced("head.temperatures", [1.0, float("nan"), 1.0]),
            r"its weights are damaged \(head.temperatures contains non-finite values\)$",
        ),
        (
            {},
            lambda tensors: {**tensors, "normalization.members.1.std": torch.zeros(16)},
            r"its weights are damaged \(its output for silence or a ramp is not finite\)$",
        ),
    ],
)
def test_malformed_ensemble_is_rejected(model, header, tensors, message):
    rewrite(model, header, tensors)
    with pytest.raises(UserError, match=f"^{model}: {message}") as caught:
        load(model)
    assert "\n" not in str(caught.value)


def test_small_file_of_many_members_is_rejected_before_they_are_built(model, monkeypatch):
    config = read_header(model)["config"]
    config["model"]["num_layers"] = 99
    monkeypatch.setattr("spectrnn.model.serialization.Ensemble", None)
    rewrite(model, {"members": 100, "config": config})
    with pytest.raises(UserError, match=r"fit its config \(75 tensors, and 100 members need 80000\)$"):
        load(model)


def test_tables_of_the_features_are_allocated_once(model, monkeypatch):
    def forbidden(*_):
        raise AssertionError("the tables of a small file may be large")

    monkeypatch.setattr(LogMelSpectrogram, "__deepcopy__", forbidden, raising=False)
    assert load(model)[0].num_members == 3
