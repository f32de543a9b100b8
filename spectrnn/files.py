"""Atomic writes: files and folders that appear complete or not at all."""

import errno
import functools
import glob
import json
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

try:
    import fcntl
except ImportError:  # Windows, which does not remove open files
    fcntl = None  # type: ignore[assignment]

from spectrnn.errors import UserError

log = logging.getLogger(__name__)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path next to `path`; the file written there becomes `path` if the block succeeds.

    A kill, a full disk or a power failure leaves the previous file unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        if os.name != "nt":  # a new name survives a power failure only if the folder is written too
            descriptor = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yields an empty temporary folder next to `path`, which becomes `path` if the block succeeds.

    If another process has created `path` in the meantime, that one is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name[:40]}.", suffix=".tmp", dir=path.parent))
    temporary.chmod(0o777 & ~_umask())
    try:
        yield temporary
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def replace_directory(path: Path) -> Iterator[Path]:
    """Like `atomic_directory`, but replaces an existing folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=f".{path.name[:40]}.", suffix=".tmp", dir=path.parent) as aside,
        atomic_directory(path) as temporary,
    ):
        yield temporary
        if path.exists():
            path.rename(Path(aside) / "previous")


def cache_folder(path: str) -> Path:
    """Returns the cache folder of a path as in a config; without a home folder the user's own in the temporary one."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        folder = _temporary_cache()
        _warn_once(f"data.cache={path}: no home folder is known; using {folder}")
        return folder


def writable_cache(cache: Path) -> Path:
    """Returns a cache folder if it can be written, else the user's own in the temporary folder, with a warning."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            return cache
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            return cache  # such as a full disk, which is reported when it is written
        temporary = _temporary_cache()
        _warn_once(f"data.cache: {cache} cannot be written ({error.strerror}); using {temporary}")
        return temporary


@functools.cache
def _warn_once(message: str) -> None:
    log.warning("%s", message)


def _temporary_cache() -> Path:
    """A folder of this user, whom alone it belongs to: the cache contains compiled kernels."""
    user = os.getuid() if hasattr(os, "getuid") else ""
    folder = Path(tempfile.gettempdir()) / f"spectrnn-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or (user != "" and (status.st_uid != user or status.st_mode & 0o022)):
        raise UserError(f"data.cache: {folder} belongs to another user; name another folder")
    return folder


def write_lines(lines: Sequence[str], path: Path) -> Path | None:
    """Writes lines to a file, atomically, and returns its path; removes the file if there are none."""
    if not lines:
        path.unlink(missing_ok=True)
        return None
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")
    return path


@contextmanager
def reporting_write_errors(name: str) -> Iterator[None]:
    """Raises an `OSError` of the block as a `UserError` that starts with a name, such as ``out=folder``."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{name}: cannot be written ({error.strerror})") from error


def why_unreadable(path: str | Path) -> str:
    """Returns why a path is not that of a file that can be opened, in a few words; "" if it is."""
    try:
        is_file = stat.S_ISREG(os.stat(path).st_mode)
    except PermissionError:
        return "permission denied"
    except (OSError, ValueError):  # a name with a null character
        return "broken link" if os.path.islink(path) else "no such file"
    if not is_file:
        return "no such file"
    return "" if os.access(path, os.R_OK) else "permission denied"


def make_unique_directory(path: str) -> str:
    """Creates a folder that did not exist, `path` or `path` with -2, -3, ... appended, and returns its path."""
    for candidate in (path if number == 1 else f"{path}-{number}" for number in count(1)):
        try:
            os.makedirs(candidate)
        except FileExistsError:
            continue
        return candidate
    raise AssertionError("unreachable")


def write_json(content: dict[str, Any], path: Path) -> None:
    """Writes JSON, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def remove_stale_temporaries(folder: Path, name: str = "") -> None:
    """Removes temporaries that a killed process has left; the caller holds a lock, so that nobody is writing.

    Args:
        folder: Folder of the temporaries.
        name: Name of the file or folder that was being written; "" for all in the folder.
    """
    for temporary in folder.glob(f".{glob.escape(name[:40])}*.tmp"):
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink()


def lock_file(file: BinaryIO, is_shared: bool) -> bool:
    """Locks an open file until it is closed, also if the process is killed.

    Args:
        file: Open file.
        is_shared: Whether others may hold a shared lock as well; the lock is waited for. Else it fails if there is any.

    Returns:
        Whether no other process holds the file, as far as the system and the file system can tell.
    """
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            return True
    return True


def _umask() -> int:
    # It can only be read by setting it. Writers such as safetensors create files that only their owner can read.
    mask = os.umask(0)
    os.umask(mask)
    return mask
