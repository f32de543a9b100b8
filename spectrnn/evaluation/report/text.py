"""The results of an evaluation as files: JSON, text and plots."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spectrnn.evaluation.confusion import Confusion
from spectrnn.evaluation.plots import confusion_figure, optional_picture, thresholds_figure
from spectrnn.evaluation.report.tables import class_scores
from spectrnn.files import atomic_write, reporting_write_errors, write_json
from spectrnn.messages import counted, format_table

MAX_ROWS = 40  # of classes on a terminal
_MAX_CLASSES = 40  # in the confusion matrix as text


def metric_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """Formats title, value and 95 % interval of each metric of a split; "" if a metric has no interval."""
    titles = {name: metric["title"] for name, metric in report["metrics"].items()}
    titles["ece_uncalibrated"] = "calibration error, uncalibrated"
    rows = []
    for name in (name for name in titles if name in report):
        interval = report["intervals_95"].get(name)
        rows.append([titles[name], f"{report[name]:.4f}", "{:.4f} to {:.4f}".format(*interval) if interval else ""])
    return rows


def class_rows(report: Mapping[str, Any], maximum: int | None = None) -> tuple[list[list[str]], str]:
    """Formats label, precision, recall, F1 and number of clips of each class of a split; - for a class without clips.

    Args:
        report: Metrics of the split.
        maximum: Maximum number of classes: those with clips and the lowest F1; None for all classes.

    Returns:
        The rows, and a sentence if there are more classes, else "".
    """
    per_class, note = report["per_class"], ""
    if maximum is not None and len(per_class) > maximum:
        occurring = ((label, row) for label, row in per_class.items() if row["support"])
        lowest = sorted(occurring, key=lambda item: (item[1]["f1"], -item[1]["support"]))[:maximum]
        note = f"the {len(lowest)} of {len(per_class):,} classes with clips and the lowest F1"
        per_class = dict(lowest)
    rows = [[label, *map(_number, class_scores(row)), str(row["support"])] for label, row in per_class.items()]
    return rows, note


def text_report(split: str, report: dict[str, Any], max_rows: int | None = None) -> str:
    """Formats results as text: metrics with 95 % intervals, a row per class, the confusion matrix.

    Args:
        split: Name of the split.
        report: Metrics of the split.
        max_rows: Maximum number of classes, as for `class_rows`.
    """
    labels = report["confusion"]["labels"]
    matrix = f"(the confusion matrix of {len(labels)} classes is in confusion.png and metrics.json)"
    if len(labels) <= _MAX_CLASSES:
        counts = report["confusion"]["counts"]
        cells = [
            [f"{index:>2} {label}", *(str(count or ".") for count in row)]
            for index, (label, row) in enumerate(zip(labels, counts, strict=True))
        ]
        matrix = "confusion matrix (rows: true, columns: predicted)\n\n"
        matrix += format_table(["", *map(str, range(len(labels)))], cells)
    rows, note = class_rows(report, max_rows)
    tables = (
        format_table([f"{split}: {counted(report['clips'], 'clip')}", "", "95 % CI"], metric_rows(report)),
        format_table(["class", "precision", "recall", "F1", "clips"], rows),
        *([f"({note}; report.txt has all)"] if note else []),
        matrix,
    )
    return "\n\n".join(tables)


def thresholds_report(result: Mapping[str, Any]) -> str:
    """Formats the result of a threshold tuning as text, a row per class; of many classes the highest thresholds."""
    target, hours, per_class = result["max_false_alarms_per_hour"], result["hours"], result["per_class"]
    rows, note = [], ""
    if len(per_class) > MAX_ROWS:
        note = (
            f"\n\n(the {MAX_ROWS} of {len(per_class):,} classes with the highest thresholds; thresholds.json has all)"
        )
        per_class = dict(sorted(per_class.items(), key=lambda item: -item[1]["threshold"])[:MAX_ROWS])
    for label, row in per_class.items():
        rates = [_number(row[name]) for name in ("recall", "confusion_rate")]
        alarms = f"{row['false_alarms_per_hour']:.2f}" + ("" if row["reached"] else " (target not reached)")
        rows.append([label, f"{row['threshold']:.6g}", *rates, alarms])
    return (
        f"thresholds for at most {target:g} false alarms per hour and class, in {hours:.2f} h of negatives\n\n"
        + format_table(["class", "threshold", "recall", "confusion", "false alarms per hour"], rows)
        + note
        + "\n\nrecall: detected fraction of the clips of the class; confusion: of all other clips"
    )


def events_report(result: Mapping[str, Any]) -> str:
    """Formats the scores of detected events as text, a row per class; of many classes those with the lowest F1."""
    per_class, note = result["per_class"], ""
    if len(per_class) > MAX_ROWS:
        note = f"\n(the {MAX_ROWS} of {len(per_class):,} classes with the lowest F1; events.json has all)\n"
        per_class = dict(sorted(per_class.items(), key=lambda item: item[1]["f1"])[:MAX_ROWS])
    named = {**per_class, "all events": result["micro"], "mean of classes": result["macro"]}
    rows = [
        [
            label,
            *(_number(row[name]) for name in ("precision", "recall", "f1")),
            *(str(row.get(name, "")) for name in ("events", "detected", "correct")),
        ]
        for label, row in named.items()
    ]
    by_intersection = result["intersection"]
    criteria = [f"{100 * by_intersection[name]:g} %" for name in ("dtc", "gtc")]
    means = [_number(by_intersection[name]["f1"]) for name in ("micro", "macro")]
    intersection = f"F1 by intersection of {criteria[0]} and {criteria[1]}: {means[0]}, mean of classes {means[1]}"
    if "psds" in result:
        rate = result["psds"]["max_efpr"]
        intersection += f"\nPSDS, up to {rate:g} false positives per hour: {_number(result['psds']['score'])}"
    within = f"{result['collar']:g} s"
    ends = "their ends are not compared"
    if result["end_fraction"] is not None:
        ends = f"their ends within that or {100 * result['end_fraction']:g} % of the length"
    return (
        f"events in {counted(result['recordings'], 'recording')}, {result['hours']:.2f} h\n\n"
        + format_table(["class", "precision", "recall", "F1", "events", "detected", "correct"], rows)
        + f"\n{note}\ncorrect: starts within {within}; {ends}\n{intersection}"
    )


def _number(score: float | None) -> str:
    return "-" if score is None else f"{score:.3f}"


def write_results(split: str, content: dict[str, Any], folder: Path) -> None:
    """Writes ``metrics.json``, and ``report.txt`` for one of its splits.

    Raises:
        UserError: A folder that cannot be written.
    """
    report = content[split]  # from `evaluate.compute_metrics`
    with reporting_write_errors(f"out={folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(content, folder / "metrics.json")
        with atomic_write(folder / "report.txt") as path:
            path.write_text(text_report(split, report) + "\n", encoding="utf-8")


def write_confusion(report: Mapping[str, Any], folder: Path) -> None:
    """Writes ``confusion.png`` for the metrics of a split."""
    with optional_picture("confusion.png"), atomic_write(folder / "confusion.png") as path:
        confusion_figure(Confusion.from_json(report["confusion"])).savefig(path, format="png")


def write_thresholds(result: dict[str, Any], folder: Path) -> None:
    """Writes the result of a threshold tuning as ``thresholds.json`` and ``thresholds.png``.

    Raises:
        UserError: A folder that cannot be written.
    """
    with reporting_write_errors(f"out={folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(result, folder / "thresholds.json")
    with optional_picture("thresholds.png"), atomic_write(folder / "thresholds.png") as path:
        thresholds_figure(result).savefig(path, format="png")
