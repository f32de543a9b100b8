"""The task: encoded targets, loss, accuracy and probabilities, compared with their definitions."""

import pytest
import torch

from spectrnn.errors import UserError

CLASSES = torch.tensor([0, 2, 2, 1])
LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.1, 0.4], [-3.0, 0.0, 1.0], [0.0, 0.2, 0.1]])


def once(targets):
    """Targets, and one draw of each clip."""
    return targets, torch.ones(len(targets), dtype=torch.float64)


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
    single_label.fit(*once(torch.repeat_interleave(torch.arange(3), counts)))
    torch.testing.assert_close(single_label.weight, 10 / (3 * counts.float()))
    assert float((single_label.weight * counts).sum()) == pytest.approx(10)
    losses = -LOGITS.log_softmax(1)[torch.arange(4), CLASSES] * single_label.weight[CLASSES]
    torch.testing.assert_close(single_label.loss(LOGITS, single_label.encode(CLASSES)), losses.mean())
    assert not single_label.state_dict()


def test_class_without_training_clips_has_a_finite_weight(task):
    single_label = task(class_weights="balanced")
    single_label.fit(*once(torch.tensor([0] * 6 + [2] * 3)))
    assert single_label.weight.isfinite().all()


def test_unweighted_loss_does_not_depend_on_class_counts(task):
    single_label = task()
    before = single_label.loss(LOGITS, single_label.encode(CLASSES))
    single_label.fit(*once(torch.tensor([0] * 6 + [1] + [2] * 3)))
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


@pytest.fixture
def label_sets(stage):
    """Builds a task of three classes that occur together: `label_sets(focal_gamma=2.0)`."""
    return lambda **settings: stage("task", "multi_label", {"num_classes": 3}, **settings)


SETS = torch.tensor([[True, False, False], [False, False, False], [True, True, True], [False, True, False]])


def binary_losses(targets):
    probabilities = LOGITS.sigmoid()
    return -(targets * probabilities.log() + (1 - targets) * (1 - probabilities).log())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_of_label_sets_is_binary_cross_entropy(label_sets, smoothing):
    task = label_sets(label_smoothing=smoothing)
    smoothed = SETS.float() * (1 - smoothing) + smoothing / 2
    torch.testing.assert_close(task.loss(LOGITS, task.encode(SETS)), binary_losses(smoothed).mean())


def test_focal_loss_is_that_of_its_paper(label_sets):
    task = label_sets(focal_gamma=2.0)
    of_true = torch.where(SETS, LOGITS.sigmoid(), 1 - LOGITS.sigmoid())
    torch.testing.assert_close(task.loss(LOGITS, task.encode(SETS)), (-((1 - of_true) ** 2) * of_true.log()).mean())


def test_mixed_clips_have_the_labels_of_both_or_a_part_of_them(label_sets):
    mixed = 0.8 * SETS.float() + 0.2 * SETS.flip(0).float()
    united = (SETS | SETS.flip(0)).float()
    torch.testing.assert_close(label_sets().loss(LOGITS, mixed), binary_losses(united).mean())
    torch.testing.assert_close(label_sets(unite_mixed=False).loss(LOGITS, mixed), binary_losses(mixed).mean())
    almost_silent = 0.98 * SETS.float() + 0.02 * SETS.flip(0).float()
    a_part = torch.where(SETS, 1.0, 0.2 * SETS.flip(0).float())
    torch.testing.assert_close(label_sets().loss(LOGITS, almost_silent), binary_losses(a_part).mean())


def test_balanced_positive_weights_are_the_ratios_of_clips(label_sets):
    task = label_sets(positive_weights="balanced")
    task.fit(*once(torch.tensor([[True, False, False]] + [[False, True, False]] * 2 + [[True, True, False]] * 3)))
    torch.testing.assert_close(task.positive_weight, torch.tensor([2 / 4, 1 / 5, 6.0]))
    task.fit(*once(torch.zeros(1000, 3, dtype=torch.bool)))
    assert task.positive_weight.tolist() == [20, 20, 20]
    assert list(task.state_dict()) == ["thresholds"]


def test_decisions_of_label_sets_follow_the_thresholds(label_sets):
    task = label_sets()
    task.thresholds.copy_(torch.tensor([0.5, 0.2, 0.9]))
    probabilities = torch.tensor([[0.5, 0.1, 0.95], [0.4, 0.1, 0.8]])
    assert task.decide(probabilities).tolist() == [[True, False, True], [False, False, False]]
    assert task.detected(probabilities[0], None) == [2, 0]  # the most probable one first
    assert task.detected(probabilities[1], torch.tensor([0.3, 0.0, 0.9])) == [0, 1]


def test_correct_label_sets_are_exactly_the_targets(label_sets):
    task = label_sets()
    assert task.correct(LOGITS, task.encode(LOGITS > 0)).tolist() == [True] * 4
    assert task.correct(LOGITS, task.encode(SETS)).tolist() == [True, False, False, False]


@pytest.mark.parametrize("temperature", [1.0, torch.tensor([0.5, 1.0, 4.0])])
def test_logits_of_label_sets_invert_probabilities(label_sets, temperature):
    task = label_sets()
    probabilities = task.probabilities(LOGITS, temperature)
    torch.testing.assert_close(probabilities, 1 / (1 + (-LOGITS / temperature).exp()))
    torch.testing.assert_close(task.logits(probabilities), LOGITS / temperature, rtol=1e-5, atol=1e-5)
    assert task.logits(torch.tensor([[0.0, 1.0, 0.5]])).isfinite().all()


def test_task_of_an_ensemble_has_the_mean_thresholds(label_sets):
    members = [label_sets(), label_sets()]
    members[1].thresholds.copy_(torch.tensor([0.1, 0.5, 0.9]))
    torch.testing.assert_close(members[0].averaged(members[1:]).thresholds, torch.tensor([0.3, 0.5, 0.7]))


def test_detected_class_is_the_most_probable_one_that_reaches_its_threshold(task):
    probabilities = torch.tensor([0.5, 0.3, 0.2])
    assert task().detected(probabilities, None) == [0]
    assert task().detected(probabilities, torch.tensor([0.6, 0.2, 0.1])) == [1]
    assert task().detected(probabilities, torch.tensor([0.6, 0.6, torch.inf])) == []
