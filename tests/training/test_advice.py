"""Advice: the warnings about a dataset, a training that is too short, and a shift."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from spectrnn.data.dataset import Dataset
from spectrnn.evaluation.metrics import METRICS
from spectrnn.training.advice import (
    dataset_warnings,
    shift_warnings,
    summarize_warnings,
    training_sample,
    training_warnings,
)


def warnings_of(dataset: Dataset, metric: str = "loss") -> list[str]:
    return dataset_warnings(dataset, metric, METRICS[metric])


def test_sound_dataset_has_no_warnings(dataset_of):
    dataset = dataset_of({"cat": (400, 50, 100), "dog": (400, 50, 100)})
    assert warnings_of(dataset, "accuracy") == warnings_of(dataset) == []


def test_classes_missing_in_a_split_are_reported(dataset_of):
    counts = {f"class {number}": (9, 0 if number < 7 else 40, 9) for number in range(10)}
    assert warnings_of(dataset_of(counts | {"owl": (9, 40, 0)}), "accuracy") == [
        "no validation clips of 7 of 11 classes, whose scores cannot be measured: 'class 0', 'class 1', 'class 2', "
        "'class 3', 'class 4' and 2 more; add some, or raise data.val_fraction",
        "no test clips of 1 of 11 classes, whose scores cannot be measured: 'owl'; add some, or test all clips in a "
        "cross-validation, such as with folds=5",
    ]


def test_groups_are_shared_only_if_there_are_any(dataset_of):
    dataset = dataset_of({"cat": (9, 40, 9), "dog": (9, 0, 9)})
    clips = [clip._replace(group=f"device {row % 3}") for row, clip in enumerate(dataset.clips)]
    assert "with data.val_groups=shared" in warnings_of(replace(dataset, clips=clips))[0]
    assert "with data.val_groups=shared" not in warnings_of(dataset)[0]


def test_splits_without_clips_are_not_reported(dataset_of):
    assert warnings_of(dataset_of({"cat": (9, 0, 0), "dog": (9, 0, 0)})) == []


def test_classes_of_a_single_group_or_recording_are_reported(dataset_of):
    dataset = dataset_of({"cat": (90, 20, 20), "dog": (90, 20, 20), "owl": (90, 20, 20)})
    clips = [
        clip._replace(group="ann" if clip.label == "cat" or row % 2 else "bob")
        for row, clip in enumerate(dataset.clips)
    ]
    dataset.clips = [clip._replace(path="long.wav", group=None) if clip.label == "owl" else clip for clip in clips]
    assert warnings_of(dataset) == [
        "one group or recording has all clips of 2 of 3 classes, whose scores on others cannot be measured: 'cat', "
        "'owl'; add clips of other groups (speakers, devices, places)"
    ]


@pytest.mark.parametrize(
    ("clips", "metric", "expected"),
    [
        (
            49,
            "accuracy",
            "98 validation clips are few to select the best epoch by accuracy (less than 100); add clips, "
            "raise data.val_fraction, or set trainer.metric=loss",
        ),
        (49, "loss", None),
        (
            9,
            "loss",
            "18 validation clips are few to select the best epoch by loss (less than 20); add clips, raise "
            "data.val_fraction",
        ),
    ],
)
def test_small_validation_split_is_reported(dataset_of, clips, metric, expected):
    warnings = warnings_of(dataset_of({"cat": (90, clips, 9), "dog": (90, clips, 9)}), metric)
    assert warnings == ([expected] if expected else [])


def test_small_validation_split_is_not_reported_if_it_selects_no_epoch(dataset_of):
    assert dataset_warnings(dataset_of({"cat": (90, 9, 9), "dog": (90, 9, 9)}), "loss", None) == []


def history(*accuracies: float) -> list[dict[str, Any]]:
    return [{"epoch": number + 1, "train": {"accuracy": value}} for number, value in enumerate(accuracies)]


def test_undertrained_classifier_is_reported():
    run = history(0.3, 0.5, 0.6, 0.65)
    assert training_warnings(run, 4, 0.714, has_stopped=False, has_decayed=True) == [
        "training accuracy is 71 %: undertrained, or labels that contradict each other; try trainer.epochs=8"
    ]
    assert training_warnings(run, 4, 0.714, has_stopped=True, has_decayed=True) == [
        "training accuracy is 71 %: undertrained, or labels that contradict each other; try a larger trainer.patience"
    ]
    assert training_warnings(run, 4, 0.9, has_stopped=False, has_decayed=True) == []


def test_undertrained_classifier_of_several_labels_is_judged_by_its_main_metric():
    titles, settings = ("mean average precision", "exact match"), {"has_stopped": False, "has_decayed": True}
    assert training_warnings(history(0.1, 0.4), 2, 0.95, titles, **settings) == []
    assert training_warnings(history(0.1, 0.4), 2, 0.6, titles, **settings)[0].startswith(
        "training mean average precision is 60 %: undertrained"
    )


def test_best_epoch_before_overfitting_is_not_undertrained():
    assert training_warnings(history(0.6, 0.95), 1, 0.8, has_stopped=False, has_decayed=True) == []


def test_accuracy_that_still_rises_is_reported_unless_the_rate_has_decayed():
    run = history(0.5, 0.6, 0.7, 0.74, 0.78, 0.8, 0.82, 0.84, 0.88, 0.91)
    expected = (
        "training accuracy has risen from 84 to 91 % in the last 2 of 10 epochs, and the learning rate has not "
        "decayed: undertrained; try trainer.epochs=20, or scheduler=cosine"
    )
    assert training_warnings(run, 10, 0.95, has_stopped=False, has_decayed=False) == [expected]
    assert training_warnings(run, 10, 0.95, has_stopped=False, has_decayed=True) == []
    assert training_warnings(run, 8, 0.95, has_stopped=False, has_decayed=False) == []  # validation has not improved
    flat = history(*np.linspace(0.88, 0.92, 10))
    assert training_warnings(flat, 10, 0.95, has_stopped=False, has_decayed=False) == []


@pytest.mark.parametrize(
    ("val", "test", "is_reported"),
    [
        ((0.93, [0.9, 0.96]), (0.8, [0.76, 0.84]), True),
        ((0.93, [0.9, 0.96]), (0.84, [0.8, 0.88]), False),  # nine points
        ((0.93, [0.78, 0.99]), (0.8, [0.76, 0.84]), False),  # within the interval of validation
        ((0.93, [0.9, 0.96]), (0.8, [0.6, 0.95]), False),  # within the interval of test
        ((0.8, [0.76, 0.84]), (0.93, [0.9, 0.96]), False),
    ],
)
def test_shift_is_reported_beyond_chance(val, test, is_reported):
    scores, intervals = ({"val": {"accuracy": val[n]}, "test": {"accuracy": test[n]}} for n in (0, 1))
    warnings = shift_warnings("accuracy", "accuracy", scores, intervals)
    assert len(warnings) == is_reported
    if is_reported:
        assert warnings[0].startswith("test accuracy is 80 %, and validation accuracy 93 %: a shift between groups ")
    assert shift_warnings("accuracy", "accuracy", scores, {"val": intervals["val"]}) == []


def test_warnings_of_folds_are_summarized():
    by_fold = {
        "ann": ["no test clips of 'owl'", "training accuracy is 71 %"],
        "bob": ["training accuracy is 64 %"],
        "cid": [],
        "4": ["training accuracy is 80 %"],
    }
    assert summarize_warnings(by_fold) == [
        "fold ann: no test clips of 'owl'",
        "3 of 4 folds, such as ann: training accuracy is 71 %",
    ]


@pytest.mark.parametrize("count", [1, 499, 500, 501, 12_345])
def test_training_sample_is_even(count):
    rows = 3 * np.arange(count)
    sample = training_sample(rows)
    assert len(sample) == min(count, 500)
    assert set(sample) <= set(rows)
    steps = np.diff(sample) / 3
    assert np.all(steps >= max(1, count // 500))
    assert np.all(steps <= -(-count // 500))
