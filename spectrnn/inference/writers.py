"""Outputs of predictions: standard output, a table that can be resumed, or a folder with a file per recording."""

import glob
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO

from filelock import FileLock, Timeout

from spectrnn.config.instantiate import format_value
from spectrnn.data.stdin_audio import STDIN
from spectrnn.errors import UserError
from spectrnn.files import atomic_write
from spectrnn.inference.formats import RowContext, RowFormat, to_microseconds
from spectrnn.inference.pipeline import RecordingResult, RecordingStatus
from spectrnn.inference.shards import Shard

_JOURNAL_FORMAT = 3


class Position(NamedTuple):
    """Size in bytes, rows, and total length of the recordings in µs, of a table up to its last completed recording."""

    size: int = 0
    rows: int = 0
    microseconds: int = 0


class ResumeJournal:
    """Append-only journal next to an output, which makes it resumable. First line: settings; then one line per commit.

    A commit is written after the output has reached the disk, so everything that it records is there.

    Args:
        out: Output.
        settings: Settings that determine the rows.
        state: Path whose name the journal has, if it is not the output's own.

    Attributes:
        started: Whether the journal exists.
        done: Recordings that an interrupted command has completed.
        position: Position in the output after them.
        pending: Recordings that have been completed since the last commit.
        failed: Number of recordings that cannot be read, of a completed part of an output; None before.

    Raises:
        UserError: A damaged journal, or one of other settings.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], state: Path | None = None) -> None:
        self.out, self.settings = out, {"journal_format": _JOURNAL_FORMAT, **settings}
        self.path = hidden(state or out, "journal")
        self.restart_hint = f"delete {self.path} to start over"
        self.done, self.position, self.pending = set[str](), Position(), list[str]()
        self.failed: int | None = None
        self._size = 0  # without the partial line that a kill may leave
        # A command that did not start to write, or whose output was deleted, left nothing to resume from.
        self.started = self.path.is_file() and out.exists()
        if self.started:
            self._read()

    def clean(self) -> None:
        """Removes what a killed process has left; the caller holds the output's lock."""
        if self.started:
            os.truncate(self.path, self._size)
        else:
            self.delete()

    def start(self) -> None:
        """Writes the settings, unless the journal exists."""
        if not self.started:
            with atomic_write(self.path) as temporary:
                temporary.write_text(json.dumps(self.settings) + "\n")
            self.started = True

    def commit(self, position: Position) -> None:
        """Records the pending recordings, if any, and the position in the output after them."""
        if self.pending:
            self._append({"done": self.pending, **position._asdict()})
            self.pending = []

    def complete(self, position: Position, failed: int) -> None:
        """Records that a part of an output is complete, and how many of its recordings cannot be read."""
        self._append({"done": self.pending, **position._asdict(), "failed": failed})

    def delete(self) -> None:
        """Deletes the journal of a completed output."""
        self.path.unlink(missing_ok=True)

    def _append(self, content: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="ascii") as file:
            file.write(json.dumps(content) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> None:
        content = self.path.read_bytes()
        self._size = content.rfind(b"\n") + 1
        try:
            before, *commits = map(json.loads, content[: self._size].splitlines())
            changed = [key for key in {**before, **self.settings} if before.get(key) != self.settings.get(key)]
            for commit in commits if not changed else []:
                self.done.update(commit.pop("done"))
                self.failed = commit.pop("failed", None)
                self.position = Position(**commit)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{self.path}: is damaged; {self.restart_hint}") from error
        if changed:
            then = ", ".join(f"{key}={format_value(before.get(key))}" for key in changed)
            now = ", ".join(f"{key}={format_value(self.settings.get(key))}" for key in changed)
            remedy = f"rerun the original command, or {self.restart_hint}"
            raise UserError(f"out={self.out}: was started with {then}, but this command has {now}; {remedy}")


class StreamWriter:
    """Writes rows immediately, to standard output, a device or a pipe; rows of a failed recording stay.

    Args:
        file: Text stream, closed by the caller.
        row_format: Format of the rows.
    """

    journal = None  # it cannot be resumed

    def __init__(self, file: TextIO, row_format: RowFormat) -> None:
        self.row_format = row_format
        self.file, self.rows, self.offset = file, 0, 0
        file.write(row_format.header)

    def write(self, group: list[RecordingResult]) -> None:
        """Writes the new rows of a group."""
        for result in group:
            for row in result.rows:
                self.rows += 1
                self.file.write(self.row_format.line(RowContext(result.path, self.rows, self.offset), row))
            if result.status is RecordingStatus.DONE:
                self.offset += to_microseconds(result.seconds)
        self.file.flush()


class TableWriter:
    """Writes the rows of all recordings to one file. A previous file is kept until there is something to write.

    Args:
        path: Output file.
        row_format: Format of the rows.
        journal: Journal of the output.

    Raises:
        UserError: A file that has been shortened since the interruption.
        OSError: A file that cannot be written.
    """

    def __init__(self, path: Path, row_format: RowFormat, journal: ResumeJournal) -> None:
        self.path, self.row_format, self.journal = path, row_format, journal
        self.position, self.rows = journal.position, 0
        self.file: BinaryIO | None = None
        if path.exists():
            path.open("ab").close()  # raises now if it cannot be written, and not after the first group
        if journal.started:
            if path.stat().st_size < self.position.size:
                raise UserError(f"out={path}: is shorter than recorded in its journal; {journal.restart_hint}")
            self._open()

    def write(self, group: list[RecordingResult]) -> None:
        """Writes the new rows of a group. Completed recordings are durable when the group ends with a recording."""
        for result in group:
            if result.status is RecordingStatus.FAILED:
                self._truncate()
            elif result.rows or result.status is RecordingStatus.DONE:
                file = self.file or self._open()
                for row in result.rows:
                    self.rows += 1
                    line = self.row_format.line(RowContext(result.path, self.rows, self.position.microseconds), row)
                    file.write(line.encode("utf-8", "surrogateescape"))
                if result.status is RecordingStatus.DONE:
                    self.journal.pending.append(result.path)
                    offset = self.position.microseconds + to_microseconds(result.seconds)
                    self.position = Position(file.tell(), self.rows, offset)
        if self.file:
            self.file.flush()  # for readers that follow a long recording
            if group[-1].status is not RecordingStatus.IN_PROGRESS:
                os.fsync(self.file.fileno())
                self.journal.commit(self.position)

    def complete_part(self, failed: int) -> None:
        """Records that the file, a part of an output, is complete, though it may have no rows; `merge` needs that."""
        file = self.file or self._open()
        file.flush()
        os.fsync(file.fileno())
        self.journal.complete(self.position, failed)

    def close(self) -> None:
        """Closes the file."""
        if self.file:
            self.file.close()

    def _open(self) -> BinaryIO:
        self.journal.start()
        self.path.touch()
        self.file = self.path.open("r+b")
        self._truncate()
        return self.file

    def _truncate(self) -> None:
        """Truncates the file to the last completed recording."""
        if self.file:
            self.file.seek(self.position.size)
            self.file.truncate()
            self.rows = self.position.rows
            if not self.position.size:
                self.file.write(self.row_format.header.encode())
                self.position = Position(self.file.tell())


class DirectoryWriter:
    """Writes a file per recording, atomically, in the folder structure of the recordings.

    Args:
        path: Output folder.
        row_format, journal: As for `TableWriter`.
        paths: Recordings.
        roots: Files, folders and globs that contain the recordings; outputs are relative to their common folder.
    """

    def __init__(
        self, path: Path, row_format: RowFormat, journal: ResumeJournal, paths: Iterable[str], roots: Iterable[str]
    ) -> None:
        self.path, self.row_format, self.journal = path, row_format, journal
        self.lines: list[str] = []
        self.common = os.path.commonpath([_folder_of(root) for root in roots])
        path.mkdir(exist_ok=True)
        if journal.started:  # other shards may be writing to the folder
            own = {self._output(recording) for recording in paths}
            for temporary in path.rglob(".*.tmp"):
                if temporary.with_name(re.sub(r"^\.|\.[0-9]+\.tmp$", "", temporary.name)) in own:
                    temporary.unlink()

    def write(self, group: list[RecordingResult]) -> None:
        """Writes the recordings that a group completes; they are durable when it ends with a recording."""
        for result in group:
            for row in result.rows:
                self.lines.append(self.row_format.line(RowContext(result.path, len(self.lines) + 1, 0), row))
            if result.status is RecordingStatus.DONE:
                self.journal.start()
                path = self._output(result.path)
                path.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(path) as temporary:
                    text = self.row_format.header + "".join(self.lines)
                    temporary.write_bytes(text.encode("utf-8", "surrogateescape"))
                self.journal.pending.append(result.path)
            if result.status is not RecordingStatus.IN_PROGRESS:
                self.lines = []
        if group[-1].status is not RecordingStatus.IN_PROGRESS:
            self.journal.commit(Position())

    def _output(self, recording: str) -> Path:
        name = "stdin" if recording == STDIN else os.path.relpath(recording, self.common)
        return self.path / f"{name}.txt"


Writer = StreamWriter | TableWriter | DirectoryWriter


@contextmanager
def open_writer(
    out: Path | None,
    row_format: RowFormat,
    is_folder: bool,
    paths: Iterable[str],
    roots: Iterable[str],
    settings: Mapping[str, Any],
    shard: Shard | None = None,
) -> Iterator[Writer]:
    """Opens an output; errors of the operating system within the block become a `UserError` that names it.

    Args:
        out: File, folder, device or named pipe; None for standard output.
        row_format: Format of the rows.
        is_folder: Whether the output is a folder, with a file per recording.
        paths: Recordings.
        roots: Files, folders and globs that contain them; a folder of outputs has the same structure.
        settings: Settings that determine the rows.
        shard: Shard whose part of a table is written, or whose files of a folder.

    Raises:
        UserError: An output that cannot be written, that another process is writing, or that was started with other
            settings.
    """
    try:
        with ExitStack() as stack:
            if out is None:
                yield StreamWriter(sys.stdout, row_format)
            elif out.exists() and not out.is_file() and not out.is_dir():  # such as /dev/null
                yield StreamWriter(stack.enter_context(out.open("w", encoding="utf-8", newline="")), row_format)
            else:
                out.parent.mkdir(parents=True, exist_ok=True)
                state = shard.path(out) if shard else out
                out = out if is_folder else state
                lock = hidden(state, "lock")
                stack.enter_context(FileLock(lock, blocking=False))
                stack.callback(lock.unlink, missing_ok=True)
                journal = ResumeJournal(out, settings, state)
                journal.clean()
                if is_folder:
                    yield DirectoryWriter(out, row_format, journal, paths, roots)
                else:
                    table = TableWriter(out, row_format, journal)
                    stack.callback(table.close)
                    yield table
    except BrokenPipeError:  # the reader, such as head, has exited
        raise
    except Timeout as error:
        reason = "another process is writing it" if lock.exists() else "cannot be written"
        raise UserError(f"out={out}: {reason}") from error
    except OSError as error:
        name = "standard output" if out is None else f"out={out}"
        raise UserError(f"{name}: cannot be written ({error.strerror})") from error


def hidden(path: Path, suffix: str) -> Path:
    """Returns the path of a hidden file next to an output, which belongs to it."""
    return path.absolute().with_name(f".{path.absolute().name}.{suffix}")


def _folder_of(root: str) -> str:
    """The folder that contains everything that a file, folder or glob refers to."""
    path = os.path.abspath(os.path.expanduser(root))
    while not os.path.isdir(path) or (glob.has_magic(path) and not os.path.exists(path)):
        path = os.path.dirname(path)
    return path
