"""Data sources for your own recordings: a folder per class, or a manifest."""

import csv
import functools
import json
import logging
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from sys import intern
from typing import Any

from spectrnn.data.audio import EXTENSIONS
from spectrnn.data.clips import SPLITS, Clip, DataSource
from spectrnn.data.remote import absent, fetch, is_address, local_copy
from spectrnn.errors import UserError, reject_settings
from spectrnn.files import cache_folder

log = logging.getLogger(__name__)

_REQUIRED = ("path", "label")  # columns of a manifest
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}


@dataclass(kw_only=True)
class FolderDataset(DataSource):
    """``root/<label>/**/<clip>``, or ``root/<split>/<label>/**/<clip>`` if all top-level folders are splits.

    Args:
        root: Folder of the dataset.
        group: Regular expression for the path in the label's folder, whose first group matches the clip's group
            (speaker, machine, day), which is never in two splits; None for no groups.
    """

    root: str
    group: str | None

    def __post_init__(self) -> None:
        problem = ""
        try:
            if self.group is not None and not re.compile(self.group).groups:
                problem = "contains no group; put it in parentheses"
        except re.error as error:
            problem = f"is not a regular expression ({error})"
        is_folder = Path(self.root).expanduser().is_dir()
        reject_settings(("root", not is_folder, "no such folder"), ("group", problem, problem))

    def clips(self) -> list[Clip]:
        """Returns the clip table, sorted by path."""
        folders = subfolders(Path(self.root).expanduser())
        splits = {folder: _SPLIT_NAMES.get(folder.name.lower()) for folder in folders}
        if folders and all(splits.values()):
            labels = [(label, split) for folder, split in splits.items() for label in subfolders(folder)]
        else:
            labels = [(label, None) for label in folders]
            if any(splits.values()):
                log.warning("data.root=%s: not all of its folders are splits, so each is a class", self.root)
        if not labels:
            raise UserError(f"data.root={self.root}: contains no folders; one folder per class is expected")
        clips = []
        for folder, split in labels:
            paths = sorted(p for p in folder.rglob("*") if is_audio(p.relative_to(folder)) and p.is_file())
            if not paths:
                raise UserError(f"{folder}: contains no audio files ({', '.join(sorted(EXTENSIONS))})")
            clips += [Clip(str(p), folder.name, split, group=self._group(p.relative_to(folder))) for p in paths]
        return clips

    def _group(self, path: Path) -> str | None:
        if self.group is None:
            return None
        match = re.search(self.group, path.as_posix())
        if match is None:
            raise UserError(f"data.group={self.group}: does not match {path}")
        return match.group(1)


