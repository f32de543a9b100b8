"""Sweeps: the table at the end of a Hydra multirun, and its exit code."""

import logging
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from spectrnn import distributed
from spectrnn.study.summary import find_runs, format_runs, read_run

log = logging.getLogger(__name__)


class SweepSummary(Callback):
    """Prints a table of a sweep's jobs, and the errors of those that failed, and then exits with 1."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Is called by Hydra after all jobs have ended, with every launcher.

        Raises:
            SystemExit: A job that has not finished.
        """
        if distributed.rank():
            return
        folder = Path(config.hydra.sweep.dir)
        runs = [read_run(run) for run in find_runs(folder)]
        print(f"\n{format_runs(runs)}\n\nthe sweep is in {folder}", file=sys.stderr)
        unfinished = [run for run in runs if not run.is_finished]
        for run in unfinished:
            overrides = " ".join(f"{key}={value}" for key, value in run.overrides.items())
            print(f"\n{run.folder} ({overrides}): {(run.error or 'has not finished').splitlines()[0]}", file=sys.stderr)
        if unfinished:
            print(f"\nspectrnn: {len(unfinished)} of {len(runs)} jobs have not finished", file=sys.stderr)
            sys.exit(1)
