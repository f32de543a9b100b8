"""`predictions.csv`: a row per evaluated clip, from which metrics can be computed again and runs be compared."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spectrnn.data.clips import Clip
from spectrnn.errors import UserError
from spectrnn.evaluation.metrics import Array
from spectrnn.files import atomic_write

PREDICTIONS = "predictions.csv"
_COLUMNS = ("path", "start", "end", "group", "split", "fold", "label", "predicted")  # then one per class


@dataclass
class Predictions:
    """Clips with their probabilities.

    Args:
        clips: Clips, whose label is one of `labels`.
        probabilities: Probabilities float32 (clips, classes).
        labels: Class names, in the order of the probabilities.
    """

    clips: list[Clip]
    probabilities: Array
    labels: list[str]

    @property
    def targets(self) -> Array:
        """Class indices, int64 (clips,)."""
        index = {label: number for number, label in enumerate(self.labels)}
        return np.array([index[clip.label] for clip in self.clips], dtype=np.int64)

    def of_split(self, split: str) -> "Predictions":
        """Returns the rows of a split."""
        rows = [row for row, clip in enumerate(self.clips) if clip.split == split]
        return Predictions([self.clips[row] for row in rows], self.probabilities[rows], self.labels)


def write_predictions(predictions: Predictions, path: Path) -> None:
    """Writes a CSV file, atomically: path, start, end, group, split, fold, label, predicted, a probability per class.

    Columns of a clip that are empty in all rows are omitted. Probabilities have the nine digits of a float32.
    """
    predicted = predictions.probabilities.argmax(1)
    rows = [_cells(clip) for clip in predictions.clips]
    kept = [column for column in range(len(_COLUMNS) - 1) if any(row[column] for row in rows)]
    with (
        atomic_write(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*(_COLUMNS[column] for column in kept), "predicted", *predictions.labels])
        for row, index, values in zip(rows, predicted.tolist(), predictions.probabilities.tolist(), strict=True):
            cells = [*(row[column] for column in kept), predictions.labels[index]]
            writer.writerow([*cells, *(f"{value:.9g}" for value in values)])


def read_predictions(path: Path) -> Predictions:
    """Reads what `write_predictions` wrote.

    Raises:
        UserError: A file that is missing, or that has other columns or values.
    """
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = csv.reader(file)
            head = next(rows)
            first_class = head.index("predicted") + 1
            content = [(row[:first_class], row[first_class:]) for row in rows]
        labels = head[first_class:]
        clips = [_clip(dict(zip(head, cells, strict=False))) for cells, _ in content]
        probabilities = np.array([values for _, values in content], dtype=np.float32).reshape(len(clips), len(labels))
        predictions = Predictions(clips, probabilities, labels)
        _ = predictions.targets
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, StopIteration, csv.Error) as error:
        raise UserError(f"{path}: not a table of predictions of spectrnn ({error!r:.200})") from error
    return predictions


def concatenate(parts: Sequence[Predictions]) -> Predictions:
    """Joins predictions with the same labels."""
    clips = [clip for part in parts for clip in part.clips]
    return Predictions(clips, np.concatenate([part.probabilities for part in parts]), parts[0].labels)


def _cells(clip: Clip) -> list[str]:
    times = [f"{clip.start!r}" if clip.start else "", "" if clip.end is None else f"{clip.end!r}"]
    return [clip.path, *times, clip.group or "", clip.split or "", clip.fold or "", clip.label]


def _clip(cells: dict[str, str]) -> Clip:
    start, end = cells.get("start"), cells.get("end")
    return Clip(
        cells["path"],
        cells["label"],
        cells.get("split") or None,
        cells.get("fold") or None,
        cells.get("group") or None,
        float(start) if start else 0.0,
        float(end) if end else None,
    )
