"""A dataset ready for use: the clip table with its splits, the labels, and the decoded store."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from spectrnn.data.batches import BucketedBatches
from spectrnn.data.cache import WaveformCache, open_cache
from spectrnn.data.clips import SPLITS, Clip, DataSource
from spectrnn.data.samples import SampleStorage, open_samples
from spectrnn.data.splits import assign_splits, require_classes, require_training_clips, split_checksums
from spectrnn.errors import UserError
from spectrnn.files import atomic_write

log = logging.getLogger(__name__)

_TINY = 10  # clips of a class, below which its figures mean little


@dataclass
class Dataset:
    """Clips, their samples, and their classes.

    Args:
        clips: the clip table.
        store: of the decoded clips; clip i of the table is clip i of the store.
        wave: the store's samples, where batches are gathered from.
        labels: the classes, in the order of a classifier's logits.
        max_seconds: longer clips are cropped to it.
        skipped: why a clip was left out, for each that cannot be read.
    """

    clips: Sequence[Clip]
    store: WaveformCache
    wave: SampleStorage
    labels: list[str]
    max_seconds: float | None
    skipped: list[str]

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """What tells later whether a split is still the same; see `splits.fingerprints`."""
        return split_checksums(self.clips)

    def rows(self, part: str) -> np.ndarray:
        """The rows of a split (or of ``all``) whose labels are among `labels`: int64 (clips,)."""
        known = set(self.labels)
        return np.array(
            [row for row, clip in enumerate(self.clips) if clip.label in known and part in (clip.split, "all")],
            dtype=np.int64,
        )

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """The class indices of rows: int64 (clips,) -> int64 (clips,)."""
        index = {label: number for number, label in enumerate(self.labels)}
        return np.array([index[self.clips[row].label] for row in rows], dtype=np.int64)

    def batches(
        self,
        part: str,
        batch_size: int,
        device: torch.device,
        seed: int | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> BucketedBatches:
        """The batches of a split.

        Args:
            part: train, val, test or all.
            batch_size: clips a batch, at most.
            device: where batches go.
            seed: of order and crops; None for evaluation.
            shard: of each batch, as for `BucketedBatches`.
        """
        rows = self.rows(part)
        return BucketedBatches(
            self.store,
            self.wave,
            rows,
            self.targets(rows),
            len(self.labels),
            batch_size,
            self.max_seconds,
            seed,
            device,
            shard,
        )

    def describe(self) -> str:
        """How many clips, classes and minutes there are, in a line."""
        counts = Counter(clip.split for clip in self.clips)
        splits = ", ".join(f"{counts[name]} {name}" for name in SPLITS if counts[name])
        minutes = int(self.store.offsets[-1]) / self.store.sample_rate / 60
        return (
            f"{len(self.clips)} clips ({splits or 'no splits'}) of {len(self.labels)} classes, "
            f"{minutes:.1f} minutes at {self.store.sample_rate} Hz"
        )

    def list_skipped(self, folder: Path) -> None:
        """Writes ``skipped.txt`` into a run's folder, a line a clip that cannot be read, and warns of them."""
        path = folder / "skipped.txt"
        path.unlink(missing_ok=True)
        if self.skipped:
            with atomic_write(path) as temporary:
                temporary.write_text("\n".join(self.skipped) + "\n", encoding="utf-8", errors="surrogateescape")
            log.warning(
                "%d of %d clips cannot be read and are left out; they are listed in %s",
                len(self.skipped),
                len(self.skipped) + len(self.clips),
                path,
            )


def open_dataset(source: DataSource, device: torch.device) -> Dataset:
    """The dataset of a run: splits assigned, every clip decoded.

    Args:
        source: where it comes from.
        device: of the batches.

    Raises:
        UserError: the source, a split or a file is not as it should be; with ``on_error=skip`` a class or a split that
            cannot be read at all.
    """
    clips = source.clips()
    require_classes(clips)
    clips = assign_splits(clips, source)
    require_training_clips(clips)
    _warn_of_leaks(clips)
    dataset = _open_dataset(clips, source, sorted({clip.label for clip in clips}), device, "all")
    _warn_of_duplicates(dataset.clips, dataset.store.digests)
    return dataset


