"""Where predictions go: a stream, a table that outlives a kill, or a folder with a file a recording."""

import glob
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self, TextIO

from spectrnn.data import stdin_audio
from spectrnn.errors import UserError
from spectrnn.files import atomic_write, remove_stale_temporaries
from spectrnn.inference.formats import RowContext, RowFormat
from spectrnn.inference.journal import OutputPosition, ResumeJournal
from spectrnn.inference.tasks import PredictionRow


class Writer(ABC):
    """Takes rows, recording by recording.

    Attributes:
        done: recordings that an earlier process has written.
    """

    done: frozenset[str] | set[str] = frozenset()

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def write(self, path: str, rows: Sequence[PredictionRow]) -> None:
        """Takes rows of the recording that is open; the first ones open it."""

    @abstractmethod
    def end(self, path: str, seconds: float) -> None:
        """The open recording, of so many seconds, is over."""

    @abstractmethod
    def drop(self) -> None:
        """The open recording breaks off: its rows do not count."""

    @abstractmethod
    def commit(self) -> None:
        """None is open, and another process could go on from here."""

    @abstractmethod
    def finish(self) -> None:
        """All is written."""

    @abstractmethod
    def __exit__(self, *_: object) -> None: ...


class StreamWriter(Writer):
    """Standard output, or what else takes text and cannot be gone back in.

    Args:
        file: where to.
        form: of the rows.
        path: of the file; None for standard output.
    """

    def __init__(self, file: TextIO, form: RowFormat, path: Path | None = None) -> None:
        self.file, self.form, self.path = file, form, path
        self.rows, self.before = 0, 0.0
        with _writing(path):
            file.write(form.header)

    def write(self, path: str, rows: Sequence[PredictionRow]) -> None:
        """As `Writer`; the reader gets them at once."""
        with _writing(self.path):
            for row in rows:
                self.rows += 1
                self.file.write(self.form.line(RowContext(path, self.rows, self.before), row))
            self.file.flush()

    def end(self, path: str, seconds: float) -> None:
        """As `Writer`."""
        self.before += seconds

    def drop(self) -> None:
        """What was written stays."""

    def commit(self) -> None:
        """Nobody goes on from here."""

    def finish(self) -> None:
        """As `Writer`."""
        with _writing(self.path):
            self.file.flush()

    def __exit__(self, *_: object) -> None:
        """Standard output is its owner's."""
        if self.path is not None:
            with suppress(OSError):  # of what could not be written, which was told
                self.file.close()


class TableWriter(Writer):
    """A file of all recordings, with a journal. What was there before stays until the first rows come.

    Args:
        path: the file.
        form: of the rows.
        settings: what would change them, by key.

    Raises:
        UserError: the file cannot be written, or was begun with other settings.
    """

    def __init__(self, path: Path, form: RowFormat, settings: dict[str, Any]) -> None:
        self.path, self.form, self.ended = path, form, list[str]()
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.journal = ResumeJournal(path, settings)
        try:
            with _writing(path):
                path.open("ab").close()
                self.file = path.open("r+b")
            self.begun, self.done, self.at = self.journal.begun, self.journal.done, self.journal.position
            if self.begun:
                self._go_on()
        except BaseException:
            self.journal.close()
            raise

    def write(self, path: str, rows: Sequence[PredictionRow]) -> None:
        """As `Writer`."""
        if not rows:
            return
        with _writing(self.path):
            self._begin()
            for row in rows:
                self.rows += 1
                line = self.form.line(RowContext(path, self.rows, self.at.before), row)
                self.file.write(line.encode("utf-8", "surrogateescape"))
            self.file.flush()  # a reader may follow a long recording

    def end(self, path: str, seconds: float) -> None:
        """As `Writer`."""
        with _writing(self.path):
            self._begin()
            self.ended.append(path)
            self.at = OutputPosition(self.file.tell(), self.rows, self.at.before + seconds)

    def drop(self) -> None:
        """As `Writer`."""
        if self.begun:
            with _writing(self.path):
                self._back()

    def commit(self) -> None:
        """As `Writer`; whatever happens from now on, this is on disk."""
        if self.ended:
            with _writing(self.path):
                self._sync()
                self.journal.add(self.ended, self.at)
            self.ended = []

    def finish(self) -> None:
        """As `Writer`; the journal has served."""
        with _writing(self.path):
            self._begin()
            self._sync()
            self.journal.remove()

    def __exit__(self, *_: object) -> None:
        try:
            with _writing(self.path):
                self.file.close()
                if not self.begun and not self.path.stat().st_size:
                    self.path.unlink()
        finally:
            self.journal.close()

    def _begin(self) -> None:
        if not self.begun:
            self.journal.begin()
            self.begun = True
            self._back()

    def _go_on(self) -> None:
        if self.path.stat().st_size < self.at.size:
            raise UserError(
                f"out={self.path}: is shorter than its journal says; delete {self.journal.path} to begin anew"
            )
        with _writing(self.path):
            self._back()

    def _back(self) -> None:
        """To the end of the last recording that is over."""
        self.file.seek(self.at.size)
        self.file.truncate()
        self.rows = self.at.rows
        if not self.at.size:
            self.file.write(self.form.header.encode())
            self.at = OutputPosition(self.file.tell())

    def _sync(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())


