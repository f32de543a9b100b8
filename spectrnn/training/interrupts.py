"""Graceful interruption of a training by SIGINT (Ctrl-C), SIGTERM, or the file that ends the jobs of a sweep."""

import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

from spectrnn import distributed


class GracefulInterrupt:
    """Context manager that records a first SIGINT or SIGTERM; a second one acts as if it were the first.

    The parallel jobs of a sweep are interrupted by a file instead of SIGINT, which a terminal sends to some of their
    processes once, to some twice.

    Attributes:
        stop_file: File whose existence interrupts the jobs of this process; None if they are not parallel.
        signal: Number of the recorded signal; None if there was none.
    """

    stop_file: ClassVar[Path | None] = None

    def __init__(self) -> None:
        self.signal: int | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "GracefulInterrupt":
        if threading.current_thread() is threading.main_thread():  # other threads cannot set handlers
            numbers = (signal.SIGTERM,) if self.stop_file else (signal.SIGINT, signal.SIGTERM)
            self._handlers = {number: signal.signal(number, self._record) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def received(self, collective: bool) -> int | None:
        """Returns the signal that this process, or else another one, has recorded.

        Args:
            collective: Whether all processes call this now; if not, only a single process gets an answer.
        """
        if self.signal is None and self.stop_file and self.stop_file.exists():
            self.signal = signal.SIGINT
        if collective:
            numbers = distributed.all_gather(self.signal)
        else:
            numbers = [self.signal] if distributed.world_size() == 1 else []
        return next((number for number in numbers if number is not None), None)

    def _record(self, number: int, _: FrameType | None) -> None:
        self.signal = number
        self.__exit__()  # a second signal acts as if it were the first
        # Not through Python's streams, which the signal may have interrupted.
        name = signal.Signals(number).name
        os.write(2, f"\nfinishing this step and saving the run; a second {name} ends it at once\n".encode())
