"""Reading ahead: in order, so far and no further, and gone with its reader."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from spectrnn.data.samples import prefetch


def eventually(condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + 10
    while not condition() and time.monotonic() < until:
        time.sleep(0.001)
    return condition()


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("size", [0, 1, 2, 100])
def test_items_come_in_order_and_once(count: int, size: int):
    assert list(prefetch(range(size), count)) == list(range(size))


@pytest.mark.parametrize("count", [1, 3])
def test_so_many_items_wait_and_no_more(count: int):
    made = []

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    reader = prefetch(items(), count)
    for taken in range(1, 5):
        assert next(reader) == taken - 1
        assert eventually(lambda taken=taken: len(made) == taken + count)
        time.sleep(0.01)
        assert len(made) == taken + count


def test_an_error_comes_where_its_item_would_have_come():
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    reader = prefetch(items(), 3)
    assert next(reader) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(reader)


@pytest.mark.parametrize("left", ["ended", "closed", "forgotten"])
def test_the_thread_ends_with_its_reader(left: str):
    before = threading.active_count()
    reader = prefetch(iter(range(10)), 2)
    next(reader)
    assert threading.active_count() == before + 1
    if left == "ended":
        list(reader)
    elif left == "closed":
        reader.close()
    del reader
    assert threading.active_count() == before
