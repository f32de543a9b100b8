"""Temperature scaling, compared with closed forms, an exhaustive search, and samples of known temperature."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from spectrnn.evaluation.calibration import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    apply_temperature,
    fit_temperature,
    fit_temperatures,
    fit_thresholds,
)
from spectrnn.evaluation.metrics import expected_calibration_error
from spectrnn.model.task import SingleLabel

TASK = SingleLabel(2, label_smoothing=0.0, class_weights="none")


def softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return (powers / powers.sum(1, keepdims=True)).astype(np.float32)


@pytest.fixture
def sampled():
    """Logits of clips, and targets sampled from their softmax: `sampled(clips, classes)`."""
    generator = np.random.default_rng(0)

    def sample(clips, classes):
        logits = generator.normal(size=(clips, classes)) * 3
        return logits, (softmax(logits).cumsum(1) < generator.random((clips, 1))).sum(1)

    return sample


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.7, 4.0])
def test_known_temperature_is_recovered_and_calibrates(sampled, factor):
    logits, targets = sampled(20_000, 5)
    probabilities = softmax(logits * factor)
    temperature = fit_temperature(probabilities, targets)
    assert temperature == pytest.approx(factor, rel=0.03)
    assert expected_calibration_error(apply_temperature(TASK, probabilities, temperature), targets) < 0.01


def test_no_other_temperature_has_a_lower_cross_entropy(sampled):
    logits, targets = sampled(5000, 4)
    probabilities = softmax(logits * 2.5)

    def loss(temperature):
        likelihood = softmax(logits * 2.5 / temperature)[np.arange(5000), targets]
        return -np.log(np.maximum(likelihood, 1e-30)).mean()

    best = min(np.geomspace(MIN_TEMPERATURE, MAX_TEMPERATURE, 2000), key=loss)
    assert fit_temperature(probabilities, targets) == pytest.approx(best, rel=0.01)


@pytest.mark.parametrize("clips", [1, 5, 50, 1000])
@pytest.mark.parametrize("gap", [2.0, 3.0, 8.0])
def test_temperature_of_clips_without_errors_balances_the_prior(clips, gap):
    """For two classes the gradients of clips and prior are equal: gap * (1 - confidence) per clip, and 3 * (1 - T)."""
    probabilities = softmax(np.array([[gap, 0.0]] * clips))
    temperature = fit_temperature(probabilities, np.zeros(clips, int))
    assert MIN_TEMPERATURE < temperature < 1
    error_probability = apply_temperature(TASK, probabilities, temperature)[0, 1]
    assert clips * gap * error_probability == pytest.approx(3 * (1 - temperature), rel=1e-3)


def test_a_few_clips_change_the_temperature_less_than_many(sampled):
    logits, targets = sampled(20_000, 5)
    probabilities = softmax(logits * 2.5)
    fits = [fit_temperature(probabilities[:clips], targets[:clips]) for clips in (1, 10, 20_000)]
    assert 1 / 2.5 < fits[0] < fits[1] < fits[2] == pytest.approx(2.5, rel=0.03)


@pytest.mark.parametrize(("gap", "is_correct", "bound"), [(0.01, True, MIN_TEMPERATURE), (30, False, MAX_TEMPERATURE)])
def test_the_temperature_stays_within_bounds(gap, is_correct, bound):
    logits = np.zeros((10_000, 3))
    logits[:, 0] = gap
    targets = np.full(10_000, 0 if is_correct else 1)
    assert fit_temperature(softmax(logits), targets) == pytest.approx(bound, rel=1e-6)


def test_probabilities_that_underflow_give_a_finite_temperature():
    probabilities = np.array([[1, 0, 0]] * 9 + [[0, 1, 0]], dtype=np.float32)
    assert 1 < fit_temperature(probabilities, np.zeros(10, int)) <= MAX_TEMPERATURE


def test_temperature_is_1_without_clips_or_with_one_class():
    assert fit_temperature(np.zeros((0, 3), np.float32), np.zeros(0, int)) == 1
    assert fit_temperature(np.ones((4, 1), np.float32), np.zeros(4, int)) == 1


@pytest.mark.parametrize("temperature", [MIN_TEMPERATURE, 0.7, 1, 3, MAX_TEMPERATURE])
def test_temperature_equals_a_softmax_of_divided_logits_and_can_be_reverted(sampled, temperature):
    logits, _ = sampled(200, 6)
    once = apply_temperature(TASK, softmax(logits), temperature)
    assert once == pytest.approx(softmax(logits / temperature), abs=1e-6)
    assert apply_temperature(TASK, once.astype(np.float32), 1 / temperature) == pytest.approx(softmax(logits), abs=1e-5)


def test_each_class_of_label_sets_has_its_temperature():
    generator, factors = np.random.default_rng(0), np.array([0.5, 1.0, 3.0])
    logits = generator.normal(size=(20_000, 3)) * 2
    targets = generator.random((20_000, 3)) < 1 / (1 + np.exp(-logits))
    probabilities = (1 / (1 + np.exp(-logits * factors))).astype(np.float32)
    assert fit_temperatures(probabilities, targets) == pytest.approx(factors, rel=0.05)
    assert fit_temperatures(softmax(logits), np.zeros(20_000, int)).shape == ()


def test_no_other_threshold_has_a_higher_f1():
    generator = np.random.default_rng(0)
    targets = generator.random((400, 5)) < np.array([0.5, 0.3, 0.1, 0.02, 0])
    powers = np.array([0.2, 0.5, 2, 4, 1])  # so that each class needs another threshold
    scores = ((0.4 * targets + 0.6 * generator.random((400, 5))) ** powers).round(2).astype(np.float32)
    thresholds = fit_thresholds(scores, targets)
    for threshold, own, actual in zip(thresholds[:4], scores.T, targets.T, strict=False):
        best = max(f1_score(actual, own >= limit) for limit in (*np.unique(own), 1))
        assert f1_score(actual, own >= threshold) == pytest.approx(best)
        assert np.abs(own - threshold).min() > 1e-4  # between two scores
    assert thresholds[4] == 0.5


def test_threshold_of_classes_with_few_clips_is_that_of_all():
    generator = np.random.default_rng(1)
    targets = generator.random((60, 8)) < 0.2
    scores = (0.35 * targets + 0.6 * generator.random((60, 8))).astype(np.float32)
    thresholds = fit_thresholds(scores, targets)
    assert len(set(thresholds)) == 1
    best = max(f1_score(targets, scores >= limit, average="macro") for limit in np.unique(scores))
    assert f1_score(targets, scores >= thresholds, average="macro") == pytest.approx(best, abs=0.015)
    assert fit_thresholds(scores[:3], np.zeros((3, 8), bool)).tolist() == 8 * [0.5]
    assert fit_thresholds(np.array([[0.9], [0.1]], np.float32), np.array([[True], [False]])) == pytest.approx(0.5)
