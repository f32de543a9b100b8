"""Results of many classes: equal to those of dense matrices, and in memory that does not grow with classes squared."""

import csv
import io
import tracemalloc

import numpy as np
import pytest

from spectrnn.data.clips import Clip
from spectrnn.evaluation.calibration import calibration_error_at, fit_temperature
from spectrnn.evaluation.confusion import Confusion
from spectrnn.evaluation.evaluate import compute_metrics
from spectrnn.evaluation.metrics import classification_metrics, confusion_matrix, metrics_of, row_parts
from spectrnn.evaluation.plots import confusion_figure, optional_picture, thresholds_figure
from spectrnn.evaluation.predictions import Predictions, concatenate, read_predictions, write_predictions
from spectrnn.evaluation.report.text import MAX_ROWS, text_report, thresholds_report
from spectrnn.model.task import SingleLabel
from spectrnn.study.paired_test import common_clips, paired_test

TASK = SingleLabel(1000, label_smoothing=0.0, class_weights="none")
COMPARED = metrics_of(TASK)  # those that tables of many classes have


def predictions_of(classes, clips, seed=0):
    """Probabilities, about half of them correct, of clips of all classes in turn."""
    generator = np.random.default_rng(seed)
    probabilities = generator.random((clips, classes), np.float32) ** 8
    targets = np.arange(clips) % classes
    probabilities[np.arange(clips), targets] += generator.random(clips, np.float32) / 2 + 0.5
    probabilities /= probabilities.sum(1, keepdims=True)
    labels = [f"species {number:05d}" for number in range(classes)]
    table = [Clip(f"{number}.wav", labels[target], "test") for number, target in enumerate(targets)]
    return Predictions(table, probabilities, probabilities.argmax(1), labels)


def test_memory_is_not_that_of_classes_squared(tmp_path, monkeypatch):
    for name in ("evaluation.metrics", "study.paired_test"):
        monkeypatch.setattr(f"spectrnn.{name}._RESAMPLES", 200)
    classes = 8000
    predictions = predictions_of(classes, 100)
    confusion_figure(Confusion.count(np.arange(3), np.arange(3), ["a", "b", "c"]))  # imports take memory, too
    tracemalloc.start()
    report = compute_metrics(predictions.outcome, predictions.labels, COMPARED)
    temperature = fit_temperature(predictions.probabilities, predictions.targets)
    report["ece_uncalibrated"] = calibration_error_at(TASK, predictions.probabilities, predictions.targets, temperature)
    text_report("test", report, MAX_ROWS)
    confusion_figure(Confusion.from_json(report["confusion"]))
    write_predictions(predictions, tmp_path / "p.csv")
    paired_test(predictions, predictions)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < classes**2 * 2  # a quarter of the matrix, whatever there is of it


def test_cells_are_those_of_the_matrix():
    predictions = predictions_of(150, 400)
    predicted, targets = predictions.probabilities.argmax(1), predictions.targets
    matrix = confusion_matrix(predictions.probabilities, targets)
    confusion = Confusion.count(predicted, targets, predictions.labels)
    assert len(confusion.cells) < 400
    assert np.array_equal(confusion.part(np.arange(150)), matrix)
    assert np.array_equal(confusion.actual, matrix.sum(1))
    assert confusion.correct == np.trace(matrix)
    errors = matrix.sum(0) + matrix.sum(1) - 2 * np.diag(matrix)
    largest = confusion.largest_classes(20)
    assert largest.tolist() == sorted(largest)
    assert sorted(errors[largest]) == sorted(errors)[-20:]
    assert np.array_equal(confusion.part(largest), matrix[np.ix_(largest, largest)])


