"""Prefetching: the order of items, the number of pending items, errors, and the end of the thread."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from spectrnn.data.samples import prefetch


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)
    return condition()


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("size", [0, 1, 2, 100])
def test_items_are_yielded_once_and_in_order(count: int, size: int):
    assert list(prefetch(range(size), count)) == list(range(size))


@pytest.mark.parametrize("count", [1, 3])
def test_number_of_pending_items_is_limited(count: int):
    computed = []

    def items() -> Iterator[int]:
        for number in range(100):
            computed.append(number)
            yield number

    reader = prefetch(items(), count)
    for taken in range(1, 5):
        assert next(reader) == taken - 1
        assert eventually(lambda taken=taken: len(computed) == taken + count)
        time.sleep(0.01)
        assert len(computed) == taken + count


def test_error_is_raised_after_the_previous_items():
    def items() -> Iterator[int]:
        yield 1
        raise OSError("disk removed")

    reader = prefetch(items(), 3)
    assert next(reader) == 1
    with pytest.raises(OSError, match="disk removed"):
        next(reader)


@pytest.mark.parametrize("end", ["exhausted", "closed", "deleted"])
def test_thread_ends_with_the_iterator(end: str):
    before = threading.active_count()
    reader = prefetch(iter(range(10)), 2)
    next(reader)
    assert threading.active_count() == before + 1
    if end == "exhausted":
        list(reader)
    elif end == "closed":
        reader.close()
    del reader
    assert threading.active_count() == before
