"""MLflow."""

import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import soundfile

from spectrnn.errors import UserError
from spectrnn.evaluation.rankings import Array
from spectrnn.runs import OUTPUTS
from spectrnn.training.loggers.base import Hyperparameters, Logger, require_package, run_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

_ID = "mlflow_run_id.txt"  # in the run folder, so that a resumed run continues its run in MLflow
_SQLITE = "sqlite:///"


class MLflowLogger(Logger):
    """Logs to MLflow: a server, or a local database that ``mlflow ui --backend-store-uri URI`` shows.

    MLflow cannot drop what was logged after the checkpoint of a resumed run. Points of a curve that it has are not
    logged again, and a parameter keeps its first value. An error of the server ends a run before its first step, and is
    a warning later.

    Args:
        tracking_uri: Address of a server or database; None for the variable MLFLOW_TRACKING_URI, else
            sqlite:///outputs/mlflow.db. Artifacts of a local database are in mlflow-artifacts next to it.
        experiment: Name of the experiment that contains the run.
        files: Files of the run folder that become artifacts when the run is complete.

    Raises:
        UserError: mlflow is not installed.
    """

    def __init__(self, tracking_uri: str | None, experiment: str, files: Sequence[str]) -> None:
        require_package("mlflow")
        self.tracking_uri, self.experiment, self.files = tracking_uri, experiment, files

    def start(self, folder: Path, hyperparameters: Hyperparameters, resumed_at: int | None) -> None:
        """Starts or continues the run.

        Raises:
            UserError: No access to the server or database.
        """
        from mlflow import MlflowClient, MlflowException
        from mlflow.entities import Param
        from mlflow.tracking.context.registry import resolve_tags

        for name in ("alembic", "mlflow.store.db"):  # which list the steps of creating a database
            logging.getLogger(name).setLevel(logging.WARNING)
        self.folder, path = folder, folder / _ID
        self.pending: list[Any] = []
        uri = self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}{OUTPUTS}/mlflow.db"
        try:
            self.client = MlflowClient(uri)
            if path.exists():
                self.run_id = path.read_text()
                self.client.update_run(self.run_id, status="RUNNING")
            else:
                tags = resolve_tags({"mlflow.source.name": "spectrnn train"})  # user, Git commit
                run = self.client.create_run(self._experiment_id(uri), run_name=run_name(folder), tags=tags)
                self.run_id = run.info.run_id
                path.write_text(self.run_id)
            data = self.client.get_run(self.run_id).data
            new = [Param(name, str(value)) for name, value in hyperparameters.items() if name not in data.params]
            self.client.log_batch(self.run_id, params=new)
            history = {name: self.client.get_metric_history(self.run_id, name) for name in data.metrics}
        except MlflowException as error:
            raise UserError(f"logger.mlflow: {str(error).splitlines()[0]}") from error
        self.logged = {name: max(point.step for point in points) for name, points in history.items()}

    def _experiment_id(self, uri: str) -> str:
        """Returns the id of the experiment, which is created if it does not exist."""
        from mlflow import MlflowException

        place = None
        if uri.startswith(_SQLITE):  # else MLflow would create a folder mlruns in the current one
            folder = Path(uri.removeprefix(_SQLITE)).absolute().parent
            folder.mkdir(parents=True, exist_ok=True)
            place = (folder / "mlflow-artifacts").as_uri()
        experiment = self.client.get_experiment_by_name(self.experiment)
        if experiment is None:
            try:
                return self.client.create_experiment(self.experiment, place)
            except MlflowException:  # another run of a sweep was faster
                experiment = self.client.get_experiment_by_name(self.experiment)
                if experiment is None:
                    raise
        return experiment.experiment_id

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs metrics, in a thread of MLflow."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        new = {name: value for name, value in metrics.items() if step > self.logged.get(name, -1)}
        points = [Metric(name, value, now, step) for name, value in new.items()]
        if points:
            self.pending.append(self.client.log_batch(self.run_id, points, synchronous=False))

    def log_figure(self, tag: str, figure: "Figure", step: int) -> None:
        """Logs a figure as an artifact, which replaces that of an earlier step."""
        with _reporting_errors():
            self.client.log_figure(self.run_id, figure, f"{tag}.png")

    def log_audio(self, tag: str, samples: Array, sample_rate: int, step: int) -> None:
        """Logs audio as an artifact, which replaces that of an earlier step."""
        parent, _, name = tag.rpartition("/")
        with tempfile.TemporaryDirectory() as folder, _reporting_errors():
            soundfile.write(path := Path(folder) / f"{name}.wav", samples, sample_rate)
            self.client.log_artifact(self.run_id, str(path), parent or None)

    def flush(self) -> None:
        """Waits for the pending metrics."""
        with _reporting_errors():
            while self.pending:
                self.pending.pop(0).wait()

    def close(self, error: BaseException | None) -> None:
        """Logs files of a complete run, and ends the run as FINISHED, KILLED by a signal or FAILED."""
        self.flush()
        with _reporting_errors():
            for path in (self.folder / name for name in self.files if error is None):
                if path.is_file():
                    self.client.log_artifact(self.run_id, str(path))
            failed = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
            self.client.set_terminated(self.run_id, "FINISHED" if error is None else failed)


@contextmanager
def _reporting_errors() -> Iterator[None]:
    """Logs an error of MLflow as a warning: a run need not end with its server."""
    from mlflow import MlflowException

    try:
        yield
    except MlflowException as error:
        log.warning("logger.mlflow: %s", str(error).splitlines()[0])
