"""Words of messages: counts with their nouns, lists of names, and text that a terminal shows as it is."""

import logging
import re
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TextIO

_BIDIRECTIONAL = {*map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}  # reverse the text around them


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """Formats a count with its noun: ``1 clip``, ``2 clips``, ``3 classes``.

    Args:
        count: Number.
        singular: Noun in the singular, with what belongs to it.
        plural: Noun in the plural; None to append an s.
    """
    return f"{count} {singular if count == 1 else plural or f'{singular}s'}"


def preview(names: Sequence[str], count: int) -> str:
    """Joins the first names of a list, and counts the others."""
    more = f" and {len(names) - count:,} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def printable(text: str) -> str:
    r"""Escapes what a terminal would obey and not show, such as ``\x1b`` in a name that is not trusted."""
    if text.isprintable():
        return text
    escaped = {
        ord(character): character.encode("unicode_escape").decode()
        for character in {*text} - {"\n", "\t"}
        if character in _BIDIRECTIONAL or unicodedata.category(character) == "Cc"
    }
    return text.translate(escaped)


class PrintableFormatter(logging.Formatter):
    """Formatter of all log messages: labels, metadata and paths in them may come from anywhere."""

    def format(self, record: logging.LogRecord) -> str:
        """Formats a record as `printable` text."""
        return printable(super().format(record))


class ConsoleFormatter(PrintableFormatter):
    """Formatter of messages on standard error, which are wrapped on a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Formats a record as `wrapped` text."""
        return wrapped(super().format(record), sys.stderr)


def wrapped(text: str, stream: TextIO, keeps_commands: bool = True) -> str:
    """Wraps lines that are longer than a terminal between words, so that it breaks no number; for a file, no line.

    Args:
        text: Text. Continued lines are indented as what follows the last gap of two or more blanks.
        stream: Stream that it is written to.
        keeps_commands: Whether lines with a command of spectrnn, or with a gap, as those of tables, stay as they are:
            commands can then be copied.
    """
    if stream is None or not stream.isatty():
        return text
    width = shutil.get_terminal_size().columns
    lines = []
    for line in text.split("\n"):
        gaps = [gap.end() for gap in re.finditer(r"(^|\S)  +(?=\S)", line)]
        is_kept = keeps_commands and ("spectrnn " in line or "  " in line.strip())
        if len(line) <= width or is_kept:
            lines.append(line)
            continue
        margin = " " * (min(gaps[-1], width // 2) if gaps else 2)
        wrapper = textwrap.TextWrapper(
            width, subsequent_indent=margin, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
        )
        lines += wrapper.wrap(line)
    return "\n".join(lines)


def format_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Formats a table as text: the first column is aligned to the left, the others to the right."""
    table = [head, *rows]
    first, *widths = (max(map(len, column)) for column in zip(*table, strict=True))
    return "\n".join(
        "  ".join([row[0].ljust(first), *(cell.rjust(width) for cell, width in zip(row[1:], widths, strict=True))])
        for row in table
    )


def format_seconds(seconds: float) -> str:
    """Formats a duration: ``45 s``, ``3 min 5 s`` or ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