def _open_dataset(
    clips: Sequence[Clip], source: DataSource, labels: list[str], device: torch.device, part: str
) -> Dataset:
    """The dataset of a table whose splits are as they would be if every clip could be read."""
    store = open_cache(clips, source.sample_rate, cache_folder(source), source.on_error)
    if store.problems:
        readable = [clip for clip, length in zip(clips, store.lengths, strict=True) if length]
        _require_nonempty_after_skip(
            *(
                [clip for clip in table if clip.label in labels and part in (clip.split, "all")]
                for table in (clips, readable)
            )
        )
        clips, store = readable, store.drop_empty()
    return Dataset(
        clips, store, open_samples(store.path, source.storage, device), labels, source.max_seconds, store.problems
    )


def _require_nonempty_after_skip(clips: Sequence[Clip], readable: Sequence[Clip]) -> None:
    """Refuses what would leave a class, a split, or the training of a class without a clip."""

    def parts(table: Sequence[Clip]) -> set[str]:
        return (
            {f"label {clip.label!r}" for clip in table}
            | {f"split {clip.split}" for clip in table}
            | {f"label {clip.label!r} in split train" for clip in table if clip.split == "train"}
        )

    lost = sorted(parts(clips) - parts(readable))
    if lost:
        raise UserError(f"data.on_error=skip: no clip of {', '.join(lost)} can be read; data.on_error=fail names them")


def _warn_of_leaks(clips: Sequence[Clip]) -> None:
    """Tells of groups that a dataset's own splits do not keep apart, and of classes too small to be measured."""
    parts: dict[str, set[str | None]] = {}
    for clip in clips:
        if clip.group is not None:
            parts.setdefault(clip.group, set()).add(clip.split)
    shared = sorted(group for group, splits in parts.items() if len(splits) > 1)
    if shared:
        log.warning(
            "%d of %d groups are in more than one split, so the test may flatter the model: %s",
            len(shared),
            len(parts),
            _preview(shared, 5),
        )
    tiny = [label for label, count in Counter(clip.label for clip in clips).items() if count < _TINY]
    if tiny:
        log.warning(
            "%d classes have fewer than %d clips, so their figures mean little: %s", len(tiny), _TINY, _preview(tiny, 5)
        )


def _warn_of_duplicates(clips: Sequence[Clip], digests: np.ndarray) -> None:
    """Tells of clips with the same samples in more than one split."""
    sides: dict[bytes, set[str | None]] = {}
    for digest, clip in zip(map(bytes, digests), clips, strict=True):
        if any(digest):
            sides.setdefault(digest, set()).add(clip.split)
    shared = {digest for digest, among in sides.items() if len(among) > 1}
    if shared:
        names = [clip.path for digest, clip in zip(map(bytes, digests), clips, strict=True) if digest in shared]
        log.warning(
            "%d sounds are in more than one split, so the test may flatter the model: %s; spectrnn check "
            "out=clean.csv writes a table without them",
            len(shared),
            _preview(names, 2),
        )


def open_for_evaluation(
    source: DataSource, part: str, labels: list[str], device: torch.device
) -> tuple[Dataset, Counter[str]]:
    """A dataset for a model that exists already.

    Args:
        source: its sample rate must be the model's.
        part: train, val, test or all; ``all`` needs no splits.
        labels: the model's.
        device: of the batches.

    Returns:
        The dataset, and the labels that the model does not know with their counts among the part's clips.

    Raises:
        UserError: no clip of the part bears a label that the model knows.
    """
    clips = source.clips() if part == "all" else assign_splits(source.clips(), source)
    of_part = Counter(clip.label for clip in clips if part in (clip.split, "all"))
    if not of_part:
        raise UserError(f"split={part}: the dataset has no such clips")
    foreign = Counter({label: count for label, count in of_part.items() if label not in set(labels)})
    if len(foreign) == len(of_part):
        raise UserError(
            f"the model knows none of the dataset's labels ({_preview(foreign)}); it knows {_preview(labels)}"
        )
    return _open_dataset(clips, source, labels, device, part), foreign


def cache_folder(source: DataSource) -> Path:
    """Where decoded datasets lie."""
    return Path(source.cache).expanduser()


def _preview(labels: Sequence[str] | Counter[str], count: int = 10) -> str:
    names = [repr(label) for label in list(labels)[:count]]
    return ", ".join(names) + (", ..." if len(labels) > count else "")
