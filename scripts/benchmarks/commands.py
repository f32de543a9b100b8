"""Commands run as a user runs them: duration, peak memory and output."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks import ENVIRONMENT

# -P: not the version in the working directory, but the one that this script imports, or that of PYTHONPATH.
SPECTRNN = [sys.executable, "-P", "-m", "spectrnn"]


class Outcome(NamedTuple):
    """Outcome of a successful command."""

    seconds: float
    peak_mb: float  # of the main process; 0 if the system does not report it
    text: str  # standard output and standard error


def run(command: list[str], **environment: str) -> Outcome:
    """Runs a command; if it fails, exits with its output.

    Args:
        command: Program and arguments.
        environment: Additional environment variables.
    """
    with tempfile.TemporaryFile("w+") as output:
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
        sys.exit(f"{' '.join(command)}\n{text}")
    return Outcome(seconds, peak, text)


def train(overrides: list[str], folder: Path, **environment: str) -> Outcome:
    """Trains a classifier with overrides of train.yaml; the run is written to the folder."""
    return run([*SPECTRNN, "train", *overrides, f"hydra.run.dir={folder}"], **environment)


def _peak_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)
