"""The decoder in a separate process, supervised for crashes, hangs and memory."""

import multiprocessing
import os
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from spectrnn.data.audio import Samples, load_audio
from spectrnn.errors import UserError

Decode = Callable[[str, int], Samples]

DECODED, REPORTED = "decoded", "reported"
_CONTEXT = multiprocessing.get_context("spawn")
_START = 60.0  # maximum time in s until a process is ready


class Outcome(NamedTuple):
    """Outcome for a file."""

    kind: str  # decoded, reported, or the kind of failure
    text: str
    seconds: float
    megabytes: float  # peak of the address space, in addition to that before


class Decoder:
    """Decodes files in a process that is restarted after a crash or a hang.

    Args:
        sample_rate: Sample rate of the decoded audio in Hz.
        seconds: Maximum time per file in s.
        megabytes: Maximum memory per file in MB.
        decode: Function of a path and a sample rate in Hz that returns int16 samples (samples,).
    """

    def __init__(self, sample_rate: int, seconds: float, megabytes: float, decode: Decode = load_audio) -> None:
        self.sample_rate, self.seconds, self.megabytes, self.decoded_by = sample_rate, seconds, megabytes, decode
        self._start()

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def decode(self, path: Path) -> Outcome:
        """Decodes a file."""
        start, before = time.perf_counter(), _memory(self.process.pid)["VmRSS"]
        self.connection.send(str(path))
        while not self.connection.poll(0.02):
            seconds, now = time.perf_counter() - start, _memory(self.process.pid).get("VmRSS", 0.0)
            if seconds > self.seconds:
                return self._replaced("hung", f"no answer after {seconds:.0f} s", seconds, now - before)
            if now - before > 4 * self.megabytes:
                return self._replaced("took memory", "and was stopped", seconds, now - before)
        try:
            outcome = Outcome(*self.connection.recv())
        except EOFError:
            self.process.join()
            return self._replaced("crashed", f"exit code {self.process.exitcode}", time.perf_counter() - start, 0.0)
        if outcome.megabytes > self.megabytes:
            return self._replaced("took memory", outcome.text, outcome.seconds, outcome.megabytes)
        return outcome

    def _replaced(self, *outcome: object) -> Outcome:
        self._stop()
        self._start()
        return Outcome(*outcome)  # type: ignore[arg-type]

    def _start(self) -> None:
        self.connection, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_serve, args=(theirs, self.decoded_by, self.sample_rate), daemon=True)
        self.process.start()
        theirs.close()
        if not self.connection.poll(_START):
            raise RuntimeError("the decoding process does not start")
        self.connection.recv()

    def _stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(connection: Connection, decode: Decode, sample_rate: int) -> None:
    """Receives paths, and sends outcomes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libmpg123 prints many warnings
    warnings.simplefilter("error")  # as users would see them
    connection.send("ready")
    while True:
        path = connection.recv()
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before, start = _memory(), time.perf_counter()
        kind, text = _decoded(path, decode, sample_rate)
        seconds, after = time.perf_counter() - start, _memory()
        grown = max(after["VmHWM"] - before["VmRSS"], after["VmPeak"] - before["VmPeak"])
        connection.send((kind, text, seconds, grown))


def _decoded(path: str, decode: Decode, sample_rate: int) -> tuple[str, str]:
    try:
        samples = decode(path, sample_rate)
    except UserError as error:
        text = str(error)
        named = text.startswith(f"{path}: ") and "\n" not in text
        return (REPORTED if named else "reported badly"), text
    except BaseException as error:
        return "not caught", repr(error)
    if samples.dtype.name != "int16" or samples.ndim != 1 or not len(samples):
        return "decoded badly", f"{samples.dtype} {samples.shape}"
    return DECODED, f"{len(samples)} samples"


def _memory(process: int | str | None = "self") -> dict[str, float]:
    """Returns memory in MB as the kernel counts it; 0 if the process has exited."""
    try:
        lines = [line.split() for line in Path(f"/proc/{process}/status").read_text().splitlines()]
    except OSError:
        return {}
    return {line[0].rstrip(":"): int(line[1]) / 1000 for line in lines if line[0].startswith("Vm")}
