"""Reading ahead: the next items are made on a thread while the caller works on this one."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

_END: Any = object()


def ahead(items: Iterable[T], count: int) -> Iterator[T]:
    """Passes items on in their order; an error comes where its item would have come.

    Args:
        items: drawn on a thread of their own.
        count: how many of them wait for the caller, at most.
    """
    iterator = iter(items)
    pool = ThreadPoolExecutor(1, "ahead")
    try:
        waiting: deque[Future[T]] = deque(pool.submit(next, iterator, _END) for _ in range(count))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(pool.submit(next, iterator, _END))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
