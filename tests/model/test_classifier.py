"""The classifier as a whole: every combination of its stages trains, and keeps each clip apart from its neighbours."""

from itertools import product

import pytest
import torch
from torch import nn

from spectrnn.errors import UserError
from spectrnn.frontend.augmentation import Augmentations
from spectrnn.model.classifier import Classifier

MODELS = ["gru", "bigru", "lstm", "bilstm", "crnn", "conv1d_rnn"]
POOLINGS = ["last", "mean", "max", "attention", "stats"]
COMBINATIONS = list(product(["logmel", "mfcc"], ["global", "cmvn", "none"], MODELS, POOLINGS))
TARGETS = torch.tensor([0, 1, 2, 0, 1, 2, 0])


def train_a_step(model, clips):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    loss = nn.functional.cross_entropy(model.train()(*clips), TARGETS)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


@pytest.mark.parametrize(("features", "normalize", "model", "pooling"), COMBINATIONS)
def test_every_combination_trains_a_step_and_keeps_clips_apart(classifier, clips, features, normalize, model, pooling):
    classes = classifier(features=features, normalize=normalize, model=model, pooling=pooling)
    classes.normalization.fit([classes.features(*clips)])
    before = [parameter.detach().clone() for parameter in classes.parameters()]
    assert train_a_step(classes, clips) < 10
    for parameter, old in zip(classes.parameters(), before, strict=True):
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any() == (parameter != old).any()
    assert sum(bool(parameter.grad.any()) for parameter in classes.parameters()) > 0.8 * len(before)
    classes.eval()
    with torch.no_grad():
        together = classes(*clips)
        assert together.isfinite().all()
        assert together[0].sub(together[1]).abs().max() > 1e-3  # clips are told apart
        for clip in range(7):
            assert (classes(*clips.alone(clip)) - together[clip]).abs().max() < 1e-5
        order = torch.tensor([3, 6, 0, 2])
        assert (classes(clips.waveform[order], clips.lengths[order]) - together[order]).abs().max() < 1e-5


def test_it_learns_to_tell_two_tones_apart(classifier):
    pitch = torch.tensor([400.0, 1500.0]).repeat(8) * torch.linspace(0.95, 1.05, 16)
    lengths = torch.randint(1200, 2400, (16,))
    wave = torch.sin(2 * torch.pi * pitch[:, None] / 8000 * torch.arange(2400)) * (
        torch.arange(2400) < lengths[:, None]
    )
    classes, targets = classifier(), torch.tensor([0, 1]).repeat(8)
    classes.normalization.fit([classes.features(wave[:12], lengths[:12])])
    optimizer = torch.optim.Adam(classes.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(classes.train()(wave[:12], lengths[:12]), targets[:12]).backward()
        optimizer.step()
    assert torch.equal(classes.eval()(wave[12:], lengths[12:]).argmax(1), targets[12:])  # heard for the first time


@pytest.mark.parametrize("model", MODELS)
def test_summary_tells_the_shapes_and_the_parameters_of_all_stages(classifier, model):
    classes = classifier(model=model, pooling="stats").train()
    rows = {stage.name: stage for stage in classes.summary(0.5)}
    frames = (48 + 1) // 2 if model in ("crnn", "conv1d_rnn") else 48
    size = 8 if model in ("gru", "lstm") else 16
    assert {name: stage.shape for name, stage in rows.items()} == {
        "waveform": (1, 4000),
        "features": (1, 48, 16),
        "normalize": (1, 48, 16),
        "model": (1, frames, size),
        "pooling": (1, 2 * size),
        "head": (1, 3),
    }
    assert sum(stage.parameters for stage in rows.values()) == sum(p.numel() for p in classes.parameters())
    assert rows["head"].parameters == 3 * (2 * size + 1)
    assert classes.training


def test_summary_leaves_running_statistics_alone(classifier):
    classes = classifier(model="crnn").train()
    before = {name: tensor.clone() for name, tensor in classes.state_dict().items()}
    classes.summary(0.5)
    assert all(torch.equal(before[name], tensor) for name, tensor in classes.state_dict().items())


@pytest.mark.parametrize("model", ["bigru", "crnn"])
def test_attention_covers_each_clips_own_frames(classifier, clips, model):
    classes = classifier(model=model)
    weights = classes.trace(*clips).attention
    frames = 1 + (clips.lengths - 200).clamp(min=0) // 80
    frames = (frames + 1) // 2 if model == "crnn" else frames
    assert weights.shape == (7, 2, frames.max())
    torch.testing.assert_close(weights.sum(2), torch.ones(7, 2))
    assert ((weights > 0).sum(2) == frames[:, None]).all()


def test_augmentation_acts_in_training_only(classifier, clips):
    classes = classifier(augment=("specaugment",))
    plain, frames = classes.features(*clips)
    assert torch.equal(classes.frontend(*clips)[0], plain)  # global normalization that was not fitted
    augmented, same = classes.train().frontend(*clips)
    assert torch.equal(same, frames)
    assert not torch.equal(augmented, plain)
    assert torch.equal(classifier().train().frontend(*clips)[0], plain)


def test_augmentation_is_no_part_of_what_is_stored(classifier):
    assert classifier(augment=("noise", "specaugment")).state_dict().keys() == classifier().state_dict().keys()


def test_dropout_of_the_head_acts_in_training_only(classifier, clips):
    classes = classifier(model="gru", pooling="mean")
    assert torch.equal(classes(*clips), classes(*clips))
    classes.train()
    assert not torch.equal(classes(*clips), classes(*clips))


def test_the_frontend_keeps_to_float32_under_autocast(classifier, clips):
    classes = classifier()
    exact, _ = classes.frontend(*clips)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(classes.frontend(*clips)[0], exact)
        logits = classes(*clips)
    torch.testing.assert_close(logits.float(), classes(*clips), rtol=0, atol=0.05)


def test_labels_and_rate(classifier, stages):
    assert classifier().labels == ["one", "two", "three"]
    assert classifier().sample_rate == 8000
    assert Classifier(stages(), ["a", "b"], Augmentations([]))(torch.zeros(1, 500), torch.tensor([500])).shape == (1, 2)


@pytest.mark.parametrize(
    ("group", "settings", "sentence"),
    [
        (
            "pooling",
            {"num_heads": 3},
            "pooling.num_heads=3: does not divide the encoder's 16 outputs; 1, 2, 4, 8, 16 do",
        ),
        ("features", {"hop_ms": 26}, "features.hop_ms=26: longer than features.window_ms="),
        ("normalize", {"eps": 0}, "normalize.eps=0: should be greater than 0"),
        ("model", {"hiden_size": 8}, "model.hiden_size: no such key; did you mean model.hidden_size"),
        ("head", {"dropout": 2}, "head.dropout=2: should be less than 1"),
    ],
)
def test_a_stage_that_refuses_is_named(stages, group, settings, sentence):
    nodes = stages()
    nodes[group] |= settings
    with pytest.raises(UserError, match=sentence):
        Classifier(nodes, ["a", "b"])
