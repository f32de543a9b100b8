"""The report: text for the terminal, JSON for programs."""

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

import numpy as np

from spectrnn.check.analysis import LEVELS, DatasetAnalysis, Issue
from spectrnn.data.clips import SPLITS
from spectrnn.evaluation.confusion import NOTHING
from spectrnn.messages import counted

_WIDTH, _INDENT = 80, 9  # columns of the text, and of the level
_TEXT_EXAMPLES = 4  # maximum number of examples per issue in the text
_MANY_ISSUES = 8  # with more, the text has no examples, to fit a screen
_TEXT_CLASSES = 40  # maximum number of classes in the text


def class_table(analysis: DatasetAnalysis) -> list[dict[str, Any]]:
    """Summarizes each class: number of clips, number per split, and quantiles of the duration in seconds.

    Clips of no class are summarized as `NOTHING`.
    """
    members: dict[str, list[int]] = {}
    for row, labels in enumerate(analysis.classes):
        for label in labels or [NOTHING]:
            members.setdefault(label, []).append(row)
    seconds = np.array([np.nan if clip.error else clip.seconds for clip in analysis.stats])
    table = []
    for label, rows in sorted(members.items()):
        durations = seconds[rows][~np.isnan(seconds[rows])]
        quantiles = np.quantile(durations, [0, 0.5, 1]).round(3).tolist() if len(durations) else [0.0] * 3
        table.append(
            {
                "label": label,
                "clips": len(rows),
                "splits": dict(Counter(analysis.splits[row] for row in rows)),
                "seconds": dict(zip(("min", "median", "max"), quantiles, strict=True)),
            }
        )
    return table


def json_report(analysis: DatasetAnalysis, issues: Sequence[Issue]) -> dict[str, Any]:
    """Returns the report for programs: size of the dataset, number of issues by level, issues, classes."""
    return {
        "clips": len(analysis.clips),
        "hours": round(sum(clip.seconds for clip in analysis.stats) / 3600, 4),
        **{f"{level}s": sum(issue.level == level for issue in issues) for level in LEVELS},
        "issues": [{**asdict(issue), "examples": list(issue.examples)} for issue in issues],
        "classes": class_table(analysis),
    }


def text_report(analysis: DatasetAnalysis, issues: Sequence[Issue]) -> str:
    """Returns the report for the terminal: a summary, a paragraph per issue, and a table of the classes."""
    table = class_table(analysis)
    durations = np.array([clip.seconds for clip in analysis.stats if clip.error is None])
    summary = (
        f"{counted(len(analysis.clips), 'clip')} of {counted(len({*chain(*analysis.classes)}), 'class', 'classes')}"
    )
    summary += f", {durations.sum() / 60:.1f} minutes"
    if len(durations):
        summary += f", {durations.min():.2f} to {durations.max():.2f} s per clip (median {np.median(durations):.2f} s)"
    lines = [summary, ""]
    is_short = len(issues) > _MANY_ISSUES
    examples = 0 if is_short else _TEXT_EXAMPLES
    for issue in issues:
        paragraph = [f"{issue.kind} ({issue.count})"]
        paragraph += textwrap.wrap(issue.text, _WIDTH - _INDENT, break_long_words=False)
        for text in issue.examples[:examples]:
            shown = _shorten(text, 2 * (_WIDTH - _INDENT) - 10)  # two lines
            paragraph += textwrap.wrap(
                shown, _WIDTH - _INDENT, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
            )
        if (more := len(issue.examples) - examples) > 0 and not is_short:
            paragraph.append(f"  ... and {more} more")
        lines += [f"{'' if number else issue.level:<{_INDENT}}{line}" for number, line in enumerate(paragraph)]
        lines.append("")
    lines += ["report=issues.json lists the files of each issue", ""] if is_short else []
    return "\n".join([*lines, *([] if issues else ["no issues", ""]), *_class_lines(table, analysis.splits), ""])


def summary(issues: Sequence[Issue]) -> str:
    """Returns one line with the number of issues by level and the exit code."""
    counts = Counter(issue.level for issue in issues)
    numbers = ", ".join(f"{counts[level]} {level}{'s' if counts[level] != 1 else ''}" for level in LEVELS)
    return f"{numbers} (exit code {int(counts['error'] > 0)}; only errors set it to 1)"


def _class_lines(table: Sequence[dict[str, Any]], split_of_clip: Sequence[str]) -> list[str]:
    total = Counter(split_of_clip)
    splits = sorted(total, key=lambda split: (SPLITS.index(split) if split in SPLITS else len(SPLITS), split))
    header = "".join(f"{name:>8}" for name in splits) + f"{'min s':>8}{'median s':>10}{'max s':>8}"
    room = max(12, _WIDTH - len(f" {'clips':>7}{header}"))
    width = min(room, max(len("class"), *(len(row["label"]) for row in table)))
    lines = [f"{'class':<{width}} {'clips':>7}{header}"]
    for row in sorted(table, key=lambda row: row["clips"])[:_TEXT_CLASSES]:
        cells = "".join(f"{row['splits'].get(name, 0) or '.':>8}" for name in splits)
        seconds = row["seconds"]
        cells += f"{seconds['min']:>8.2f}{seconds['median']:>10.2f}{seconds['max']:>8.2f}"
        lines.append(f"{_shorten(row['label'], width):<{width}} {row['clips']:>7}{cells}")
    if len(table) > _TEXT_CLASSES:
        lines.append(f"... and {len(table) - _TEXT_CLASSES} larger classes; the JSON report lists all")
    sums = "".join(f"{total[name]:>8}" for name in splits)
    return [*lines, f"{'all':<{width}} {total.total():>7}{sums}"]


def _shorten(text: str, width: int) -> str:
    """Omits the middle of a long text, as the end of a path is more specific than its beginning."""
    return text if len(text) <= width else f"{text[: width // 3]}...{text[-(width - width // 3 - 3) :]}"
