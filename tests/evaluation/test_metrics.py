"""Metrics, compared with scikit-learn and with sums by hand."""

import warnings

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics
from sklearn.metrics import average_precision_score, roc_auc_score

from spectrnn.errors import UserError
from spectrnn.evaluation.metrics import (
    METRICS,
    Metric,
    Outcome,
    bootstrap_intervals,
    classification_metrics,
    confusion_matrix,
    expected_calibration_error,
    metrics_of,
    per_class_metrics,
    recall_at_false_alarms,
    wilson_interval,
)
from spectrnn.model.task import MultiLabel, SingleLabel


def metrics_for(probabilities):
    return metrics_of(SingleLabel(probabilities.shape[1], label_smoothing=0.0, class_weights="none"))


def outcome_of(probabilities, targets):
    return Outcome(probabilities, probabilities.argmax(1), targets)


def evaluated(probabilities, targets):
    return classification_metrics(outcome_of(probabilities, targets), metrics_for(probabilities))


def intervals(probabilities, targets, **settings):
    return bootstrap_intervals(outcome_of(probabilities, targets), metrics_for(probabilities), **settings)


@pytest.fixture(params=[0, 1, 2], ids=["many", "few", "absent"])
def predictions(request):
    """Probabilities (clips, classes) that are mostly correct, and targets (clips,)."""
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


def test_metrics_equal_scikit_learn(predictions):
    probabilities, targets = predictions
    predicted, classes = probabilities.argmax(1), np.arange(probabilities.shape[1])
    expected = {
        "accuracy": sklearn_metrics.accuracy_score(targets, predicted),
        "balanced_accuracy": sklearn_metrics.recall_score(
            targets, predicted, average="macro", labels=np.unique(targets)
        ),
        "macro_f1": sklearn_metrics.f1_score(targets, predicted, average="macro"),
        "loss": sklearn_metrics.log_loss(targets, probabilities, labels=classes),
        "top_3_accuracy": sklearn_metrics.top_k_accuracy_score(targets, probabilities, k=3, labels=classes),
    }
    with warnings.catch_warnings(action="ignore"):  # of classes without clips, which it takes for 0
        of_classes = [
            (roc_auc_score(targets == index, scores), average_precision_score(targets == index, scores))
            for index, scores in enumerate(probabilities.T)
            if index in targets
        ]
    expected["auroc"], expected["map"] = np.mean(of_classes, axis=0)
    ours = evaluated(probabilities, targets)
    assert ours.keys() == expected.keys() | {"ece"}
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, abs=1e-9), name
    assert all(type(value) is float for value in ours.values())  # as JSON takes it


def test_confusion_equals_scikit_learn(predictions):
    probabilities, targets = predictions
    expected = sklearn_metrics.confusion_matrix(
        targets, probabilities.argmax(1), labels=np.arange(probabilities.shape[1])
    )
    assert np.array_equal(confusion_matrix(probabilities, targets), expected)


def test_per_class_metrics_equal_scikit_learn(predictions):
    probabilities, targets = predictions
    labels = [f"class {index}" for index in range(probabilities.shape[1])]
    table = per_class_metrics(outcome_of(probabilities, targets), labels)
    assert list(table) == labels
    expected = sklearn_metrics.precision_recall_fscore_support(
        targets, probabilities.argmax(1), labels=np.arange(len(labels)), zero_division=0
    )
    for row, values in zip(table.values(), zip(*expected, strict=True), strict=True):
        assert list(row) == ["precision", "recall", "f1", "support", "average_precision", "auroc"]
        assert list(row.values())[:4] == pytest.approx(values)
        assert (row["auroc"] is None) == (row["support"] == 0)


def test_perfect_classifier():
    rankings = {"map": 1, "auroc": 1}
    ours = {"accuracy": 1, "balanced_accuracy": 1, "macro_f1": 1, "loss": 0, "ece": 0} | rankings
    assert evaluated(*perfect(30)) == ours


