"""Annotated recordings: tables of the true events as spectrnn, Raven and Audacity write them."""

import csv
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from spectrnn.data.audio import EXTENSIONS
from spectrnn.data.sources.tables import ENDINGS, Table
from spectrnn.errors import UserError
from spectrnn.files import why_unreadable

_RAVEN = ("Begin Time (s)", "End Time (s)")
_RAVEN_LABELS = ("Label", "Annotation", "Species", "Common Name", "Tags", "Type")


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
    """Reads the true events of recordings.

    A table is CSV, TSV or JSONL with the columns path, start, end and label; a selection table of Raven; or a label
    track of Audacity. The last two may lack a path: the recording is then that of the same name. Equal rows, as those
    of Raven's two views, count once.

    Args:
        tables: Tables.
        recordings: Further recordings that were annotated. A path in a table that is relative to neither the table nor
            the working directory is that of the recording with this name.

    Returns:
        Events by path of the recording, sorted; empty for recordings without any.

    Raises:
        UserError: A table that cannot be read, or a recording that cannot be found.
    """
    by_name: dict[str, list[str]] = {}
    for recording in recordings:
        for name in {os.path.basename(recording), Path(recording).stem}:
            by_name.setdefault(name, []).append(recording)
    found: dict[str, set[Annotation]] = {os.path.realpath(recording): set() for recording in recordings}
    paths = {os.path.realpath(recording): recording for recording in recordings}
    for table in tables:
        for line, name, annotation in _rows(table):
            if (path := _find(name, table, by_name)) is None:
                remedy = "recordings=[FOLDER] names where the recordings are"
                raise UserError(f"{table}, line {line}: no recording {name}; {remedy}")
            if not 0 <= annotation.start < annotation.end < float("inf"):
                span = f"{annotation.start:g} to {annotation.end:g} s"
                raise UserError(f"{table}, line {line}: an event from {span} is not one")
            paths.setdefault(os.path.realpath(path), path)
            found.setdefault(os.path.realpath(path), set()).add(annotation)
    return {paths[real]: sorted(events) for real, events in found.items()}


def _rows(table: Path) -> Iterator[tuple[int, str, Annotation]]:
    """Yields the line, the path or name of the recording, and the event of each row of a table."""
    if table.suffix.lower() not in ENDINGS:
        raise UserError(f"events={table}: the name should end in .csv, .tsv, .txt or .jsonl")
    if reason := why_unreadable(table):
        raise UserError(f"events={table}: {reason}")
    if table.suffix.lower() != ".txt":
        yield from _table_rows(table)
        return
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"events={table}: {getattr(error, 'strerror', None) or error}") from error
    header = lines[0] if lines else []
    if {*_RAVEN} <= {*header}:
        rows = ((line, dict(zip(header, cells, strict=False))) for line, cells in enumerate(lines[1:], 2) if cells)
        yield from _raven_rows(table, rows)
    elif "label" in [cell.strip().lower() for cell in header]:
        yield from _table_rows(table)
    else:
        for line, cells in enumerate(lines, 1):
            if cells and not cells[0].startswith("\\"):  # which starts the frequencies of the row above
                if len(cells) < 3:
                    raise UserError(f"{table}, line {line}: is not a row of an Audacity label track: start, end, label")
                start, end = (_seconds(cell, table, line) for cell in cells[:2])
                yield line, table.stem, Annotation(start, end, cells[2].strip())


def _table_rows(table: Path) -> Iterator[tuple[int, str, Annotation]]:
    for line, row in Table(table, None).rows():
        start, end = row.get("start"), row.get("end")
        if end in (None, "") and row.get("duration") not in (None, ""):
            end = _seconds(start, table, line) + _seconds(row["duration"], table, line)
        first, last = (_seconds(value, table, line) for value in (start, end))
        yield line, str(row["path"]).strip(), Annotation(first, last, str(row["label"]).strip())


def _raven_rows(table: Path, rows: Iterable[tuple[int, Mapping[str, str]]]) -> Iterator[tuple[int, str, Annotation]]:
    for line, row in rows:
        label = next((row[name] for name in _RAVEN_LABELS if row.get(name)), None)
        if label is None:
            raise UserError(f"{table}, line {line}: no label; a column {' or '.join(_RAVEN_LABELS)} is needed")
        start, end = (_seconds(row.get(name), table, line) for name in _RAVEN)
        if row.get("File Offset (s)"):  # of several recordings that Raven opens as one, from the start of its own
            own = _seconds(row["File Offset (s)"], table, line)
            start, end = own, own + end - start
        name = row.get("Begin Path") or row.get("Begin File") or table.name.split(".Table.")[0].removesuffix(".txt")
        yield line, name.strip(), Annotation(start, end, label.strip())


def _seconds(value: Any, table: Path, line: int) -> float:
    if value in (None, ""):
        raise UserError(f"{table}, line {line}: lacks a start or an end")
    try:
        return float(str(value).replace(",", "."))
    except ValueError:
        raise UserError(f"{table}, line {line}: {value!r} is not a time in seconds") from None


def _find(name: str, table: Path, by_name: Mapping[str, Sequence[str]]) -> str | None:
    """Returns the recording of a path or name in a table; None if there is none, or several."""
    plain = name.replace("\\", os.sep)
    places = [os.path.normpath(os.path.join(table.parent, plain)), plain]
    if file := next(filter(os.path.isfile, places), None):
        return file
    same = by_name.get(os.path.basename(plain), [])
    if not same and not os.path.splitext(plain)[1]:  # a label track next to its recording
        same = [str(path) for path in table.parent.glob(f"{plain}.*") if path.suffix.lower() in EXTENSIONS]
    return same[0] if len({*same}) == 1 else None