@pytest.mark.parametrize("classes", [7, 150])
def test_confusion_is_read_as_it_was_written(classes):
    predictions = predictions_of(classes, 200)
    confusion = Confusion.count(predictions.probabilities.argmax(1), predictions.targets, predictions.labels)
    node = confusion.to_json()
    assert node.keys() == {"labels", "counts" if classes == 7 else "cells"}
    assert np.array_equal(Confusion.from_json(node).cells, confusion.cells)
    assert all(type(value) is int for row in [*node.values()][1] for value in row)  # as JSON takes it


def test_difference_of_confusions():
    a, b = predictions_of(30, 200, seed=1), predictions_of(30, 200, seed=2)
    of_a, of_b = (Confusion.count(part.probabilities.argmax(1), a.targets, a.labels) for part in (a, b))
    expected = confusion_matrix(a.probabilities, a.targets) - confusion_matrix(b.probabilities, a.targets)
    assert np.array_equal((of_a - of_b).part(np.arange(30)), expected)
    assert 0 not in (of_a - of_b).cells[:, 2]
    largest = (of_a - of_b).largest_classes(5, with_diagonal=True)
    sizes = np.abs(expected).sum(0) + np.abs(expected).sum(1)
    assert sorted(sizes[largest]) == sorted(sizes)[-5:]


def test_parts_of_rows_cover_all():
    x = np.empty((2000, 1500), np.uint8)
    parts = list(row_parts(x))
    assert len(parts) > 1
    assert np.array_equal(np.concatenate([np.arange(2000)[part] for part in parts]), np.arange(2000))


def test_table_of_many_classes_has_the_most_probable_ones_and_the_same_metrics(tmp_path):
    predictions = predictions_of(300, 400)
    predictions.probabilities[0] = 0
    predictions.decisions[0] = 1
    predictions.probabilities[0, 1:30] = 1 / 29  # so that the label's own probability, 0, is not among the largest
    write_predictions(predictions, tmp_path / "p.csv")
    head, first, *_ = csv.reader((tmp_path / "p.csv").open())
    assert head[:7] == ["path", "split", "label", "predicted", "label_probability", "class_1", "probability_1"]
    assert len(head) == 5 + 2 * 20
    assert first[3:7] == ["species 00001", "0", "species 00001", f"{np.float32(1 / 29):.9g}"]
    read = read_predictions(tmp_path / "p.csv")
    assert (read.clips, read.labels, read.is_partial) == (predictions.clips, predictions.labels, True)
    ours, whole = (classification_metrics(part.outcome, COMPARED) for part in (read, predictions))
    assert ours == whole
    assert np.array_equal(read.probabilities[read.probabilities > 0], predictions.probabilities[read.probabilities > 0])


def test_tables_of_many_classes_with_different_ones_are_joined_and_compared(tmp_path):
    a, b = predictions_of(300, 300, seed=1), predictions_of(300, 300, seed=2)
    for part, rows in ((a, range(4)), (b, range(2, 6))):
        write_predictions(part.rows(rows), tmp_path / "p.csv")
        part.table = read_predictions(tmp_path / "p.csv")
    assert a.table.labels != b.table.labels
    joined = concatenate([a.table, b.table])
    assert joined.labels == sorted({*a.table.labels, *b.table.labels})
    expected = [a.labels[index] for index in [*a.probabilities[:4].argmax(1), *b.probabilities[2:6].argmax(1)]]
    assert [joined.labels[index] for index in joined.probabilities.argmax(1)] == expected
    first, second = common_clips(a.table, b.table, "test")
    assert [clip.path for clip in first.clips] == ["2.wav", "3.wav"]
    assert first.labels == second.labels
    assert paired_test(first, second).clips == 2


def test_fit_of_a_temperature_uses_some_of_many_values(monkeypatch):
    predictions = predictions_of(50, 2000)
    whole = fit_temperature(predictions.probabilities, predictions.targets)
    monkeypatch.setattr("spectrnn.evaluation.calibration._MAX_LOGITS", 50 * 1000)
    assert fit_temperature(predictions.probabilities, predictions.targets) == pytest.approx(whole, rel=0.02)


