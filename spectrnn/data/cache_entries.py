"""What the cache folder contains, and how it stays small: the least recently used recordings are removed first."""

import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from spectrnn.data.segments import FOLDER, SAMPLES, SegmentError, read_index, remove_segment

DECODED, OUTDATED = "decoded", "outdated"
_LOCKS = "locks"
_GRACE = 3600.0  # s after which a folder without a lock is no longer being written
_DISK_FRACTION = 0.5  # of the cache and the free space together, for max_gb=auto


class Entry(NamedTuple):
    """A part of the cache that is removed as a whole.

    Attributes:
        kind: ``decoded``; ``outdated`` for decoded recordings of another version, or incomplete or damaged ones; or the
            name of another folder in the cache, such as ``remote``.
        path: Folder or file.
        source: Folder of the recordings; "" if unknown.
        clips: Number of clips; None if unknown.
        sample_rate: Sample rate in Hz; None if unknown.
        size: Size in bytes.
        used: Time of the last use in s since 1970.
    """

    kind: str
    path: Path
    source: str
    clips: int | None
    sample_rate: int | None
    size: int
    used: float


def decoded_entries(cache: Path) -> list[Entry]:
    """Returns the decoded recordings in a cache folder; none if there are none, or the folder cannot be read."""
    entries = []
    for folder in _children(cache / FOLDER):
        size, used = _measure(folder)
        try:
            index = read_index(folder)
            is_complete = not folder.name.startswith(".")
        except SegmentError:
            is_complete = False
        if is_complete:
            used = (folder / SAMPLES).stat().st_mtime
            entries.append(Entry(DECODED, folder, index.source, index.clips, index.sample_rate, size, used))
        else:
            entries.append(Entry(OUTDATED, folder, "", None, None, size, used))
    return entries


def other_entries(cache: Path) -> list[Entry]:
    """Returns the other folders of a cache: downloads, synthetic speech, compiled kernels."""
    folders = [path for path in _children(cache) if path.name not in (FOLDER, _LOCKS) and path.is_dir()]
    return [Entry(path.name, path, "", None, None, *_measure(path)) for path in folders]


def decoded_size(cache: Path) -> int:
    """Returns the size of all decoded recordings in bytes."""
    return sum(entry.size for entry in decoded_entries(cache))


def prune_decoded(cache: Path, max_gb: float | str | None) -> int:
    """Removes the least recently used of the decoded recordings, but those that a process uses.

    Args:
        cache: Cache folder.
        max_gb: Maximum size of what remains in GB; ``auto`` for half of what they and the free disk space are together;
            None for no limit.

    Returns:
        Size of what was removed in bytes.
    """
    if max_gb is None:
        return 0
    entries = decoded_entries(cache)
    if isinstance(max_gb, str):
        limit = _DISK_FRACTION * (sum(entry.size for entry in entries) + shutil.disk_usage(cache).free)
    else:
        limit = max_gb * 1e9
    return sum(entry.size for entry in prune(entries, limit))


def prune(entries: Sequence[Entry], limit: float) -> list[Entry]:
    """Removes entries until the others have a size of at most a limit in bytes, and returns what was removed.

    Outdated ones are removed first, then the least recently used. What a process uses is kept.
    """
    remaining = sum(entry.size for entry in entries)
    removed = []
    for entry in sorted(entries, key=lambda entry: (entry.kind != OUTDATED, entry.used)):
        if remaining <= limit:
            break
        if _remove(entry):
            removed.append(entry)
            remaining -= entry.size
    return removed


def _remove(entry: Entry) -> bool:
    """Removes an entry, unless a process uses it or it cannot be removed; returns whether it is removed."""
    if entry.kind in (DECODED, OUTDATED):
        is_new = entry.path.name.startswith(".") and time.time() - entry.used < _GRACE
        return not is_new and remove_segment(entry.path)
    shutil.rmtree(entry.path, ignore_errors=True)
    return not entry.path.exists()


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _measure(path: Path) -> tuple[int, float]:
    """Returns the size in bytes of a folder's files, and when the last one was written, in s since 1970."""
    size, written = 0, 0.0
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(OSError):
                stat = os.lstat(os.path.join(folder, name))
                size, written = size + stat.st_size, max(written, stat.st_mtime)
    return size, written


def format_size(size: float) -> str:
    """Formats a size in bytes, such as ``340 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5 or unit == "GB":
            return f"{size:.1f} {unit}" if unit == "GB" and size < 100 else f"{size:,.0f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")