@dataclass(kw_only=True)
class ManifestDataset(DataSource):
    """A CSV, TSV or JSONL file with the columns path and label, and optionally split, fold, group, start, end.

    Args:
        path: Manifest. Paths in it are addresses, or relative to its folder; start and end are in s.
        download: Whether to fetch the recordings at addresses that are not in the cache folder.
    """

    path: str
    download: bool

    def __post_init__(self) -> None:
        path = Path(self.path).expanduser()
        is_table = path.suffix.lower() in (*_DELIMITERS, ".jsonl")
        reject_settings(
            ("path", is_address(self.path), "should be a local file; the paths in it may be addresses"),
            ("path", not path.is_file(), "no such file"),
            ("path", not is_table, "the name should end in .csv, .tsv or .jsonl"),
        )

    def clips(self) -> list[Clip]:
        """Returns the clip table, in the order of the manifest."""
        manifest, cache = Path(self.path).expanduser(), cache_folder(self.cache)

        @functools.cache  # a manifest may contain many clips of a file
        def resolve(path: str) -> tuple[str, str | None]:
            if is_address(path):
                return path, local_copy(path, cache)
            return os.path.normpath(os.path.join(manifest.parent, path)), None

        lines: dict[str, int] = {}  # the first one of each file
        clips = []
        for line, row in _rows(manifest):
            try:
                clips.append(_parse_row(row, resolve))
            except UserError as error:
                raise UserError(f"{manifest}, line {line}: {error}") from error
            lines.setdefault(clips[-1].path, line)
        if not clips:
            raise UserError(f"{manifest}: contains no clips")
        addresses = [path for path in lines if is_address(path)]
        files = [path for path in lines if not is_address(path)]
        unknown = fetch(addresses, cache) if self.download else absent(addresses, cache)
        if self.on_error == "fail":  # otherwise the cache reports it, with the unreadable files
            if unknown and not self.download:
                raise UserError(
                    f"{manifest}: {len(unknown)} of its {len(addresses)} remote recordings are not in the cache, such "
                    f"as {unknown[0]}; data.download=true fetches them"
                )
            missing = {*unknown, *(file for file in files if not os.path.isfile(file))}
            if missing:
                known = [(file, line) for file, line in lines.items() if file in missing]
                raise UserError("\n".join(f"{manifest}, line {line}: no such file: {file}" for file, line in known))
        folder = os.path.join(os.path.abspath(manifest.parent), "")
        outside = [file for file in files if not os.path.abspath(file).startswith(folder)]
        if outside:  # by an absolute path or .., which are invalid on another machine
            names = ", ".join(f"{file} (line {lines[file]})" for file in outside[:3])
            names += ", ..." if len(outside) > 3 else ""
            log.warning("%s: %d of its %d files are outside its folder: %s", manifest, len(outside), len(files), names)
        return clips


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the line number and the columns of every row."""
    extension = path.suffix.lower()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if extension == ".jsonl":
                for line, text in enumerate(file, 1):
                    if text.strip():
                        yield line, _parse_json(text, f"{path}, line {line}")
                return
            reader = csv.DictReader(file, delimiter=_DELIMITERS[extension])
            reader.fieldnames = [column.strip() for column in reader.fieldnames or ()]
            require_columns(reader.fieldnames, _REQUIRED, str(path))
            for row in reader:
                yield reader.line_num, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: {error}") from error


def _parse_json(text: str, name: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}: is not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise UserError(f"{name}: is not a JSON object with path and label")
    require_columns(row, _REQUIRED, name)
    return row


def require_columns(columns: Collection[str], required: Sequence[str], name: str) -> None:
    """Rejects a table, or a row with this name, that lacks any of the required columns."""
    missing = [column for column in required if column not in columns]
    if missing:
        raise UserError(f"{name}: no column {' and no column '.join(missing)} (found: {', '.join(columns)})")


def _parse_row(row: Mapping[str, Any], resolve: Callable[[str], tuple[str, str | None]]) -> Clip:
    """Parses a row of strings or JSON values; `resolve` returns the path from the working directory, and the copy."""
    values = {name: str(value).strip() for name, value in row.items() if value is not None and name}
    for column in _REQUIRED:
        if not values.get(column):
            raise UserError(f"{column} is empty")
    split = values.get("split", "").lower()
    if split and split not in _SPLIT_NAMES:
        raise UserError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    start, end = _parse_seconds(values, "start") or 0.0, _parse_seconds(values, "end")
    if end is not None and end <= start:
        raise UserError(f"end {end} is not after start {start}")
    path, copy = resolve(values["path"])
    return Clip(
        path=path,
        label=intern(values["label"]),  # a million clips share their few labels
        split=_SPLIT_NAMES.get(split),
        fold=values.get("fold") or None,
        group=values.get("group") or None,
        start=start,
        end=end,
        copy=copy,
    )


def _parse_seconds(values: Mapping[str, str], column: str) -> float | None:
    text = values.get(column)
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise UserError(f"{column} {text!r} is not a time in seconds")
    return seconds


def subfolders(folder: Path) -> list[Path]:
    """Returns the visible folders in a folder, sorted by name."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def is_audio(path: Path) -> bool:
    """Whether a relative path is that of a visible audio file."""
    return path.suffix.lower() in EXTENSIONS and not any(part.startswith(".") for part in path.parts)
