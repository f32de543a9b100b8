"""Commands run as a user would run them: their time, their peak memory, what they print."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

SPECTRNN = [sys.executable, "-m", "spectrnn"]


class Outcome(NamedTuple):
    """Of a command that went well."""

    seconds: float
    peak_mb: float  # storage memory of its main process; 0 where the system does not tell
    text: str  # standard output and error


def run(command: list[str], **environment: str) -> Outcome:
    """Runs a command to its end, and exits with its words where it fails."""
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=_environment(environment))
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


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    # Without bytecode every start would compile what it imports.
    return {**{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}, **extra}


def _peak_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)