class DirectoryWriter(Writer):
    """A file a recording, which appears whole or not at all; the folders of the recordings come again within.

    Args:
        path: the folder.
        form: of the rows.
        settings: what would change them, by key.
        named: the files, folders and globs that the recordings were found by; below what they share, names differ.

    Raises:
        UserError: the folder cannot be written, or was begun with other settings.
    """

    def __init__(self, path: Path, form: RowFormat, settings: dict[str, Any], named: Iterable[str]) -> None:
        self.path, self.form, self.ended = path, form, list[str]()
        self.shared = os.path.commonpath([_folder_of(name) for name in named])
        self.lines: list[str] = []
        with _writing(path):
            path.mkdir(parents=True, exist_ok=True)
            self.journal = ResumeJournal(path, settings)
            if self.journal.begun:
                for folder in (path, *(below for below in path.rglob("*") if below.is_dir())):
                    remove_stale_temporaries(folder)
        self.done = self.journal.done

    def write(self, path: str, rows: Sequence[PredictionRow]) -> None:
        """As `Writer`."""
        for row in rows:
            self.lines.append(self.form.line(RowContext(path, len(self.lines) + 1, 0.0), row))

    def end(self, path: str, seconds: float) -> None:
        """As `Writer`."""
        file = self.path / f"{os.path.relpath(path, self.shared) if path != stdin_audio.STDIN else 'stdin'}.txt"
        with _writing(file):
            if not self.journal.begun:
                self.journal.begin()
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(file) as temporary:
                text = self.form.header + "".join(self.lines)
                temporary.write_bytes(text.encode("utf-8", "surrogateescape"))
        self.lines = []
        self.ended.append(path)

    def drop(self) -> None:
        """As `Writer`."""
        self.lines = []

    def commit(self) -> None:
        """As `Writer`."""
        if self.ended:
            with _writing(self.path):
                self.journal.add(self.ended, OutputPosition())
            self.ended = []

    def finish(self) -> None:
        """As `Writer`; the journal has served."""
        self.journal.remove()

    def __exit__(self, *_: object) -> None:
        self.journal.close()


def _folder_of(name: str) -> str:
    """The folder that holds all that a file, folder or glob names."""
    path = os.path.abspath(os.path.expanduser(name))
    while not os.path.isdir(path) or (glob.has_magic(path) and not os.path.exists(path)):
        path = os.path.dirname(path)
    return path


@contextmanager
def _writing(path: Path | None) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # the reader, such as head, has seen enough
        raise
    except OSError as error:
        name = "standard output" if path is None else f"out={path}"
        raise UserError(f"{name}: cannot be written ({error.strerror})") from error
