"""Weights & Biases."""

import glob
import io
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spectrnn.errors import UserError
from spectrnn.evaluation.rankings import Array
from spectrnn.training.loggers.base import Hyperparameters, Logger, require_package, run_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ID = "wandb_run_id.txt"  # in the run folder, so that a resumed run continues its run in Weights & Biases


class WandbLogger(Logger):
    """Logs to Weights & Biases. Its files, and offline runs for ``wandb sync``, are in the folder wandb of the run.

    Weights & Biases cannot drop what was logged after the checkpoint of a resumed run. Steps that it has are therefore
    not logged again. An offline run continues in a second folder with the same id; synchronize them in order.

    Args:
        project: Project.
        entity: User or team; None for the default one of the account.
        group: Group of runs; None for none.
        tags: Tags of the run.
        mode: Whether the run is uploaded, kept for ``wandb sync``, or not logged.
        files: Files of the run folder that are uploaded when the run is complete.

    Raises:
        UserError: wandb is not installed.
    """

    def __init__(
        self,
        project: str,
        entity: str | None,
        group: str | None,
        tags: Sequence[str],
        mode: Literal["online", "offline", "disabled"],
        files: Sequence[str],
    ) -> None:
        require_package("wandb")
        self.project, self.entity, self.group, self.tags = project, entity, group, tags
        self.mode, self.files = mode, files

    def start(self, folder: Path, hyperparameters: Hyperparameters, resumed_at: int | None) -> None:
        """Starts or continues the run.

        Raises:
            UserError: No access to Weights & Biases.
        """
        import wandb

        path = folder / _ID
        run_id = path.read_text() if path.exists() else secrets.token_hex(4)
        try:
            self.run = wandb.init(
                id=run_id,
                name=run_name(folder),
                dir=folder,
                project=self.project,
                entity=self.entity,
                group=self.group,
                tags=self.tags,
                config=dict(hyperparameters),
                allow_val_change=True,
                mode=self.mode,
                resume="allow" if self.mode == "online" else None,  # wandb warns that it has no effect in other modes
            )
        except wandb.Error as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise UserError(f"logger.wandb: {reason}; logger.wandb.mode=offline needs no access") from error
        path.write_text(run_id)
        self.folder, self.first_step, self.step = folder, self.run.step, 0
        self.row: dict[str, Any] = {}  # of `step`, logged when it is complete: a resumed run could not add to it

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs metrics."""
        self._log(metrics, step)

    def log_figure(self, tag: str, figure: "Figure", step: int) -> None:
        """Logs a figure as an image."""
        import wandb
        from PIL import Image

        file = io.BytesIO()
        figure.savefig(file, format="png")
        self._log({tag: wandb.Image(Image.open(file))}, step)

    def log_audio(self, tag: str, samples: Array, sample_rate: int, step: int) -> None:
        """Logs audio."""
        import wandb

        self._log({tag: wandb.Audio(samples, sample_rate)}, step)

    def _log(self, values: Mapping[str, Any], step: int) -> None:
        if step != self.step:
            self.flush()
        self.row, self.step = {**self.row, **values}, step

    def flush(self) -> None:
        """Logs the row of the last step."""
        if self.row and self.step >= self.first_step:
            self.run.log(self.row, step=self.step, commit=True)
        self.row = {}

    def close(self, error: BaseException | None) -> None:
        """Uploads files of a complete run, and marks others as failed."""
        if error is None:
            self.flush()
        is_complete = error is None and self.mode != "disabled"
        for path in (self.folder / name for name in self.files if is_complete):
            if path.is_file():
                copy = shutil.copy(path, self.run.dir)  # of another file wandb would make a link, with a warning
                self.run.save(glob.escape(copy), self.run.dir, policy="now")
        self.run.finish(exit_code=0 if error is None else 1)
