"""The results of an evaluation as files: JSON, text and plots."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spectrnn.evaluation.plots import confusion_figure, thresholds_figure
from spectrnn.files import atomic_write, reporting_write_errors, write_json

_MAX_CLASSES = 40  # in the confusion matrix as text


def format_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Formats a table as text: the first column is aligned to the left, the others to the right."""
    table = [head, *rows]
    first, *widths = (max(map(len, column)) for column in zip(*table, strict=True))
    return "\n".join(
        "  ".join([row[0].ljust(first), *(cell.rjust(width) for cell, width in zip(row[1:], widths, strict=True))])
        for row in table
    )


def metric_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """Formats title, value and 95 % interval of each metric of a split; "" if a metric has no interval."""
    titles = {name: metric["title"] for name, metric in report["metrics"].items()}
    titles["ece_uncalibrated"] = "calibration error, uncalibrated"
    rows = []
    for name in (name for name in titles if name in report):
        interval = report["intervals_95"].get(name)
        rows.append([titles[name], f"{report[name]:.4f}", "{:.4f} to {:.4f}".format(*interval) if interval else ""])
    return rows


def class_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """Formats label, precision, recall, F1 and number of clips of each class of a split."""
    return [
        [label, *(f"{row[name]:.3f}" for name in ("precision", "recall", "f1")), str(row["support"])]
        for label, row in report["per_class"].items()
    ]


def text_report(split: str, report: dict[str, Any]) -> str:
    """Formats results as text: metrics with 95 % intervals, a row per class, the confusion matrix."""
    labels, counts = report["confusion"]["labels"], report["confusion"]["counts"]
    matrix = f"(the confusion matrix of {len(labels)} classes is in confusion.png and metrics.json)"
    if len(labels) <= _MAX_CLASSES:
        cells = [
            [f"{index:>2} {label}", *(str(count or ".") for count in row)]
            for index, (label, row) in enumerate(zip(labels, counts, strict=True))
        ]
        matrix = "confusion matrix (rows: true, columns: predicted)\n\n"
        matrix += format_table(["", *map(str, range(len(labels)))], cells)
    tables = (
        format_table([f"{split}: {report['clips']} clips", "", "95 % CI"], metric_rows(report)),
        format_table(["class", "precision", "recall", "F1", "clips"], class_rows(report)),
        matrix,
    )
    return "\n\n".join(tables)


def thresholds_report(result: Mapping[str, Any]) -> str:
    """Formats the result of a threshold tuning as text, a row per class."""
    target, hours = result["max_false_alarms_per_hour"], result["hours"]
    rows = []
    for label, row in result["per_class"].items():
        rates = ["-" if row[name] is None else f"{row[name]:.3f}" for name in ("recall", "confusion_rate")]
        alarms = f"{row['false_alarms_per_hour']:.2f}" + ("" if row["reached"] else " (target not reached)")
        rows.append([label, f"{row['threshold']:.6g}", *rates, alarms])
    return (
        f"thresholds for at most {target:g} false alarms per hour and class, in {hours:.2f} h of negatives\n\n"
        + format_table(["class", "threshold", "recall", "confusion", "false alarms per hour"], rows)
        + "\n\nrecall: detected fraction of the clips of the class; confusion: of all other clips"
    )


def write_report(split: str, content: dict[str, Any], folder: Path) -> None:
    """Writes ``metrics.json``, and ``report.txt`` and ``confusion.png`` for one of its splits.

    Raises:
        UserError: A folder that cannot be written.
    """
    report = content[split]  # from `evaluate.compute_metrics`
    with reporting_write_errors(f"out={folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(content, folder / "metrics.json")
        with atomic_write(folder / "report.txt") as path:
            path.write_text(text_report(split, report) + "\n", encoding="utf-8")
        with atomic_write(folder / "confusion.png") as path:
            confusion = report["confusion"]
            confusion_figure(np.array(confusion["counts"]), confusion["labels"]).savefig(path, format="png")


def write_thresholds(result: dict[str, Any], folder: Path) -> None:
    """Writes the result of a threshold tuning as ``thresholds.json`` and ``thresholds.png``.

    Raises:
        UserError: A folder that cannot be written.
    """
    with reporting_write_errors(f"out={folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(result, folder / "thresholds.json")
        with atomic_write(folder / "thresholds.png") as path:
            thresholds_figure(result).savefig(path, format="png")
