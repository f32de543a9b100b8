"""The task: encoded targets, loss, accuracy and probabilities, compared with their definitions."""

import pytest
import torch

from spectrnn.errors import UserError

CLASSES = torch.tensor([0, 2, 2, 1])
LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.1, 0.4], [-3.0, 0.0, 1.0], [0.0, 0.2, 0.1]])


@pytest.fixture
def task(stage):
    """Builds a task of three classes: `task(label_smoothing=0.1)`."""
    return lambda **settings: stage("task", "single_label", {"num_classes": 3}, **settings)


def test_targets_are_one_hot(task):
    targets = task().encode(CLASSES)
    assert targets.dtype == torch.float32
    assert targets.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 1, 0]]


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_loss_is_cross_entropy_of_smoothed_targets(task, smoothing):
    single_label = task(label_smoothing=smoothing)
    targets = single_label.encode(CLASSES)
    mixed = (targets + targets.flip(0)) / 2  # as from mixup
    for values in (targets, mixed):
        smoothed = (1 - smoothing) * values + smoothing / 3
        expected = -(smoothed * LOGITS.log_softmax(1)).sum(1).mean()
        torch.testing.assert_close(single_label.loss(LOGITS, values), expected)


def test_balanced_class_weights_have_mean_1_over_the_training_clips(task):
    single_label, counts = task(label_smoothing=0.0, class_weights="balanced"), torch.tensor([6, 1, 3])
    single_label.fit(torch.repeat_interleave(torch.arange(3), counts))
    torch.testing.assert_close(single_label.weight, 10 / (3 * counts.float()))
    assert float((single_label.weight * counts).sum()) == pytest.approx(10)
    losses = -LOGITS.log_softmax(1)[torch.arange(4), CLASSES] * single_label.weight[CLASSES]
    torch.testing.assert_close(single_label.loss(LOGITS, single_label.encode(CLASSES)), losses.mean())
    assert not single_label.state_dict()


def test_class_without_training_clips_has_a_finite_weight(task):
    single_label = task(class_weights="balanced")
    single_label.fit(torch.tensor([0] * 6 + [2] * 3))
    assert single_label.weight.isfinite().all()


def test_unweighted_loss_does_not_depend_on_class_counts(task):
    single_label = task()
    before = single_label.loss(LOGITS, single_label.encode(CLASSES))
    single_label.fit(torch.tensor([0] * 6 + [1] + [2] * 3))
    assert single_label.weight is None
    assert torch.equal(single_label.loss(LOGITS, single_label.encode(CLASSES)), before)


def test_correct_compares_the_most_probable_classes(task):
    assert task().correct(LOGITS, task().encode(CLASSES)).tolist() == [True, False, True, True]


@pytest.mark.parametrize("temperature", [1.0, 0.5, torch.tensor(2.0)])
def test_probabilities_are_the_softmax_at_a_temperature(task, temperature):
    probabilities = task().probabilities(LOGITS.double(), temperature)
    assert probabilities.dtype == torch.float32
    scaled = (LOGITS / temperature).exp()
    torch.testing.assert_close(probabilities, scaled / scaled.sum(1, keepdim=True))


def test_logits_invert_probabilities(task):
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    logits = task().logits(probabilities)
    assert logits.isfinite().all()
    torch.testing.assert_close(task().probabilities(logits), probabilities)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_smoothing": 1}, "label_smoothing=1: should be less than 1"),
        ({"class_weights": "equal"}, "class_weights=equal: should be 'none' or 'balanced'"),
    ],
)
def test_invalid_setting_is_reported_with_its_full_key(task, settings, message):
    with pytest.raises(UserError, match=f"^task.{message}$"):
        task(**settings)
