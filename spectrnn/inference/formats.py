"""Output formats of predictions: the header of a table, and a line per row."""

import csv
import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from spectrnn.detection.events import Event
from spectrnn.inference.tasks import ClipPrediction

_RAVEN_COLUMNS = (
    "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\t"
    "Begin Path\tFile Offset (s)\tLabel\tProbability\n"
)


class RowContext(NamedTuple):
    """Path of a row's recording, number of the row from 1, and total length of the recordings before its own in µs."""

    path: str
    number: int
    offset: int


class RowFormat(NamedTuple):
    """Text format of rows.

    Attributes:
        header: First line of a table, with its line end; empty for no header.
        line: Function that returns the line of a row, with its line end.
        single_recording: Whether a file contains one recording only.
        shift: Function that returns a line after further rows and µs of recordings before it; None if none depends on
            them.
    """

    header: str
    line: Callable[[RowContext, Any], str]
    single_recording: bool = False
    shift: Callable[[str, int, int], str] | None = None


def label_format(name: str, top_k: int, with_decision: bool) -> RowFormat:
    """Format of one row per recording, with its most probable labels.

    Args:
        name: ``csv`` or ``jsonl``.
        top_k: Number of labels.
        with_decision: Whether to add the label that reaches its threshold.
    """

    def to_csv(context: RowContext, row: ClipPrediction) -> str:
        cells = [context.path]
        for label, probability in list(row.prediction.probabilities.items())[:top_k]:
            cells += [label, f"{probability:.6f}"]
        return csv_line([*cells, row.decision or ""] if with_decision else cells)

    def to_json(context: RowContext, row: ClipPrediction) -> str:
        top = list(row.prediction.probabilities.items())[:top_k]
        predictions = [{"label": label, "probability": round(probability, 6)} for label, probability in top]
        decision = {"decision": row.decision} if with_decision else {}
        return json_line({"path": context.path, "predictions": predictions, **decision})

    if name == "jsonl":
        return RowFormat("", to_json)
    suffixes = ["", *(f"_{number}" for number in range(2, top_k + 1))]
    columns = [column + suffix for suffix in suffixes for column in ("label", "probability")]
    return RowFormat(csv_line(["path", *columns, *(["decision"] if with_decision else [])]), to_csv)


def event_format(name: str, max_frequency: float) -> RowFormat:
    """Format of one row per event, with start and end in s.

    Args:
        name: ``csv``, ``jsonl``, ``audacity`` (label track) or ``raven`` (selection table).
        max_frequency: Upper limit of Raven's selections in Hz.
    """

    def to_csv(context: RowContext, event: Event) -> str:
        return csv_line([context.path, *event_cells(event)])

    def to_json(context: RowContext, event: Event) -> str:
        return json_line({"path": context.path, **event_values(event)})

    def to_audacity(context: RowContext, event: Event) -> str:
        return f"{event.start:.6f}\t{event.end:.6f}\t{event.label}\n"

    def to_raven(context: RowContext, event: Event) -> str:
        # Raven opens several recordings as one: times count from the first one, file offsets from an event's own.
        start, end = to_microseconds(event.start), to_microseconds(event.end)
        times = [_seconds(context.offset + time) for time in (start, end)]
        view = [str(context.number), "Spectrogram 1", "1", *times, "0.0", f"{max_frequency:.1f}"]
        file = [str(Path(context.path).absolute()), _seconds(start)]
        return "\t".join([*view, *file, event.label, f"{event.probability:.6f}"]) + "\n"

    def shift_raven(line: str, rows: int, offset: int) -> str:
        number, view, channel, start, end, rest = line.split("\t", 5)
        times = [_seconds(offset + to_microseconds(float(time))) for time in (start, end)]
        return "\t".join([str(int(number) + rows), view, channel, *times, rest])

    return {
        "csv": RowFormat(csv_line(["path", *Event._fields]), to_csv),
        "jsonl": RowFormat("", to_json),
        "audacity": RowFormat("", to_audacity, single_recording=True),
        "raven": RowFormat(_RAVEN_COLUMNS, to_raven, shift=shift_raven),
    }[name]


def to_microseconds(seconds: float) -> int:
    """Rounds a time in s to whole µs, whose sums do not depend on the order of addition."""
    return round(seconds * 1e6)


def _seconds(microseconds: int) -> str:
    return f"{microseconds / 1e6:.6f}"


def event_cells(event: Event) -> list[str]:
    """Cells of an event in a CSV file, in the order of its fields."""
    return [f"{event.start:.3f}", f"{event.end:.3f}", event.label, f"{event.probability:.6f}"]


def event_values(event: Event) -> dict[str, Any]:
    """Values of an event in a JSON object."""
    start, end, label, probability = event
    return {"start": round(start, 3), "end": round(end, 3), "label": label, "probability": round(probability, 6)}


def csv_line(cells: Iterable[str]) -> str:
    """A row of a CSV file, with its line end."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def json_line(content: dict[str, Any]) -> str:
    """An object of a JSON-lines file, with its line end."""
    return json.dumps(content, ensure_ascii=False) + "\n"
