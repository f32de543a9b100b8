"""Data source of annotated recordings: long recordings, and tables of the events in them."""

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spectrnn.config.types import Fraction, NonNegativeFloat, PositiveFloat, PositiveFraction
from spectrnn.data.clips import Clip, DataSource
from spectrnn.data.labels import LABEL_SET, ONE_LABEL, SEPARATOR, LabelFormat
from spectrnn.data.scan import scan_folder
from spectrnn.data.sources.event_tables import TableEvent, label_file, read_events
from spectrnn.data.sources.groups import matched_group, pattern_problem
from spectrnn.data.sources.tables import ENDINGS, Column
from spectrnn.data.timeline import Timeline, quiet_parts
from spectrnn.errors import UserError, reject_settings
from spectrnn.messages import counted, preview

log = logging.getLogger(__name__)


class Annotation(NamedTuple):
    """An annotated part of a recording: start and end in s, and label.

    The label is empty if nothing sounds, and None for a sound of no class.
    """

    start: float
    end: float
    label: str | None


@dataclass(kw_only=True)
class AnnotatedRecordings(DataSource):
    """Recordings with Raven selection tables, Audacity label tracks, or one table of all events.

    Training draws windows of `window` seconds again each epoch: one for each event, at a random position, and others in
    which nothing sounds. Validation and test cover their recordings by a grid of windows. Splits consist of whole
    recordings or groups. The samples are decoded once; nothing is cut to files.

    Args:
        root: Folder of the recordings.
        annotations: Table of events with the column path (CSV, JSONL, or a selection table of Raven); a folder of label
            files, in subfolders as in `root`; None for label files beside the recordings. Recordings without any are
            left out.
        columns: Names of the columns of such a table, as for a manifest; None for the usual ones.
        group: Regular expression for the path in `root`, whose first group matches the group of a recording, such as
            its place or day, which is never in two splits; None if each recording is a group.
        window: Length of a window in s.
        hop: Distance of the windows of validation and test in s; None for half of a window.
        min_overlap: Fraction of an event, or of the window if that is shorter, that a window of its class contains.
        guard: Distance from events of windows in which nothing sounds in s.
        quiet_share: Fraction of the training windows in which nothing sounds.
        unannotated: What parts without annotations are: ``quiet``, or ``unknown``, which leaves them out.
        quiet_labels: Labels of annotations that state that nothing sounds, as an empty label does.
    """

    root: str
    annotations: str | None
    columns: dict[Column, str | None] | None
    group: str | None
    window: PositiveFloat
    hop: PositiveFloat | None
    min_overlap: PositiveFraction
    guard: NonNegativeFloat
    quiet_share: Fraction
    unannotated: str
    quiet_labels: list[str]
    has_label_sets = True
    events: dict[str, list[Annotation]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        problem = pattern_problem(self.group)
        is_cropped = self.max_seconds is not None and self.max_seconds < self.window
        is_missing = self.annotations is not None and not Path(self.annotations).expanduser().exists()
        reject_settings(
            ("root", not Path(self.root).expanduser().is_dir(), "no such folder"),
            ("annotations", is_missing, "no such file or folder"),
            ("group", problem, problem),
            ("max_seconds", is_cropped, f"is less than the length of the clips, data.window={self.window:g}"),
            ("unannotated", self.unannotated not in ("quiet", "unknown"), "should be quiet or unknown"),
        )

    def clips(self) -> list[Clip]:
        """Returns the recordings that have annotations, sorted by path, each with the labels of all of its events."""
        root = str(Path(self.root).expanduser())
        try:
            scan = scan_folder(root)
        except OSError as error:
            raise UserError(f"data.root={self.root}: {(error.strerror or str(error)).lower()}") from error
        where = Path(self.annotations).expanduser() if self.annotations else Path(root)
        if where.is_file():
            self.events = self._from_table(where, scan.files)
        else:
            found = ((path, self._from_label_file(path, Path(root), where)) for path in scan.files)
            self.events = {path: events for path, events in found if events is not None}
        self.ignored = [item for item in scan.ignored if Path(item.path).suffix.lower() not in ENDINGS]
        without = [path for path in scan.files if path not in self.events]
        if not self.events:
            raise UserError(f"data.root={self.root}: none of its {counted(len(without), 'recording')} has annotations")
        if without:
            which = counted(len(without), "recording without annotations is", "recordings without annotations are")
            log.warning("%s left out: %s", which, preview(without, 3))
        clips = []
        for path in sorted(self.events, key=lambda path: path.split(os.sep)):
            name = os.path.relpath(path, root).replace(os.sep, "/")
            group = name if self.group is None else matched_group(self.group, name)
            clips.append(Clip(path, self._label(path), group=group))
        return clips

    def labelled_clips(self, label_format: LabelFormat = ONE_LABEL) -> list[Clip]:
        """Returns `clips` with the labels that are left of their events; see `DataSource.labelled_clips`.

        The sounds of labels that are left out remain, as those of no class.
        """
        clips, new = self.clips(), self.labels or {}
        self.require_labels({event.label for events in self.events.values() for event in events if event.label})
        for path, events in self.events.items():
            renamed = [new.get(event.label, event.label) if event.label else event.label for event in events]
            pairs = zip(events, renamed, strict=True)
            self.events[path] = [event._replace(label=label) for event, label in pairs]
        return [clip._replace(label=self._label(clip.path)) for clip in clips]

    def _label(self, path: str) -> str:
        return LABEL_SET.join(event.label for event in self.events[path] if event.label)

    def timeline(
        self, clips: Sequence[Clip], offsets: np.ndarray, lengths: np.ndarray, labels: Sequence[str]
    ) -> Timeline:
        """Returns events and quiet parts of decoded recordings; see `DataSource.timeline`."""
        index, rate = {label: number for number, label in enumerate(labels)}, self.sample_rate
        events, declared, outside = [], [], 0
        for number, (clip, start, length) in enumerate(zip(clips, offsets.tolist(), lengths.tolist(), strict=True)):
            quiet = []
            for event in self.events[clip.path]:
                first, end = (round(min(seconds * rate, length)) for seconds in event[:2])
                outside += end <= first
                if end <= first:
                    continue
                if event.label == "":
                    quiet.append((start + first, start + end))
                else:
                    events.append((number, start + first, start + end, index.get(str(event.label), -1)))
            declared.append(np.array(quiet, np.int64).reshape(-1, 2))
        if outside:
            log.warning("%s without any sample in the recordings left out", counted(outside, "annotation"))
        if not events:
            raise UserError(f"data.root={self.root}: no annotation of a class is within its recording")
        table = np.array(events, np.int64).reshape(-1, 4)
        is_quiet, guard = self.unannotated == "quiet", round(self.guard * rate)
        parts = quiet_parts(offsets, lengths, table, guard, None if is_quiet else declared)
        size, hop = max(1, round(self.window * rate)), max(1, round((self.hop or self.window / 2) * rate))
        return Timeline(
            offsets,
            lengths,
            table,
            parts,
            num_classes=len(labels),
            size=size,
            hop=hop,
            min_overlap=self.min_overlap,
            quiet_share=self.quiet_share,
            is_complete=is_quiet,
        )

    def _from_table(self, table: Path, files: Sequence[str]) -> dict[str, list[Annotation]]:
        known = {os.path.abspath(path): path for path in files}
        found: dict[str, list[Annotation]] = {}
        missing = []
        for event in read_events(table, self.columns):
            if not event.path:
                raise UserError(f"{table}, line {event.line}: path is empty")
            names = (event.path, event.path.replace("\\", "/"), os.path.basename(event.path.replace("\\", "/")))
            places = (Path(self.root).expanduser(), table.parent)
            candidates = (os.path.abspath(place / name) for name in names for place in places)
            path = next((known[name] for name in candidates if name in known), None)
            if path is None:
                missing.append(f"line {event.line}: {event.path}")
            else:
                found.setdefault(path, []).append(self._annotation(event, table))
        if missing:
            problem = f"{counted(len(missing), 'event is', 'events are')} of recordings that are not in {self.root}"
            if not found or self.on_error == "fail":
                remedy = "data.on_error=skip leaves them out"
                raise UserError(f"{table}: {problem}, such as {preview(missing, 3)}; {remedy}")
            log.warning("%s: %s and left out: %s", table, problem, preview(missing, 3))
        return found

    def _from_label_file(self, path: str, root: Path, folder: Path) -> list[Annotation] | None:
        file = label_file(Path(path), root, folder)
        return None if file is None else [self._annotation(event, file) for event in read_events(file, self.columns)]

    def _annotation(self, event: TableEvent, table: Path) -> Annotation:
        label = "" if event.label in self.quiet_labels else event.label.replace(SEPARATOR, ",")
        if label and event.end == math.inf:
            problem = f"{label!r} has no start and end; only what is quiet (data.quiet_labels) may be without"
            raise UserError(f"{table}, line {event.line}: {problem}")
        return Annotation(event.start, event.end, label)
