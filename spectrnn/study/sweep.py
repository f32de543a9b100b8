"""Sweeps: how Hydra's multirun divides this machine among parallel jobs, is interrupted, and ends."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

from filelock import FileLock
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from spectrnn import distributed
from spectrnn.config.compose import job_overrides
from spectrnn.errors import TrainingInterrupted, UserError
from spectrnn.messages import printable
from spectrnn.runs import LOCK, find_runs, read_run
from spectrnn.study.summary import format_runs

STOP = "stop"  # file in the folder of a sweep that ends its parallel jobs at their next step
VISIBLE_GPUS = "SPECTRNN_VISIBLE_GPUS"  # environment variable: CUDA_VISIBLE_DEVICES as the user has set it, or all


class SweepCallback(Callback):
    """Divides the machine among parallel jobs, and prints a table of all jobs at the end of a sweep."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Is called by Hydra before it creates the launcher, whose settings may still be changed."""
        launcher = config.hydra.runtime.choices["hydra/launcher"]
        if launcher != "basic":
            ParallelSweep.current = ParallelSweep(Path(config.hydra.sweep.dir), launcher)
            ParallelSweep.current.start(config)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Is called by Hydra after all jobs have ended, with every launcher.

        Raises:
            TrainingInterrupted: A signal ended parallel jobs, which have been saved.
            SystemExit: A job that has not finished.
        """
        if ParallelSweep.current and ParallelSweep.current.signal:
            raise ParallelSweep.current.interruption()
        if not distributed.rank():
            finish_sweep(Path(config.hydra.sweep.dir))


class ParallelSweep:
    """A sweep whose jobs run in other processes.

    A first SIGINT or SIGTERM ends all jobs at their next step, after which they are saved; a second one ends the wait.

    Attributes:
        current: The sweep that this process has started; None if there is none.
        signal: Number of the signal that has interrupted it; None if there was none.

    Args:
        folder: Folder of the sweep.
        launcher: Option of ``hydra/launcher``.
    """

    current: ClassVar["ParallelSweep | None"] = None

    def __init__(self, folder: Path, launcher: str) -> None:
        self.folder, self.launcher = folder, launcher
        self.signal: int | None = None
        self._environment = dict(os.environ)
        self._handlers: dict[int, Any] = {}
        self._closed = threading.Event()

    def start(self, config: DictConfig) -> None:
        """Divides cores and GPUs of this machine among the jobs, and handles signals until `close`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / STOP).unlink(missing_ok=True)
        if self.launcher == "submitit_slurm":  # divides its machines itself, and needs this process no more
            return
        _divide_cores(config)
        if self.launcher == "submitit_local":
            _lift_limits(config)
            # A controller of submitit kills its job a second after SIGINT: it must not receive that of the terminal.
            # Child processes inherit what the main thread blocks; this one receives signals in another thread.
            threading.Thread(target=self._closed.wait, daemon=True).start()
            _block_sigint(is_blocked=True)
        self._handlers = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}

    def close(self) -> None:
        """Restores the signals and the environment of this process."""
        self._restore_handlers()
        _block_sigint(is_blocked=False)
        self._closed.set()
        os.environ.clear()
        os.environ.update(self._environment)

    def stop_jobs(self) -> None:
        """Ends all jobs at their next step, and waits until the running ones have been saved."""
        (self.folder / STOP).touch()
        for run in find_runs(self.folder):
            if (run / LOCK).exists():
                with FileLock(run / LOCK):
                    pass

    def interruption(self) -> TrainingInterrupted:
        """Returns the error of a sweep that a signal has ended."""
        number = self.signal or signal.SIGINT
        if self.launcher == "submitit_slurm":
            message = f"the jobs of {self.folder} have been submitted, and run without this command; scancel ends them"
        else:
            message = f"interrupted; spectrnn train resume={self.folder} continues the sweep"
        return TrainingInterrupted(message, 128 + number)

    def _stop(self, number: int, _: FrameType | None) -> None:
        self.signal = number
        self._restore_handlers()
        (self.folder / STOP).touch()
        # After an exception joblib kills its processes at once, whereas those of submitit continue to their next step.
        is_joblib = self.launcher == "joblib"
        then = "ends them at once" if is_joblib else "ends the wait for them"
        os.write(
            2, f"\nfinishing a step of each job and saving it; a second {signal.Signals(number).name} {then}\n".encode()
        )
        if not is_joblib:
            raise KeyboardInterrupt

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


