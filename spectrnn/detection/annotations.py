"""True events of recordings, from the tables of events that spectrnn, Raven and Audacity write."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from spectrnn.data.audio import EXTENSIONS
from spectrnn.data.scan import scan_folder
from spectrnn.data.sources.event_tables import TableEvent, label_file, read_events
from spectrnn.data.sources.tables import ENDINGS
from spectrnn.errors import UserError
from spectrnn.files import why_unreadable
from spectrnn.messages import counted, preview

log = logging.getLogger(__name__)


class Annotation(NamedTuple):
    """A true event.

    Attributes:
        start: Start in s from the beginning of the recording.
        end: End in s; infinity for a row without times, which is of the whole recording.
        label: Class of the event.
    """

    start: float
    end: float
    label: str


def read_annotations(tables: Iterable[Path], recordings: Mapping[str, Path]) -> dict[str, list[Annotation]]:
    """Reads the true events of recordings; rows without a label state that nothing sounds.

    Args:
        tables: Tables, as for `read_events`, or folders with one for each recording. A table without paths is of the
            recording of the same name; those in a folder are beside their recordings, or at the place that these have
            in their own folder.
        recordings: Further recordings that were annotated, with the folder that each was found in. A path in a table
            that is relative to neither the table nor the working directory is that of the recording whose path ends
            with it, or of the same name.

    Returns:
        Events by path of the recording, sorted; empty for recordings without any.

    Raises:
        UserError: A table or folder that cannot be read, or a recording that cannot be found.
    """
    found: dict[str, set[Annotation]] = {os.path.realpath(recording): set() for recording in recordings}
    paths = {os.path.realpath(recording): recording for recording in recordings}
    for table in tables:
        read = _read_folder if table.is_dir() else _read_table
        for path, events in read(table, recordings):
            paths.setdefault(os.path.realpath(path), path)
            own = found.setdefault(os.path.realpath(path), set())
            own.update(Annotation(event.start, event.end, event.label) for event in events if event.label)
    return {paths[real]: sorted(events) for real, events in found.items()}


def _read_table(table: Path, recordings: Mapping[str, Path]) -> Iterator[tuple[str, Sequence[TableEvent]]]:
    """Yields the recording of each row of a table, and the row."""
    if reason := why_unreadable(table):
        raise UserError(f"events={table}: {reason}")
    for event in read_events(table):
        name = event.path or table.name.split(".Table.")[0].removesuffix(table.suffix)
        if (path := _find(name, table, [*recordings])) is None:
            remedy = "recordings=[FOLDER] names where the recordings are"
            raise UserError(f"{table}, line {event.line}: no recording {name}; {remedy}")
        yield path, [event]


def _read_folder(folder: Path, recordings: Mapping[str, Path]) -> Iterator[tuple[str, Sequence[TableEvent]]]:
    """Yields the recordings with a label file in a folder, and all of its rows; warns about what has no counterpart."""
    try:
        scan = scan_folder(folder)
    except OSError as error:
        raise UserError(f"events={folder}: {(error.strerror or str(error)).lower()}") from error
    known = {os.path.realpath(path) for path in recordings}
    beside = {path: folder for path in scan.files if os.path.realpath(path) not in known}
    places = {**recordings, **beside}
    files = {path: file for path, root in places.items() if (file := label_file(Path(path), root, folder))}
    if not files:
        remedy = "recordings=[FOLDER] names where the recordings are"
        raise UserError(f"events={folder}: contains no label file with the name of a recording; {remedy}")
    others = {Path(item.path) for item in scan.ignored if Path(item.path).suffix.lower() in ENDINGS} - {*files.values()}
    for paths, noun, outcome in (
        (sorted(map(str, others)), "label file", "without a recording left out"),
        ([path for path in beside if path not in files], "recording", "without a label file left out"),
        (
            [path for path in recordings if path not in files],
            "recording",
            "without a label file, counted as without events",
        ),
    ):
        if paths:
            log.warning("events=%s: %s %s: %s", folder, counted(len(paths), noun), outcome, preview(paths, 3))
    for path, file in files.items():
        yield path, read_events(file)


def _find(name: str, table: Path, recordings: Sequence[str]) -> str | None:
    """Returns the recording of a path or name in a table; None if there is none, or several."""
    plain = name.replace("\\", os.sep)
    places = [os.path.normpath(os.path.join(table.parent, plain)), plain]
    if file := next(filter(os.path.isfile, places), None):
        return file
    same = [path for path in recordings if os.path.join(os.sep, path).endswith(os.path.join(os.sep, plain))]
    same = same or [path for path in recordings if os.path.basename(plain) in (Path(path).name, Path(path).stem)]
    if not same and not os.path.splitext(plain)[1]:  # a label track next to its recording
        same = [str(path) for path in table.parent.glob(f"{plain}.*") if path.suffix.lower() in EXTENSIONS]
    return same[0] if len({*same}) == 1 else None
