"""TensorBoard."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spectrnn.evaluation.metrics import Array
from spectrnn.training.loggers.base import Hyperparameters, Logger

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

_SPEED = "train/clips_per_second"  # a curve that is a metric in HPARAMS, too


class TensorBoardLogger(Logger):
    """Writes TensorBoard's events into the run folder. TensorBoard ignores what a resumed run repeats."""

    def start(self, folder: Path, hyperparameters: Hyperparameters, resumed_at: int | None) -> None:
        """Stores the arguments; the writer is created by the first metric."""
        self.folder, self.hyperparameters, self.resumed_at = folder, hyperparameters, resumed_at

    @cached_property
    def writer(self) -> "SummaryWriter":
        """TensorBoard's writer, imported after the first steps."""
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.folder), purge_step=None if self.resumed_at is None else self.resumed_at + 1)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs a point of each metric's curve."""
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def log_figure(self, tag: str, figure: "Figure", step: int) -> None:
        """Logs a figure as an image."""
        self.writer.add_figure(tag, figure, step)

    def log_audio(self, tag: str, samples: Array, sample_rate: int, step: int) -> None:
        """Logs audio, of two samples at least, which TensorBoard needs."""
        self.writer.add_audio(tag, np.pad(samples, (0, max(0, 2 - len(samples))))[None], step, sample_rate)

    def flush(self) -> None:
        """Writes pending events to disk."""
        self.writer.flush()

    def finish(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs the final metrics, with the hyperparameters for TensorBoard's HPARAMS tab."""
        from torch.utils.tensorboard.summary import hparams

        # The writer's own add_hparams would create a second run in a folder of its own.
        file_writer = self.writer.file_writer
        assert file_writer is not None
        for summary in hparams(dict(self.hyperparameters), dict.fromkeys([*metrics, _SPEED])):
            file_writer.add_summary(summary)
        self.log_metrics(metrics, step)

    def close(self, error: BaseException | None) -> None:
        """Closes the file."""
        self.writer.close()
