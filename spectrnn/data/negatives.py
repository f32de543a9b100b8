"""Negatives: recordings in which no class sounds, of which training draws windows, and which validation covers."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from spectrnn.data.clips import Clip, DataSource
from spectrnn.data.scan import scan_folder, warn_about_ignored
from spectrnn.data.timeline import Timeline, Windows
from spectrnn.errors import UserError
from spectrnn.files import why_unreadable
from spectrnn.messages import counted, preview

log = logging.getLogger(__name__)

_MIN_RECORDINGS = 10  # of which some are held out; of fewer, a part of each


def list_negatives(source: DataSource) -> list[Clip]:
    """Returns the recordings of ``data.negatives``, sorted by path, as clips without a label.

    Raises:
        UserError: A file or folder that is missing, or a folder without recordings.
    """
    paths: list[str] = []
    for name in source.negatives:
        path = Path(name).expanduser()
        if path.is_dir():
            scan = scan_folder(path)
            warn_about_ignored(scan.ignored, f"data.negatives={name}")
            if not scan.files:
                raise UserError(f"data.negatives={name}: contains no recordings")
            paths += scan.files
        elif reason := why_unreadable(path):
            raise UserError(f"data.negatives={name}: {reason}")
        else:
            paths.append(str(path))
    return [Clip(path, "") for path in sorted({*paths}, key=lambda path: path.split(os.sep))]


def warn_about_copies(paths: Sequence[str], hashes: Iterable[bytes], labelled: Mapping[bytes, str], key: str) -> None:
    """Warns about negatives that have the same samples as a clip in which a class sounds.

    Args:
        paths: Paths of the negatives.
        hashes: Hash of the samples of each, `HASH_SIZE` bytes.
        labelled: Paths of the clips by hash, as `Dataset.hashes_of` returns them.
        key: Key of the negatives.
    """
    pairs = zip(paths, hashes, strict=True)
    if found := [f"{path} ({labelled[digest]})" for path, digest in pairs if digest in labelled]:
        which = counted(len(found), "recording is a copy of a labelled clip", "recordings are copies of labelled clips")
        log.warning("%s: %s, taken for sounds of no class; remove such copies: %s", key, which, preview(found, 3))


class Negatives:
    """The negatives of a dataset, in parts that belong to one split each. Positions are samples of the decoded dataset.

    Of ten or more recordings, whole ones are held out, else the end of each.

    Args:
        clips: Recordings.
        starts: First sample of each recording, int64 (recordings,).
        lengths: Number of samples of each recording, int64 (recordings,).
        size: Number of samples of a window of validation and test.
        source: Data source, with the fractions of the splits, and the share of hard windows.

    Attributes:
        hard: First samples of the hardest windows of `size` samples so far, int64 (windows,).
    """

    def __init__(
        self, clips: Sequence[Clip], starts: np.ndarray, lengths: np.ndarray, size: int, source: DataSource
    ) -> None:
        self.clips, self.starts, self.size = clips, starts, size
        self.sample_rate, self.hard_share = source.sample_rate, source.hard_share
        self.seconds = float(lengths.sum() / source.sample_rate)
        fractions = {"val": source.val_fraction, "test": 0.0 if source.fold == "none" else source.test_fraction}
        order = np.random.default_rng(source.split_seed).permutation(len(clips))
        self._parts: dict[str, Timeline] = {}
        if len(clips) >= _MIN_RECORDINGS:
            counts = {split: round(fraction * len(clips)) for split, fraction in fractions.items()}
            bounds = np.cumsum([0, *counts.values()])
            for split, first, end in zip([*counts, "train"], bounds, [*bounds[1:], len(clips)], strict=True):
                own = np.sort(order[first:end])
                self._add(split, starts[own], lengths[own])
        else:
            ends = starts + lengths
            for split, fraction in reversed(fractions.items()):
                own = np.floor(fraction * lengths).astype(np.int64)
                ends = ends - own
                self._add(split, ends, own)
            self._add("train", starts, ends - starts)
        self.hard = np.empty(0, np.int64)

    def _add(self, split: str, starts: np.ndarray, lengths: np.ndarray) -> None:
        kept = lengths >= min(self.size, lengths.max(initial=1))
        starts, lengths = starts[kept], lengths[kept]
        self._parts[split] = Timeline(
            starts,
            lengths,
            np.empty((0, 4), np.int64),
            np.stack([np.arange(len(starts)), starts, starts + lengths], 1),
            num_classes=0,
            size=self.size,
            hop=self.size,
            min_overlap=1.0,
            quiet_share=0.0,
            is_complete=True,
        )

    def grid(self, split: str) -> tuple[Windows, list[Clip]]:
        """Covers the part of a split by windows, and returns them as clips, too."""
        windows = self._parts[split].grid()
        recordings = self.recordings(windows.starts)
        times = np.stack([windows.starts, windows.starts + windows.lengths], 1) - self.starts[recordings, None]
        clips = [
            self.clips[recording]._replace(split=split, start=start, end=end)
            for recording, (start, end) in zip(recordings, (times / self.sample_rate).tolist(), strict=True)
        ]
        return windows, clips

    def recordings(self, starts: np.ndarray) -> np.ndarray:
        """Returns the recordings of some samples, int64 (samples,) -> (samples,)."""
        return np.searchsorted(self.starts, starts, "right") - 1

    def draw(self, generator: np.random.Generator, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draws windows of the training part: some at the hardest positions so far, moved by up to half a window.

        Args:
            generator: Source of randomness.
            lengths: Number of samples of each window, int64 (windows,); longer than a recording, it is all of that.

        Returns:
            First sample and number of samples of each window.
        """
        windows = self.candidates(generator, len(lengths))
        starts, room = windows.starts, windows.lengths
        if len(self.hard):
            is_hard = generator.random(len(lengths)) < self.hard_share
            moved = self.hard[generator.integers(len(self.hard), size=len(lengths))]
            moved = moved + generator.integers(-self.size // 2, self.size // 2 + 1, len(lengths))
            near = self.windows(moved)
            starts, room = np.where(is_hard, near.starts, starts), np.where(is_hard, near.lengths, room)
        lengths = np.minimum(lengths, room)
        return starts + generator.integers(0, room - lengths + 1), lengths

    def candidates(self, generator: np.random.Generator, count: int) -> Windows:
        """Draws windows of `size` samples of the training part, at positions of which all are equally probable."""
        parts = self._parts["train"]
        return parts.draw_quiet(np.ones(len(parts.starts), bool), generator, count)

    def windows(self, starts: np.ndarray) -> Windows:
        """Returns windows of the training part at samples int64 (windows,), moved into it if they are not within."""
        parts = self._parts["train"]
        part = np.clip(np.searchsorted(parts.starts, starts, "right") - 1, 0, None)
        lengths = np.minimum(self.size, parts.lengths[part])
        first = np.clip(starts, parts.starts[part], parts.starts[part] + parts.lengths[part] - lengths)
        return Windows(part, first, lengths)