def test_top_3_accuracy_needs_more_than_three_classes():
    assert "top_3_accuracy" not in evaluated(*perfect(30, 3))
    assert evaluated(*perfect(30, 4))["top_3_accuracy"] == 1


def test_loss_of_a_certain_error_is_finite():
    probabilities, targets = perfect(3)
    assert 1 < evaluated(probabilities, (targets + 1) % 3)["loss"] < 100


def test_calibration_error_by_hand():
    # 15 bins: 0.9 and 0.92 are in [0.867, 0.933), 0.7 in [0.667, 0.733), 1.0 in the last one.
    confidence = np.array([0.9, 0.92, 0.9, 0.7, 0.7, 1.0])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    targets = np.array([0, 0, 1, 1, 0, 0])
    first = 3 / 6 * abs(2 / 3 - (0.9 + 0.92 + 0.9) / 3)
    second = 2 / 6 * abs(1 / 2 - 0.7)
    assert expected_calibration_error(probabilities, targets) == pytest.approx(first + second + 0)


def test_calibration_error_equals_a_loop_over_bins(predictions):
    probabilities, targets = predictions
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == targets
    error = 0.0
    for low in range(15):
        inside = (confidence >= low / 15) & (confidence < (low + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert expected_calibration_error(probabilities, targets) == pytest.approx(error)


def test_calibration_error_of_a_calibrated_and_an_overconfident_classifier():
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.5, 1, 200_000)
    targets = (generator.uniform(size=200_000) > confidence).astype(int)
    assert expected_calibration_error(np.stack([confidence, 1 - confidence], axis=1), targets) < 0.01
    assert expected_calibration_error(np.stack([confidence**0.2, 1 - confidence**0.2], axis=1), targets) > 0.1


def test_intervals_contain_the_metric(predictions):
    values, ranges = evaluated(*predictions), intervals(*predictions)
    assert ranges.keys() == {"accuracy", "balanced_accuracy", "macro_f1", "loss", "top_3_accuracy", "map", "auroc"}
    for name, (low, high) in ranges.items():
        assert low <= values[name] <= high, name


def test_interval_of_the_accuracy_equals_that_of_a_binomial_distribution():
    targets = np.zeros(400, dtype=int)
    probabilities = np.eye(2)[(np.arange(400) < 80).astype(int)]  # 80 % correct
    low, high = intervals(probabilities, targets)["accuracy"]
    width = 1.96 * np.sqrt(0.8 * 0.2 / 400)
    assert (low, high) == (pytest.approx(0.8 - width, abs=0.008), pytest.approx(0.8 + width, abs=0.008))


def test_interval_of_the_loss_equals_that_of_a_mean():
    generator = np.random.default_rng(0)
    probability = generator.uniform(0.1, 0.9, 500)
    probabilities, targets = np.stack([probability, 1 - probability], axis=1), np.zeros(500, dtype=int)
    low, high = intervals(probabilities, targets)["loss"]
    losses = -np.log(probability)
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
        found = intervals(probabilities / 1.5, targets)
        widths.append({name: high - low for name, (low, high) in found.items()})
    for name in widths[0].keys() - {"top_3_accuracy"}:  # the latter is 1 for 100 clips
        assert widths[1][name] == pytest.approx(widths[0][name] / 4, rel=0.4)


def test_intervals_are_seeded(predictions):
    assert intervals(*predictions, seed=1) == intervals(*predictions, seed=1)
    assert intervals(*predictions, seed=1)["loss"] != intervals(*predictions, seed=2)["loss"]


@pytest.mark.parametrize("groups", [None, np.arange(30) % 5])
def test_intervals_of_a_perfect_classifier_depend_on_the_number_of_clips_or_groups(groups):
    found = intervals(*perfect(30), groups=groups)
    low, high = wilson_interval(30, 30) if groups is None else wilson_interval(5, 5)
    assert 0.5 < low < high == 1
    assert found.pop("loss") == [0, 0]
    assert found.pop("ece", [0, 0]) == [0, 0]
    assert {name: [low, high] for name in found} == found


def test_registry_names_titles_and_directions():
    assert {name: (metric.title, metric.higher_is_better) for name, metric in METRICS.items()} == {
        "accuracy": ("accuracy", True),
        "balanced_accuracy": ("balanced accuracy", True),
        "macro_f1": ("macro F1", True),
        "loss": ("loss", False),
        "top_3_accuracy": ("top-3 accuracy", True),
        "map": ("mean average precision", True),
        "micro_map": ("average precision, micro", True),
        "auroc": ("AUROC", True),
        "micro_auroc": ("AUROC, micro", True),
        "micro_f1": ("micro F1", True),
        "ece": ("calibration error", False),
    }
    assert {*SingleLabel.metrics, *MultiLabel.metrics} == METRICS.keys()


def test_custom_metric_is_computed_and_its_interval_follows_from_its_kind(predictions):
    probabilities, targets = predictions

    def brier_score(probabilities, targets):
        return ((probabilities - np.eye(probabilities.shape[1])[targets]) ** 2).sum(1)

    custom = {
        "brier": Metric.mean_over_clips(brier_score, "Brier score", higher_is_better=False),
        "errors": Metric.of_confusion(lambda m: m.sum((1, 2)) - np.trace(m, axis1=1, axis2=2), "errors"),
        "clips": Metric(lambda probabilities, targets: len(targets), "clips"),
    }
    metrics = metrics_of(SingleLabel(probabilities.shape[1], label_smoothing=0.0, class_weights="none"), custom)
    values = classification_metrics(outcome_of(probabilities, targets), metrics)
    expected = sklearn_metrics.brier_score_loss(
        targets, probabilities, labels=np.arange(probabilities.shape[1]), scale_by_half=False
    )
    assert values["brier"] == pytest.approx(expected)
    assert values["errors"] == (probabilities.argmax(1) != targets).sum()
    assert values["clips"] == len(targets)
    ranges = bootstrap_intervals(outcome_of(probabilities, targets), metrics)
    for name in ("brier", "errors"):
        low, high = ranges[name]
        assert low <= values[name] <= high, name
    assert "clips" not in ranges
    assert values.keys() >= evaluated(probabilities, targets).keys()


def test_custom_metric_must_not_take_the_name_of_a_built_in_one():
    with pytest.raises(UserError) as error:
        metrics_of(SingleLabel(3, label_smoothing=0.0, class_weights="none"), {"loss": METRICS["ece"]})
    assert str(error.value) == "metrics.loss: the name of a built-in metric; choose another one"


@pytest.fixture
def label_sets():
    """Outcome of 300 clips with zero to five labels each; the last class has no clip."""
    generator = np.random.default_rng(0)
    targets = generator.random((300, 6)) < np.array([0.5, 0.3, 0.2, 0.1, 0.05, 0])
    logits = generator.normal(size=targets.shape) + 1.5 * targets - 1
    probabilities = (1 / (1 + np.exp(-logits))).round(2).astype(np.float32)  # with ties
    return Outcome(probabilities, probabilities >= 0.4, targets)


def multi_label_metrics(classes):
    settings = {"label_smoothing": 0.0, "focal_gamma": 0.0, "positive_weights": "none", "unite_mixed": True}
    return metrics_of(MultiLabel(classes, **settings))


def test_metrics_of_label_sets_equal_scikit_learn(label_sets):
    scores, decisions, targets, *_ = label_sets
    of_known = targets[:, :5], scores[:, :5]
    expected = {
        "map": average_precision_score(*of_known, average="macro"),
        "micro_map": average_precision_score(targets, scores, average="micro"),
        "auroc": roc_auc_score(*of_known, average="macro"),
        "micro_auroc": roc_auc_score(targets, scores, average="micro"),
        "macro_f1": sklearn_metrics.f1_score(targets, decisions, average="macro", labels=[*range(5)])
        * (5 / (5 + decisions[:, 5].any())),
        "micro_f1": sklearn_metrics.f1_score(targets, decisions, average="micro"),
        "loss": np.mean(
            [sklearn_metrics.log_loss(t, p, labels=[0, 1]) for t, p in zip(targets.T, scores.T, strict=True)]
        ),
    }
    ours = classification_metrics(label_sets, multi_label_metrics(6))
    assert ours.keys() == expected.keys() | {"ece"}
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, abs=1e-6), name
    bins = np.minimum((scores * 15).astype(int), 14)
    gaps = [(targets - scores)[bins == number].sum() for number in range(15)]
    assert ours["ece"] == pytest.approx(np.abs(gaps).sum() / scores.size, abs=1e-6)


