"""Files and folders that appear whole or not at all."""

import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside `path`; what is written there becomes `path` when the block ends well.

    A kill or a full disk leaves the previous file as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
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


def remove_unfinished(path: Path) -> None:
    """Removes what a kill left of `new_folder(path)`; the caller holds a lock, so that nobody is writing there now."""
    for temporary in path.parent.glob(f".{glob.escape(path.name[:40])}.*.tmp"):
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(content: dict[str, Any], path: Path) -> None:
    """Writes JSON, atomically."""
    with new_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def _umask() -> int:
    # The mask can only be read by setting it; writers such as safetensors leave files that nobody else can read.
    mask = os.umask(0)
    os.umask(mask)
    return mask
