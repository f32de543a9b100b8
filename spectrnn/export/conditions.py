"""Conditions of a model card: accuracy by the length, level, signal-to-noise ratio and group of clips."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spectrnn.data.batches import BucketedBatches
from spectrnn.data.clips import DataSource
from spectrnn.data.dataset import Dataset
from spectrnn.evaluation.rankings import Array
from spectrnn.evaluation.report.tables import TableRow, accuracy_by_group, accuracy_by_quantile

_SILENCE_DBFS = -100.0  # level of digital silence
# The SNR is estimated as the ratio of the power of loud frames to that of quiet ones, at these quantiles.
LOUD, QUIET, FRAME_MS = 0.95, 0.05, 20
_MIN_FRAMES = 10  # of an estimate


class Conditions(NamedTuple):
    """Accuracy of a split by condition.

    Attributes:
        lengths: Shortest and longest clip of a bin in s, number of clips, accuracy, and its 95 % interval.
        levels: Lowest and highest RMS level of a bin in dBFS, and the same columns.
        snrs: Lowest and highest estimated SNR of a bin in dB, see `estimate_snr`, and the same columns; empty with too
            few clips for two bins.
        group_noun: What a group is, in the singular.
        groups: Name of the group, and the same columns, the lowest accuracy first; empty with fewer than two groups.
    """

    lengths: list[TableRow]
    levels: list[TableRow]
    snrs: list[TableRow]
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
    energy, samples, snr = np.zeros((3, len(dataset.clips)))
    for batch in batches.epoch():
        np.add.at(energy, batch.rows.numpy(), batch.waveform.square().sum(1).numpy())
        np.add.at(samples, batch.rows.numpy(), batch.lengths.numpy())
        estimates = estimate_snr(batch.waveform.numpy(), batch.lengths.numpy(), dataset.cache.sample_rate)
        np.add.at(snr, batch.rows.numpy(), estimates * batch.lengths.numpy())  # the mean over its crops
    rows = batches.rows
    snr = snr[rows] / samples[rows]
    known = np.isfinite(snr)
    snrs = accuracy_by_quantile(snr[known].round(1), is_correct[known]) if known.any() else []
    power = np.maximum(energy[rows] / samples[rows], 10 ** (_SILENCE_DBFS / 10))
    noun, groups = groups_or_folds(source, dataset)
    return Conditions(
        accuracy_by_quantile((dataset.cache.lengths[rows] / dataset.cache.sample_rate).round(3), is_correct),
        accuracy_by_quantile((10 * np.log10(power)).round(1), is_correct),
        snrs if len(snrs) > 1 else [],
        noun,
        accuracy_by_group([groups[row] for row in rows], is_correct),
    )


def estimate_snr(waveform: Array, lengths: Array, sample_rate: int) -> Array:
    """Estimates the signal-to-noise ratio of clips from their audio alone, by the power of loud and of quiet frames.

    This assumes that the quiet parts of a clip are noise: without pauses, the estimate is too low.

    Args:
        waveform: Samples, float (batch, samples).
        lengths: Number of samples of each clip, int64 (batch,).
        sample_rate: Sample rate in Hz.

    Returns:
        Estimates in dB, (batch,); NaN for clips of fewer than ten frames of 20 ms.
    """
    size = sample_rate * FRAME_MS // 1000
    estimates = np.full(len(lengths), np.nan)
    for row, count in enumerate((lengths // size).tolist()):
        if count >= _MIN_FRAMES:
            power = np.square(waveform[row, : count * size].reshape(count, size)).mean(1)
            quiet, loud = 10 * np.log10(np.quantile(power, (QUIET, LOUD)).clip(10 ** (_SILENCE_DBFS / 10)))
            estimates[row] = loud - quiet
    return estimates
