"""Files and folders that appear whole or not at all."""

import glob
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside `path`; what is written there becomes `path` when the block ends well.

    A kill, a full disk or a power cut leaves the previous file as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        _sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yields an empty temporary folder beside `path`, which becomes `path` when the block ends well.

    Where another process was first, its folder stays and this one is dropped.
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
    """`atomic_directory`, but a folder that is there already is replaced when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=f".{path.name[:40]}.", suffix=".tmp", dir=path.parent) as aside,
        atomic_directory(path) as temporary,
    ):
        yield temporary
        if path.exists():
            path.rename(Path(aside) / "before")


def make_unique_directory(path: str) -> str:
    """Makes a folder that nobody else has: `path` itself, or `path` with -2, -3, ... behind it."""
    for number in itertools.count(1):
        claimed = path if number == 1 else f"{path}-{number}"
        try:
            os.makedirs(claimed)
        except FileExistsError:
            continue
        return claimed
    raise AssertionError("numbers do not end")


def write_json(content: dict[str, Any], path: Path) -> None:
    """Writes JSON, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def remove_stale_temporaries(folder: Path, name: str = "") -> None:
    """Removes what a kill left of `atomic_write` and `atomic_directory`; the caller holds a lock, so that nobody writes now.

    Args:
        folder: that holds it.
        name: of the file or folder that did not come to be; "" for all in the folder.
    """
    for temporary in folder.glob(f".{glob.escape(name[:40])}*.tmp"):
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink()


def _sync_directory(folder: Path) -> None:
    # A file's new name outlives a power cut only when the folder has been written, too. Windows has no such thing.
    if os.name != "nt":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _umask() -> int:
    # The mask can only be read by setting it; writers such as safetensors leave files that nobody else can read.
    mask = os.umask(0)
    os.umask(mask)
    return mask
