"""Words of messages: counts with their nouns, lists of names, and text that a terminal shows as it is."""

import unicodedata
from collections.abc import Sequence

_KEPT = "\n\t"  # of control characters
# Besides control characters: those that reverse or hide the text around them.
_ESCAPED = {"Cc", "Cs"}
_BIDIRECTIONAL = {*"\u061c\u200e\u200f", *map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}


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
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if character in _BIDIRECTIONAL or (unicodedata.category(character) in _ESCAPED and character not in _KEPT)
        else character
        for character in text
    )
