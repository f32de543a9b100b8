"""The meter: means over clips, and the first batch with a non-finite loss or gradient."""

import math

import pytest
import torch

from spectrnn.training.meter import Meter

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


@pytest.fixture(params=DEVICES)
def make_meter(request):
    """Builds a meter."""
    return lambda: Meter(torch.device(request.param))


def update(meter, number, correct, loss, clips):
    device = meter.loss.device
    meter.update(number, torch.tensor(correct, device=device), torch.tensor(loss, device=device), clips)


def add(meter, number, loss, correct=(True, False), norm=1.0, check=True):
    update(meter, number, correct, loss, len(correct))
    meter.record_grad_norm(torch.tensor(norm, device=meter.loss.device), check)


def test_means_are_over_clips_and_the_norm_is_the_last_one(make_meter):
    meter = make_meter()
    add(meter, 1, 2.0, (True, True, False, False), norm=5.0)
    add(meter, 2, 0.5, (True,), norm=3.0)
    assert meter.read() == pytest.approx({"loss": 8.5 / 5, "accuracy": 3 / 5, "gradient_norm": 3.0})
    assert meter.totals == [8.5, 3.0, 5.0]
    assert meter.first_nonfinite_batch() == 0


def test_padding_on_a_rank_without_a_shard_is_not_counted(make_meter):
    meter = make_meter()
    add(meter, 1, 2.0)
    update(meter, 2, [True], 100.0, 0)
    assert meter.read()["loss"] == 2.0
    assert meter.totals == [4.0, 1.0, 2.0]


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("place", ["loss", "norm", "padding"])
@pytest.mark.parametrize("first", [1, 7])  # 7: resumed within the epoch
def test_first_batch_with_a_non_finite_value_is_found(value, place, first, make_meter):
    meter = make_meter()
    for number in range(first, first + 2):
        add(meter, number, 1.0)
    if place == "padding":
        update(meter, first + 2, [True], value, 0)
    else:
        add(meter, first + 2, **({"loss": 1.0} | {place: value}))
    add(meter, first + 3, 1.0)
    add(meter, first + 4, value)
    assert not math.isfinite(meter.read()["loss"])
    assert meter.first_nonfinite_batch() == first + 2


def test_norm_is_not_checked_while_a_scaler_searches_for_its_scale(make_meter):
    meter = make_meter()
    add(meter, 1, 1.0, norm=math.inf, check=False)
    metrics = meter.read()
    assert (metrics["loss"], metrics["gradient_norm"]) == (1.0, math.inf)
    assert meter.first_nonfinite_batch() == 0


def test_state_continues_the_sums(make_meter):
    whole, first, rest = make_meter(), make_meter(), make_meter()
    for meter, numbers in ((whole, (1, 2, 3)), (first, (1, 2))):
        for number in numbers:
            add(meter, number, float(number))
    first.read()
    rest.load_state_dict(first.state_dict())
    add(rest, 3, 3.0)
    assert rest.read() == whole.read()
    assert rest.totals == whole.totals
