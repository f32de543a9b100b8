"""The report as files: metrics.json, report.txt, and pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spectrnn.errors import UserError
from spectrnn.evaluation.plots import confusion_figure, thresholds_figure
from spectrnn.files import atomic_write, write_json

_WIDEST_TABLE = 40  # classes that a text confusion matrix shows


def write_report(split: str, metrics: dict[str, Any], folder: Path) -> None:
    """Writes ``metrics.json``, ``report.txt`` and ``confusion.png`` into a folder, which is made where there is none.

    Args:
        split: the key of the figures in `metrics`, which are as `compute_metrics` gives them.
        metrics: what the JSON holds.
        folder: where to.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_files(split, metrics, folder)
    except OSError as error:
        raise UserError(f"out={folder}: cannot be written ({error.strerror})") from error


def _write_files(split: str, metrics: dict[str, Any], folder: Path) -> None:
    write_json(metrics, folder / "metrics.json")
    report = metrics[split]
    with atomic_write(folder / "report.txt") as path:
        path.write_text(text_report(split, report) + "\n")
    labels, counts = report["confusion"]["labels"], np.array(report["confusion"]["counts"])
    with atomic_write(folder / "confusion.png") as path:
        confusion_figure(counts, labels).savefig(path, format="png")
    if "thresholds" in report:
        with atomic_write(folder / "thresholds.png") as path:
            thresholds_figure(report["thresholds"]).savefig(path, format="png")


def text_report(split: str, report: dict[str, Any]) -> str:
    """The report as text: headline with intervals, a row a class, the confusion matrix."""
    lines = [f"{split}: {report['clips']} clips"]
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "loss", "top_3", "ece", "ece_uncalibrated"):
        if name in report:
            interval = report["intervals_95"].get(name)
            lines.append(
                f"  {name:<18}{report[name]:8.4f}"
                + (f"   95 % {interval[0]:.4f} to {interval[1]:.4f}" if interval else "")
            )
    width = max([len("class"), *(len(label) for label in report["per_class"])])
    lines += ["", f"  {'class':<{width}}  precision  recall      F1  clips"]
    for label, row in report["per_class"].items():
        lines.append(
            f"  {label:<{width}}  {row['precision']:9.3f}  {row['recall']:6.3f}  {row['f1']:6.3f}  {row['support']:5}"
        )
    lines += ["", *_confusion_lines(report["confusion"], width)]
    return "\n".join([*lines, *(["", *threshold_lines(report["thresholds"])] if "thresholds" in report else [])])


def _confusion_lines(table: dict[str, Any], width: int) -> list[str]:
    labels, counts = table["labels"], table["counts"]
    if len(labels) > _WIDEST_TABLE:
        return [f"  (the confusion matrix of {len(labels)} classes is in confusion.png and metrics.json)"]
    cell = max(len(str(max(map(max, counts)))), len(str(len(labels)))) + 1
    lines = [
        "  confusion: rows are true, columns predicted, numbered like the rows",
        f"  {'':<{width + 4}}" + "".join(f"{i:>{cell}}" for i in range(len(labels))),
    ]
    for index, (label, row) in enumerate(zip(labels, counts, strict=True)):
        cells = "".join(f"{count or '.':>{cell}}" for count in row)
        lines.append(f"  {index:>3} {label:<{width}}{cells}")
    return lines


def threshold_lines(table: Mapping[str, Any]) -> list[str]:
    """What `ThresholdTuner.run` has found, as text: a row a class."""
    width = max(len("class"), *map(len, table["per_class"]))
    wanted = f"at most {table['max_false_alarms_per_hour']:g} an hour and class, in {table['hours']:.2f} h"
    lines = [
        f"  thresholds where false alarms are {wanted}",
        f"  {'class':<{width}}  threshold  false alarms/h  recall  others",
    ]
    for label, row in table["per_class"].items():
        recall, others = (
            f"{'-' if row[name] is None else format(row[name], '.3f'):>6}" for name in ("recall", "others")
        )
        mark = "" if row["reached"] else "  (not reached)"
        lines.append(
            f"  {label:<{width}}  {row['threshold']:9.6g}  {row['max_false_alarms_per_hour']:14.2f}  {recall}  {others}{mark}"
        )
    return [*lines, "  recall: of the class's clips; others: of all other clips, those in which it is heard, too"]
