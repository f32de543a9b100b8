"""What a study writes besides the results of its runs: a log and the overrides of each."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from spectrnn.files import atomic_write


def write_overrides(folder: Path, overrides: Sequence[str]) -> None:
    """Writes the overrides of a run as Hydra does, so that it can also be resumed on its own."""
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / ".hydra" / "overrides.yaml") as path:
        path.write_text(yaml.safe_dump(list(overrides), allow_unicode=True), encoding="utf-8")


@contextmanager
def logging_to(path: Path, console_level: int = logging.INFO) -> Iterator[None]:
    """Logs to another file as well within the block.

    Args:
        path: File to append to.
        console_level: Lowest level of what is still logged elsewhere.
    """
    root = logging.getLogger()
    levels = [(handler, handler.level) for handler in root.handlers]
    formats = [handler.formatter for handler in root.handlers if isinstance(handler, logging.FileHandler)]
    own = logging.FileHandler(path, encoding="utf-8")
    own.setFormatter(next(iter(formats), logging.Formatter("%(asctime)s %(levelname)s %(message)s")))
    for handler, level in levels:
        handler.setLevel(max(level, console_level))
    root.addHandler(own)
    try:
        yield
    finally:
        root.removeHandler(own)
        own.close()
        for handler, level in levels:
            handler.setLevel(level)
