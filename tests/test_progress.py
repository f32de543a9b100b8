"""The breakdown of the wall time."""

import time

import pytest

from spectrnn.progress import Stopwatch


def test_time_is_added_up_by_name():
    stopwatch = Stopwatch()
    for _ in range(2):
        with stopwatch.measure("step"):
            time.sleep(0.02)
    with stopwatch.measure("saving"):
        pass
    assert list(stopwatch.seconds) == ["step", "saving"]
    assert 0.04 <= stopwatch.seconds["step"] < 1
    assert stopwatch.seconds["saving"] < 0.02


def test_waiting_for_items_is_measured_without_their_processing():
    def slow_items():
        for number in range(3):
            time.sleep(0.02)
            yield number

    stopwatch, items = Stopwatch(), []
    for item in stopwatch.timed("data", slow_items()):
        items.append(item)
        time.sleep(0.1)
    assert items == [0, 1, 2]
    assert 0.06 <= stopwatch.seconds["data"] < 0.25


def test_time_until_an_error_is_measured():
    stopwatch = Stopwatch()
    with pytest.raises(KeyError), stopwatch.measure("step"):
        raise KeyError("x")
    assert "step" in stopwatch.seconds


def test_startup_is_measured_since_creation():
    stopwatch = Stopwatch()
    time.sleep(0.02)
    stopwatch.mark_startup("start")
    assert 0.02 <= stopwatch.seconds["start"] < 1


def test_percentages_and_table():
    stopwatch = Stopwatch()
    stopwatch.seconds = {"start": 2.0, "data": 1.0, "step": 3.0, "evaluation": 4.0}
    assert stopwatch.percentages("data", "step") == "data 25 % | step 75 %"
    lines = stopwatch.table().splitlines()
    assert [line.split()[0] for line in lines] == ["start", "data", "step", "evaluation"]
    assert lines[-1].split()[1:] == ["4.0", "s", "40.0", "%"]
    assert Stopwatch().percentages("data", "step") == "data 0 % | step 0 %"
