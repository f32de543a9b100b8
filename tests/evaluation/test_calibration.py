"""Temperature scaling, against closed forms, a search over all temperatures, and draws whose temperature is known."""

import numpy as np
import pytest

from spectrnn.evaluation.calibration import MAX_TEMPERATURE, MIN_TEMPERATURE, apply_temperature, fit_temperature
from spectrnn.evaluation.metrics import expected_calibration_error


def softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return (powers / powers.sum(1, keepdims=True)).astype(np.float32)


@pytest.fixture
def drawn():
    """Logits of clips, and targets as often as the logits say: `drawn(clips, classes)`."""
    generator = np.random.default_rng(0)

    def draw(clips, classes):
        logits = generator.normal(size=(clips, classes)) * 3
        return logits, (softmax(logits).cumsum(1) < generator.random((clips, 1))).sum(1)

    return draw


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.7, 4.0])
def test_a_known_temperature_is_found_and_mends_the_calibration(drawn, factor):
    logits, targets = drawn(20_000, 5)
    probabilities = softmax(logits * factor)
    temperature = fit_temperature(probabilities, targets)
    assert temperature == pytest.approx(factor, rel=0.03)
    assert expected_calibration_error(apply_temperature(probabilities, temperature), targets) < 0.01


def test_no_other_temperature_has_a_lower_cross_entropy(drawn):
    logits, targets = drawn(5000, 4)
    probabilities = softmax(logits * 2.5)

    def loss(temperature):
        right = softmax(logits * 2.5 / temperature)[np.arange(5000), targets]
        return -np.log(np.maximum(right, 1e-30)).mean()

    best = min(np.geomspace(MIN_TEMPERATURE, MAX_TEMPERATURE, 2000), key=loss)
    assert fit_temperature(probabilities, targets) == pytest.approx(best, rel=0.01)


@pytest.mark.parametrize("clips", [1, 5, 50, 1000])
@pytest.mark.parametrize("gap", [2.0, 3.0, 8.0])
def test_clips_that_are_all_right_do_not_freeze(clips, gap):
    """Of two classes: where the pull of the clips, gap * (1 - confidence) each, is that of the belief, 3 * (1 - T)."""
    probabilities = softmax(np.array([[gap, 0.0]] * clips))
    temperature = fit_temperature(probabilities, np.zeros(clips, int))
    assert MIN_TEMPERATURE < temperature < 1
    wrong = apply_temperature(probabilities, temperature)[0, 1]
    assert clips * gap * wrong == pytest.approx(3 * (1 - temperature), rel=1e-3)


def test_a_few_clips_move_it_less_than_many(drawn):
    logits, targets = drawn(20_000, 5)
    probabilities = softmax(logits * 2.5)
    fits = [fit_temperature(probabilities[:clips], targets[:clips]) for clips in (1, 10, 20_000)]
    assert 1 / 2.5 < fits[0] < fits[1] < fits[2] == pytest.approx(2.5, rel=0.03)


@pytest.mark.parametrize(("gap", "right", "bound"), [(0.01, True, MIN_TEMPERATURE), (30, False, MAX_TEMPERATURE)])
def test_the_temperature_stays_within_bounds(gap, right, bound):
    logits = np.zeros((10_000, 3))
    logits[:, 0] = gap
    targets = np.full(10_000, 0 if right else 1)
    assert fit_temperature(softmax(logits), targets) == pytest.approx(bound, rel=1e-6)


def test_probabilities_that_underflow_are_no_infinite_loss():
    probabilities = np.array([[1, 0, 0]] * 9 + [[0, 1, 0]], dtype=np.float32)
    assert 1 < fit_temperature(probabilities, np.zeros(10, int)) <= MAX_TEMPERATURE


def test_nothing_to_fit_leaves_all_as_it_is():
    assert fit_temperature(np.zeros((0, 3), np.float32), np.zeros(0, int)) == 1
    assert fit_temperature(np.ones((4, 1), np.float32), np.zeros(4, int)) == 1


@pytest.mark.parametrize("temperature", [MIN_TEMPERATURE, 0.7, 1, 3, MAX_TEMPERATURE])
def test_tempering_is_a_softmax_of_divided_logits_and_can_be_undone(drawn, temperature):
    logits, _ = drawn(200, 6)
    once = apply_temperature(softmax(logits), temperature)
    assert once == pytest.approx(softmax(logits / temperature), abs=1e-6)
    assert apply_temperature(once.astype(np.float32), 1 / temperature) == pytest.approx(softmax(logits), abs=1e-5)
