"""The formats of predictions: what stands at the top of a table, and the line of a row."""

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from spectrnn.detection.events import Event
from spectrnn.inference.tasks import ClipPrediction


class RowContext(NamedTuple):
    """Where a row stands.

    Attributes:
        path: of its recording.
        row: its number in the table, from 1.
        before: s of the recordings that were before this one.
    """

    path: str
    row: int
    before: float


class RowFormat(ABC):
    """Text of rows of one kind.

    Attributes:
        header: what stands in front of them.
        of_one: whether a file holds one recording only.
    """

    header = ""
    of_one = False

    @abstractmethod
    def line(self, place: RowContext, row: Any) -> str:
        """The line of a row, with its end."""


class CSVLabels(RowFormat):
    """A line a recording: its labels and their probabilities, the most probable first.

    Args:
        top_k: labels a line.
        decides: whether a last column holds the label that reaches its threshold.
    """

    def __init__(self, top_k: int, decides: bool) -> None:
        numbers = [""] + [f"_{number}" for number in range(2, top_k + 1)]
        ranked = [name + number for number in numbers for name in ("label", "probability")]
        self.header = _csv(["path", *ranked, *(["decision"] if decides else [])])
        self.top_k, self.decides = top_k, decides

    def line(self, place: RowContext, row: ClipPrediction) -> str:
        """As `Format`."""
        cells = [place.path]
        for label, value in list(row.prediction.probabilities.items())[: self.top_k]:
            cells += [label, f"{value:.6f}"]
        return _csv([*cells, row.decision or ""] if self.decides else cells)


class JSONLabels(RowFormat):
    """An object a recording; its settings are those of `CSVLabels`."""

    def __init__(self, top_k: int, decides: bool) -> None:
        self.top_k, self.decides = top_k, decides

    def line(self, place: RowContext, row: ClipPrediction) -> str:
        """As `Format`."""
        top = list(row.prediction.probabilities.items())[: self.top_k]
        ranked = [{"label": label, "probability": round(value, 6)} for label, value in top]
        decision = {"decision": row.decision} if self.decides else {}
        return _json({"path": place.path, "predictions": ranked, **decision})


class CSVEvents(RowFormat):
    """A line an event: where it is, s, and what."""

    header = "path,start,end,label,probability\n"

    def line(self, place: RowContext, row: Event) -> str:
        """As `Format`."""
        return _csv([place.path, f"{row.start:.3f}", f"{row.end:.3f}", row.label, f"{row.probability:.6f}"])


class JSONEvents(RowFormat):
    """An object an event."""

    def line(self, place: RowContext, row: Event) -> str:
        """As `Format`."""
        times = {"start": round(row.start, 3), "end": round(row.end, 3)}
        return _json({"path": place.path, **times, "label": row.label, "probability": round(row.probability, 6)})


class Audacity(RowFormat):
    """A line an event, as Audacity's File > Import > Labels reads them: of one recording."""

    of_one = True

    def line(self, place: RowContext, row: Event) -> str:
        """As `Format`."""
        return f"{row.start:.6f}\t{row.end:.6f}\t{row.label}\n"


class Raven(RowFormat):
    """A selection table as Raven opens it: a line an event, on all frequencies that there are.

    Raven shows several recordings as one after another: an event's times count from the first one's beginning, and its
    file offset from that of its own.

    Args:
        high: the highest frequency that the classifier hears, Hz.
    """

    header = (
        "\t".join(
            [
                "Selection",
                "View",
                "Channel",
                "Begin Time (s)",
                "End Time (s)",
                "Low Freq (Hz)",
                "High Freq (Hz)",
                "Begin Path",
                "File Offset (s)",
                "Label",
                "Probability",
            ]
        )
        + "\n"
    )

    def __init__(self, high: float) -> None:
        self.high = high

    def line(self, place: RowContext, row: Event) -> str:
        """As `Format`."""
        cells = [
            str(place.row),
            "Spectrogram 1",
            "1",
            f"{place.before + row.start:.6f}",
            f"{place.before + row.end:.6f}",
            "0.0",
            f"{self.high:.1f}",
            str(Path(place.path).absolute()),
            f"{row.start:.6f}",
            row.label,
            f"{row.probability:.6f}",
        ]
        return "\t".join(cells) + "\n"


def _csv(cells: Iterable[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False) + "\n"
