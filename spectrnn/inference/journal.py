"""What of a command's output is done, so that after a kill the same command goes on from there."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from spectrnn.config.instantiate import format_value
from spectrnn.errors import UserError
from spectrnn.files import atomic_write

_FORMAT = 1


class OutputPosition(NamedTuple):
    """How far an output is.

    Attributes:
        size: of the file, bytes.
        rows: in it.
        before: s of the recordings that they are of.
    """

    size: int = 0
    rows: int = 0
    before: float = 0.0


class ResumeJournal:
    """A file beside an output: a line of what makes its lines what they are, then one for all that is done.

    A line is added after the output has reached the disk, so that what it says is there whatever happens. Other
    processes are kept away from the output meanwhile.

    Args:
        out: the output.
        settings: what would change its lines, by key.

    Attributes:
        begun: whether a run of these settings was cut off.
        done: the recordings that it had done.
        position: how far the output was with them.

    Raises:
        UserError: another process is at it, or what was begun is of other settings.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.out, self.settings = out, {"format of the journal": _FORMAT, **settings}
        place = out.absolute()
        self.path = place.with_name(f".{place.name}.journal")
        self.done: set[str] = set()
        self.position = OutputPosition()
        self._lock = FileLock(place.with_name(f".{place.name}.lock"), blocking=False)
        try:
            self._lock.acquire()
        except Timeout as error:
            held = Path(self._lock.lock_file).exists()
            raise UserError(f"out={out}: {'another process is writing it' if held else 'cannot be written'}") from error
        try:
            # A run that had begun nothing yet, or whose output is gone, has left nothing to go on from.
            self.begun = self.path.is_file() and out.exists()
            if self.begun:
                self._read()
            else:
                self.remove()
        except BaseException:
            self.close()
            raise

    def begin(self) -> None:
        """Notes the settings; nothing is done yet."""
        with atomic_write(self.path) as temporary:
            temporary.write_text(json.dumps(self.settings) + "\n")
        self.begun = True

    def add(self, done: Iterable[str], position: OutputPosition) -> None:
        """Notes recordings that are done, and how far the output, which is on disk, is with them."""
        with self.path.open("a", encoding="ascii") as file:
            file.write(json.dumps({"done": [*done], **position._asdict()}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """All is done."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Lets other processes at the output."""
        if self._lock.is_locked:
            Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock.release()

    def _read(self) -> None:
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]  # a kill may leave half a line
        try:
            before, *entries = map(json.loads, whole.splitlines())
            self._refuse_others(before)
            for entry in entries:
                self.done.update(entry.pop("done"))
                self.position = OutputPosition(**entry)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{self.path}: is damaged; {self._anew()}") from error
        if len(whole) < len(content):
            os.truncate(self.path, len(whole))

    def _refuse_others(self, before: Mapping[str, Any]) -> None:
        other = [key for key in {**before, **self.settings} if before.get(key) != self.settings.get(key)]
        if other:
            then, now = (
                ", ".join(f"{key}={format_value(settings.get(key))}" for key in other)
                for settings in (before, self.settings)
            )
            raise UserError(
                f"out={self.out}: was begun with {then}, and this command has {now}; give the command that "
                f"began it, or {self._anew()}"
            )

    def _anew(self) -> str:
        return f"delete {self.path} to begin anew"
