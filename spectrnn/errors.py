"""Errors that a user can cause and correct, and the interruption of a training run."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any


class UserError(Exception):
    """An error in a config, file or folder: one sentence that names it and states what would be valid.

    Several errors are one per line. The command line prints them without a traceback and exits with code 1.
    """


class SettingError(UserError):
    """Invalid arguments of a constructor. `config.instantiate` adds their full keys and values.

    Args:
        problems: Problem and remedy by argument, such as ``hop_ms``. Another argument that is mentioned with its value,
            as in ``window_ms=25``, gets its full key too.
    """

    def __init__(self, problems: dict[str, str]) -> None:
        super().__init__("\n".join(f"{setting}: {message}" for setting, message in problems.items()))
        self.problems = problems


def reject_settings(*checks: tuple[str, Any, str]) -> None:
    """Rejects invalid settings, all at once.

    Args:
        checks: Setting, condition under which it is invalid, and message with problem and remedy. If several checks
            apply to a setting, the first one is reported.

    Raises:
        SettingError: Any invalid setting.
    """
    problems: dict[str, str] = {}
    for setting, is_invalid, message in checks:
        if is_invalid:
            problems.setdefault(setting, message)
    if problems:
        raise SettingError(problems)


class FileErrors(UserError):
    """Errors in files of a dataset: the message has the first ones, the number of all others, and the next step.

    Args:
        errors: A sentence per file, which names it.
    """

    MAX_LINES = 10  # of the message, but the last one with the remedy
    REMEDY = "data.on_error=skip leaves such files out, and spectrnn check examines them"

    def __init__(self, errors: Sequence[str]) -> None:
        self.errors = list(errors)
        super().__init__(self._message(""))

    @property
    def is_shortened(self) -> bool:
        """Whether the message lacks some of the errors."""
        return len(self.errors) > self.MAX_LINES

    def list_in(self, path: Path) -> None:
        """Writes all errors to a file, which the message names from now on."""
        path.write_text("\n".join(self.errors) + "\n", encoding="utf-8", errors="surrogateescape")
        self.args = (self._message(f"; all are listed in {path}"),)

    def _message(self, place: str) -> str:
        if len(self.errors) == 1:
            return f"{self.errors[0]}; {self.REMEDY}"
        shown = self.errors[: self.MAX_LINES - 1] if self.is_shortened else self.errors
        more = [f"... and {len(self.errors) - len(shown)} more files{place}"] if self.is_shortened else []
        return "\n".join([*shown, *more, f"  {self.REMEDY}"])


class StorageError(UserError):
    """A file of a run that cannot be written, such as to a full disk; the run can be resumed."""


class ErrorCollector:
    """Collects errors, so that all of them are reported at once.

    Attributes:
        by_key: First sentence per key.
    """

    def __init__(self) -> None:
        self.by_key: dict[str, str] = {}

    def collect(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls a function and returns its result; on a `UserError`, collects it and returns None."""
        with self.catch():
            return function(*args, **kwargs)

    @contextmanager
    def catch(self) -> Iterator[None]:
        """Collects a `UserError` that the block raises."""
        try:
            yield
        except UserError as error:
            for sentence in str(error).splitlines():
                self.add(sentence)

    def add(self, sentence: str) -> None:
        """Adds a sentence that starts with a key, unless there is one for this key already."""
        self.by_key.setdefault(re.split("[:=]", sentence, maxsplit=1)[0], sentence)

    def raise_if_any(self) -> None:
        """Raises all collected errors as one.

        Raises:
            UserError: One sentence per line.
        """
        if self.by_key:
            raise UserError("\n".join(self.by_key.values()))


class TrainingInterrupted(KeyboardInterrupt):
    """A signal stopped a run after it was saved.

    Args:
        message: Sentence for the user: where the run stopped, and how to resume it.
        code: Exit code, 128 plus the number of the signal.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def import_optional(name: str, user: str = "export") -> Any:
    """Imports ``onnx`` or ``onnxruntime``, which belong to an extra.

    Args:
        name: Package.
        user: Command or key that needs it.

    Raises:
        UserError: It is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(f"{user}: needs {name} ({error}): pip install 'spectrnn[export]'") from error
