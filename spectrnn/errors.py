"""The one error type for mistakes that a user can make and mend; and the way out of a run that was told to stop."""


class UserError(Exception):
    """A mistake in a config, a file or a folder: one sentence that names it and says what would be right.

    The command line prints the sentence, without a traceback, and exits with code 1.
    """


class SettingError(UserError):
    """A stage refuses one of its own settings. `config.build` puts the stage's key in front of it.

    Args:
        setting: the constructor's argument, such as ``hop_ms``.
        message: what is wrong with it, and what would be right.
    """

    def __init__(self, setting: str, message: str) -> None:
        super().__init__(f"{setting}: {message}")
        self.setting, self.message = setting, message


class Stopped(KeyboardInterrupt):
    """A signal ended a run early, after it was saved.

    Args:
        message: one sentence for the user: where it stopped, and how it goes on.
        code: the exit code, 128 and the signal's number.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
