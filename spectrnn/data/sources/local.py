"""Sources for anyone's own recordings: a folder a class, or a manifest."""

import csv
import json
import logging
import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from sys import intern
from typing import Any, NamedTuple

from spectrnn.data.audio import EXTENSIONS
from spectrnn.data.clips import SPLITS, Clip, DataSource
from spectrnn.errors import UserError, reject_settings

log = logging.getLogger(__name__)

_TABLES = (".csv", ".tsv", ".jsonl")
_SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}


@dataclass(kw_only=True)
class FolderDataset(DataSource):
    """``root/<label>/**/<clip>``, or ``root/<split>/<label>/**/<clip>`` where all folders at the top are splits.

    Args:
        root: the folder.
        group: a regular expression over the path below the label's folder; what its first parenthesis matches is the
            clip's group (speaker, machine, day), which no two splits share.
    """

    root: str
    group: str | None

    def __post_init__(self) -> None:
        reject_settings(
            root=not Path(self.root).expanduser().is_dir() and "no such folder", group=_check_group_pattern(self.group)
        )

    def clips(self) -> list[Clip]:
        """The clip table, sorted by path."""
        root = Path(self.root).expanduser()
        folders = subfolders(root)
        splits = {folder: _SPLIT_FOLDERS.get(folder.name.lower()) for folder in folders}
        if folders and all(splits.values()):
            labels = [(label, split) for folder, split in splits.items() for label in subfolders(folder)]
        else:
            labels = [(label, None) for label in folders]
        if any(splits.values()) and not all(splits.values()):
            log.warning("data.root=%s: not all of its folders are splits, so each is taken for a class", self.root)
        if not labels:
            raise UserError(f"data.root={self.root}: holds no folders; one folder a class is expected")
        return [
            Clip(str(path), folder.name, split, group=self._group(path.relative_to(folder)))
            for folder, split in labels
            for path in audio_files(folder)
        ]

    def _group(self, path: Path) -> str | None:
        if self.group is None:
            return None
        match = re.search(self.group, path.as_posix())
        if match is None:
            raise UserError(f"data.group={self.group}: finds no group in {path}")
        return match.group(1)


class _ManifestFile(NamedTuple):
    """Where a manifest's file lies, and the line that names it first."""

    path: str
    line: int


@dataclass(kw_only=True)
class ManifestDataset(DataSource):
    """A CSV, TSV or JSONL file with the columns path and label, and optionally split, fold, group, start, end.

    Args:
        path: the manifest. Paths in it are relative to its folder, and those that leave it are told of; start and end
            are in seconds.
    """

    path: str

    def __post_init__(self) -> None:
        path = Path(self.path).expanduser()
        reject_settings(
            path=(not path.is_file() and "no such file")
            or (path.suffix.lower() not in _TABLES and "the name should end in .csv, .tsv or .jsonl")
        )

    def clips(self) -> list[Clip]:
        """The clip table, in the manifest's order."""
        path = Path(self.path).expanduser()
        files: dict[str, _ManifestFile] = {}  # each is looked for once, however many clips it holds
        clips = [self._clip(path, line, row, files) for line, row in _rows(path)]
        if not clips:
            raise UserError(f"{path}: holds no clips")
        if self.on_error == "fail":  # else the store tells, with all that is broken
            _refuse_missing(path, files.values())
        _warn_about_outside_paths(path, files.values())
        return clips

    def _clip(self, manifest: Path, line: int, row: dict[str, Any], files: dict[str, _ManifestFile]) -> Clip:
        values = {name: str(value).strip() for name, value in row.items() if value is not None and name}
        try:
            for column in ("path", "label"):
                if not values.get(column):
                    raise UserError(f"{column} is empty")
            split = values.get("split", "").lower() or None
            if split is not None and split not in _SPLIT_FOLDERS:
                raise UserError(f"split {split!r} is none of {', '.join(SPLITS)}")
            if values["path"] not in files:
                located = os.path.normpath(os.path.join(manifest.parent, values["path"]))
                files[values["path"]] = _ManifestFile(located, line)
            start, end = _parse_seconds(values, "start"), _parse_seconds(values, "end")
            if end is not None and end <= (start or 0.0):
                raise UserError(f"end {end} is not after start {start or 0.0}")
        except UserError as error:
            raise UserError(f"{manifest}, line {line}: {error}") from error
        return Clip(
            path=files[values["path"]].path,
            label=intern(values["label"]),  # a million clips share their few labels
            split=split and _SPLIT_FOLDERS[split],
            fold=values.get("fold") or None,
            group=values.get("group") or None,
            start=start or 0.0,
            end=end,
        )


def _refuse_missing(manifest: Path, files: Iterable[_ManifestFile]) -> None:
    missing = [file for file in files if not os.path.isfile(file.path)]
    if missing:
        raise UserError("\n".join(f"{manifest}, line {file.line}: no such file: {file.path}" for file in missing))


def _warn_about_outside_paths(manifest: Path, files: Collection[_ManifestFile]) -> None:
    """Absolute paths and ``..`` are fine on the machine that wrote them, and lost or someone else's on another."""
    folder = os.path.join(os.path.abspath(manifest.parent), "")
    outside = [file for file in files if not os.path.abspath(file.path).startswith(folder)]
    if outside:
        some = ", ".join(f"{file.path} (line {file.line})" for file in outside[:3])
        log.warning(
            "%s: %d of its %d files lie outside its folder: %s%s",
            manifest,
            len(outside),
            len(files),
            some,
            ", ..." if len(outside) > 3 else "",
        )


def _check_group_pattern(pattern: str | None) -> str | bool:
    try:
        return pattern is not None and not re.compile(pattern).groups and "names no group; put it in parentheses"
    except re.error as error:
        return f"is no regular expression ({error})"


def subfolders(folder: Path) -> list[Path]:
    """The visible folders in a folder, sorted by name."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def audio_files(folder: Path) -> list[Path]:
    """All visible audio files below a folder, sorted.

    Raises:
        UserError: there are none.
    """
    files = [path for path in sorted(folder.rglob("*")) if is_audio(path.relative_to(folder)) and path.is_file()]
    if not files:
        raise UserError(f"{folder}: holds no audio files ({', '.join(sorted(EXTENSIONS))})")
    return files


def is_audio(path: Path) -> bool:
    """Whether a relative path names a visible audio file."""
    return path.suffix.lower() in EXTENSIONS and not any(part.startswith(".") for part in path.parts)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The line number and the columns of every row."""
    kind = path.suffix.lower()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if kind == ".jsonl":
                for line, text in enumerate(file, 1):
                    if text.strip():
                        yield line, _columns(f"{path}, line {line}", _parsed(f"{path}, line {line}", text))
                return
            reader = csv.DictReader(file, delimiter="\t" if kind == ".tsv" else ",")
            reader.fieldnames = [column.strip() for column in reader.fieldnames or ()]
            _columns(str(path), dict.fromkeys(reader.fieldnames))
            for row in reader:
                yield reader.line_num, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: {error}") from error


def _parsed(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: is no JSON: {error}") from error


def _columns(where: str, row: Any) -> dict[str, Any]:
    missing = [column for column in ("path", "label") if not isinstance(row, dict) or column not in row]
    if missing:
        names = ", ".join(map(str, row)) if isinstance(row, dict) else repr(row)
        raise UserError(f"{where}: no column {' and no column '.join(missing)} (found: {names})")
    return row


def _parse_seconds(values: dict[str, str], column: str) -> float | None:
    text = values.get(column)
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise UserError(f"{column} {text!r} is no time in seconds")
    return seconds
