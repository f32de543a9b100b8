"""A dataset ready for use: clip table with splits, labels, and decoded samples."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from spectrnn.data.batches import BucketedBatches
from spectrnn.data.cache import WaveformCache, open_cache
from spectrnn.data.clips import SPLITS, Clip, DataSource, similar_labels
from spectrnn.data.samples import SampleStorage, open_samples
from spectrnn.data.scan import Ignored, warn_about_ignored
from spectrnn.data.splits import (
    MIN_TRAINING_GROUPS,
    assign_folds,
    assign_splits,
    require_classes,
    require_training_clips,
    split_checksums,
)
from spectrnn.errors import UserError
from spectrnn.files import cache_folder, write_lines
from spectrnn.messages import counted, preview

T = TypeVar("T")

log = logging.getLogger(__name__)

_NUM_EXAMPLES = 3  # of warnings
_MIN_CLIPS = 10  # per class, for reliable metrics


@dataclass
class Dataset:
    """Clips, their samples, and their classes.

    Args:
        clips: Clip table.
        cache: Decoded clips; clip i of the table is clip i of the cache.
        samples: Samples of the cache, from which batches are gathered.
        labels: Class names, in the order of a classifier's logits.
        max_seconds: Maximum length of a clip in s, longer ones are cropped; None for no limit.
        skipped: Error of each unreadable clip that was skipped.
        warnings: Warnings about clips that were decoded, such as of missing samples.
        ignored: Files and folders that the source has passed over.
    """

    clips: Sequence[Clip]
    cache: WaveformCache
    samples: SampleStorage
    labels: list[str]
    max_seconds: float | None
    skipped: list[str]
    warnings: list[str] = field(default_factory=list)
    ignored: list[Ignored] = field(default_factory=list)

    @cached_property
    def split_checksums(self) -> dict[str, str]:
        """Checksum of each split, by which a later change is detected; see `splits.split_checksums`."""
        return split_checksums(self.clips)

    def rows(self, split: str) -> np.ndarray:
        """Returns the rows of a split (or of ``all``) with known labels, int64 (clips,)."""
        known = set(self.labels)
        rows = [row for row, clip in enumerate(self.clips) if clip.label in known and split in (clip.split, "all")]
        return np.array(rows, dtype=np.int64)

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """Returns the class indices of rows, int64 (clips,) -> int64 (clips,)."""
        index = {label: number for number, label in enumerate(self.labels)}
        return np.array([index[self.clips[row].label] for row in rows], dtype=np.int64)

    def batches(
        self,
        rows: str | np.ndarray,
        batch_size: int,
        device: torch.device,
        seed: int | None = None,
        shard: tuple[int, int] = (0, 1),
        cover: bool = False,
    ) -> BucketedBatches:
        """Returns the batches of a split, or of any rows.

        Args:
            rows: Split (train, val, test or all), or rows in the clip table, int64 (clips,), ascending.
            batch_size: Maximum number of clips per batch.
            device: Device of the batches.
            seed: Seed of order and crops; None for evaluation.
            shard: Rank and number of processes, as for `BucketedBatches`.
            cover: Whether overlapping crops cover the clips that are longer than `max_seconds`, for
                `evaluate.predict_batches`; else a clip has one crop.
        """
        rows = self.rows(rows) if isinstance(rows, str) else rows
        targets, limit = self.targets(rows), self.max_seconds
        return BucketedBatches(self.cache, self.samples, rows, targets, batch_size, limit, seed, device, shard, cover)

    def describe(self) -> str:
        """Describes the number of clips and classes, and the length, in one line."""
        counts = Counter(clip.split for clip in self.clips)
        splits = ", ".join(f"{counts[name]} {name}" for name in SPLITS if counts[name])
        minutes = self.cache.samples.size / self.cache.sample_rate / 60
        return (
            f"{counted(len(self.clips), 'clip')} ({splits or 'no splits'}) of "
            f"{counted(len(self.labels), 'class', 'classes')}, "
            f"{minutes:.1f} minutes at {self.cache.sample_rate} Hz"
        )

    def list_skipped(self, folder: Path) -> None:
        """Lists in a folder, and warns about, what was skipped, corrected or ignored.

        That is clips in ``skipped.txt``, warnings about decoded ones in ``warnings.txt``, and what the folders of the
        dataset contain besides recordings in ``ignored.txt``.
        """
        total = len(self.skipped) + len(self.clips)
        if path := write_lines(self.skipped, folder / "skipped.txt"):
            were = f"of {total} clips cannot be read and"
            log.warning("%s skipped; see %s", counted(len(self.skipped), f"{were} was", f"{were} were"), path)
        if path := write_lines(self.warnings, folder / "warnings.txt"):
            first = f"{counted(len(self.warnings), 'warning')} about {total} clips; see {path}, such as"
            log.warning("%s", "\n  ".join([first, *self.warnings[:_NUM_EXAMPLES]]))
        if path := write_lines(list(map(str, self.ignored)), folder / "ignored.txt"):
            log.info("%d files and folders were ignored; see %s", len(self.ignored), path)


def open_dataset(source: DataSource, device: torch.device) -> Dataset:
    """Opens the dataset of a training run, for batches on a device: assigns splits, and decodes every clip.

    Raises:
        UserError: An invalid source, split or file; with ``on_error=skip`` a class or split without readable clips.
    """
    clips = list_clips(source)
    require_classes(clips)
    if similar := similar_labels(clip.label for clip in clips):
        message = "%d sets of labels differ in case, blanks or Unicode form only, and are different classes: %s; "
        message += "data.labels={OLD: NEW} merges them"
        log.warning(message, len(similar), preview(similar, 5))
    clips = assign_splits(clips, source)
    require_training_clips(clips)
    _report_groups(clips, source)
    dataset = _open(clips, source, sorted({clip.label for clip in clips}), device, "all")
    _warn_about_duplicates(dataset.clips, dataset.cache.hashes)
    return dataset


def list_clips(source: DataSource) -> list[Clip]:
    """Returns the clip table of a source, with the folds of a cross-validation, and warns about what was passed over.

    Raises:
        UserError: An invalid source, or folds that cannot be drawn.
    """
    clips = source.labelled_clips()
    warn_about_ignored(source.ignored, "data")
    return assign_folds(clips, source)


def open_dataset_for_evaluation(
    source: DataSource, split: str, labels: list[str], device: torch.device
) -> tuple[Dataset, Counter[str]]:
    """Opens a dataset for an existing model.

    Args:
        source: Data source at the model's sample rate.
        split: train, val, test or all; ``all`` needs no splits.
        labels: Labels of the model.
        device: Device of the batches.

    Returns:
        The dataset, and the number of clips in the split per label that the model does not know.

    Raises:
        UserError: A split without clips whose label the model knows.
    """
    clips = list_clips(source) if split == "all" else assign_splits(list_clips(source), source)
    counts = Counter(clip.label for clip in clips if split in (clip.split, "all"))
    if not counts:
        raise UserError(f"split={split}: the dataset has no such clips")
    own = set(labels)
    unknown = Counter({label: count for label, count in counts.items() if label not in own})
    if len(unknown) == len(counts):
        theirs, known = (preview([repr(label) for label in names], 10) for names in (list(unknown), labels))
        remedy = "data.labels={THEIRS: OURS} renames them"
        raise UserError(f"the model knows none of the dataset's labels ({theirs}); it knows {known}; {remedy}")
    return _open(clips, source, labels, device, split), unknown


def _open(clips: Sequence[Clip], source: DataSource, labels: list[str], device: torch.device, split: str) -> Dataset:
    """Opens a clip table, whose splits are those that it would have if every clip could be read."""
    cache = open_cache(clips, source.sample_rate, cache_folder(source.cache), source.on_error, source.cache_gb)
    if cache.errors:
        readable = [clip for clip, length in zip(clips, cache.lengths, strict=True) if length]
        # Skipping must not remove all clips of a class, of a split, or of a class in the training split.
        if lost := sorted(_required(clips, labels, split) - _required(readable, labels, split)):
            names = preview(lost, 5)
            raise UserError(f"data.on_error=skip: no clip of {names} can be read; data.on_error=fail names them")
        clips, cache = readable, cache.drop_empty()
    samples = open_samples(cache.samples, source.storage, device)
    return Dataset(clips, cache, samples, labels, source.max_seconds, cache.errors, cache.warnings, source.ignored)


def _required(clips: Sequence[Clip], labels: list[str], split: str) -> set[str]:
    """Names all classes, splits, and classes in the training split, of the clips that a model uses."""
    names, known = set(), set(labels)
    for clip in clips:
        if clip.label in known and split in (clip.split, "all"):
            names |= {f"label {clip.label!r}", f"split {clip.split}"}
            if clip.split == "train":
                names.add(f"label {clip.label!r} in split train")
    return names


def _report_groups(clips: Sequence[Clip], source: DataSource) -> None:
    """Reports groups in several splits, and warns about classes with too few clips."""
    groups = {split: {clip.group for clip in clips if clip.split == split} - {None} for split in SPLITS}
    if tested := sorted(map(str, groups["test"] & (groups["train"] | groups["val"]))):
        total, names = len(set.union(*groups.values())), preview([repr(group) for group in tested], 5)
        which = counted(len(tested), f"of {total} groups is", f"of {total} groups are")
        log.warning("%s in the test split and another one, so test metrics may be optimistic: %s", which, names)
    if shared := groups["val"] & groups["train"]:
        total, count = len(groups["train"]), sum(clip.split == "val" for clip in clips)
        is_same = shared == groups["val"]
        which = f"{counted(len(groups['val']), 'group')}, {len(shared)} of them in"
        which = f"the same {counted(total, 'group')} as" if is_same else which
        few = ", too few to hold some out" if source.val_groups == "auto" and total < MIN_TRAINING_GROUPS else ""
        log.info("validation: %s of %s training%s; its scores are optimistic", counted(count, "clip"), which, few)
    small = [repr(label) for label, count in Counter(clip.label for clip in clips).items() if count < _MIN_CLIPS]
    if small:
        few = f"fewer than {_MIN_CLIPS} clips, so"
        which = counted(len(small), f"class has {few} its", f"classes have {few} their")
        log.warning("%s metrics are unreliable: %s", which, preview(small, 5))


def _warn_about_duplicates(clips: Sequence[Clip], hashes: np.ndarray) -> None:
    """Warns about clips with the same samples in more than one split."""
    digests = [digest if any(digest) else None for digest in map(bytes, hashes)]  # None for digital silence
    if shared := _in_several_splits(digests, clips):
        paths = [repr(clip.path) for digest, clip in zip(digests, clips, strict=True) if digest in shared]
        message = "%s in more than one split, so test metrics may be optimistic: %s; "
        message += "spectrnn check out=clean.csv writes a manifest without them"
        log.warning(message, counted(len(shared), "recording is", "recordings are"), preview(paths, 2))


def _in_several_splits(keys: Sequence[T | None], clips: Sequence[Clip]) -> set[T]:
    """Returns the keys of clips in more than one split; None is not a key."""
    splits: dict[T, set[str | None]] = {}
    for key, clip in zip(keys, clips, strict=True):
        if key is not None:
            splits.setdefault(key, set()).add(clip.split)
    return {key for key, names in splits.items() if len(names) > 1}
