"""Answers of frames: alignment with the waveform, padding, unknown frames, and ensembles."""

import pytest
import torch

from spectrnn.data.batches import ClipEvents
from spectrnn.errors import UserError
from spectrnn.model.classifier import Classifier, build_stages
from spectrnn.model.ensemble import Ensemble

MODELS = ["gru", "bigru", "crnn", "conv1d_rnn"]


@pytest.fixture
def framed(stages):
    """Builds a small classifier with answers of frames, in evaluation mode: `framed(model="crnn")`."""

    def build(**choices):
        nodes = stages(**choices)
        nodes["task"] = {
            "_target_": "spectrnn.model.task.MultiLabel",
            "label_smoothing": 0.0,
            "focal_gamma": 0.0,
            "positive_weights": "none",
            "unite_mixed": True,
        }
        nodes["head"] = {
            "_target_": "spectrnn.model.classifier.FrameHead",
            "dropout": 0.2,
            "frame_loss_weight": 2.0,
        }
        return Classifier(build_stages(nodes, 3), ["a", "b", "c"]).eval()

    return build


@pytest.mark.parametrize("model", MODELS)
def test_frames_do_not_depend_on_padding(framed, clips, model):
    classifier = framed(model=model)
    probabilities, counts = classifier.frame_probabilities(*clips)
    for clip, count in enumerate(counts.tolist()):
        alone, (own,) = classifier.frame_probabilities(*clips.alone(clip))
        assert own == count == alone.shape[1]
        torch.testing.assert_close(probabilities[clip, :count], alone[0], atol=1e-5, rtol=0)
    events = ClipEvents(torch.tensor([[[0.0, 1000.0]]] * 7), torch.zeros(7, 1, dtype=torch.int64), torch.ones(7, 1))
    padded = classifier.trace(*clips)
    loss = classifier.frame_loss(padded.frame_logits, padded.state_lengths, events)
    alone = [classifier.trace(*clips.alone(clip)) for clip in range(7)]
    losses = [
        classifier.frame_loss(x.frame_logits, x.state_lengths, ClipEvents(*(column[:1] for column in events)))
        for x in alone
    ]
    torch.testing.assert_close(loss, torch.stack(losses) @ counts.float() / counts.sum(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("model", MODELS)
def test_centers_are_those_of_what_a_frame_depends_on(framed, model):
    """The convolutions of a frame see as much before its center as after it."""
    classifier = framed(model=model)
    encoder, features = classifier.encoder, torch.randn(1, 41, 16, requires_grad=True)
    x, lengths = features, torch.tensor([41])
    if hasattr(encoder, "blocks"):
        x = features[:, None] if model == "crnn" else features.transpose(1, 2)
        for block in encoder.blocks:
            block.norm.use_kernels = False
            x, lengths = block.eval()(x, lengths)
        x = x.transpose(1, 2).flatten(2)
    (gradient,) = torch.autograd.grad(x[0, 10].square().sum(), features)
    seen = torch.nonzero(gradient[0].abs().sum(1))[:, 0]
    middle = (seen[0] + seen[-1]) / 2
    own = classifier.features
    assert classifier.frame_centers(11)[10] == middle * own.hop_size + own.window_size / 2


def test_loss_is_that_of_known_frames_only(framed):
    """Binary cross-entropy by hand; a clip of which only the labels are known adds nothing, nor a gradient."""
    classifier = framed()
    logits = torch.randn(2, 4, 3, requires_grad=True)
    hop, window = classifier.features.hop_size, classifier.features.window_size
    times = torch.tensor([[[0.0, window / 2 + hop + 1], [0.0, 0.0]], [[0.0, 1e6], [0.0, 1e6]]])
    events = ClipEvents(times, torch.tensor([[1, -1], [-1, 0]]), torch.ones(2, 2))
    loss = classifier.frame_loss(logits, torch.tensor([3, 4]), events)
    targets = torch.zeros(3, 3)
    targets[:2, 1] = 1
    expected = 2 * torch.nn.functional.binary_cross_entropy_with_logits(logits[0, :3], targets)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert logits.grad[0, :3].all()
    assert not logits.grad[0, 3].any()
    assert not logits.grad[1].any()
    unknown = ClipEvents(*(column[1:] for column in events))
    assert classifier.frame_loss(logits[1:], torch.tensor([4]), unknown) == 0


def test_clip_is_the_pooling_of_its_frames(framed, clips):
    """The mean of the logits of frames is that of the clip: so labels without times train frames, too."""
    classifier = framed(pooling="mean")
    x = classifier.trace(*clips)
    for clip, count in enumerate(x.state_lengths.tolist()):
        torch.testing.assert_close(x.frame_logits[clip, :count].mean(0), x.logits[clip], atol=1e-5, rtol=1e-4)


def test_ensemble_averages_the_probabilities_of_frames(framed, clips):
    members = [framed(model="crnn"), framed(model="crnn")]
    members[1].encoder, members[1].normalization = members[0].encoder, members[0].normalization
    members[1].features = members[0].features
    ensemble = Ensemble(members)
    assert ensemble.has_frames
    probabilities, counts = ensemble.frame_probabilities(*clips)
    expected = torch.stack([member.frame_probabilities(*clips)[0] for member in members]).mean(0)
    torch.testing.assert_close(probabilities[0, : counts[0]], expected[0, : counts[0]], atol=1e-5, rtol=1e-5)
    assert torch.equal(ensemble.frame_centers(9), members[0].frame_centers(9))


def test_pooling_whose_vector_is_not_like_a_frame_is_rejected(framed):
    with pytest.raises(UserError, match=r"^head=frames: the pooling returns 32 values, and the model 16 per frame; "):
        framed(pooling="stats")
