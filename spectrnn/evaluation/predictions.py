"""`predictions.csv`: a row per evaluated clip, from which metrics can be computed again and runs be compared.

With many classes a row has not all of its probabilities, but those of its label and of the most probable classes. All
metrics of `evaluation.metrics` follow from these; other probabilities are read as 0. With several labels per clip the
column of the true ones is ``labels``, both it and ``predicted`` have names joined by semicolons, and every class has a
column.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from spectrnn.data.clips import Clip
from spectrnn.data.labels import LABEL_SET, ONE_LABEL, SEPARATOR, LabelFormat
from spectrnn.errors import UserError
from spectrnn.evaluation.metrics import Outcome
from spectrnn.evaluation.rankings import Array
from spectrnn.files import atomic_write
from spectrnn.inference.predictor import top_classes
from spectrnn.model.classifier import Classifier

PREDICTIONS = "predictions.csv"
_COLUMNS = ("path", "start", "end", "group", "split", "fold", "label", "predicted")  # then probabilities
_LABELS = "labels"  # the column of the label with several labels per clip
_MAX_COLUMNS = 200  # classes up to which each has a column
_TOP_K = 20  # most probable classes with more
_LABEL_PROBABILITY = "label_probability"  # the column after `_COLUMNS` in which the other kind is recognized


@dataclass
class Predictions:
    """Clips with their probabilities.

    Args:
        clips: Clips, whose labels are among `labels`.
        probabilities: Probabilities float32 (clips, classes).
        decisions: Decisions, as in `Outcome`.
        labels: Class names, in the order of the probabilities.
        label_format: How the label of a clip names classes.
        is_partial: Whether classes may be missing, of which no clip has a label or a probability.
    """

    clips: list[Clip]
    probabilities: Array
    decisions: Array
    labels: list[str]
    label_format: LabelFormat = ONE_LABEL
    is_partial: bool = False

    @classmethod
    def of(cls, clips: list[Clip], outcome: Outcome, classifier: Classifier) -> "Predictions":
        """Returns the predictions of a classifier for clips."""
        label_format = classifier.task.label_format
        return cls(clips, outcome.probabilities, outcome.decisions, classifier.labels, label_format)

    @property
    def targets(self) -> Array:
        """Targets, as in `Outcome`."""
        return self.label_format.targets([clip.label for clip in self.clips], self.labels)

    @property
    def outcome(self) -> Outcome:
        """Probabilities, decisions and targets."""
        return Outcome(self.probabilities, self.decisions, self.targets)

    def predicted(self, row: int) -> str:
        """Returns the predicted class of a row, or the names of the detected ones, joined by semicolons."""
        decision = self.decisions[row]
        if decision.ndim == 0:
            return self.labels[decision]
        return SEPARATOR.join(self.labels[index] for index in np.flatnonzero(decision))

    def rows(self, rows: Sequence[int] | Array) -> "Predictions":
        """Returns some rows."""
        clips = [self.clips[row] for row in rows]
        return replace(self, clips=clips, probabilities=self.probabilities[rows], decisions=self.decisions[rows])

    def of_split(self, split: str) -> "Predictions":
        """Returns the rows of a split."""
        return self.rows([row for row, clip in enumerate(self.clips) if clip.split == split])


def write_predictions(predictions: Predictions, path: Path) -> None:
    """Writes a CSV file, atomically: path, start, end, group, split, fold, label, predicted, a probability per class.

    With more than 200 classes, the probabilities are ``label_probability``, and class and probability of the 20 most
    probable classes: ``class_1``, ``probability_1``, ``class_2`` ... Columns of a clip that are empty in all rows are
    omitted. Probabilities have the nine digits of a float32.
    """
    labels, values, targets = predictions.labels, predictions.probabilities, predictions.targets
    rows = [_cells(clip) for clip in predictions.clips]
    kept = [column for column in range(len(_COLUMNS) - 2) if any(row[column] for row in rows)] + [len(_COLUMNS) - 2]
    is_set = predictions.label_format is LABEL_SET
    is_whole, count = is_set or len(labels) <= _MAX_COLUMNS, min(_TOP_K, len(labels))
    names = [*_COLUMNS[:-2], _LABELS if is_set else "label"]
    numbered = [f"{name}_{number}" for number in range(1, count + 1) for name in ("class", "probability")]
    with (
        atomic_write(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        classes = labels if is_whole else [_LABEL_PROBABILITY, *numbered]
        writer.writerow([*(names[column] for column in kept), "predicted", *classes])
        for number, (row, target, own) in enumerate(zip(rows, targets, values, strict=True)):
            cells = [*(row[column] for column in kept), predictions.predicted(number)]
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
            is_set = head[first_class - 2] == _LABELS
            head[first_class - 2] = "label"
            clips: list[Clip] = []
            predicted: list[str] = []
            of_classes: list[Array] = []
            of_top: list[list[str]] = []
            is_whole = head[first_class : first_class + 2] != [_LABEL_PROBABILITY, "class_1"]
            for row in rows:
                clips.append(_clip(dict(zip(head, row[:first_class], strict=False))))
                predicted.append(row[first_class - 1])
                if is_whole:
                    of_classes.append(np.array(row[first_class:], np.float32))
                else:
                    of_top.append(row[first_class:])
        labels = head[first_class:] if is_whole else _occurring(clips, of_top)
        if is_whole:
            probabilities = np.array(of_classes, dtype=np.float32).reshape(len(clips), len(labels))
        else:
            probabilities = _from_top_classes(clips, of_top, labels)
        label_format: LabelFormat = LABEL_SET if is_set else ONE_LABEL
        decisions = label_format.targets(predicted, labels)
        predictions = Predictions(clips, probabilities, decisions, labels, label_format, is_partial=not is_whole)
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
    columns = np.array([index[label] for label in predictions.labels], np.int64)
    probabilities = np.zeros((len(predictions.clips), len(labels)), np.float32)
    probabilities[:, columns] = predictions.probabilities
    if predictions.decisions.ndim == 1:
        decisions = columns[predictions.decisions]
    else:
        decisions = np.zeros(probabilities.shape, bool)
        decisions[:, columns] = predictions.decisions
    return replace(predictions, probabilities=probabilities, decisions=decisions, labels=labels)


def concatenate(parts: Sequence[Predictions]) -> Predictions:
    """Joins predictions, whose labels are the same but for classes that do not occur in a table of many classes."""
    clips, labels = [clip for part in parts for clip in part.clips], parts[0].labels
    if any(part.labels != labels for part in parts):
        labels = sorted({label for part in parts for label in part.labels})
    parts = [with_labels(part, labels) for part in parts]
    probabilities, decisions = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("probabilities", "decisions")
    )
    return Predictions(clips, probabilities, decisions, labels, parts[0].label_format, parts[0].is_partial)


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
