"""Vectors of clips, which are slow to compute: those used last in memory, and those that are used again on disk."""

import logging
import sqlite3
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from math import ceil
from pathlib import Path
from threading import Lock

import numpy as np
import numpy.typing as npt

log = logging.getLogger(__name__)

_LOCK_SECONDS = 60.0  # to wait for other processes
_KEPT = 0.9  # of the maximum size, when what was added first is removed

Vectors = npt.NDArray[np.float32]


class VectorCache:
    """Maps the hash of a clip's samples to its vectors, float32 (frames, size).

    The file is an SQLite database that processes share. It keeps float32, so that a vector is the same wherever it
    comes from. It is a cache: if it cannot be read or written, a warning says so, and vectors are computed.

    It is empty until it is enabled, as what is predicted comes once.

    Args:
        size: Size of a vector.
    """

    def __init__(self, size: int) -> None:
        self._size, self._max_bytes = size, 0
        self._memory: OrderedDict[bytes, Vectors] = OrderedDict()
        self._bytes = 0
        self._stored: set[bytes] = set()  # known to be in the file
        self._path: Path | None = None
        self._lock = Lock()

    def enable(self, path: Path, max_bytes: int) -> None:
        """Keeps vectors in memory and in a file, whose folder is made, each of a maximum size; 0 for none."""
        with self._lock:
            self._max_bytes = max_bytes
            self._path, self._stored = path if max_bytes else None, set()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Vectors]:
        """Returns the vectors that are known."""
        with self._lock:
            found = {key: self._memory[key] for key in keys if key in self._memory}
            self._write({key: x for key, x in found.items() if key not in self._stored})
            found |= self._read([key for key in dict.fromkeys(keys) if key not in found])
            self._keep(found)
        return found

    def add(self, vectors: Mapping[bytes, Vectors], will_be_used_again: bool) -> None:
        """Adds vectors to those in memory, and to the file when they are used again, or now if that is known."""
        with self._lock:
            self._keep(vectors)
            self._write(vectors if will_be_used_again else {})

    def _keep(self, vectors: Mapping[bytes, Vectors]) -> None:
        for key, x in vectors.items():
            self._bytes += 0 if key in self._memory else x.nbytes
            self._memory[key] = x
            self._memory.move_to_end(key)
        while self._bytes > self._max_bytes:
            self._bytes -= self._memory.popitem(last=False)[1].nbytes

    def _read(self, keys: Sequence[bytes]) -> dict[bytes, Vectors]:
        if self._path is None or not keys or not self._path.exists():
            return {}
        rows: list[tuple[bytes, bytes]] = []
        try:
            with closing(_connect(self._path)) as database:
                for key in keys:
                    rows += database.execute("SELECT key, data FROM vectors WHERE key = ?", [key])
        except sqlite3.Error as error:
            self._give_up(self._path, error)
        width = self._size * np.dtype(np.float32).itemsize
        # bytearray, as PyTorch expects arrays that can be written.
        arrays = {key: np.frombuffer(bytearray(data), "<f4") for key, data in rows if len(data) % width == 0}
        found = {key: x.reshape(-1, self._size) for key, x in arrays.items()}
        self._stored |= found.keys()
        return found

    def _write(self, vectors: Mapping[bytes, Vectors]) -> None:
        if self._path is None or not vectors:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(_connect(self._path)) as database, database:
                rows = [(key, x.astype("<f4").tobytes()) for key, x in vectors.items()]
                database.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?)", rows)
                _remove_oldest(database, self._max_bytes)
        except (sqlite3.Error, OSError) as error:
            self._give_up(self._path, error)
        self._stored |= vectors.keys()

    def _give_up(self, path: Path, error: Exception) -> None:
        is_damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)
        if is_damaged:
            with suppress(OSError):
                path.unlink()
        log.warning("%s: %s%s; vectors are kept in memory only", path, error, ", so removed" if is_damaged else "")
        self._path = None


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=_LOCK_SECONDS)
    try:
        database.execute("CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, data BLOB NOT NULL)")
    except sqlite3.Error:
        database.close()
        raise
    return database


def _remove_oldest(database: sqlite3.Connection, max_bytes: int) -> None:
    """Removes what was added first if a database is too large; its file keeps its size, and fills again."""
    pages, free, page_size = (
        database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    if (size := (pages - free) * page_size) > max_bytes:
        count = ceil((1 - _KEPT * max_bytes / size) * database.execute("SELECT COUNT(*) FROM vectors").fetchone()[0])
        oldest = "SELECT rowid FROM vectors ORDER BY rowid LIMIT ?"
        database.execute(f"DELETE FROM vectors WHERE rowid IN ({oldest})", [count])
