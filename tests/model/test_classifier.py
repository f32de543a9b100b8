"""The classifier as a whole: every combination of stages trains, and clips do not depend on their batch."""

from itertools import product

import pytest
import torch

from spectrnn.errors import UserError
from spectrnn.model.classifier import Classifier, build_stages

ENCODERS = ["gru", "bigru", "lstm", "bilstm", "crnn", "conv1d_rnn"]
POOLINGS = ["last", "mean", "max", "attention", "stats"]
COMBINATIONS = list(product(["logmel", "mfcc"], ["global", "relaxed", "cmvn", "none"], ENCODERS, POOLINGS))
TARGETS = torch.tensor([0, 1, 2, 0, 1, 2, 0])


def train_step(model, clips):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    loss = model.task.loss(model.train()(*clips), model.task.encode(TARGETS))
    loss.backward()
    optimizer.step()
    return float(loss.detach())


@pytest.mark.parametrize(("features", "normalize", "encoder", "pooling"), COMBINATIONS)
def test_every_combination_trains_and_is_independent_of_the_batch(
    classifier, clips, features, normalize, encoder, pooling
):
    model = classifier(features=features, normalize=normalize, model=encoder, pooling=pooling)
    model.normalization.fit([model.features(*clips)])
    before = [parameter.detach().clone() for parameter in model.parameters()]
    assert train_step(model, clips) < 10
    for parameter, old in zip(model.parameters(), before, strict=True):
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any() == (parameter != old).any()
    assert sum(bool(parameter.grad.any()) for parameter in model.parameters()) > 0.8 * len(before)
    model.eval()
    with torch.no_grad():
        together = model(*clips)
        assert together.isfinite().all()
        assert together[0].sub(together[1]).abs().max() > 1e-3
        for clip in range(7):
            assert (model(*clips.alone(clip)) - together[clip]).abs().max() < 1e-5
        order = torch.tensor([3, 6, 0, 2])
        assert (model(clips.waveform[order], clips.lengths[order]) - together[order]).abs().max() < 1e-5


def test_training_separates_two_tones(classifier):
    pitch = torch.tensor([400.0, 1500.0]).repeat(8) * torch.linspace(0.95, 1.05, 16)
    lengths = torch.randint(1200, 2400, (16,))
    wave = torch.sin(2 * torch.pi * pitch[:, None] / 8000 * torch.arange(2400)) * (
        torch.arange(2400) < lengths[:, None]
    )
    model, classes = classifier(), torch.tensor([0, 1]).repeat(8)
    model.normalization.fit([model.features(wave[:12], lengths[:12])])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        model.task.loss(model.train()(wave[:12], lengths[:12]), model.task.encode(classes[:12])).backward()
        optimizer.step()
    assert torch.equal(model.eval()(wave[12:], lengths[12:]).argmax(1), classes[12:])


@pytest.mark.parametrize("encoder", ENCODERS)
def test_summary_has_shapes_and_parameters_of_all_stages(classifier, encoder):
    model = classifier(model=encoder, pooling="stats").train()
    rows = {stage.name: stage for stage in model.summary(0.5)}
    frames = (48 + 1) // 2 if encoder in ("crnn", "conv1d_rnn") else 48
    size = 8 if encoder in ("gru", "lstm") else 16
    assert {name: stage.shape for name, stage in rows.items()} == {
        "waveform": (1, 4000),
        "features": (1, 48, 16),
        "normalize": (1, 48, 16),
        "model": (1, frames, size),
        "pooling": (1, 2 * size),
        "head": (1, 3),
    }
    assert sum(stage.parameters for stage in rows.values()) == sum(p.numel() for p in model.parameters())
    assert rows["head"].parameters == 3 * (2 * size + 1)
    assert model.training


def test_summary_keeps_running_statistics(classifier):
    model = classifier(model="crnn").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.summary(0.5)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("encoder", ["bigru", "crnn"])
def test_attention_covers_the_valid_frames_of_each_clip(classifier, clips, encoder):
    model = classifier(model=encoder)
    weights = model.trace(*clips).attention
    frames = 1 + (clips.lengths - 200).clamp(min=0) // 80
    frames = (frames + 1) // 2 if encoder == "crnn" else frames
    assert weights.shape == (7, 2, frames.max())
    torch.testing.assert_close(weights.sum(2), torch.ones(7, 2))
    assert ((weights > 0).sum(2) == frames[:, None]).all()


def test_augmentation_applies_in_training_only(classifier, clips):
    model = classifier(augment=("specaugment",))
    plain, frames = model.features(*clips)
    assert torch.equal(model.frontend(*clips)[0], plain)  # global normalization that is not fitted
    augmented, same = model.train().frontend(*clips)
    assert torch.equal(same, frames)
    assert not torch.equal(augmented, plain)
    assert torch.equal(classifier().train().frontend(*clips)[0], plain)


def test_augmentation_is_not_saved(classifier):
    assert classifier(augment=("noise", "specaugment")).state_dict().keys() == classifier().state_dict().keys()


def test_dropout_of_the_head_applies_in_training_only(classifier, clips):
    model = classifier(model="gru", pooling="mean")
    assert torch.equal(model(*clips), model(*clips))
    model.train()
    assert not torch.equal(model(*clips), model(*clips))


def test_frontend_computes_in_float32_under_autocast(classifier, clips):
    model = classifier()
    exact, _ = model.frontend(*clips)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.frontend(*clips)[0], exact)
        logits = model(*clips)
    torch.testing.assert_close(logits.float(), model(*clips), rtol=0, atol=0.05)


def test_labels_and_sample_rate(classifier, stages):
    assert classifier().labels == ["one", "two", "three"]
    assert classifier().sample_rate == 8000
    model = Classifier(build_stages(stages(), 2), ["a", "b"])
    assert model(torch.zeros(1, 500), torch.tensor([500])).shape == (1, 2)


@pytest.mark.parametrize(
    ("group", "settings", "message"),
    [
        ("pooling", {"num_heads": 3}, "num_heads=3: does not divide the encoder's 16 outputs; 1, 2, 4, 8, 16 do"),
        ("features", {"hop_ms": 26}, "hop_ms=26: longer than features.window_ms="),
        ("normalize", {"eps": 0}, "eps=0: should be greater than 0"),
        ("model", {"hiden_size": 8}, "hiden_size: no such key; did you mean model.hidden_size"),
        ("head", {"dropout": 2}, "dropout=2: should be less than 1"),
    ],
)
def test_invalid_setting_is_reported_with_its_full_key(stages, group, settings, message):
    nodes = stages()
    nodes[group] |= settings
    with pytest.raises(UserError, match=f"^{group}.{message}"):
        build_stages(nodes, 2)
