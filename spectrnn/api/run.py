"""Training from Python."""

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from spectrnn.api.model import Model, load
from spectrnn.cli.config_errors import format_error
from spectrnn.cli.initial_model import with_initial_model
from spectrnn.config.compose import ComposedConfig, compose
from spectrnn.config.paths import CONFIG_DIR
from spectrnn.errors import UserError
from spectrnn.files import make_unique_directory
from spectrnn.runs import METRICS, OUTPUTS
from spectrnn.study.job import preflight_job, run_job
from spectrnn.study.logs import logging_to, write_overrides
from spectrnn.training.checkpoint import read_history


@dataclass(frozen=True)
class Run:
    """A finished run, or cross-validation.

    Attributes:
        path: Folder of the run.
    """

    path: Path

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The content of metrics.json: results by split, 95 % intervals, warnings."""
        return json.loads((self.path / METRICS).read_text(encoding="utf-8"))

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """The metrics of each epoch: ``epoch``, ``train`` and ``val``; empty for a cross-validation."""
        return read_history(self.path)

    @cached_property
    def model(self) -> Model:
        """The best model of the run, on the GPU if there is one."""
        return load(self.path)

    def __str__(self) -> str:
        scores = [
            f"{split} {self.metrics['metric']} {self.metrics[split][self.metrics['metric']]:.4f}"
            for split in ("val", "test", "pooled")
            if split in self.metrics
        ]
        return f"{self.path}: {', '.join(scores) or 'no results'}"


def train(overrides: Sequence[str] = (), folder: str | Path | None = None, config_dirs: Sequence[str] = ()) -> Run:
    """Trains a classifier, as ``spectrnn train`` does with the same overrides.

    Args:
        overrides: Overrides of the config, such as ``["data=folder", "data.root=recordings"]``.
        folder: Folder of the run; None for a new one in outputs/.
        config_dirs: Folders of config files of your own.

    Raises:
        UserError: An error in the config, the dataset or the folder.
        TrainingInterrupted: Ctrl-C; the run has been saved, and ``spectrnn train resume=FOLDER`` continues it.
    """
    overrides = list(overrides)
    for override in overrides:
        if override.lstrip("+~").partition("=")[0].partition(".")[0] in ("hydra", "resume", "sweep"):
            raise UserError(f"{override}: only the command line has it; folder= names the folder of the run")
    dirs = [*map(Path, config_dirs), CONFIG_DIR]
    overrides = with_initial_model(overrides, dirs)
    composed = _compose(overrides, dirs)
    path = Path(folder).expanduser() if folder else Path(make_unique_directory(time.strftime(f"{OUTPUTS}/%F/%H-%M-%S")))
    path.mkdir(parents=True, exist_ok=True)
    with _logging(path / "train.log"):
        if not (path / METRICS).exists():
            write_overrides(path, overrides)
        run_job(path, composed.config, composed.choices, None, 0)
    return Run(path)


def _compose(overrides: list[str], dirs: list[Path]) -> ComposedConfig:
    try:
        return compose("train", overrides, dirs)
    except Exception as error:
        text = format_error(error, "train", overrides, preflight_job)
        if text is None:
            raise
        raise UserError(text) from error


@contextmanager
def _logging(path: Path) -> Iterator[None]:
    """Logs to a file within the block and, unless the program has configured logging, to standard error."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    if not handlers:
        console = logging.StreamHandler()
        console.setFormatter(logging.Formatter("%(message)s"))
        root.addHandler(console)
    root.setLevel(min(level, logging.INFO))
    try:
        with logging_to(path, console_level=level if handlers else logging.INFO):
            yield
    finally:
        for handler in {*root.handlers} - {*handlers}:
            root.removeHandler(handler)
        root.setLevel(level)
