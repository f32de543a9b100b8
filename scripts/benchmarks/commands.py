"""Commands run as a user runs them: duration, peak memory and output."""

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks import ENVIRONMENT
from benchmarks.contention import Contention

# -P: not the version in the working directory, but the one that this script imports, or that of PYTHONPATH.
SPECTRNN = [sys.executable, "-P", "-m", "spectrnn"]
# Uses one core until its parent ends.
_BUSY_LOOP = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


class CommandError(Exception):
    """A command that failed.

    Args:
        command: Program and arguments.
        text: Standard output and standard error.

    Attributes:
        import_error: Message if a package is missing; else None.
    """

    def __init__(self, command: list[str], text: str) -> None:
        super().__init__(f"{' '.join(command)}\n{text}")
        found = re.findall(r"^(?:ModuleNotFound|Import)Error: (.+)", text, re.MULTILINE)
        self.import_error: str | None = found[-1] if found else None


class Outcome(NamedTuple):
    """Outcome of a successful command."""

    seconds: float
    peak_mb: float  # of the main process; 0 if the system does not report it
    others: float | None  # fraction of the cores' time that other processes used, see `Contention`
    text: str  # standard output and standard error


def run(command: list[str], **environment: str) -> Outcome:
    """Runs a command.

    Args:
        command: Program and arguments.
        environment: Additional environment variables.

    Raises:
        CommandError: A command that fails.
    """
    with tempfile.TemporaryFile("w+") as output:
        with Contention() as contention:
            start = time.perf_counter()
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=ENVIRONMENT | environment)
            peak = 0.0
            while process.poll() is None:
                peak = max(peak, _peak_mb(process.pid))
                time.sleep(0.02)
            seconds = time.perf_counter() - start
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise CommandError(command, text)
    return Outcome(seconds, peak, contention.fraction, text)


def train(overrides: list[str], folder: Path, **environment: str) -> Outcome:
    """Trains a classifier with overrides of train.yaml in a folder, whose content is removed."""
    shutil.rmtree(folder, ignore_errors=True)  # such as a training that was interrupted
    return run([*SPECTRNN, "train", *overrides, f"hydra.run.dir={folder}"], **environment)


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Runs single-threaded processes that are always busy while the block runs."""
    processes = [subprocess.Popen([sys.executable, "-c", _BUSY_LOOP], env=ENVIRONMENT) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _peak_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)
