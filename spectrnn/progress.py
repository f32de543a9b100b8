"""What is told of everything that takes a while: a progress bar, and where the time goes."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress_bar(total: int | None, description: str, unit: str, disable: bool = False, **settings: Any) -> "tqdm[Any]":
    """A bar on standard error that goes away when done; where that is a file, a line every ten seconds.

    Args:
        total: units of work, None where unknown.
        description: what is being done.
        unit: of the work.
        disable: show none.
        settings: further settings of tqdm.
    """
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        disable=disable,
        leave=False,
        dynamic_ncols=True,
        mininterval=0.1 if sys.stderr.isatty() else 10.0,
        **settings,
    )


class Stopwatch:
    """Adds up wall time by what it went into. What a GPU does on the side counts where it is waited for."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._begun = time.perf_counter()

    def mark_startup(self, name: str) -> None:
        """Counts all the time since the stopwatch was made."""
        self.seconds[name] = time.perf_counter() - self._begun

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Counts the time within the block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def timed(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """Passes items on, and counts the time that they are waited for."""
        iterator = iter(items)
        while True:
            with self.measure(name):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def percentages(self, *names: str) -> str:
        """Such as ``data 3 % | step 97 %``: shares of the time that all the names took."""
        total = sum(self.seconds.get(name, 0.0) for name in names) or 1.0
        return " | ".join(f"{name} {self.seconds.get(name, 0.0) / total:.0%}".replace("%", " %") for name in names)

    def table(self) -> str:
        """A line a name: seconds, and the share of all."""
        total = sum(self.seconds.values()) or 1.0
        lines = [f"{name:<12}{value:9.1f} s{value / total:8.1%}" for name, value in self.seconds.items()]
        return "\n".join(line.replace("%", " %") for line in lines)
