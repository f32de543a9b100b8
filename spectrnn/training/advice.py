"""Advice on a run: warnings about its dataset and its result."""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spectrnn.data.dataset import Dataset
from spectrnn.evaluation.metrics import Metric
from spectrnn.messages import counted, preview
from spectrnn.model.classifier import Classifier

log = logging.getLogger(__name__)

# Validation clips with which one clip changes a fraction, such as accuracy, by at most a point.
MIN_CLIPS_FRACTION = 100
_MIN_CLIPS = 20  # for other metrics, such as loss, which vary less between epochs
_NAMES = 5  # of classes in a warning
_TRAINED = 0.9  # main metric on training clips
_RISE = 0.05  # of the training accuracy in the last fifth of the epochs
_SHIFT = 0.1  # from validation to test accuracy
TRAIN_CLIPS = 500  # that the best classifier is evaluated on


def missing_classes(dataset: Dataset, split: str) -> list[str]:
    """Returns the classes without clips in a split, quoted."""
    found = dataset.class_counts(split)
    return [repr(label) for label in dataset.labels if label not in found]


def dataset_warnings(dataset: Dataset, name: str, metric: Metric | None) -> list[str]:
    """Returns a sentence per problem of a dataset that makes the results of a training hard to judge.

    Args:
        dataset: Dataset.
        name: Name of the metric that selects the best epoch.
        metric: That metric; None if the last epoch is kept.
    """
    total, warnings = len(dataset.labels), []
    has_groups = any(clip.group is not None for clip in dataset.clips)
    draw = "draw a split that has them with data.val_groups=shared" if has_groups else "raise data.val_fraction"
    remedies = {
        "val": ("validation", f"add some, or {draw}"),
        "test": ("test", "add some, or test all clips in a cross-validation, such as with folds=5"),
    }
    for split, (title, remedy) in remedies.items():
        if len(dataset.rows(split)) and (missing := missing_classes(dataset, split)):
            which = f"{len(missing)} of {total} classes"
            names = preview(missing, _NAMES)
            warnings.append(f"no {title} clips of {which}, whose scores cannot be measured: {names}; {remedy}")
    origins: dict[str, set[str]] = {label: set() for label in dataset.labels}
    for clip in dataset.clips:
        for label in dataset.label_format.classes(clip.label):
            origins[label].add(clip.group or clip.path)
    if single := [repr(label) for label, found in origins.items() if len(found) == 1]:
        warnings.append(
            f"one group or recording has all clips of {len(single)} of {total} classes, whose scores on others cannot "
            f"be measured: {preview(single, _NAMES)}; add clips of other groups (speakers, devices, places)"
        )
    if metric is None:
        return warnings
    clips, minimum = len(dataset.rows("val")), MIN_CLIPS_FRACTION if metric.is_fraction else _MIN_CLIPS
    if 0 < clips < minimum:
        other = ", or set trainer.metric=loss" if metric.is_fraction else ""
        few = counted(clips, "validation clip is", "validation clips are")
        warnings.append(
            f"{few} few to select the best epoch by {name} (less than {minimum}); add clips, raise "
            f"data.val_fraction{other}"
        )
    return warnings


def training_warnings(
    history: Sequence[Mapping[str, Any]],
    best_epoch: int,
    score: float,
    titles: tuple[str, str] = ("accuracy", "accuracy"),
    *,
    has_stopped: bool,
    has_decayed: bool,
) -> list[str]:
    """Returns a sentence if a training was too short.

    Args:
        history: Metrics of the epochs, with the training accuracy of each.
        best_epoch: Number of the best epoch, from 1.
        score: Main metric of the best classifier, a fraction, on training clips without augmentation.
        titles: What that metric, and the fraction of correct clips in the history, are called.
        has_stopped: Whether the training has ended early, for lack of improvement.
        has_decayed: Whether the learning rate has decayed to zero, or nearly.
    """
    epochs, measured = len(history), [epoch["train"]["accuracy"] for epoch in history]
    remedy = "a larger trainer.patience" if has_stopped else f"trainer.epochs={2 * epochs}"
    # The best epoch may be one before the classifier overfitted, which is not undertrained.
    if max(score, measured[-1]) < _TRAINED:
        problem = "undertrained, or labels that contradict each other"
        return [f"training {titles[0]} is {100 * score:.0f} %: {problem}; try {remedy}"]
    last = max(1, epochs // 5)
    is_rising = epochs > last and measured[-1] - measured[-1 - last] > _RISE and best_epoch > epochs - last
    if is_rising and not has_stopped and not has_decayed:
        return [
            f"training {titles[1]} has risen from {100 * measured[-1 - last]:.0f} to {100 * measured[-1]:.0f} % in the "
            f"last {last} of {epochs} epochs, and the learning rate has not decayed: undertrained; try {remedy}, or "
            "scheduler=cosine"
        ]
    return []


def shift_warnings(
    name: str, title: str, scores: Mapping[str, Mapping[str, float]], intervals: Mapping[str, Any]
) -> list[str]:
    """Returns a sentence if the test result is far below that of validation, beyond what chance explains.

    Args:
        name: Name of the main metric of the task, a fraction such as accuracy.
        title: Its title.
        scores: Metrics by split.
        intervals: 95 % intervals [low, high] of the metrics by split.
    """
    if not all(name in intervals.get(split, {}) for split in ("val", "test")):
        return []
    val, test = scores["val"][name], scores["test"][name]
    is_significant = test < intervals["val"][name][0] and val > intervals["test"][name][1]
    if val - test <= _SHIFT or not is_significant:
        return []
    return [
        f"test {title} is {100 * test:.0f} %, and validation {title} {100 * val:.0f} %: a shift between groups "
        "(speakers, devices, places), against which training clips of more groups help, and augmentation "
        "(augment=[speech,rir,shift], or background_noise with recordings of other places)"
    ]


def summarize_warnings(by_fold: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns each warning once, with its folds; of those that differ in numbers only, the first one."""
    folds: dict[str, dict[str, str]] = {}
    for fold, warnings in by_fold.items():
        for warning in warnings:
            folds.setdefault(re.sub(r"\d+", "", warning), {})[fold] = warning
    return [
        f"{f'fold {first}' if len(found) == 1 else f'{len(found)} of {len(by_fold)} folds, such as {first}'}: {warning}"
        for found in folds.values()
        for first, warning in list(found.items())[:1]
    ]


def feature_warnings(classifier: Classifier, augmented_versions: int | None) -> list[str]:
    """Returns a sentence if augmentation makes features that are slow to compute new in each epoch.

    Args:
        classifier: Classifier that is trained.
        augmented_versions: Number of versions of each clip that are repeated; None if each epoch makes new ones.
    """
    names = [type(transform).__name__ for transform in classifier.augment.waveform_transforms]
    if not (classifier.features.is_cached and names) or augmented_versions:
        return []
    return [
        "the features are computed again in each epoch, as augmentation changes the waveform "
        f"({preview(names, _NAMES)}); trainer.augmented_versions=8 computes them for eight versions of each clip, "
        "and augment=[specaugment] once"
    ]


def log_warnings(warnings: Sequence[str]) -> None:
    """Logs warnings, a line each."""
    for warning in warnings:
        log.warning("warning: %s", warning)


def training_sample(rows: np.ndarray) -> np.ndarray:
    """Returns evenly spaced rows, at most `TRAIN_CLIPS`, int64 (clips,) -> int64 (sample,)."""
    return rows[np.arange(min(len(rows), TRAIN_CLIPS)) * len(rows) // min(len(rows), TRAIN_CLIPS)]
