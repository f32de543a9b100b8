"""Learning-rate schedules and the moving average of weights, against closed forms and PyTorch's schedulers."""

import math

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR, SequentialLR

from spectrnn.config.instantiate import instantiate
from spectrnn.config.paths import CONFIG_DIR
from spectrnn.errors import UserError
from spectrnn.training.schedules import (
    ConstantSchedule,
    CosineSchedule,
    LRSchedule,
    OneCycleSchedule,
    PlateauSchedule,
    TrapezoidalSchedule,
)

RATE = 0.5


def optimizer():
    return SGD([nn.Parameter(torch.zeros(1))], lr=RATE)


def rates(make, steps):
    """Learning rate of each step, and after the last one, as fractions of the maximum."""
    sgd = optimizer()
    schedule, found = make(sgd), []
    for _ in range(steps):
        found.append(sgd.param_groups[0]["lr"] / RATE)
        sgd.step()
        schedule.step()
        schedule.epoch_end(0.0)
    return [*found, sgd.param_groups[0]["lr"] / RATE]


@pytest.mark.parametrize("kind", [ConstantSchedule, CosineSchedule])
def test_warmup_is_linear(kind):
    found = rates(lambda sgd: kind(sgd, 100, 0.1), 100)
    assert found[:11] == pytest.approx([(step + 1) / 11 for step in range(11)])
    assert max(found) == pytest.approx(1)


def test_constant_schedule_is_constant():
    assert rates(lambda sgd: ConstantSchedule(sgd, 40, 0.0), 60) == pytest.approx([1.0] * 61)
    assert rates(lambda sgd: ConstantSchedule(sgd, 40, 0.25), 60)[10:] == pytest.approx([1.0] * 51)


@pytest.mark.parametrize("warmup_fraction", [0.0, 0.1, 0.5])
def test_cosine_schedule_decays_to_zero(warmup_fraction):
    found = rates(lambda sgd: CosineSchedule(sgd, 200, warmup_fraction), 250)
    rising = round(200 * warmup_fraction)
    expected = [(1 + math.cos(math.pi * step / (200 - rising))) / 2 for step in range(200 - rising + 1)]
    assert found[rising:201] == pytest.approx(expected, abs=1e-12)
    assert found[200:] == pytest.approx([0.0] * 51, abs=1e-12)


def test_cosine_with_warmup_equals_torch():
    def reference(sgd):
        warmup = LinearLR(sgd, 1 / 11, 1.0, total_iters=10)
        return LRSchedule(SequentialLR(sgd, [warmup, CosineAnnealingLR(sgd, 90)], [10]))

    assert rates(lambda sgd: CosineSchedule(sgd, 100, 0.1), 99) == pytest.approx(rates(reference, 99), abs=1e-6)


@pytest.mark.parametrize("warmup_fraction", [0.1, 0.3, 0.5])
def test_one_cycle_equals_torch(warmup_fraction):
    rising = round(200 * warmup_fraction)

    def reference(sgd):
        fraction = (rising + 1) / 201
        return LRSchedule(OneCycleLR(sgd, RATE, 201, pct_start=fraction, div_factor=25, final_div_factor=1e4 / 25))

    found = rates(lambda sgd: OneCycleSchedule(sgd, 200, warmup_fraction), 200)
    assert found == pytest.approx(rates(reference, 200), abs=1e-9)
    assert found[0] == pytest.approx(1 / 25)
    assert found.index(max(found)) == rising
    assert max(found) == pytest.approx(1)
    assert found[-1] == pytest.approx(1e-4)


@pytest.mark.parametrize("kind", [ConstantSchedule, CosineSchedule, OneCycleSchedule])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_short_runs_have_positive_rates(kind, steps):
    for warmup_fraction in (0.0, 0.3, 0.99):
        found = rates(lambda sgd, fraction=warmup_fraction: kind(sgd, steps, fraction), steps)
        assert all(0 < rate <= 1 for rate in found[:-1])


