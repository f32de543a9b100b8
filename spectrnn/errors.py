"""The one error type for errors that a user can make and mend; and the way out of a run that was told to stop."""

import re
from collections.abc import Callable
from typing import Any


class UserError(Exception):
    """A mistake in a config, a file or a folder: one sentence that names it and says what would be right.

    Several errors that were found together are a line each. The command line prints the sentences, without a
    traceback, and exits with code 1.
    """


class SettingError(UserError):
    """A stage refuses some of its own settings. `config.build` puts the stage's key in front, and the values behind.

    Args:
        problems: for each constructor's argument, such as ``hop_ms``, what is wrong with it and what would be right.
            Another argument is named with its value, ``window_ms=25``, and gets the stage's key too.
    """

    def __init__(self, problems: dict[str, str]) -> None:
        super().__init__("\n".join(f"{setting}: {message}" for setting, message in problems.items()))
        self.problems = problems


def reject_settings(**problems: str | bool) -> None:
    """Refuses settings, all at once.

    Args:
        problems: for each setting, what is wrong with it and what would be right; False where nothing is.

    Raises:
        SettingError: anything is wrong.
    """
    if found := {setting: message for setting, message in problems.items() if isinstance(message, str)}:
        raise SettingError(found)


class ErrorCollector:
    """What is wrong in several places, each of which is looked at, so that all is told at once."""

    def __init__(self) -> None:
        self.by_key: dict[str, str] = {}

    def collect(self, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls a step and returns what it does; where it ends in a mistake, notes that and returns None."""
        try:
            return step(*args, **kwargs)
        except UserError as error:
            for sentence in str(error).splitlines():
                self.add(sentence)

    def add(self, sentence: str) -> None:
        """Notes a sentence that begins with a key; of a key that is wrong already, the first one stands."""
        self.by_key.setdefault(re.split("[:=]", sentence, maxsplit=1)[0], sentence)

    def raise_if_any(self) -> None:
        """Raises all that was noted as one error, if anything was.

        Raises:
            UserError: a line a sentence.
        """
        if self.by_key:
            raise UserError("\n".join(self.by_key.values()))


class TrainingInterrupted(KeyboardInterrupt):
    """A signal ended a run early, after it was saved.

    Args:
        message: one sentence for the user: where it stopped, and how it goes on.
        code: the exit code, 128 and the signal's number.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
