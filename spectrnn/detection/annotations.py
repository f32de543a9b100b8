"""True events of recordings, from the tables of events that spectrnn, Raven and Audacity write."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from spectrnn.data.audio import EXTENSIONS
from spectrnn.data.sources.event_tables import read_events
from spectrnn.errors import UserError
from spectrnn.files import why_unreadable


class Annotation(NamedTuple):
    """A true event.

    Attributes:
        start: Start in s from the beginning of the recording.
        end: End in s.
        label: Class of the event.
    """

    start: float
    end: float
    label: str


def read_annotations(tables: Iterable[Path], recordings: Sequence[str]) -> dict[str, list[Annotation]]:
    """Reads the true events of recordings; rows without a label state that nothing sounds.

    Args:
        tables: Tables, as for `read_events`. One without paths is of the recording of the same name.
        recordings: Further recordings that were annotated. A path in a table that is relative to neither the table nor
            the working directory is that of the recording whose path ends with it, or of the same name.

    Returns:
        Events by path of the recording, sorted; empty for recordings without any.

    Raises:
        UserError: A table that cannot be read, or a recording that cannot be found.
    """
    found: dict[str, set[Annotation]] = {os.path.realpath(recording): set() for recording in recordings}
    paths = {os.path.realpath(recording): recording for recording in recordings}
    for table in tables:
        if reason := why_unreadable(table):
            raise UserError(f"events={table}: {reason}")
        for event in read_events(table):
            name = event.path or table.name.split(".Table.")[0].removesuffix(table.suffix)
            if (path := _find(name, table, recordings)) is None:
                remedy = "recordings=[FOLDER] names where the recordings are"
                raise UserError(f"{table}, line {event.line}: no recording {name}; {remedy}")
            paths.setdefault(os.path.realpath(path), path)
            events = found.setdefault(os.path.realpath(path), set())
            if event.label:
                events.add(Annotation(event.start, event.end, event.label))
    return {paths[real]: sorted(events) for real, events in found.items()}


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