@contextmanager
def reported_sweep() -> Iterator[None]:
    """Reports a sweep whose launcher fails, or that is interrupted, within the block.

    Raises:
        TrainingInterrupted: A signal; parallel jobs have been saved.
        UserError: A launcher that cannot start jobs.
        SystemExit: A parallel job whose process was killed, after the others have been saved.
    """
    try:
        yield
    except (KeyboardInterrupt, RuntimeError) as error:
        sweep = ParallelSweep.current
        if sweep is None or isinstance(error, TrainingInterrupted):
            raise
        with suppress(KeyboardInterrupt):  # a second signal ends the wait
            if sweep.launcher != "submitit_slurm":
                sweep.stop_jobs()
        if sweep.signal or isinstance(error, KeyboardInterrupt):
            raise sweep.interruption() from None
        # Raised by joblib and submitit; an error within a job is none of its launcher.
        if not isinstance(error, BrokenExecutor) and type(error).__name__ != "UncompletedJobError":
            raise UserError(f"hydra/launcher={sweep.launcher}: {str(error).splitlines()[0]}") from error
        finish_sweep(sweep.folder, "a job was killed, for example because the memory was full")
    finally:
        if ParallelSweep.current:
            ParallelSweep.current.close()
            ParallelSweep.current = None


def finish_sweep(folder: Path, problem: str = "") -> None:
    """Prints a table of a sweep's jobs and the errors of those that failed, and then exits with 1 if there are any.

    Args:
        folder: Folder of the sweep.
        problem: Reason for which the sweep ends early; "" if it does not.

    Raises:
        SystemExit: A problem, or a job that has not finished.
    """
    runs = [read_run(run) for run in find_runs(folder)]
    if runs:
        print(printable(f"\n{format_runs(runs)}\n"), file=sys.stderr)
    unfinished = sum(not run.is_finished for run in runs)
    if problem:
        print(f"spectrnn: {problem}; spectrnn train resume={folder} continues the sweep", file=sys.stderr)
    elif unfinished:
        print(f"spectrnn: {unfinished} of {len(runs)} jobs have not finished", file=sys.stderr)
    if problem or unfinished:
        sys.exit(1)


def _divide_cores(config: DictConfig) -> None:
    """Runs no more jobs at a time than there are, and lets them use all cores together.

    joblib divides the cores itself; with submitit, Hydra's sweeper launches and awaits batches of jobs.
    """
    import joblib

    hydra = config.hydra
    jobs = len(job_overrides(config))
    if not jobs:  # a sweeper of another package
        return
    if "n_jobs" in hydra.launcher:
        hydra.launcher.n_jobs = min(joblib.effective_n_jobs(hydra.launcher.n_jobs), jobs)
        return
    cores, threads = joblib.cpu_count(), hydra.launcher.cpus_per_task
    hydra.sweeper.max_batch_size = min(hydra.sweeper.max_batch_size or max(cores // (threads or 1), 1), jobs)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads or max(cores // hydra.sweeper.max_batch_size, 1)))


def _lift_limits(config: DictConfig) -> None:
    """Lets the local jobs of submitit use all GPUs, and more than an hour, unless the user has set limits."""
    launcher = config.hydra.launcher
    if launcher.gpus_per_node is None:
        os.environ[VISIBLE_GPUS] = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    if not any(override.startswith("hydra.launcher.timeout_min=") for override in config.hydra.overrides.hydra):
        launcher.timeout_min = 366 * 24 * 60


def _block_sigint(is_blocked: bool) -> None:
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK if is_blocked else signal.SIG_UNBLOCK, {signal.SIGINT})
