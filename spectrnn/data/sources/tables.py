"""Tables of clips as spreadsheets and other tools write them: separator, encoding and columns are recognised."""

import codecs
import csv
import json
import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TextIO, get_args

from spectrnn.errors import UserError

log = logging.getLogger(__name__)

Column = Literal["path", "label", "split", "fold", "group", "start", "end", "duration"]
ENDINGS = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".jsonl": ""}  # of tables, with their usual separators
_SEPARATORS = (",", ";", "\t", "|")
_BLOCK = 1 << 20  # bytes or characters per read
# Names of columns in other tools' tables, in lower case, without anything but letters and digits.
_NAMES = {
    "path": "filename file filepath wav wavfile wavpath wavfilename audio audiofile audiopath audiofilepath "
    "audiofilename sound soundfile soundpath recording slicefilename fname beginfile beginpath",
    "label": "labels species class classname category target primarylabel tag genre emotion word keyword eventlabel "
    "scenelabel speciesname commonname ebirdcode",
    "split": "subset partition",
    "fold": "folds cvfold kfold",
    "group": "groupid speaker speakerid spk spkid clientid fsid subject subjectid actor actorid patient patientid",
    "start": "starttime startseconds startsec starts begin begintime begintimes onset offset",
    "end": "endtime endseconds endsec ends endtimes stop stoptime",
    "duration": "duration",
}


