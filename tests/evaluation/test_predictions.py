"""The table of predictions: what is read is what was written."""

import csv

import numpy as np
import pytest

from spectrnn.data.clips import Clip
from spectrnn.data.labels import LABEL_SET
from spectrnn.errors import UserError
from spectrnn.evaluation.predictions import Predictions, concatenate, read_predictions, with_labels, write_predictions


@pytest.fixture
def predictions():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), 4).astype(np.float32)
    clips = [
        Clip("a/one.wav", "low", "test", "1", "anna"),
        Clip("a/one.wav", "high", "test", "1", "anna", start=0.1, end=1.3),
        Clip('odd "name", \udce9.wav', "label", "test", "2"),
        Clip("c.wav", "low", "val", "2", "ben", start=2.5),
    ]
    return Predictions(clips, probabilities, probabilities.argmax(1), ["high", "label", "low"])


def test_table_is_read_as_it_was_written(predictions, tmp_path):
    write_predictions(predictions, tmp_path / "p.csv")
    read = read_predictions(tmp_path / "p.csv")
    assert (read.clips, read.labels) == (predictions.clips, predictions.labels)
    assert read.probabilities.dtype == np.float32
    assert (read.probabilities == predictions.probabilities).all()  # to the bit
    assert read.targets.tolist() == [2, 0, 1, 2]


def test_columns_that_are_empty_everywhere_are_omitted(predictions, tmp_path):
    predictions.clips = [Clip(f"{number}.wav", "low", "test") for number in range(4)]
    write_predictions(predictions, tmp_path / "p.csv")
    head, *rows = csv.reader((tmp_path / "p.csv").open())
    assert head == ["path", "split", "label", "predicted", "high", "label", "low"]
    best = predictions.probabilities.argmax(1)
    assert [row[3] for row in rows] == [predictions.labels[index] for index in best]


def test_splits_and_concatenation(predictions):
    test, val = predictions.of_split("test"), predictions.of_split("val")
    assert [len(part.clips) for part in (test, val)] == [3, 1]
    whole = concatenate([test, val])
    assert whole.clips == predictions.clips
    assert (whole.probabilities == predictions.probabilities).all()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "path,label\na.wav,low\n",
        "path,label,predicted,low\na.wav,low,low,much\n",
        "path,label,predicted,low\na,b,low,1\n",
    ],
    ids=["empty", "no probabilities", "no number", "unknown label"],
)
def test_other_tables_are_rejected(text, tmp_path):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(UserError, match=r"p\.csv: not a table of predictions"):
        read_predictions(tmp_path / "p.csv")


def test_missing_table_is_rejected(tmp_path):
    with pytest.raises(UserError, match=r"p\.csv: cannot be read"):
        read_predictions(tmp_path / "p.csv")


def test_table_of_label_sets_is_read_as_it_was_written(tmp_path):
    clips = [Clip("a.wav", "cat;dog", "test"), Clip("b.wav", "", "test"), Clip("c.wav", "dog", "val")]
    probabilities = np.random.default_rng(0).random((3, 2), np.float32)
    decisions = np.array([[True, True], [False, False], [True, False]])
    table = Predictions(clips, probabilities, decisions, ["cat", "dog"], LABEL_SET)
    write_predictions(table, tmp_path / "p.csv")
    head, *rows = csv.reader((tmp_path / "p.csv").open())
    assert head == ["path", "split", "labels", "predicted", "cat", "dog"]
    assert [row[2:4] for row in rows] == [["cat;dog", "cat;dog"], ["", ""], ["dog", "cat"]]
    read = read_predictions(tmp_path / "p.csv")
    assert (read.clips, read.labels, read.label_format) == (clips, ["cat", "dog"], LABEL_SET)
    assert (read.probabilities == probabilities).all()
    assert (read.decisions == decisions).all()
    assert read.outcome.correct.tolist() == [True, True, False]
    assert read.targets.tolist() == [[True, True], [False, False], [False, True]]
    joined = concatenate([read, with_labels(read, ["bat", "cat", "dog"])])
    assert joined.labels == ["bat", "cat", "dog"]
    assert joined.decisions.tolist() == [[False, *row] for row in decisions.tolist()] * 2
