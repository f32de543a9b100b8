"""Progress bars, and a breakdown of the wall time."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress_bar(total: int | None, description: str, unit: str, disable: bool = False, **settings: Any) -> "tqdm[Any]":
    """Creates a progress bar on standard error, which disappears at the end; in a file, it adds a line every 10 s.

    Args:
        total: Number of units; None if unknown.
        description: Name of the work.
        unit: Name of a unit.
        disable: Whether to show nothing.
        settings: Further settings of tqdm.
    """
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        **({"disable": True} if disable else {}),  # else, the variable TQDM_DISABLE may disable it
        leave=False,
        dynamic_ncols=True,
        mininterval=0.1 if sys.stderr.isatty() else 10.0,
        delay=0 if sys.stderr.isatty() else 10.0,
        **settings,
    )


class Stopwatch:
    """Adds up wall time by name. Asynchronous work of a GPU counts when its result is awaited.

    Attributes:
        seconds: Time in s by name.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._created = time.perf_counter()

    def mark_startup(self, name: str) -> None:
        """Sets the time of a name to that since the stopwatch was created."""
        self.seconds[name] = time.perf_counter() - self._created

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Adds the time that the block takes."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def timed(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """Yields items, and adds the time until each of them is available."""
        iterator = iter(items)
        while True:
            with self.measure(name):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def percentages(self, *names: str) -> str:
        """Formats the distribution of the time over some names, such as ``data 3 % | step 97 %``."""
        total = sum(self.seconds.get(name, 0.0) for name in names) or 1.0
        return " | ".join(f"{name} {100 * self.seconds.get(name, 0.0) / total:.0f} %" for name in names)

    def table(self) -> str:
        """Formats one line per name: seconds, and percentage of the total."""
        total = sum(self.seconds.values()) or 1.0
        return "\n".join(f"{name:<12}{s:9.1f} s{100 * s / total:7.1f} %" for name, s in self.seconds.items())