def test_plot_of_many_classes_shows_those_with_the_most_errors():
    labels = [f"class {number}" for number in range(300)]
    targets = np.repeat(np.arange(300), 2)
    predicted = targets.copy()
    predicted[np.arange(100, 130)] += 1
    axes = confusion_figure(Confusion.count(predicted, targets, labels)).axes[0]
    assert len(axes.get_xticks()) == 40
    assert axes.get_title() == "The 40 of 300 classes with the most errors; 520 clips are in other cells"
    assert {f"class {number}" for number in range(50, 66)} < {text.get_text() for text in axes.get_yticklabels()}
    few = confusion_figure(Confusion.count(predicted[:20], targets[:20], labels[:10])).axes[0]
    assert (len(few.get_xticks()), few.get_title()) == (10, "")


def test_labels_that_matplotlib_would_take_for_formulas_are_drawn():
    labels = ["$a_{$", "a$b^$", "x" * 200]
    figure = confusion_figure(Confusion.count(np.arange(3), np.arange(3), labels))
    figure.savefig(io.BytesIO(), format="png")
    assert max(len(text.get_text()) for text in figure.axes[0].get_xticklabels()) == 30


def test_tables_on_the_terminal_have_the_classes_with_the_lowest_scores():
    predictions = predictions_of(60, 600)
    report = compute_metrics(predictions.outcome, predictions.labels, COMPARED)
    text = text_report("test", report, MAX_ROWS)
    assert "(the 40 of 60 classes with clips and the lowest F1; report.txt has all)" in text
    lowest = sorted(row["f1"] for row in report["per_class"].values())[:40]
    rows = [line.split() for line in text.splitlines() if line.startswith("species")]
    assert [float(row[4]) for row in rows] == [round(value, 3) for value in lowest]
    assert sum(line.startswith("species") for line in text_report("test", report).splitlines()) == 60


def test_thresholds_of_many_classes_are_limited_in_text_and_plot():
    curve = {"threshold": [0.5, 1], "false_alarms_per_hour": [1.0, 0.0], "recall": [1.0, 0.5]}
    row = {"reached": True, "false_alarms_per_hour": 0.0, "confusion_rate": 0.0, "curve": curve}
    per_class = {f"c{number}": row | {"threshold": 0.5 + number / 200, "recall": number / 99} for number in range(100)}
    result = {"max_false_alarms_per_hour": 1.0, "hours": 2.0, "per_class": per_class}
    text = thresholds_report(result)
    assert "(the 40 of 100 classes with the highest thresholds; thresholds.json has all)" in text
    assert [line.split()[0] for line in text.splitlines() if line.startswith("c")][1:3] == ["c99", "c98"]
    axes = thresholds_figure(result).axes[0]
    assert axes.get_title() == "The 40 of 100 classes with the lowest recall"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [f"c{number}" for number in range(40)]


def test_error_of_a_picture_is_a_warning(caplog):
    with optional_picture("confusion.png"):
        raise MemoryError
    with optional_picture("report.html"):
        raise ValueError("no font\nof that name")
    assert caplog.messages == [
        "warning: confusion.png cannot be drawn (MemoryError); all results are complete without it",
        "warning: report.html cannot be drawn (ValueError: no font); all results are complete without it",
    ]


def test_confusion_of_label_sets_by_hand():
    def rows(*names):
        return np.array([[label in name for label in "abc"] for name in names])

    actual = rows("a", "ab", "ab", "ab", "", "", "c")
    detected = rows("a", "ab", "ac", "c", "", "b", "")
    confusion = Confusion.count(detected, actual, list("abc"))
    assert confusion.labels == ["a", "b", "c", "(nothing)"]
    # b is taken for c once; a and b both for c once; b is detected in nothing; c is missed.
    assert confusion.part(np.arange(4)).tolist() == [[3, 0, 1, 0], [0, 1, 2, 0], [0, 0, 0, 1], [0, 1, 0, 1]]
