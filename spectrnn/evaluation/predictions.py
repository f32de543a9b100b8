"""`predictions.csv`: a row per evaluated clip, from which metrics can be computed again and runs be compared.

With many classes a row has not all of its probabilities, but those of its label and of the most probable classes. All
metrics of `evaluation.metrics` follow from these; other probabilities are read as 0.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from spectrnn.data.clips import Clip
from spectrnn.errors import UserError
from spectrnn.evaluation.metrics import Array
from spectrnn.files import atomic_write
from spectrnn.inference.predictor import top_classes

PREDICTIONS = "predictions.csv"
_COLUMNS = ("path", "start", "end", "group", "split", "fold", "label", "predicted")  # then probabilities
_MAX_COLUMNS = 200  # classes up to which each has a column
_TOP_K = 20  # most probable classes with more
_LABEL_PROBABILITY = "label_probability"  # the column after `_COLUMNS` in which the other kind is recognized


@dataclass
class Predictions:
    """Clips with their probabilities.

    Args:
        clips: Clips, whose label is one of `labels`.
        probabilities: Probabilities float32 (clips, classes).
        labels: Class names, in the order of the probabilities.
        is_partial: Whether classes may be missing, of which no clip has a label or a probability.
    """

    clips: list[Clip]
    probabilities: Array
    labels: list[str]
    is_partial: bool = False

    @property
    def targets(self) -> Array:
        """Class indices, int64 (clips,)."""
        index = {label: number for number, label in enumerate(self.labels)}
        return np.array([index[clip.label] for clip in self.clips], dtype=np.int64)

    def of_split(self, split: str) -> "Predictions":
        """Returns the rows of a split."""
        rows = [row for row, clip in enumerate(self.clips) if clip.split == split]
        return Predictions([self.clips[row] for row in rows], self.probabilities[rows], self.labels, self.is_partial)


def write_predictions(predictions: Predictions, path: Path) -> None:
    """Writes a CSV file, atomically: path, start, end, group, split, fold, label, predicted, a probability per class.

    With more than 200 classes, the probabilities are ``label_probability``, and class and probability of the 20 most
    probable classes: ``class_1``, ``probability_1``, ``class_2`` ... Columns of a clip that are empty in all rows are
    omitted. Probabilities have the nine digits of a float32.
    """
    labels, values, targets = predictions.labels, predictions.probabilities, predictions.targets.tolist()
    rows = [_cells(clip) for clip in predictions.clips]
    kept = [column for column in range(len(_COLUMNS) - 1) if any(row[column] for row in rows)]
    is_whole, count = len(labels) <= _MAX_COLUMNS, min(_TOP_K, len(labels))
    numbered = [f"{name}_{number}" for number in range(1, count + 1) for name in ("class", "probability")]
    with (
        atomic_write(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        classes = labels if is_whole else [_LABEL_PROBABILITY, *numbered]
        writer.writerow([*(_COLUMNS[column] for column in kept), "predicted", *classes])
        for row, target, own in zip(rows, targets, values, strict=True):
            cells = [*(row[column] for column in kept), labels[int(own.argmax())]]
            if is_whole:
                cells += map(_format, own.tolist())
            else:
                top = top_classes(own, count).tolist()
                cells.append(_format(own[target]))
                cells += [cell for index in top for cell in (labels[index], _format(own[index]))]
            writer.writerow(cells)


def read_predictions(path: Path) -> Predictions:
    """Reads what `write_predictions` wrote; of many classes, those that occur in the table, in alphabetical order.

    Raises:
        UserError: A file that is missing, or that has other columns or values.
    """
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = csv.reader(file)
            head = next(rows)
            first_class = head.index("predicted") + 1
            clips: list[Clip] = []
            of_classes: list[Array] = []
            of_top: list[list[str]] = []
            is_whole = head[first_class : first_class + 2] != [_LABEL_PROBABILITY, "class_1"]
            for row in rows:
                clips.append(_clip(dict(zip(head, row[:first_class], strict=False))))
                if is_whole:
                    of_classes.append(np.array(row[first_class:], np.float32))
                else:
                    of_top.append(row[first_class:])
        labels = head[first_class:] if is_whole else _occurring(clips, of_top)
        if is_whole:
            probabilities = np.array(of_classes, dtype=np.float32).reshape(len(clips), len(labels))
        else:
            probabilities = _from_top_classes(clips, of_top, labels)
        predictions = Predictions(clips, probabilities, labels, is_partial=not is_whole)
        _ = predictions.targets
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, IndexError, StopIteration, csv.Error) as error:
        raise UserError(f"{path}: not a table of predictions of spectrnn ({error!r:.200})") from error
    return predictions


def _occurring(clips: Sequence[Clip], rows: Sequence[Sequence[str]]) -> list[str]:
    """The labels of clips, and the classes in the rows of their probabilities."""
    return sorted({clip.label for clip in clips} | {label for cells in rows for label in cells[1::2]})


def _from_top_classes(clips: Sequence[Clip], rows: Sequence[Sequence[str]], labels: Sequence[str]) -> Array:
    """Probabilities float32 (clips, classes) from rows with that of the label, and the most probable classes."""
    index = {label: number for number, label in enumerate(labels)}
    probabilities = np.zeros((len(clips), len(labels)), np.float32)
    for clip, cells, own in zip(clips, rows, probabilities, strict=True):
        own[index[clip.label]] = float(cells[0])
        own[[index[label] for label in cells[1::2]]] = np.array(cells[2::2], np.float32)
    return probabilities


def with_labels(predictions: Predictions, labels: list[str]) -> Predictions:
    """Returns predictions with other labels, or in another order; a class without a probability has 0."""
    if predictions.labels == labels:
        return predictions
    index = {label: number for number, label in enumerate(labels)}
    probabilities = np.zeros((len(predictions.clips), len(labels)), np.float32)
    probabilities[:, [index[label] for label in predictions.labels]] = predictions.probabilities
    return replace(predictions, probabilities=probabilities, labels=labels)


def concatenate(parts: Sequence[Predictions]) -> Predictions:
    """Joins predictions, whose labels are the same but for classes that do not occur in a table of many classes."""
    clips, labels = [clip for part in parts for clip in part.clips], parts[0].labels
    if any(part.labels != labels for part in parts):
        labels = sorted({label for part in parts for label in part.labels})
    probabilities = np.concatenate([with_labels(part, labels).probabilities for part in parts])
    return Predictions(clips, probabilities, labels, parts[0].is_partial)


def _format(probability: float) -> str:
    return f"{probability:.9g}"


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
