"""How busy other processes keep the machine while something is measured."""

import os
import sys
import time
from pathlib import Path

LIMIT = 0.05  # fraction of the cores' time; with more, a measurement is not reliable
_WINDOW = 2.0  # seconds; the system counts time in units of 10 ms


class Contention:
    """Measures the fraction of the cores' time that other processes use while a block runs.

    Other processes are all but this one and its descendants. The time of other machines on a
    hypervisor counts, too. The cores are those that this process may use.

    Args:
        proc: Folder in which Linux reports processor times, see proc(5).

    Attributes:
        fraction: Fraction of the time of the cores, 0 to 1; None during the block, and on other systems.
    """

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self.proc = proc
        self.fraction: float | None = None

    def __enter__(self) -> "Contention":
        self._start = self._ticks()
        return self

    def __exit__(self, *_: object) -> None:
        start, end = self._start, self._ticks()
        if start and end and end[1] > start[1]:
            self.fraction = max(0.0, end[0] - start[0]) / (end[1] - start[1])

    def _ticks(self) -> tuple[int, int] | None:
        """Reads the time of other processes, and the time of the cores."""
        try:
            lines = (self.proc / "stat").read_text().splitlines()
            cores = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        except (OSError, AttributeError):
            return None
        # user, nice, system, idle, waiting for a disk, interrupts (2), other machines; the rest is contained in these
        times = [[int(ticks) for ticks in line.split()[1:9]] for line in lines if line.split()[0] in cores]
        total = sum(map(sum, times))
        busy = total - sum(idle + waiting for _, _, _, idle, waiting, *_ in times)
        return busy - self._own_ticks(), total

    def _own_ticks(self) -> int:
        """Reads the time of this process and its descendants, including those that have ended."""
        ticks, children = dict[int, int](), dict[int, list[int]]()
        for folder in self.proc.glob("[0-9]*"):
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # the process has ended
                continue
            ticks[int(folder.name)] = sum(map(int, fields[11:15]))
            children.setdefault(int(fields[1]), []).append(int(folder.name))
        total, pending = 0, [os.getpid()]
        while pending:
            pid = pending.pop()
            total += ticks.get(pid, 0)
            pending += children.get(pid, [])
        return total


def is_contended(fraction: float | None) -> bool:
    """Whether other processes use so much of the cores' time that a measurement is not reliable."""
    return fraction is not None and fraction > LIMIT


def wait_until_idle(seconds: float) -> float | None:
    """Waits for at most a time in s until other processes use little of the cores; returns the last fraction."""
    start, fraction = time.monotonic(), _sample()
    if is_contended(fraction):
        print(f"other processes use {100 * fraction:.0f} % of the cores; waiting for {seconds:.0f} s", file=sys.stderr)
    while is_contended(fraction) and time.monotonic() - start < seconds:
        fraction = _sample()
    return fraction


def _sample() -> float | None:
    with Contention() as contention:
        time.sleep(_WINDOW)
    return contention.fraction