def test_table_of_label_sets_equals_scikit_learn(label_sets):
    scores, decisions, targets, *_ = label_sets
    table = per_class_metrics(label_sets, list("abcdef"))
    expected = sklearn_metrics.precision_recall_fscore_support(targets, decisions, zero_division=0)
    for index, (row, values) in enumerate(zip(table.values(), zip(*expected, strict=True), strict=True)):
        assert list(row.values())[:4] == pytest.approx(values)
        if index < 5:
            own = targets[:, index], scores[:, index]
            assert row["average_precision"] == pytest.approx(average_precision_score(*own))
            assert row["auroc"] == pytest.approx(roc_auc_score(*own))
    assert table["f"]["average_precision"] is table["f"]["auroc"] is None


def test_intervals_of_label_sets_are_those_of_resampled_clips(label_sets, monkeypatch):
    monkeypatch.setattr("spectrnn.evaluation.metrics._RESAMPLES", 40)
    metrics = multi_label_metrics(6)
    found = bootstrap_intervals(label_sets, metrics)
    generator, samples = np.random.default_rng(0), []
    for _ in range(40):
        rows = generator.integers(300, size=300)
        samples.append(classification_metrics(Outcome(*(part[rows] for part in label_sets[:3])), metrics))
    for name, interval in found.items():
        expected = np.percentile([sample[name] for sample in samples], [2.5, 97.5])
        assert interval == pytest.approx(expected, abs=1e-6), name
    assert found.keys() == metrics.keys() - {"ece"}


