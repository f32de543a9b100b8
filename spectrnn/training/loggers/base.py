"""What a logger of a run is."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from spectrnn.errors import UserError
from spectrnn.evaluation.rankings import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Hyperparameters = Mapping[str, bool | int | float | str]


class Logger:
    """A logger of a run, such as TensorBoard's. Methods that a subclass does not define do nothing.

    The constructor receives the settings of config group ``logger`` before any audio is read, and must not import heavy
    packages. Only rank 0 logs.

    A step is the number of training clips seen. Steps do not decrease, except that a resumed run continues at its
    checkpoint: what was logged after that is logged again, with equal values, as runs are deterministic.
    """

    def start(self, folder: Path, hyperparameters: Hyperparameters, resumed_at: int | None) -> None:
        """Starts the log of a run, or continues that of a resumed one, before the first step.

        Args:
            folder: Folder of the run.
            hyperparameters: What runs are compared by: the option of each config group, and all overridden keys.
            resumed_at: Step of the checkpoint that a resumed run continues from; None for a new run.
        """

    def log_text(self, tag: str, text: str) -> None:
        """Logs a text about the run in Markdown, before the first step: ``config``, ``overrides``, ``environment``."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs metrics by name: ``step/loss`` within an epoch, ``train/loss`` and ``val/loss`` at its end."""

    def log_figure(self, tag: str, figure: "Figure", step: int) -> None:
        """Logs a figure, such as ``val/confusion``."""

    def log_audio(self, tag: str, samples: Array, sample_rate: int, step: int) -> None:
        """Logs audio.

        Args:
            tag: Name, such as ``train_clips/audio/0_dog``.
            samples: Waveform (samples,) from -1 to 1.
            sample_rate: Sample rate in Hz.
            step: Step.
        """

    def log_pr_curve(self, tag: str, is_positive: Array, probabilities: Array, step: int) -> None:
        """Logs what a precision-recall curve of a class is computed from.

        Args:
            tag: Name, such as ``test_pr_curve/dog``.
            is_positive: Whether each clip is of the class, bool (clips,).
            probabilities: Probability of the class, (clips,).
            step: Step.
        """

    def flush(self) -> None:
        """Writes what is pending. Called before each checkpoint, which the log must not lag behind."""

    def finish(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs the final metrics of the saved classifier: ``best_model/val_accuracy``, ``test/accuracy``."""
        self.log_metrics(metrics, step)

    def close(self, error: BaseException | None) -> None:
        """Ends the log.

        Args:
            error: What stopped the run, a `KeyboardInterrupt` if it was a signal; None if the run is complete.
        """


def require_package(name: str) -> None:
    """Checks that a logger's package is installed, without importing it.

    Args:
        name: Name of the package, of the logger, and of the extra of spectrnn that installs it.

    Raises:
        UserError: No such package.
    """
    spec = find_spec(name)
    if spec is None or spec.origin is None:  # a folder of that name, such as the runs that wandb leaves, has no origin
        raise UserError(f"logger.{name}: needs {name}; pip install 'spectrnn[{name}]'")


def run_name(folder: Path) -> str:
    """Returns the name of a run: date and time as in ``2026-11-26/21-35-09``; in a sweep ``21-35-09/0``."""
    return "/".join(folder.absolute().parts[-2:])
