"""Where the time goes."""

import time

import pytest

from spectrnn.progress import Stopwatch


def test_time_is_added_up_by_name():
    clock = Stopwatch()
    for _ in range(2):
        with clock.measure("step"):
            time.sleep(0.02)
    with clock.measure("saving"):
        pass
    assert list(clock.seconds) == ["step", "saving"]
    assert 0.04 <= clock.seconds["step"] < 1
    assert clock.seconds["saving"] < 0.02


def test_waiting_for_items_is_counted_and_working_on_them_is_not():
    def slow():
        for number in range(3):
            time.sleep(0.02)
            yield number

    clock, seen = Stopwatch(), []
    for number in clock.each("data", slow()):
        seen.append(number)
        time.sleep(0.1)
    assert seen == [0, 1, 2]
    assert 0.06 <= clock.seconds["data"] < 0.25


def test_an_error_is_passed_on_and_its_time_counted():
    clock = Stopwatch()
    with pytest.raises(KeyError), clock.measure("step"):
        raise KeyError("x")
    assert "step" in clock.seconds


def test_shares_and_the_table():
    clock = Stopwatch()
    clock.seconds = {"start": 2.0, "data": 1.0, "step": 3.0, "evaluation": 4.0}
    assert clock.shares("data", "step") == "data 25 % | step 75 %"
    lines = clock.table().splitlines()
    assert [line.split()[0] for line in lines] == ["start", "data", "step", "evaluation"]
    assert lines[-1].split()[1:] == ["4.0", "s", "40.0", "%"]
    assert Stopwatch().shares("data", "step") == "data 0 % | step 0 %"
