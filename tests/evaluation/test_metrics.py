"""Metrics, held against scikit-learn, and against sums done by hand."""

import numpy as np
import pytest
from sklearn import metrics

from spectrnn.evaluation.metrics import (
    bootstrap_intervals,
    classification_metrics,
    confusion_matrix,
    expected_calibration_error,
    per_class_metrics,
)


@pytest.fixture(params=[0, 1, 2], ids=["many", "few", "absent"])
def answers(request):
    """Probabilities (clips, classes) that are right more often than not, and targets (clips,)."""
    clips, classes, absent = [(500, 7, 0), (9, 5, 0), (200, 6, 2)][request.param]
    generator = np.random.default_rng(request.param)
    targets = generator.integers(0, classes - absent, clips)  # the last classes have no clip
    logits = generator.normal(size=(clips, classes))
    logits[np.arange(clips), targets] += 1
    logits[:, -absent // 2 :] -= 20 * bool(absent)  # and the very last is never predicted either
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return probabilities, targets


def perfect(clips, classes=3):
    targets = np.arange(clips) % classes
    return np.eye(classes)[targets], targets


def test_score_equals_scikit_learn(answers):
    probabilities, targets = answers
    predicted, classes = probabilities.argmax(1), np.arange(probabilities.shape[1])
    expected = {
        "accuracy": metrics.accuracy_score(targets, predicted),
        "balanced_accuracy": metrics.recall_score(targets, predicted, average="macro", labels=np.unique(targets)),
        "macro_f1": metrics.f1_score(targets, predicted, average="macro"),
        "loss": metrics.log_loss(targets, probabilities, labels=classes),
        "top_3": metrics.top_k_accuracy_score(targets, probabilities, k=3, labels=classes),
    }
    ours = classification_metrics(probabilities, targets)
    assert ours.keys() == expected.keys() | {"ece"}
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, abs=1e-9), name
    assert all(type(value) is float for value in ours.values())  # as JSON takes it


def test_confusion_equals_scikit_learn(answers):
    probabilities, targets = answers
    expected = metrics.confusion_matrix(targets, probabilities.argmax(1), labels=np.arange(probabilities.shape[1]))
    assert np.array_equal(confusion_matrix(probabilities, targets), expected)


def test_per_class_figures_equal_scikit_learn(answers):
    probabilities, targets = answers
    labels = [f"class {index}" for index in range(probabilities.shape[1])]
    table = per_class_metrics(confusion_matrix(probabilities, targets), labels)
    assert list(table) == labels
    expected = metrics.precision_recall_fscore_support(
        targets, probabilities.argmax(1), labels=np.arange(len(labels)), zero_division=0
    )
    for row, figures in zip(table.values(), zip(*expected, strict=True), strict=True):
        assert list(row) == ["precision", "recall", "f1", "support"]
        assert list(row.values()) == pytest.approx(figures)


def test_a_perfect_classifier_scores_in_full():
    ours = classification_metrics(*perfect(30))
    assert ours == {"accuracy": 1, "balanced_accuracy": 1, "macro_f1": 1, "loss": 0, "ece": 0}


def test_top_3_is_left_out_where_it_says_nothing():
    assert "top_3" not in classification_metrics(*perfect(30, 3))
    assert classification_metrics(*perfect(30, 4))["top_3"] == 1


def test_a_certain_mistake_costs_a_finite_loss():
    probabilities, targets = perfect(3)
    assert 1 < classification_metrics(probabilities, (targets + 1) % 3)["loss"] < 100


def test_calibration_error_by_hand():
    # 15 bins: 0.9 and 0.92 share [0.867, 0.933), 0.7 lies in [0.667, 0.733), 1.0 in the last.
    confidence = np.array([0.9, 0.92, 0.9, 0.7, 0.7, 1.0])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    targets = np.array([0, 0, 1, 1, 0, 0])
    first = 3 / 6 * abs(2 / 3 - (0.9 + 0.92 + 0.9) / 3)
    second = 2 / 6 * abs(1 / 2 - 0.7)
    assert expected_calibration_error(probabilities, targets) == pytest.approx(first + second + 0)


def test_calibration_error_equals_a_loop_over_bins(answers):
    probabilities, targets = answers
    confidence, right = probabilities.max(1), probabilities.argmax(1) == targets
    error = 0.0
    for low in range(15):
        inside = (confidence >= low / 15) & (confidence < (low + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert expected_calibration_error(probabilities, targets) == pytest.approx(error)


def test_a_classifier_that_is_as_sure_as_it_is_right_is_calibrated():
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.5, 1, 200_000)
    targets = (generator.uniform(size=200_000) > confidence).astype(int)
    assert expected_calibration_error(np.stack([confidence, 1 - confidence], axis=1), targets) < 0.01
    assert expected_calibration_error(np.stack([confidence**0.2, 1 - confidence**0.2], axis=1), targets) > 0.1


def test_intervals_hold_the_figure_itself(answers):
    figures, ranges = classification_metrics(*answers), bootstrap_intervals(*answers)
    assert ranges.keys() == {"accuracy", "balanced_accuracy", "macro_f1", "loss"}
    for name, (low, high) in ranges.items():
        assert low <= figures[name] <= high, name


def test_interval_of_accuracy_is_that_of_the_binomial():
    targets = np.zeros(400, dtype=int)
    probabilities = np.eye(2)[(np.arange(400) < 80).astype(int)]  # 80 % right
    low, high = bootstrap_intervals(probabilities, targets)["accuracy"]
    width = 1.96 * np.sqrt(0.8 * 0.2 / 400)
    assert (low, high) == (pytest.approx(0.8 - width, abs=0.008), pytest.approx(0.8 + width, abs=0.008))


def test_interval_of_the_loss_is_that_of_a_mean():
    generator = np.random.default_rng(0)
    right = generator.uniform(0.1, 0.9, 500)
    probabilities, targets = np.stack([right, 1 - right], axis=1), np.zeros(500, dtype=int)
    low, high = bootstrap_intervals(probabilities, targets)["loss"]
    losses = -np.log(right)
    width = 2 * 1.96 * losses.std() / np.sqrt(500)
    assert high - low == pytest.approx(width, rel=0.1)
    assert (low + high) / 2 == pytest.approx(losses.mean(), abs=width / 10)


def test_intervals_shrink_with_the_number_of_clips():
    generator = np.random.default_rng(0)
    widths = []
    for clips in (100, 1600):
        targets = generator.integers(0, 4, clips)
        probabilities = generator.dirichlet(np.ones(4), clips)
        probabilities[np.arange(clips), targets] += 0.5
        found = bootstrap_intervals(probabilities / 1.5, targets)
        widths.append({name: high - low for name, (low, high) in found.items()})
    for name in widths[0]:
        assert widths[1][name] == pytest.approx(widths[0][name] / 4, rel=0.4)


def test_intervals_are_seeded(answers):
    assert bootstrap_intervals(*answers, seed=1) == bootstrap_intervals(*answers, seed=1)
    assert bootstrap_intervals(*answers, seed=1)["loss"] != bootstrap_intervals(*answers, seed=2)["loss"]


def test_a_perfect_classifier_has_no_uncertainty():
    certain = {"accuracy": 1, "balanced_accuracy": 1, "macro_f1": 1, "loss": 0}
    assert bootstrap_intervals(*perfect(30)) == {name: [value, value] for name, value in certain.items()}
