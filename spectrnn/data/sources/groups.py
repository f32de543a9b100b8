"""Groups of recordings by a regular expression for their paths, whose first group matches the name."""

import re

from spectrnn.errors import UserError


def pattern_problem(pattern: str | None) -> str:
    """Returns why a setting is not a regular expression with a group, in a few words; "" if it is, or None."""
    try:
        if pattern is not None and not re.compile(pattern).groups:
            return "contains no group; put it in parentheses"
    except re.error as error:
        return f"is not a regular expression ({error})"
    return ""


def matched_group(pattern: str, path: str) -> str:
    """Returns the group of a path.

    Raises:
        UserError: The pattern does not match it.
    """
    if (match := re.search(pattern, path)) is None:
        raise UserError(f"data.group={pattern}: does not match {path}")
    return match.group(1)
