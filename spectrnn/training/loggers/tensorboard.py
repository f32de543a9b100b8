"""TensorBoard."""

from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spectrnn.evaluation.rankings import Array
from spectrnn.training.hyperparameters import own_overrides
from spectrnn.training.loggers.base import Hyperparameters, Logger, run_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

_CURVES = """
| curves | meaning; a step is a training clip that was seen |
|---|---|
| `step/...` | within an epoch; loss and accuracy are means since its start, on augmented clips and with dropout |
| `train/...` | mean over an epoch, on augmented clips and with dropout: `val` may be better |
| `val/...` | after each epoch, on the validation split |
| `best_model/val_...`, `test/...` | one point at the end: of the saved model, that of the best epoch, calibrated |
"""


class TensorBoardLogger(Logger):
    """Writes TensorBoard's events into the run folder. TensorBoard ignores what a resumed run repeats.

    A run has one entry in the list of runs. CUSTOM SCALARS shows each metric of both the training and the validation
    split in one chart. HPARAMS lists a run from its first step on, and the keys that differ between runs first.
    """

    def start(self, folder: Path, hyperparameters: Hyperparameters, resumed_at: int | None) -> None:
        """Stores the arguments; the writer is created by the first metric."""
        self.folder, self.hyperparameters, self.resumed_at = folder, hyperparameters, resumed_at
        self.texts = {"curves": _CURVES}  # which the writer begins with
        self.has_charts = False

    @cached_property
    def writer(self) -> "SummaryWriter":
        """TensorBoard's writer, imported after the first steps."""
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        writer = SummaryWriter(str(self.folder), purge_step=None if self.resumed_at is None else self.resumed_at + 1)
        # Not by add_hparams, which would create a second run in a folder of its own; and without its description of
        # the experiment, which would limit HPARAMS to the keys of one run.
        _, start, _ = hparams(dict(self.hyperparameters), {})
        plugin = start.value[0].metadata.plugin_data
        content = HParamsPluginData.FromString(plugin.content)
        content.session_start_info.group_name = _trial_name(self.folder)
        plugin.content = content.SerializeToString()
        assert writer.file_writer is not None
        writer.file_writer.add_summary(start)
        for tag, text in self.texts.items():
            writer.add_text(tag, text, self.resumed_at or 0)
        return writer

    def log_text(self, tag: str, text: str) -> None:
        """Keeps a text for the writer."""
        self.texts[tag] = text

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs a point of each metric's curve, and before the first epoch's the charts of CUSTOM SCALARS."""
        names = [name.removeprefix("val/") for name in metrics if name.startswith("val/")]
        shared = [name for name in names if f"train/{name}" in metrics]
        if shared and not self.has_charts:
            charts = {name: ["Multiline", [f"^{split}/{name}$" for split in ("train", "val")]] for name in shared}
            self.writer.add_custom_scalars({"training and validation": charts})
            self.has_charts = True
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def log_figure(self, tag: str, figure: "Figure", step: int) -> None:
        """Logs a figure as an image."""
        self.writer.add_figure(tag, figure, step)

    def log_audio(self, tag: str, samples: Array, sample_rate: int, step: int) -> None:
        """Logs audio, of two samples at least, which TensorBoard needs."""
        self.writer.add_audio(tag, np.pad(samples, (0, max(0, 2 - len(samples))))[None], step, sample_rate)

    def log_pr_curve(self, tag: str, is_positive: Array, probabilities: Array, step: int) -> None:
        """Logs a precision-recall curve."""
        self.writer.add_pr_curve(tag, is_positive, probabilities, step)

    def flush(self) -> None:
        """Writes pending events to disk."""
        self.writer.flush()

    def close(self, error: BaseException | None) -> None:
        """Closes the file."""
        self.writer.close()


def _trial_name(folder: Path) -> str:
    """The overrides of a run, such as ``lr=0.003 (21-35-09/0)``: of the same name, runs would be one trial."""
    overrides = own_overrides(folder)
    last = Counter(key.rpartition(".")[2] for key in overrides)
    names = {key: name if last[name := key.rpartition(".")[2]] == 1 else key for key in overrides}
    given = ", ".join(f"{names[key]}={value}" for key, value in overrides.items())
    return f"{given or 'defaults'} ({run_name(folder)})"