@pytest.mark.parametrize(("rate", "expected"), [(0.0, (0.5 + 1) / 2), (20.0, (0.75 + 1) / 2), (1e9, 1.0)])
def test_recall_at_false_alarms_by_hand(rate, expected):
    probabilities = np.array([[0.9, 0.1], [0.7, 0.2], [0.55, 0.9], [0.3, 0.8], [0.6, 0.1], [0.4, 0.05], [0.1, 0.02]])
    targets = np.array([[1, 0], [1, 0], [1, 1], [1, 1], [0, 0], [0, 0], [0, 0]], bool)
    outcome = Outcome(probabilities, targets, targets, np.full(7, 60.0))  # three minutes of quiet clips
    assert recall_at_false_alarms(rate).value(outcome) == pytest.approx(expected)


def test_recall_at_false_alarms_cannot_always_be_measured():
    metric = {"recall": recall_at_false_alarms(1.0)}
    targets = np.array([[True], [False]])
    outcome = Outcome(np.array([[0.9], [0.1]]), targets, targets, np.ones(2))
    assert classification_metrics(outcome, metric) == {"recall": 1.0}
    assert classification_metrics(outcome._replace(seconds=None), metric) == {}
    assert classification_metrics(outcome._replace(targets=np.array([[True], [True]])), metric) == {}
    assert classification_metrics(outcome_of(np.array([[0.9, 0.1]]), np.array([0])), metric) == {}
