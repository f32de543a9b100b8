"""Conditions of a model card: accuracy by the length, level and group of clips."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spectrnn.data.batches import BucketedBatches
from spectrnn.data.clips import DataSource
from spectrnn.data.dataset import Dataset
from spectrnn.evaluation.rankings import Array
from spectrnn.evaluation.report.tables import TableRow, accuracy_by_group, accuracy_by_quantile

_SILENCE_DBFS = -100.0  # level of digital silence


class Conditions(NamedTuple):
    """Accuracy of a split by condition.

    Attributes:
        lengths: Shortest and longest clip of a bin in s, number of clips, accuracy, and its 95 % interval.
        levels: Lowest and highest RMS level of a bin in dBFS, and the same columns.
        group_noun: What a group is, in the singular.
        groups: Name of the group, and the same columns, the lowest accuracy first; empty with fewer than two groups.
    """

    lengths: list[TableRow]
    levels: list[TableRow]
    group_noun: str
    groups: list[TableRow]


def groups_or_folds(source: DataSource, dataset: Dataset) -> tuple[str, Sequence[str | None]]:
    """Returns what a group is, and that of each clip; if no clip has one, the folds, such as the speakers of FSDD."""
    groups = [clip.group for clip in dataset.clips]
    if any(groups) or source.group_noun != DataSource.group_noun:
        return source.group_noun, groups if any(groups) else [clip.fold for clip in dataset.clips]
    return "fold", [clip.fold for clip in dataset.clips]


def accuracy_by_condition(
    source: DataSource, dataset: Dataset, batches: BucketedBatches, is_correct: Array
) -> Conditions:
    """Computes the accuracy of a split by condition.

    Args:
        source: Data source of the dataset.
        dataset: Dataset.
        batches: Batches of the split, on the CPU; a clip may have several crops.
        is_correct: Whether each clip is classified correctly, bool (clips,), in the order of the batches' rows.
    """
    energy, samples = np.zeros(len(dataset.clips)), np.zeros(len(dataset.clips))
    for batch in batches.epoch():
        np.add.at(energy, batch.rows.numpy(), batch.waveform.square().sum(1).numpy())
        np.add.at(samples, batch.rows.numpy(), batch.lengths.numpy())
    rows = batches.rows
    power = np.maximum(energy[rows] / samples[rows], 10 ** (_SILENCE_DBFS / 10))
    noun, groups = groups_or_folds(source, dataset)
    return Conditions(
        accuracy_by_quantile((dataset.cache.lengths[rows] / dataset.cache.sample_rate).round(3), is_correct),
        accuracy_by_quantile((10 * np.log10(power)).round(1), is_correct),
        noun,
        accuracy_by_group([groups[row] for row in rows], is_correct),
    )
