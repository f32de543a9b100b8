"""A corpus ready for use: the clip table with its splits, the labels, and the decoded store."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from spectrnn.data.batches import Batches
from spectrnn.data.clips import SPLITS, Clip, Source
from spectrnn.data.splits import fingerprints, require_classes, require_training_clips, split
from spectrnn.data.store import Store, open_store
from spectrnn.data.wave import Wave, place
from spectrnn.errors import UserError
from spectrnn.files import new_file

log = logging.getLogger(__name__)

_TINY = 10  # clips of a class, below which its figures mean little


@dataclass
class Corpus:
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
    store: Store
    wave: Wave
    labels: list[str]
    max_seconds: float | None
    skipped: list[str]

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """What tells later whether a split is still the same; see `splits.fingerprints`."""
        return fingerprints(self.clips)

    def rows(self, part: str) -> np.ndarray:
        """The rows of a split (or of ``all``) whose labels are among `labels`: int64 (clips,)."""
        known = set(self.labels)
        return np.array([row for row, clip in enumerate(self.clips)
                         if clip.label in known and part in (clip.split, "all")], dtype=np.int64)  # fmt: skip

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
        share: tuple[int, int] = (0, 1),
    ) -> Batches:
        """The batches of a split.

        Args:
            part: train, val, test or all.
            batch_size: clips a batch, at most.
            device: where batches go.
            seed: of order and crops; None for evaluation.
            share: of each batch, as for `Batches`.
        """
        rows = self.rows(part)
        return Batches(self.store, self.wave, rows, self.targets(rows), len(self.labels), batch_size,
                       self.max_seconds, seed, device, share)  # fmt: skip

    def describe(self) -> str:
        """How many clips, classes and minutes there are, in a line."""
        counts = Counter(clip.split for clip in self.clips)
        splits = ", ".join(f"{counts[name]} {name}" for name in SPLITS if counts[name])
        minutes = int(self.store.offsets[-1]) / self.store.sample_rate / 60
        return (f"{len(self.clips)} clips ({splits or 'no splits'}) of {len(self.labels)} classes, "
                f"{minutes:.1f} minutes at {self.store.sample_rate} Hz")  # fmt: skip

    def list_skipped(self, folder: Path) -> None:
        """Writes ``skipped.txt`` into a run's folder, a line a clip that cannot be read, and warns of them."""
        path = folder / "skipped.txt"
        path.unlink(missing_ok=True)
        if self.skipped:
            with new_file(path) as temporary:
                temporary.write_text("\n".join(self.skipped) + "\n", encoding="utf-8", errors="surrogateescape")
            log.warning("%d of %d clips cannot be read and are left out; they are listed in %s",
                        len(self.skipped), len(self.skipped) + len(self.clips), path)  # fmt: skip


def open_corpus(source: Source, device: torch.device) -> Corpus:
    """The corpus of a run: splits assigned, every clip decoded.

    Args:
        source: where it comes from.
        device: of the batches.

    Raises:
        UserError: the source, a split or a file is not as it should be; with ``on_error=skip`` a class or a split that
            cannot be read at all.
    """
    clips = source.clips()
    require_classes(clips)
    clips = split(clips, source)
    require_training_clips(clips)
    _warn_of_leaks(clips)
    corpus = _corpus(clips, source, sorted({clip.label for clip in clips}), device, "all")
    _warn_of_duplicates(corpus.clips, corpus.store.digests)
    return corpus


def _corpus(clips: Sequence[Clip], source: Source, labels: list[str], device: torch.device, part: str) -> Corpus:
    """The corpus of a table whose splits are as they would be if every clip could be read."""
    store = open_store(clips, source.sample_rate, cache_folder(source), source.on_error)
    if store.problems:
        readable = [clip for clip, length in zip(clips, store.lengths, strict=True) if length]
        _require_rest(*([clip for clip in table if clip.label in labels and part in (clip.split, "all")]
                        for table in (clips, readable)))  # fmt: skip
        clips, store = readable, store.without_gaps()
    return Corpus(clips, store, place(store.path, source.resident, device), labels, source.max_seconds, store.problems)


def _require_rest(clips: Sequence[Clip], readable: Sequence[Clip]) -> None:
    """Refuses what would leave a class, a split, or the training of a class without a clip."""

    def parts(table: Sequence[Clip]) -> set[str]:
        return ({f"label {clip.label!r}" for clip in table} | {f"split {clip.split}" for clip in table}
                | {f"label {clip.label!r} in split train" for clip in table if clip.split == "train"})  # fmt: skip

    lost = sorted(parts(clips) - parts(readable))
    if lost:
        raise UserError(f"data.on_error=skip: no clip of {', '.join(lost)} can be read; data.on_error=fail names them")


def _warn_of_leaks(clips: Sequence[Clip]) -> None:
    """Tells of groups that a corpus's own splits do not keep apart, and of classes too small to be measured."""
    parts: dict[str, set[str | None]] = {}
    for clip in clips:
        if clip.group is not None:
            parts.setdefault(clip.group, set()).add(clip.split)
    shared = sorted(group for group, splits in parts.items() if len(splits) > 1)
    if shared:
        log.warning("%d of %d groups are in more than one split, so the test may flatter the model: %s",
                    len(shared), len(parts), _some(shared, 5))  # fmt: skip
    tiny = [label for label, count in Counter(clip.label for clip in clips).items() if count < _TINY]
    if tiny:
        log.warning("%d classes have fewer than %d clips, so their figures mean little: %s",
                    len(tiny), _TINY, _some(tiny, 5))  # fmt: skip


def _warn_of_duplicates(clips: Sequence[Clip], digests: np.ndarray) -> None:
    """Tells of clips with the same samples in more than one split."""
    sides: dict[bytes, set[str | None]] = {}
    for digest, clip in zip(map(bytes, digests), clips, strict=True):
        if any(digest):
            sides.setdefault(digest, set()).add(clip.split)
    shared = {digest for digest, among in sides.items() if len(among) > 1}
    if shared:
        names = [clip.path for digest, clip in zip(map(bytes, digests), clips, strict=True) if digest in shared]
        log.warning("%d sounds are in more than one split, so the test may flatter the model: %s; spectrnn check "
                    "out=clean.csv writes a table without them", len(shared), _some(names, 2))  # fmt: skip


def open_for_evaluation(
    source: Source, part: str, labels: list[str], device: torch.device
) -> tuple[Corpus, Counter[str]]:
    """A corpus for a model that exists already.

    Args:
        source: its sample rate must be the model's.
        part: train, val, test or all; ``all`` needs no splits.
        labels: the model's.
        device: of the batches.

    Returns:
        The corpus, and the labels that the model does not know with their counts among the part's clips.

    Raises:
        UserError: no clip of the part bears a label that the model knows.
    """
    clips = source.clips() if part == "all" else split(source.clips(), source)
    of_part = Counter(clip.label for clip in clips if part in (clip.split, "all"))
    if not of_part:
        raise UserError(f"split={part}: the corpus has no such clips")
    foreign = Counter({label: count for label, count in of_part.items() if label not in set(labels)})
    if len(foreign) == len(of_part):
        raise UserError(f"the model knows none of the corpus's labels ({_some(foreign)}); it knows {_some(labels)}")
    return _corpus(clips, source, labels, device, part), foreign


def cache_folder(source: Source) -> Path:
    """Where decoded corpora lie."""
    return Path(source.cache).expanduser()


def _some(labels: Sequence[str] | Counter[str], count: int = 10) -> str:
    names = [repr(label) for label in list(labels)[:count]]
    return ", ".join(names) + (", ..." if len(labels) > count else "")
