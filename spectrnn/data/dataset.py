"""A dataset ready for use: clip table with splits, labels, and decoded samples."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from spectrnn.config.instantiate import instantiate
from spectrnn.data.batches import BucketedBatches, Drawn
from spectrnn.data.cache import WaveformCache, open_cache
from spectrnn.data.clips import SPLITS, Clip, DataSource, similar_labels
from spectrnn.data.labels import ONE_LABEL, SEPARATOR, LabelFormat
from spectrnn.data.negatives import Negatives, list_negatives, warn_about_copies
from spectrnn.data.samples import SampleStorage, open_samples
from spectrnn.data.sampling import draw_clips, mean_draws
from spectrnn.data.scan import Ignored, warn_about_ignored
from spectrnn.data.splits import (
    MIN_TRAINING_GROUPS,
    assign_folds,
    assign_splits,
    clip_scores,
    require_classes,
    require_training_clips,
    split_checksums,
)
from spectrnn.data.timeline import Timeline, Windows
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
        label_format: How the label of a clip names classes.
        max_seconds: Maximum length of a clip in s, longer ones are cropped; None for no limit.
        skipped: Error of each unreadable clip that was skipped.
        warnings: Warnings about clips that were decoded, such as of missing samples.
        ignored: Files and folders that the source has passed over.
        sampling_power: Exponent of the class counts in training, as for `BucketedBatches`.
        timeline: Timeline of the recordings whose windows are the clips; None if the clips were not cut.
        recordings: Recording of each clip, int64 (clips,), if there is a timeline.
        negatives: Recordings in which no class sounds, whose windows for validation and test are clips; None for none.
        negative_share: Fraction of the training clips that are windows of the negatives.
    """

    clips: Sequence[Clip]
    cache: WaveformCache
    samples: SampleStorage
    labels: list[str]
    label_format: LabelFormat
    max_seconds: float | None
    skipped: list[str]
    warnings: list[str] = field(default_factory=list)
    ignored: list[Ignored] = field(default_factory=list)
    sampling_power: float = 1.0
    timeline: Timeline | None = None
    recordings: np.ndarray | None = None
    negatives: Negatives | None = None
    negative_share: float = 0.0

    @cached_property
    def split_checksums(self) -> dict[str, str]:
        """Checksum of each split, by which a later change is detected; see `splits.split_checksums`."""
        return split_checksums(self.clips)

    def rows(self, split: str) -> np.ndarray:
        """Returns the rows of a split (or of ``all``) with known labels, int64 (clips,)."""
        known, is_usable = set(self.labels), self.label_format.is_usable
        rows = [
            row for row, clip in enumerate(self.clips) if split in (clip.split, "all") and is_usable(clip.label, known)
        ]
        return np.array(rows, dtype=np.int64)

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """Returns the targets of rows (clips,): class indices int64 (clips,), of label sets bool (clips, classes)."""
        return self.label_format.targets([self.clips[row].label for row in rows], self.labels)

    def class_counts(self, split: str) -> Counter[str]:
        """Counts the clips of each class in a split (or in ``all``)."""
        clips = (clip for clip in self.clips if split in (clip.split, "all"))
        return Counter(name for clip in clips for name in self.label_format.classes(clip.label))

    def hashes_of(self, labels: Iterable[str]) -> dict[bytes, str]:
        """Returns the paths of the clips, or annotated recordings, of any of some labels, by hash of their samples."""
        wanted, classes = set(labels), self.label_format.classes
        numbers = range(len(self.clips)) if self.recordings is None else self.recordings.tolist()
        pairs = zip(numbers, self.clips, strict=True)
        paths = {number: clip.path for number, clip in pairs if wanted.intersection(classes(clip.label))}
        digests = enumerate(map(bytes, self.cache.hashes))  # of all but the negatives, which have no label
        return {digest: paths[number] for number, digest in digests if number in paths and any(digest)}

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
            seed: Seed of order, crops and draws of clips and windows, for training; None for each clip once, for
                evaluation.
            shard: Rank and number of processes, as for `BucketedBatches`.
            cover: Whether overlapping crops cover the clips that are longer than `max_seconds`, for
                `evaluate.predict_batches`; else a clip has one crop.
        """
        rows = self.rows(rows) if isinstance(rows, str) else rows
        targets, power, draw = self.targets(rows), 1.0 if seed is None else self.sampling_power, None
        if seed is not None and (self.timeline or self.negatives):
            draw = self._draw(rows, seed)
        settings = (batch_size, self.max_seconds, seed, device, shard, cover, power, draw)
        return BucketedBatches(self.cache, self.samples, rows, targets, *settings)

    def _draw(self, rows: np.ndarray, seed: int) -> Callable[[int], Drawn]:
        """Returns the function that draws the clips of an epoch: those of some rows, and windows of the negatives."""
        targets, clips = self.targets(rows), len(self.clips)

        def draw(epoch: int) -> Drawn:
            generator = np.random.default_rng((seed, epoch, 1))
            own = self._draw_windows(rows, generator) if self.timeline else self._draw_crops(rows, targets, generator)
            if self.negatives is None:
                return own
            count = round(len(own.rows) * self.negative_share / (1 - self.negative_share))
            # The same lengths in each epoch, and as many of each as of the other clips, so that they reveal nothing.
            lengths = np.sort(own.lengths)[np.arange(count) * len(own.rows) // count]
            starts, lengths = self.negatives.draw(generator, generator.permutation(lengths))
            silence = np.zeros((count, len(self.labels)), bool)
            negatives = (clips + self.negatives.recordings(starts), starts, lengths, silence, own.events[:0])
            return Drawn(*(np.concatenate(columns) for columns in zip(own, negatives, strict=True)))

        return draw

    def _draw_crops(self, rows: np.ndarray, targets: np.ndarray, generator: np.random.Generator) -> Drawn:
        """Draws clips as `BucketedBatches` does, and crops those that are longer than `max_seconds` at random."""
        if self.sampling_power != 1:
            drawn = draw_clips(targets, mean_draws(targets, self.sampling_power), generator)
            rows, targets = rows[drawn], targets[drawn]
        available = self.cache.lengths[rows]
        limit = available.max() if self.max_seconds is None else round(self.max_seconds * self.cache.sample_rate)
        lengths = np.minimum(available, limit)
        starts = self.cache.offsets[rows] + generator.integers(0, available - lengths + 1)
        index, zeros = np.arange(len(rows)), np.zeros_like(lengths)
        unknown = np.stack([index, zeros, lengths, zeros - 1], 1)  # the labels of a clip have no times
        return Drawn(rows, starts, lengths, targets, unknown)

    def _draw_windows(self, rows: np.ndarray, generator: np.random.Generator) -> Drawn:
        """Draws windows of the recordings of some rows."""
        timeline, recordings = self.timeline, self.recordings
        assert timeline is not None
        assert recordings is not None
        is_used = np.zeros(len(timeline.starts), bool)
        is_used[recordings[rows]] = True
        windows = timeline.draw(is_used, self.sampling_power, generator)
        first_rows = np.searchsorted(recordings, windows.recordings)
        return Drawn(first_rows, *windows[1:], timeline.targets(windows), timeline.events_in(windows))

    def windows(
        self, windows: Windows, batch_size: int, device: torch.device, shard: tuple[int, int] = (0, 1)
    ) -> BucketedBatches:
        """Returns batches of any windows, in which nothing sounds; their rows are the indices of the windows."""
        cache = self.cache._replace(offsets=windows.starts, lengths=windows.lengths)
        rows, targets = np.arange(len(windows.starts)), np.zeros((len(windows.starts), len(self.labels)), bool)
        return BucketedBatches(cache, self.samples, rows, targets, batch_size, None, None, device, shard)

    def clip(self, row: int) -> Clip:
        """Returns the clip of a row of a batch: after those of the clip table, rows are recordings of the negatives."""
        if row < len(self.clips) or self.negatives is None:
            return self.clips[row]
        return self.negatives.clips[row - len(self.clips)]

    @property
    def num_training_clips(self) -> int:
        """Number of clips of an epoch."""
        return len(self.batches("train", 1, torch.device("cpu"), seed=0).rows)

    def describe(self) -> str:
        """Describes the number of clips and classes, and the length, in one line."""
        counts = Counter(clip.split for clip in self.clips)
        splits = ", ".join(f"{counts[name]} {name}" for name in SPLITS if counts[name])
        minutes = self.cache.samples.size / self.cache.sample_rate / 60
        hours = f" and {self.negatives.seconds / 3600:.2f} h of negatives" if self.negatives else ""
        return (
            f"{counted(len(self.clips), 'clip')}{hours} ({splits or 'no splits'}) of "
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


def open_dataset(source: DataSource, device: torch.device, label_format: LabelFormat = ONE_LABEL) -> Dataset:
    """Opens the dataset of a training run, for batches on a device: assigns splits, and decodes every clip.

    Raises:
        UserError: An invalid source, split or file; with ``on_error=skip`` a class or split without readable clips.
    """
    clips, rehearsed = list_clips(source, label_format), rehearsed_clips(source, label_format)
    require_classes([*clips, *rehearsed], label_format)
    clips = [*assign_splits(clips, source, label_format), *rehearsed]
    labels = sorted({name for clip in clips for name in label_format.classes(clip.label)})
    if similar := similar_labels(labels):
        message = "%d sets of labels differ in case, blanks or Unicode form only, and are different classes: %s; "
        message += "data.labels={OLD: NEW} merges them"
        log.warning(message, len(similar), preview(similar, 5))
    require_training_clips(clips, label_format)
    _report_groups(clips, source)
    dataset = _open(clips, source, labels, device, "all", label_format)
    _report_classes(dataset)
    if dataset.timeline is None:
        hashes = dataset.cache.hashes  # of all but the negatives
        _warn_about_duplicates(dataset.clips[: len(hashes)], hashes)
    return dataset


def list_clips(source: DataSource, label_format: LabelFormat = ONE_LABEL) -> list[Clip]:
    """Returns the clip table of a source, with the folds of a cross-validation, and warns about what was passed over.

    Raises:
        UserError: An invalid source, or folds that cannot be drawn.
    """
    clips = read_clips(source, label_format)
    warn_about_ignored(source.ignored, "data")
    return assign_folds(clips, source, label_format)


def rehearsed_clips(source: DataSource, label_format: LabelFormat) -> list[Clip]:
    """Returns the clips that are rehearsed, of the dataset of an initial model, with the splits that they had in it.

    Raises:
        UserError: Nothing to rehearse, or an invalid dataset.
    """
    if not source.rehearsal_clips:
        return []
    if source.rehearsal is None:
        problem = "needs init=RUN, whose dataset is rehearsed"
        raise UserError(f"data.rehearsal_clips={source.rehearsal_clips}: {problem}")
    other: DataSource = instantiate(source.rehearsal, "data.rehearsal", DataSource)
    if source.has_label_sets or other.has_label_sets:
        raise UserError("data.rehearsal_clips: annotated recordings cannot be rehearsed, nor clips besides them")
    clips = assign_splits(list_clips(other, label_format), other, label_format)
    clips += rehearsed_clips(other, label_format)
    counts, kept = Counter[tuple[str | None, str]](), []
    for row in np.argsort(clip_scores(clips, source.split_seed), kind="stable").tolist():
        names = [(clips[row].split, name) for name in label_format.classes(clips[row].label) or [""]]
        if min(counts[name] for name in names) < source.rehearsal_clips:
            counts.update(names)
            kept.append(row)
    return [clips[row] for row in sorted(kept)]


def read_clips(source: DataSource, label_format: LabelFormat) -> list[Clip]:
    """Returns the clip table of a source, with labels in the normalized form of the format.

    Raises:
        UserError: An invalid source, or labels of another format.
    """
    if label_format is ONE_LABEL and (source.has_label_sets or source.negatives):
        key = "data.negatives" if source.negatives else "data"
        raise UserError(f"{key}: clips have any number of labels, or none; set task=multi_label")
    return source.labelled_clips(label_format)


def open_dataset_for_evaluation(
    source: DataSource, split: str, labels: list[str], device: torch.device, label_format: LabelFormat = ONE_LABEL
) -> tuple[Dataset, Counter[str]]:
    """Opens a dataset for an existing model.

    Args:
        source: Data source at the model's sample rate.
        split: train, val, test or all; ``all`` needs no splits.
        labels: Labels of the model.
        device: Device of the batches.
        label_format: How the label of a clip names classes.

    Returns:
        The dataset, and the number of clips in the split per label that the model does not know.

    Raises:
        UserError: A split without clips whose label the model knows.
    """
    clips = list_clips(source, label_format)
    if split != "all":
        clips = [*assign_splits(clips, source, label_format), *rehearsed_clips(source, label_format)]
    of_split = [clip for clip in clips if split in (clip.split, "all")]
    if not of_split:
        raise UserError(f"split={split}: the dataset has no such clips")
    counts = Counter(name for clip in of_split for name in label_format.classes(clip.label))
    own = set(labels)
    unknown = Counter({label: count for label, count in counts.items() if label not in own})
    if unknown and len(unknown) == len(counts):
        theirs, known = (preview([repr(label) for label in names], 10) for names in (list(unknown), labels))
        remedy = "data.labels={THEIRS: OURS} renames them"
        raise UserError(f"the model knows none of the dataset's labels ({theirs}); it knows {known}; {remedy}")
    return _open(clips, source, labels, device, split, label_format), unknown


def _open(
    clips: Sequence[Clip],
    source: DataSource,
    labels: list[str],
    device: torch.device,
    split: str,
    label_format: LabelFormat,
) -> Dataset:
    """Opens a clip table, whose splits are those that it would have if every clip could be read."""
    negatives = list_negatives(source)
    everything = [*clips, *negatives]
    cache = open_cache(everything, source.sample_rate, cache_folder(source.cache), source.on_error, source.cache_gb)
    if cache.errors:
        readable = [clip for clip, length in zip(clips, cache.lengths, strict=False) if length]
        # Skipping must not remove all clips of a class, of a split, or of a class in the training split.
        before, after = (_required(table, labels, split, label_format) for table in (clips, readable))
        if lost := sorted(before - after):
            names = preview(lost, 5)
            raise UserError(f"data.on_error=skip: no clip of {names} can be read; data.on_error=fail names them")
        negatives = [clip for clip, length in zip(negatives, cache.lengths[len(clips) :], strict=True) if length]
        clips, cache = readable, cache.drop_empty()
    samples = open_samples(cache.samples, source.storage, device)
    dataset = Dataset(
        clips,
        cache.part(slice(len(clips))),
        samples,
        labels,
        label_format,
        source.max_seconds,
        cache.errors,
        cache.warnings,
        source.ignored,
        source.class_power,
    )
    if timeline := source.timeline(clips, dataset.cache.offsets, dataset.cache.lengths, labels):
        dataset = _cut(dataset, timeline)
    if negatives:
        decoded = cache.part(slice(len(clips), None))
        paths, hashes = [clip.path for clip in negatives], map(bytes, decoded.hashes)
        warn_about_copies(paths, hashes, dataset.hashes_of(labels), "data.negatives")
        dataset = _add_negatives(dataset, negatives, decoded, source)
    return dataset


def _cut(dataset: Dataset, timeline: Timeline) -> Dataset:
    """Replaces recordings by the windows of a grid, which are parts of the same samples."""
    windows, rate = timeline.grid(), dataset.cache.sample_rate
    clips = []
    for recording, start, length, target in zip(*windows, timeline.targets(windows), strict=True):
        label = SEPARATOR.join(dataset.labels[index] for index in np.flatnonzero(target))
        first = int(start - timeline.starts[recording])
        times = {"start": first / rate, "end": (first + int(length)) / rate}
        clips.append(dataset.clips[recording]._replace(label=label, **times))
    cache = dataset.cache._replace(offsets=windows.starts, lengths=windows.lengths)
    return replace(dataset, clips=clips, cache=cache, timeline=timeline, recordings=windows.recordings)


def _add_negatives(dataset: Dataset, recordings: Sequence[Clip], decoded: WaveformCache, source: DataSource) -> Dataset:
    """Adds negatives, whose windows for validation and test are as long as the longest clip."""
    size = int(dataset.cache.lengths.max())
    if dataset.max_seconds is not None:
        size = min(size, round(dataset.max_seconds * source.sample_rate))
    negatives = Negatives(recordings, decoded.offsets, decoded.lengths, size, source)
    clips, cache, row_recordings = [*dataset.clips], dataset.cache, dataset.recordings
    for split in ("val", "test"):
        windows, own = negatives.grid(split)
        clips += own
        cache = cache._replace(
            offsets=np.append(cache.offsets, windows.starts), lengths=np.append(cache.lengths, windows.lengths)
        )
        if dataset.timeline is not None and row_recordings is not None:  # they are of none of its recordings
            row_recordings = np.append(row_recordings, np.full(len(own), len(dataset.timeline.starts)))
    return replace(
        dataset,
        clips=clips,
        cache=cache,
        recordings=row_recordings,
        negatives=negatives,
        negative_share=source.negative_share,
    )


def _required(clips: Sequence[Clip], labels: list[str], split: str, label_format: LabelFormat) -> set[str]:
    """Names all classes, splits, and classes in the training split, of the clips that a model uses."""
    names, known = set(), set(labels)
    for clip in clips:
        if label_format.is_usable(clip.label, known) and split in (clip.split, "all"):
            names.add(f"split {clip.split}")
            for label in known.intersection(label_format.classes(clip.label)):
                names.add(f"label {label!r}")
                if clip.split == "train":
                    names.add(f"label {label!r} in split train")
    return names


def _report_groups(clips: Sequence[Clip], source: DataSource) -> None:
    """Reports groups in several splits."""
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


def _report_classes(dataset: Dataset) -> None:
    """Warns about classes with too few clips, and about labels that seem to name several classes."""
    if dataset.label_format is ONE_LABEL and (several := [label for label in dataset.labels if SEPARATOR in label]):
        names = preview(list(map(repr, several)), 3)
        log.warning("labels with %s are taken for one class each: %s; see task=multi_label", SEPARATOR, names)
    small = [repr(label) for label, count in dataset.class_counts("all").items() if count < _MIN_CLIPS]
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
