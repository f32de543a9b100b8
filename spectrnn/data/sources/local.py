"""Data sources for your own recordings: a folder per class, or a manifest."""

import functools
import logging
import os
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from sys import intern
from typing import Any

from spectrnn.data.clips import SPLITS, Clip, DataSource
from spectrnn.data.remote import absent, fetch, is_address, local_copy
from spectrnn.data.scan import Ignored, scan_folder, summarize
from spectrnn.data.sources.groups import matched_group, pattern_problem
from spectrnn.data.sources.tables import ENDINGS, Column, Table, parse_seconds
from spectrnn.errors import FileErrors, UserError, reject_settings
from spectrnn.files import cache_folder, why_unreadable
from spectrnn.messages import counted

log = logging.getLogger(__name__)

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
        problem = pattern_problem(self.group)
        is_folder = Path(self.root).expanduser().is_dir()
        reject_settings(("root", not is_folder, "no such folder"), ("group", problem, problem))

    def clips(self) -> list[Clip]:
        """Returns the clip table, sorted by path; class folders without audio are left out if two others remain."""
        root = str(Path(self.root).expanduser())
        try:
            scan = scan_folder(root)
        except OSError as error:
            raise UserError(f"data.root={self.root}: {(error.strerror or str(error)).lower()}") from error
        prefix = "" if root == os.curdir else os.path.join(root, "")
        folders = [folder.removeprefix(prefix).split(os.sep) for folder in scan.folders]
        splits = {parts[0]: _SPLIT_NAMES.get(parts[0].lower()) for parts in folders}
        has_splits = bool(splits) and all(splits.values())
        depth = 2 if has_splits else 1  # of the class folders
        if any(splits.values()) and not has_splits:
            log.warning("data.root=%s: not all of its folders are splits, so each is a class", self.root)
        empty = {os.path.join(prefix, *parts): parts for parts in folders if len(parts) == depth}
        self.ignored = list(scan.ignored)
        clips = []
        for path in scan.files:
            parts = path.removeprefix(prefix).split(os.sep)
            if len(parts) <= depth:
                self.ignored.append(Ignored("no class", path, "outside the class folders"))
                continue
            empty.pop(os.path.join(prefix, *parts[:depth]), None)
            split = splits[parts[0]] if has_splits else None
            group = None if self.group is None else matched_group(self.group, "/".join(parts[depth:]))
            clips.append(Clip(path, intern(parts[depth - 1]), split, group=group))
        self.ignored += [Ignored("empty class", folder, "class folder without audio") for folder in empty]
        if not clips or (empty and len({clip.label for clip in clips}) < 2):
            problem = "contains no folders; one folder per class is expected"
            if clips or empty:
                problem = "contains fewer than two class folders with audio"
            reasons = summarize(item for item in self.ignored if item.kind != "no class")
            raise UserError("; ".join([f"data.root={self.root}: {problem}", *reasons.values()]))
        return clips