def test_trapezoidal_schedule_rises_stays_and_decays_to_zero():
    found = rates(lambda sgd: TrapezoidalSchedule(sgd, 100, 0.1, 0.2), 120)
    assert found[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert found[10:80] == pytest.approx([1.0] * 70)
    assert found[80:] == pytest.approx([1 - step / 20 for step in range(20)] + [0.0] * 21, abs=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("fractions", [(0.0, 0.0), (0.0, 0.99), (0.3, 0.7), (0.99, 0.01)])
def test_short_trapezoidal_schedules_have_positive_rates(steps, fractions):
    found = rates(lambda sgd: TrapezoidalSchedule(sgd, steps, *fractions), steps)
    assert all(0 < rate <= 1 for rate in found[:-1])


@pytest.mark.parametrize(
    ("step", "remaining"),
    [
        (40, 10),  # a fifth of all steps, as planned
        (44, 20),  # rounded up to two epochs of 10 steps
        (79, 20),
        (80, 20),  # the planned decay has started
        (93, 7),
    ],
)
def test_decay_starts_at_a_plateau(step, remaining):
    sgd = optimizer()
    schedule = TrapezoidalSchedule(sgd, 100, 0.0, 0.2)
    for _ in range(step):
        schedule.step()
    before = sgd.param_groups[0]["lr"]
    assert schedule.start_decay(10) == remaining
    assert schedule.start_decay(10) == remaining  # it has started already
    resumed_sgd = optimizer()
    resumed = TrapezoidalSchedule(resumed_sgd, 100, 0.0, 0.2)
    resumed.load_state_dict(schedule.state_dict())
    found = []
    for number in range(remaining):
        schedule.step()
        resumed.step()
        found.append(sgd.param_groups[0]["lr"])
        assert resumed_sgd.param_groups[0]["lr"] == found[number]
    assert found[-1] == pytest.approx(0, abs=1e-12)
    assert found == pytest.approx([before * (1 - (k + 1) / remaining) for k in range(remaining)], abs=1e-12)


def test_decay_within_the_warmup_starts_from_its_rate():
    sgd = optimizer()
    schedule = TrapezoidalSchedule(sgd, 100, 0.3, 0.2)
    for _ in range(20):
        schedule.step()
    assert schedule.start_decay(5) == 5
    schedule.step()
    assert sgd.param_groups[0]["lr"] / RATE == pytest.approx(21 / 31 * 0.8)


def test_other_schedules_have_no_decay_to_start():
    assert CosineSchedule(optimizer(), 100, 0.1).start_decay(10) == 0
    assert PlateauSchedule(optimizer(), 0.5, 2, 0.1).start_decay(10) == 0


@pytest.mark.parametrize("shift", [0.0, -1.0])
def test_plateau_reduces_the_rate_without_improvement(shift):
    # Values below zero are those of metric=loss.
    sgd = optimizer()
    schedule = PlateauSchedule(sgd, 0.5, 2, 0.1)
    found = []
    for value in (0.3, 0.4, 0.4, 0.39, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5):
        schedule.step()
        schedule.epoch_end(value + shift)
        found.append(sgd.param_groups[0]["lr"] / RATE)
    # Two epochs without improvement are tolerated, the third reduces the rate, down to min_lr (0.2 of the rate).
    assert found == pytest.approx([1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.2, 0.2, 0.2, 0.2, 0.2])


@pytest.mark.parametrize("shift", [0.0, -1.0])
def test_plateau_keeps_the_rate_while_the_metric_improves(shift):
    sgd = optimizer()
    schedule = PlateauSchedule(sgd, 0.5, 1, 0.0)
    for epoch in range(30):
        schedule.epoch_end(0.1 + 0.01 * epoch + shift)
    assert sgd.param_groups[0]["lr"] == RATE


@pytest.mark.parametrize("option", ["constant", "cosine", "onecycle", "plateau"])
def test_resumed_schedule_equals_an_uninterrupted_one(option):
    def make():
        sgd = optimizer()
        return sgd, instantiate(node("scheduler", option), "scheduler", optimizer=sgd, steps=60)

    uninterrupted, resumed = make(), make()
    for step in range(60):
        if step == 20:
            states = [part.state_dict() for part in resumed]
            resumed = make()
            for part, state in reversed([*zip(resumed, states, strict=True)]):
                part.load_state_dict(state)
        assert resumed[0].param_groups[0]["lr"] == uninterrupted[0].param_groups[0]["lr"]
        for sgd, schedule in (uninterrupted, resumed):
            sgd.step()
            schedule.step()
            schedule.epoch_end(0.5)


@pytest.mark.parametrize("option", ["constant", "cosine", "onecycle", "plateau"])
def test_schedule_state_is_plain(option, tmp_path):
    schedule = instantiate(node("scheduler", option), "scheduler", optimizer=optimizer(), steps=60)
    torch.save(schedule.state_dict(), tmp_path / "state")
    assert torch.load(tmp_path / "state", weights_only=True) == schedule.state_dict()


def test_run_resumed_with_more_epochs_follows_the_longer_curve():
    short, long = optimizer(), optimizer()
    first, second = CosineSchedule(short, 50, 0.1), CosineSchedule(long, 100, 0.1)
    for _ in range(50):
        short.step()
        first.step()
    second.load_state_dict(first.state_dict())
    long.load_state_dict(short.state_dict())
    long.step()
    second.step()
    assert long.param_groups[0]["lr"] / RATE == pytest.approx((1 + math.cos(math.pi * 41 / 90)) / 2)


def node(group, option, **settings):
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = compose("train", [f"{group}={option}", *(f"{group}.{key}={value}" for key, value in settings.items())])
    return config[group]


@pytest.mark.parametrize("option", ["adamw", "adam", "sgd"])
def test_every_optimizer_option_descends(option):
    weights = [nn.Parameter(torch.ones(3))]
    optimizer = instantiate(node("optimizer", option), "optimizer", params=iter(weights))
    weights[0].square().sum().backward()
    optimizer.step()
    assert (weights[0] < 1).all()
    assert (weights[0] > 0).all()


@pytest.mark.parametrize(
    ("option", "setting", "value", "message"),
    [
        ("cosine", "warmup_fraction", 1.0, "warmup_fraction=1.0: should be less than 1"),
        ("onecycle", "warmup_fraction", -0.1, "warmup_fraction=-0.1: should be greater than or equal to 0"),
        ("trapezoidal", "decay_fraction", 0.99, "decay_fraction=0.99: above 1 with scheduler.warmup_fraction=0.05"),
        ("plateau", "factor", 1.0, "factor=1.0: should be less than 1"),
        ("plateau", "patience", 0, "patience=0: should be greater than 0"),
    ],
)
def test_invalid_setting_is_reported_with_its_full_key(option, setting, value, message):
    with pytest.raises(UserError, match=f"^scheduler.{message}$"):
        instantiate(node("scheduler", option, **{setting: value}), "scheduler", optimizer=optimizer(), steps=10)
