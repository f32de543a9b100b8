"""Lists of results that print as a table, also in a notebook, and convert to dictionaries and to a data frame."""

from html import escape
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from spectrnn.detection.events import Event
from spectrnn.inference.predictor import Prediction
from spectrnn.messages import format_table

if TYPE_CHECKING:
    import pandas

T = TypeVar("T", Prediction, Event)

_MAX_ROWS = 20  # that are printed


class Results(list[T], Generic[T]):
    """A list of predictions or events."""

    def to_dicts(self) -> list[dict[str, Any]]:
        """Returns a dictionary per row."""
        return [row.to_dict() for row in self]

    def to_frame(self) -> "pandas.DataFrame":
        """Returns a pandas data frame.

        Raises:
            ImportError: pandas is not installed.
        """
        import pandas

        return pandas.DataFrame(self.to_dicts())

    def __str__(self) -> str:
        if not self:
            return "(none)"
        head, rows = self._table()
        more = len(self) - _MAX_ROWS
        return format_table(head, rows) + (f"\n... and {more} more" if more > 0 else "")

    def _repr_html_(self) -> str:
        head, rows = self._table() if self else (["(none)"], [])
        cells = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
        titles = "".join(f"<th>{escape(name)}</th>" for name in head)
        body = "".join(f"<tr>{row}</tr>" for row in cells)
        more = f"<p>... and {len(self) - _MAX_ROWS} more</p>" if len(self) > _MAX_ROWS else ""
        return f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>{more}"

    def _table(self) -> tuple[list[str], list[list[str]]]:
        rows = [row.to_dict() for row in self[:_MAX_ROWS]]
        names = [name for name in rows[0] if name != "probabilities"]
        return names, [[_format(row[name]) for name in names] for row in rows]


def _format(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "" if value is None else str(value)