class Table:
    """A table of clips: CSV in any of its dialects, or JSONL.

    Args:
        path: File, whose name ends in one of `ENDINGS`.
        columns: Name of the table's own column by that of ours; None for a column that is not used.
        required: Columns that a table must have.

    Attributes:
        separator: Separator of the columns; "" for JSONL.
        encoding: Encoding, as Python names it.
        columns: Name of the table's own column by that of ours, as far as rows have been read.

    Raises:
        UserError: A file that cannot be read.
    """

    def __init__(
        self,
        path: Path,
        columns: Mapping[Column, str | None] | None,
        required: Sequence[Column] = ("path", "label"),
    ) -> None:
        self.path, self._required = path, required
        self._given: dict[str, str | None] = {str(name): own for name, own in (columns or {}).items()}
        self.separator = ENDINGS[path.suffix.lower()]
        self.columns: dict[str, str] = {}
        with self._reporting_errors():
            self.encoding = detect_encoding(path)

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields the line number of every row, and its values by our names of the columns.

        Raises:
            UserError: A file that is not such a table, lacks a column, or has several columns of one meaning.
        """
        with self._reporting_errors(), self.path.open(encoding=self.encoding, newline="") as file:
            yield from self._csv_rows(file) if self.separator else self._json_rows(file)

    def describe(self) -> str:
        """Describes what is not as in a plain table, in a few words; "" for a plain one."""
        notes = []
        if self.separator != ENDINGS[self.path.suffix.lower()]:
            notes.append(f"separator {self.separator!r}")
        if not self.encoding.startswith("utf-8"):
            notes.append(f"encoding {self.encoding}")
        if renamed := [f"{name}: {own}" for name, own in self.columns.items() if name != own]:
            notes.append(f"columns {{{', '.join(renamed)}}}")
        return ", ".join(notes)

    def _csv_rows(self, file: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
        match = re.fullmatch(r'"?sep=(.)"?', file.readline(16).rstrip("\r\n"), re.IGNORECASE)  # of Excel
        self.separator = match[1] if match else self._find_separator(file)
        reader = self._reader(file, self.separator, skip=bool(match))
        header = _header(reader)
        positions = {name: header.index(own) for name, own in self._map_columns(header, str(self.path)).items()}
        for row in reader:
            line = reader.line_num + bool(match)
            if surplus := [cell for cell in row[len(header) :] if cell.strip()]:
                remedy = f"quote values that contain {self.separator!r}"
                raise UserError(f"{self.path}, line {line}: {surplus[0]!r:.40} is in no column; {remedy}")
            if any(map(str.strip, row)):
                yield line, {name: row[at] for name, at in positions.items() if at < len(row)}

    def _json_rows(self, file: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
        known: dict[tuple[str, ...], dict[str, str]] = {}  # rows may have different columns
        for line, text in enumerate(file, 1):
            if text.strip():
                name = f"{self.path}, line {line}"
                row = _parse_json(text, name)
                columns = known.get(tuple(row))
                if columns is None:
                    columns = known[tuple(row)] = self._map_columns(list(row), name)
                yield line, {name: row[own] for name, own in columns.items()}

    def _find_separator(self, file: TextIO) -> str:
        """Finds the separator with which the header has the most of the required columns, then the most columns."""
        best, usual = (-1, -1), self.separator
        for separator in (usual, *(other for other in _SEPARATORS if other != usual)):
            try:
                header = _header(self._reader(file, separator))
            except csv.Error:  # a field without an end
                continue
            found = sum(bool(self._candidates(name, header)) for name in self._required), len(header)
            if found > best:
                best, self.separator = found, separator
        return self.separator

    def _reader(self, file: TextIO, separator: str, skip: bool = False) -> Any:
        file.seek(0)
        if skip:
            file.readline()
        return csv.reader(file, delimiter=separator, skipinitialspace=True)

    def _map_columns(self, header: Sequence[str], name: str) -> dict[str, str]:
        """Maps our names of columns to those of a table, or of a row with this name."""
        found: dict[str, str] = {}
        for column in get_args(Column):
            candidates = self._candidates(column, header)
            given = self._given.get(column)
            if given is not None and not candidates:
                listed = ", ".join(filter(None, header))
                raise UserError(f"data.columns={{{column}: {given}}}: {name} has no such column (found: {listed})")
            if column == "duration" and given is None and ("start" not in found or "end" in found):
                continue
            if len(candidates) > 1:
                listed = " and ".join(candidates)
                remedy = f"data.columns={{{column}: {candidates[0]}}} chooses one"
                raise UserError(f"{name}: columns {listed} may each be the {column}; {remedy}")
            if candidates:
                found[column] = candidates[0]
        require_columns(found, self._required, name, header)
        for own in found.values():
            if header.count(own) > 1:
                raise UserError(f"{name}: has {header.count(own)} columns {own}")
        self.columns |= found
        return found

    def _candidates(self, column: str, header: Sequence[str]) -> list[str]:
        """Columns of a table that may be one of ours: that which is given, or of the same name, or of usual names."""
        wanted = self._given.get(column, column)
        if wanted is None:
            return []
        if wanted in header:
            return [wanted]
        plain = {own: re.sub(r"[\W_]", "", own.casefold()) for own in header}
        if column in self._given:
            return [own for own, text in plain.items() if text == re.sub(r"[\W_]", "", wanted.casefold()) and text]
        names = {column, *_NAMES[column].split()}
        if "onset" in plain.values() and column in ("start", "end"):  # with it, an offset is an end
            names = names - {"offset"} if column == "start" else names | {"offset"}
        taken = {*self._given.values(), *_NAMES} - {column}
        return [own for own, text in plain.items() if text in names and own not in taken]

    @contextmanager
    def _reporting_errors(self) -> Iterator[None]:
        try:
            yield
        except UnicodeDecodeError as error:
            raise UserError(
                f"{self.path}: is neither UTF-8 nor {self.encoding} ({error.reason}); save it as UTF-8"
            ) from error
        except csv.Error as error:
            raise UserError(f"{self.path}: {error}") from error
        except OSError as error:
            raise UserError(f"data.path={self.path}: {(error.strerror or str(error)).lower()}") from error


def require_columns(
    columns: Collection[str], required: Sequence[str], name: str, found: Collection[str] | None = None
) -> None:
    """Rejects a table, or a row with this name, that lacks any of the required columns.

    Args:
        columns: Columns of the table.
        required: Columns that are required.
        name: Name for the message.
        found: The table's own names of its columns, if they differ; `data.columns` maps them.
    """
    missing = [column for column in required if column not in columns]
    if missing:
        listed = ", ".join(filter(None, columns if found is None else found))
        remedy = f"; data.columns={{{missing[0]}: NAME}} names it" if found else ""
        raise UserError(f"{name}: no column {' and no column '.join(missing)} (found: {listed}){remedy}")


def parse_seconds(values: Mapping[str, str], column: str, has_decimal_commas: bool) -> float | None:
    """Parses a time in s of a row, which may have a decimal comma; None if the row has none.

    Raises:
        UserError: A value that is not a time.
    """
    text = values.get(column)
    if not text:
        return None
    try:
        seconds = float(text.replace(",", ".") if has_decimal_commas and "." not in text else text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise UserError(f"{column} {text!r} is not a time in seconds")
    return seconds


def _header(reader: Iterator[list[str]]) -> list[str]:
    """The names in the first row that is not blank; empty if there is none."""
    return next(([cell.strip() for cell in row] for row in reader if any(map(str.strip, row))), [])


def _parse_json(text: str, name: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}: is not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise UserError(f"{name}: is not a JSON object with path and label")
    return row


def detect_encoding(path: Path) -> str:
    """Detects the encoding by the byte order mark, the zero bytes of UTF-16, or, else, whether it is UTF-8.

    What is not UTF-8 is taken for cp1252, in which Windows programs of western Europe and America write.
    """
    with path.open("rb") as file:
        block = file.read(_BLOCK)
        marks = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
        for mark, encoding in marks.items():
            if block.startswith(mark):
                return encoding
        for start, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
            if 4 * block[start::2].count(0) > len(block):
                return encoding
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            while block:
                decoder.decode(block)
                block = file.read(_BLOCK)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "cp1252"
    return "utf-8"
