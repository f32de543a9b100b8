"""What decoders print to the terminal, collected."""

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_LOCK = threading.Lock()
_STDERR = 2
_OF_LIBMPG123 = (b"[src/libmpg123", b"Note: ", b"Warning: ", b"Error: ")  # beginnings of its lines


class _Capture:
    """The file that stands in for standard error while at least one thread decodes."""

    users = 0
    original = -1
    file: int = -1


@contextmanager
def collect_chatter(lines: list[str]) -> Iterator[None]:
    """Appends the lines that libmpg123 prints within the block; it writes to the descriptor 2, and cannot be silenced.

    What other threads print meanwhile reaches standard error at the end of the block. If several threads are within
    such a block at once, a line may go to another one's list.
    """
    with _LOCK:
        _Capture.users += 1
        if _Capture.users == 1 and not _start():
            _Capture.users = 0
    try:
        yield
    finally:
        with _LOCK:
            if _Capture.users:
                _Capture.users -= 1
                lines += _take(restore=not _Capture.users)


def _start() -> bool:
    with suppress(OSError):  # standard error may be closed
        _Capture.original = os.dup(_STDERR)
        if _Capture.file < 0:
            with tempfile.TemporaryFile() as file:
                _Capture.file = os.dup(file.fileno())
        os.dup2(_Capture.file, _STDERR)
        return True
    return False


def _take(restore: bool) -> list[str]:
    """Returns the lines of decoders so far, prints the others, and gives standard error back if nobody decodes."""
    size = os.lseek(_Capture.file, 0, os.SEEK_CUR)
    content = b""
    if size:
        os.lseek(_Capture.file, 0, os.SEEK_SET)
        content = os.read(_Capture.file, size)
        os.ftruncate(_Capture.file, 0)
        os.lseek(_Capture.file, 0, os.SEEK_SET)
    lines = content.splitlines(keepends=True)
    of_decoders = [line for line in lines if line.startswith(_OF_LIBMPG123)]
    with suppress(OSError):
        os.write(_Capture.original, b"".join(line for line in lines if line not in of_decoders and line.strip()))
        if restore:
            os.dup2(_Capture.original, _STDERR)
            os.close(_Capture.original)
    return [line.decode(errors="replace").strip() for line in of_decoders]
