"""Sweeps: the table at the end of a Hydra multirun, and its exit code."""

import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from spectrnn import distributed
from spectrnn.runs import find_runs, read_run
from spectrnn.study.summary import format_runs


class SweepSummary(Callback):
    """Prints a table of a sweep's jobs, and the errors of those that failed, and then exits with 1."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Is called by Hydra after all jobs have ended, with every launcher.

        Raises:
            SystemExit: A job that has not finished.
        """
        if distributed.rank():
            return
        runs = [read_run(run) for run in find_runs(Path(config.hydra.sweep.dir))]
        print(f"\n{format_runs(runs)}\n", file=sys.stderr)
        if unfinished := sum(not run.is_finished for run in runs):
            print(f"spectrnn: {unfinished} of {len(runs)} jobs have not finished", file=sys.stderr)
            sys.exit(1)