@dataclass(kw_only=True)
class ManifestDataset(DataSource):
    """A table with the columns path and label, and optionally split, fold, group, start, end, in CSV or JSONL.

    Separator, encoding and the usual other names of the columns are recognised; see `Table`.

    Args:
        path: Manifest. Paths in it are addresses, or relative to its folder; start and end are in s.
        columns: Names of the table's own columns by those above, such as ``{path: filename, label: species}``, with
            null for one that is not used; None for the usual names.
        download: Whether to fetch the recordings at addresses that are not in the cache folder.
    """

    path: str
    columns: dict[Column, str | None] | None
    download: bool

    def __post_init__(self) -> None:
        path = Path(self.path).expanduser()
        reason = why_unreadable(path)
        reject_settings(
            ("path", is_address(self.path), "should be a local file; the paths in it may be addresses"),
            ("path", reason, str(reason)),
            ("path", path.suffix.lower() not in ENDINGS, "the name should end in .csv, .tsv, .txt or .jsonl"),
        )

    def clips(self) -> list[Clip]:
        """Returns the clip table, in the order of the manifest."""
        manifest, cache = Path(self.path).expanduser(), cache_folder(self.cache)
        table = Table(manifest, self.columns)
        foreign: list[str] = []  # paths as another system writes them

        @functools.cache  # a manifest may contain many clips of a file
        def resolve(path: str) -> tuple[str, str | None]:
            if is_address(path):
                return path, local_copy(path, cache)
            found = _find_file(manifest.parent, path)
            if found != os.path.normpath(os.path.join(manifest.parent, path)):
                foreign.append(path)
            return found, None

        lines: dict[str, int] = {}  # the first one of each file
        clips = []
        for line, row in table.rows():
            try:
                clips.append(_parse_row(row, resolve, has_decimal_commas=table.separator not in ("", ",")))
            except UserError as error:
                raise UserError(f"{manifest}, line {line}: {error}") from error
            lines.setdefault(clips[-1].path, line)
        if not clips:
            raise UserError(f"{manifest}: contains no clips")
        if notes := table.describe():
            log.info("%s: read with %s", manifest, notes)
        if foreign:
            log.info("%s: %d paths are as another system writes them, such as %s", manifest, len(foreign), foreign[0])
        addresses = [path for path in lines if is_address(path)]
        files = [path for path in lines if not is_address(path)]
        unknown = fetch(addresses, cache) if self.download else absent(addresses, cache)
        if self.on_error == "fail":  # otherwise the cache reports it, with the unreadable files
            if unknown and not self.download:
                raise UserError(
                    f"{manifest}: {len(unknown)} of its {len(addresses)} remote recordings are not in the cache, such "
                    f"as {unknown[0]}; data.download=true fetches them"
                )
            missing = dict.fromkeys(unknown, "no such file")
            missing |= {file: reason for file in files if (reason := why_unreadable(file))}
            if missing:
                problems = [(file, line) for file, line in lines.items() if file in missing]
                raise FileErrors([f"{manifest}, line {line}: {missing[file]}: {file}" for file, line in problems])
        folder = os.path.join(os.path.abspath(manifest.parent), "")
        outside = [file for file in files if not os.path.abspath(file).startswith(folder)]
        if outside:  # by an absolute path or .., which are invalid on another machine
            names = ", ".join(f"{file} (line {lines[file]})" for file in outside[:3])
            names += ", ..." if len(outside) > 3 else ""
            of = f"of its {len(files)} files"
            log.warning(
                "%s: %s outside its folder: %s", manifest, counted(len(outside), f"{of} is", f"{of} are"), names
            )
        return clips


def _find_file(folder: Path, path: str) -> str:
    """Returns the path from the working directory of a file in a table, as it is or as another system writes its name.

    That is, with the separators of Windows, or in the other Unicode normalization form, as of a table from a Mac.
    """
    plain = path.replace("\\", "/") if os.sep == "/" else path
    forms = [plain, *(unicodedata.normalize(form, plain) for form in ("NFC", "NFD"))]
    names = [os.path.normpath(os.path.join(folder, name)) for name in dict.fromkeys([path, *forms])]
    return next(filter(os.path.isfile, names), names[min(1, len(names) - 1)] if plain != path else names[0])


def _parse_row(
    row: Mapping[str, Any], resolve: Callable[[str], tuple[str, str | None]], has_decimal_commas: bool
) -> Clip:
    """Parses a row of strings or JSON values; `resolve` returns the path from the working directory, and the copy."""
    values = {name: str(value).strip() for name, value in row.items() if value is not None}
    if not values.get("path"):
        raise UserError("path is empty")
    split = values.get("split", "").lower()
    if split and split not in _SPLIT_NAMES:
        raise UserError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    times = {name: parse_seconds(values, name, has_decimal_commas) for name in ("start", "end", "duration")}
    start, end = times["start"] or 0.0, times["end"]
    if times["duration"] is not None:
        end = start + times["duration"]
    if end is not None and end <= start:
        raise UserError(f"end {end} is not after start {start}")
    path, copy = resolve(values["path"])
    return Clip(
        path=path,
        label=intern(values.get("label", "")),  # a million clips share their few labels
        split=_SPLIT_NAMES.get(split),
        fold=values.get("fold") or None,
        group=values.get("group") or None,
        start=start,
        end=end,
        copy=copy,
    )
