"""A table of the metrics."""

import csv
from collections.abc import Mapping
from pathlib import Path

from spectrnn.files import atomic_write
from spectrnn.training.loggers.base import Hyperparameters, Logger


class CSVLogger(Logger):
    """Writes metrics.csv into the run folder: a row per step, a column per metric, empty if it was not logged then.

    ``pandas.read_csv("metrics.csv", index_col="step")["val/loss"].dropna()`` is a curve. The file is replaced at each
    checkpoint. A resumed run drops the rows after its checkpoint.
    """

    def start(self, folder: Path, hyperparameters: Hyperparameters, resumed_at: int | None) -> None:
        """Reads the rows up to the checkpoint of a resumed run."""
        self.path = folder / "metrics.csv"
        self.rows: dict[int, dict[str, float | str]] = {}
        if resumed_at is not None and self.path.exists():
            with self.path.open(encoding="utf-8", newline="") as file:
                rows = {int(row.pop("step")): row for row in csv.DictReader(file)}
            for step, row in rows.items():
                if step <= resumed_at:
                    self.rows[step] = {name: value for name, value in row.items() if value}

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Adds metrics to the row of a step."""
        self.rows.setdefault(step, {}).update(metrics)

    def flush(self) -> None:
        """Replaces the file."""
        columns = ["step", *dict.fromkeys(name for row in self.rows.values() for name in row)]
        with atomic_write(self.path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows({"step": step, **row} for step, row in self.rows.items())

    def close(self, error: BaseException | None) -> None:
        """Replaces the file, also with the rows after the last checkpoint."""
        self.flush()
