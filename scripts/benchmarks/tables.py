"""Tables of results."""

import statistics
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from benchmarks.contention import is_contended

OTHERS, NOTE = "busy by others, %", "note"  # columns


class Spread(NamedTuple):
    """Median, lowest and highest value of a quantity over the rounds."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Summarizes the values of all rounds."""
        values = list(values)
        return cls(statistics.median(values), min(values), max(values))


def others_percent(fractions: Iterable[float | None]) -> float | None:
    """Highest of the fractions of the cores' time that other processes used, in percent; None if unknown."""
    known = [fraction for fraction in fractions if fraction is not None]
    return 100 * max(known) if known else None


def show(title: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints a Markdown table; an asterisk marks rows that were measured while other processes were busy."""
    # In the order of the row that has most of them.
    columns = list(dict.fromkeys(column for row in sorted(rows.values(), key=len, reverse=True) for column in row))
    print("|", " | ".join([title, *columns]), "|")
    print("|" + "---|" * (1 + len(columns)))
    for name, row in rows.items():
        mark = " *" if is_contended((row.get(OTHERS) or 0) / 100) else ""
        print("|", " | ".join([name + mark, *(_format(row.get(column)) for column in columns)]), "|")
    print(flush=True)


def _format(value: Spread | float | str | None) -> str:
    match value:
        case None:
            return ""
        case str():
            return value
        case Spread():
            return f"{_format(value.median)} ({_format(value.lowest)} to {_format(value.highest)})"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
