"""A job of `spectrnn train`: a run or a cross-validation, on its own or within a sweep."""

import logging
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from spectrnn import distributed
from spectrnn.devices import JOB
from spectrnn.errors import FileErrors, TrainingInterrupted, UserError
from spectrnn.runs import ERROR, UNREADABLE
from spectrnn.study.cross_validation import cross_validate, preflight_folds
from spectrnn.study.summary import write_error
from spectrnn.study.sweep import STOP, VISIBLE_GPUS
from spectrnn.training.interrupts import GracefulInterrupt
from spectrnn.training.preflight import RunComponents, preflight
from spectrnn.training.train import run_training, train_exclusively

log = logging.getLogger(__name__)


def preflight_job(config: DictConfig) -> RunComponents:
    """Validates the config of a job; see `preflight`."""
    return preflight(config) if config.get("folds") is None else preflight_folds(config)


def run_job(
    folder: Path, config: DictConfig, choices: Mapping[str, str], sweep: Path | None, number: int
) -> dict[str, Any]:
    """Runs a training, or a cross-validation if `folds` is set.

    Args:
        folder: Folder of the run or cross-validation.
        config: Config as train.yaml composes it.
        choices: Chosen option of each config group.
        sweep: Folder of the sweep that the job belongs to. Such a job continues what its folder contains, and its
            errors do not stop the other jobs: they are logged, and written to error.txt. None for a single job.
        number: Number of the job in its sweep.

    Returns:
        The content of metrics.json; empty after an error in a sweep, and on all ranks but the first.

    Raises:
        UserError: An error in a single job.
        TrainingInterrupted: A signal; the run has been saved.
    """
    is_parallel = sweep is not None and choices["hydra/launcher"] != "basic"
    try:
        if sweep is not None:
            if is_parallel and not _start_parallel_job(sweep, number):
                return {}
            return _run_sweep_job(folder, config, choices)
        run = run_training if config.folds is None else cross_validate
        return run(folder, config, choices)
    except TrainingInterrupted as interrupted:
        if is_parallel:  # the process that has started the jobs reports the interruption
            log.info("%s", interrupted)
            return {}
        message = f"{interrupted}; spectrnn train resume={sweep or folder} continues it"
        raise TrainingInterrupted(message, interrupted.code) from None


def _start_parallel_job(sweep: Path, number: int) -> bool:
    """Prepares this process for a job of a parallel sweep; returns False if the sweep has been interrupted."""
    GracefulInterrupt.stop_file = sweep / STOP
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ[JOB] = str(number)
    if gpus := os.environ.get(VISIBLE_GPUS):
        del os.environ["CUDA_VISIBLE_DEVICES"]
        os.environ |= {} if gpus == "all" else {"CUDA_VISIBLE_DEVICES": gpus}
    return not GracefulInterrupt.stop_file.exists()


def _run_sweep_job(folder: Path, config: DictConfig, choices: Mapping[str, str]) -> dict[str, Any]:
    run = train_exclusively if config.folds is None else cross_validate
    (folder / ERROR).unlink(missing_ok=True)
    try:
        return run(folder, config, choices)
    except BrokenPipeError:  # the reader of the output has exited
        raise
    except Exception as error:
        is_timeout = type(error).__name__ == "UncompletedJobError"  # of submitit
        is_expected = isinstance(error, UserError) or is_timeout
        reason = str(error) if is_expected else f"{type(error).__name__}: {error}"
        if is_timeout:
            reason = "hydra.launcher.timeout_min: the job has reached its time limit; the same command continues it"
        if isinstance(error, FileErrors) and error.is_shortened and not distributed.rank():
            error.list_in(folder / UNREADABLE)
            reason = str(error)
        log.error("%s", reason, exc_info=not is_expected)
        if not distributed.rank():
            write_error(folder, reason)
        return {}
