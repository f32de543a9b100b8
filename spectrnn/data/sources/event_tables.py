"""Tables of events as other tools write them: Raven selection tables, Audacity label tracks, CSV and JSONL."""

import csv
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from spectrnn.data.sources.tables import ENDINGS, Column, Table, detect_encoding, parse_seconds, require_columns
from spectrnn.errors import UserError

_RAVEN_START, _RAVEN_END = "Begin Time (s)", "End Time (s)"
_RAVEN_PATHS = ("Begin Path", "Begin File")  # the more exact one first
# Annotators name this column as they like; the first of these is used.
_RAVEN_LABELS = ("Label", "Annotation", "Species", "Species Code", "Common Name", "Class", "Tag", "Type")
# What follows the name of a recording, with or without its ending, in that of its label file.
_LABEL_FILES = (".txt", ".csv", ".tsv", ".jsonl", ".Table.1.selections.txt", ".selections.txt")


class TableEvent(NamedTuple):
    """A row of a table of events. One without times is of the whole recording, from 0 to infinity.

    Attributes:
        path: Recording as the table names it; None if it names none.
        start: Start in the recording in s.
        end: End in s.
        label: Label, which may be empty.
        line: Number of the line, from 1.
    """

    path: str | None
    start: float
    end: float
    label: str
    line: int


def read_events(path: Path, columns: Mapping[Column, str | None] | None = None) -> list[TableEvent]:
    """Reads a table of events; its content decides about its format.

    Args:
        path: File, whose name ends in one of `ENDINGS`.
        columns: Names of the columns, as for `Table`.

    Raises:
        UserError: A file that cannot be read, or that is not a table of events.
    """
    if path.suffix.lower() not in ENDINGS:
        raise UserError(f"{path}: the name of a table of events should end in .csv, .tsv, .txt or .jsonl")
    try:
        with path.open(encoding=detect_encoding(path), newline="") as file:
            first = file.readline()
        if _RAVEN_START in first:
            return _read_raven(path, (columns or {}).get("label"))
        is_track = re.match(r"\s*-?[0-9.,]+\t-?[0-9.,]+(\t|\s*$)", first) or not first.strip()
        if is_track and path.suffix.lower() == ".txt":
            return _read_audacity(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    table = Table(path, columns, required=("label",) if ENDINGS[path.suffix.lower()] else ())
    return [_event(row, line, path, table.separator not in ("", ",")) for line, row in table.rows()]


def label_file(recording: Path, root: Path, folder: Path) -> Path | None:
    """Returns the label file of a recording in `root`: that of its name at its place in `folder`; None if none is."""
    base = folder / recording.relative_to(root)
    names = [name + ending for name in (base.name, base.stem) for ending in _LABEL_FILES]
    return next(filter(Path.is_file, map(base.with_name, names)), None)


def _read_audacity(path: Path) -> list[TableEvent]:
    """Reads lines of start, end and label; those with frequencies, which start with a backslash, are skipped."""
    events = []
    with path.open(encoding=detect_encoding(path)) as file:
        for line, text in enumerate(file, 1):
            if text.strip() and not text.startswith("\\"):
                start, end, label = (*text.rstrip("\r\n").split("\t", 2), "", "")[:3]
                events.append(_event({"start": start, "end": end, "label": label}, line, path, True))
    return events


def _read_raven(path: Path, label: str | None) -> list[TableEvent]:
    """Reads a selection table. Raven writes a row per view of a selection, of which one is kept.

    In a table of several recordings, times count from the first of them, and the offset in the own file is given.
    """
    events: dict[Any, TableEvent] = {}
    with path.open(encoding=detect_encoding(path), newline="") as file:
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        head = [name for name in reader.fieldnames or () if name]
        require_columns(head, (_RAVEN_END,), str(path))
        label = label or next((name for name in _RAVEN_LABELS if name in head), "label")
        for row in reader:
            require_columns(head, (label,), str(path), head)  # which a table without selections need not have
            own = next((row[name] for name in _RAVEN_PATHS if row.get(name)), None)
            values = {"path": own, "start": row[_RAVEN_START], "end": row[_RAVEN_END], "label": row[label]}
            event = _event(values, reader.line_num, path, has_decimal_commas=True)
            if offset := row.get("File Offset (s)"):
                start = _event({"start": offset, "end": offset}, reader.line_num, path, True).start
                event = event._replace(start=start, end=start + event.end - event.start)
            events.setdefault((row.get("Selection"), event[:4]), event)
    return list(events.values())


def _event(row: Mapping[str, Any], line: int, path: Path, has_decimal_commas: bool) -> TableEvent:
    values = {name: str(value).strip() for name, value in row.items() if value is not None}
    try:
        start, end, duration = (
            parse_seconds(values, name, has_decimal_commas) for name in ("start", "end", "duration")
        )
        if start is None and end is None and duration is None:
            start, end = 0.0, math.inf
        if start is None:
            raise UserError("start is empty")
        if duration is not None:
            end = start + duration
        if end is None or end < start:
            raise UserError(f"end {values.get('end', '')!r} is not after start {start:g}")
    except UserError as error:
        raise UserError(f"{path}, line {line}: {error}") from error
    return TableEvent(values.get("path"), start, end, values.get("label", ""), line)
