"""A job of `spectrnn train`: a run or a cross-validation, on its own or within a sweep."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from spectrnn import distributed
from spectrnn.errors import TrainingInterrupted, UserError
from spectrnn.runs import ERROR
from spectrnn.study.cross_validation import cross_validate, preflight_folds
from spectrnn.study.summary import write_error
from spectrnn.training.preflight import RunComponents, preflight
from spectrnn.training.train import run_training, train_exclusively

log = logging.getLogger(__name__)


def preflight_job(config: DictConfig) -> RunComponents:
    """Validates the config of a job; see `preflight`."""
    return preflight(config) if config.get("folds") is None else preflight_folds(config)


def run_job(folder: Path, config: DictConfig, choices: Mapping[str, str], sweep: Path | None) -> dict[str, Any]:
    """Runs a training, or a cross-validation if `folds` is set.

    Args:
        folder: Folder of the run or cross-validation.
        config: Config as train.yaml composes it.
        choices: Chosen option of each config group.
        sweep: Folder of the sweep that the job belongs to. Such a job continues what its folder contains, and its
            errors do not stop the other jobs: they are logged, and written to error.txt. None for a single job.

    Returns:
        The content of metrics.json; empty after an error in a sweep, and on all ranks but the first.

    Raises:
        UserError: An error in a single job.
        TrainingInterrupted: A signal; the run has been saved.
    """
    try:
        if sweep is not None:
            return _run_sweep_job(folder, config, choices)
        run = run_training if config.folds is None else cross_validate
        return run(folder, config, choices)
    except TrainingInterrupted as interrupted:
        message = f"{interrupted}; spectrnn train resume={sweep or folder} continues it"
        raise TrainingInterrupted(message, interrupted.code) from None


def _run_sweep_job(folder: Path, config: DictConfig, choices: Mapping[str, str]) -> dict[str, Any]:
    run = train_exclusively if config.folds is None else cross_validate
    (folder / ERROR).unlink(missing_ok=True)
    try:
        return run(folder, config, choices)
    except BrokenPipeError:  # the reader of the output has exited
        raise
    except Exception as error:
        is_expected = isinstance(error, UserError)
        reason = str(error) if is_expected else f"{type(error).__name__}: {error}"
        log.error("%s", reason, exc_info=not is_expected)
        if not distributed.rank():
            write_error(folder, reason)
        return {}
