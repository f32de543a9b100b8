"""Ctrl-C and the polite kill: a run ends where it can go on."""

import os
import signal
import threading
from types import FrameType
from typing import Any

from spectrnn import distributed


class GracefulInterrupt:
    """Within its block a first SIGINT or SIGTERM is noted; a second one does at once what it always does.

    Attributes:
        noted: the signal's number; None without one.
    """

    def __init__(self) -> None:
        self.noted: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "GracefulInterrupt":
        if threading.current_thread() is threading.main_thread():  # no other may
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def told(self, all_ask: bool) -> int | None:
        """The signal that this process noted, or else another one.

        Args:
            all_ask: whether the other processes ask now too; where they do not, only one on its own gets an answer.
        """
        noted = distributed.all_gather(self.noted) if all_ask else [self.noted] if distributed.world_size() == 1 else []
        return next((number for number in noted if number is not None), None)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.noted = number
        self._restore()
        # Past Python's streams, which the signal may have come in the midst of.
        name = signal.Signals(number).name
        os.write(2, f"\nfinishing this step and saving the run; a second {name} ends it at once\n".encode())

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
