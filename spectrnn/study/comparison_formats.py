"""Formats of a comparison of runs: text, CSV, JSON and Markdown."""

import csv
import io
import json
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from textwrap import fill
from typing import Any

from spectrnn.messages import format_table
from spectrnn.study.comparison import Comparison, Pair
from spectrnn.study.paired_test import format_p
from spectrnn.study.summary import describe_folder, differing_overrides, format_runs, runs_table

_MAX_VALUE = 24  # characters of a config's value in a table
_MAX_REASONS = 3  # why runs cannot be tested
UNCORRECTED = "points: difference of accuracy; p: McNemar's test, uncorrected for several runs"


def as_text(comparison: Comparison) -> str:
    """Formats a comparison for the width of the terminal."""
    wrap = partial(fill, width=shutil.get_terminal_size().columns, break_long_words=False, break_on_hyphens=False)
    return _document(comparison, [format_runs(comparison.runs)], format_table, wrap)


def as_markdown(comparison: Comparison) -> str:
    """Formats a comparison as Markdown, with the table of runs as `runs_table` describes it."""
    head, rows = runs_table(comparison.runs)
    start = [describe_folder(len(rows), comparison.folder), markdown_table(head, rows)]
    return _document(comparison, start, markdown_table, str)


def as_csv(comparison: Comparison) -> str:
    """Formats the table of runs as CSV with unrounded values, without tests and differences of configs."""
    keys = differing_overrides(comparison.runs)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*keys, "status", "split", "metric", "value", "low_95", "high_95", "seconds", "folder", "error"])
    for run in comparison.runs:
        given = [run.overrides.get(key, "") for key in keys]
        result = [run.status, run.split, run.metric, run.value, *(run.interval or ("", ""))]
        writer.writerow([*given, *result, run.seconds, run.folder, run.error])
    return file.getvalue().rstrip("\n")


def as_json(comparison: Comparison) -> str:
    """Formats a comparison as JSON with unrounded values; those that are not finite are null."""
    runs = [
        {
            "folder": str(run.folder),
            "status": run.status,
            "error": run.error or None,
            "overrides": run.overrides,
            "metric": run.metric or None,
            "split": run.split or None,
            "value": run.value,
            "interval_95": run.interval,
            "seconds": run.seconds,
        }
        for run in comparison.runs
    ]
    pairs = [
        {
            "a": str(pair.a),
            "b": str(pair.b),
            "split": comparison.split,
            "clips": pair.test.clips,
            "clips_of_a": pair.totals[0],
            "clips_of_b": pair.totals[1],
            "resampled_groups": pair.test.groups or None,
            "correct_only_in_a": pair.test.only_a,
            "correct_only_in_b": pair.test.only_b,
            "mcnemar_p": pair.test.p_value,
            "metrics": {
                name: {"a": m.a, "b": m.b, "difference": m.difference, "interval_95": m.interval}
                for name, m in pair.test.metrics.items()
            },
        }
        for pair in comparison.pairs
    ]
    differences = {key: {"a": a, "b": b} for key, (a, b) in comparison.differences.items()}
    return json.dumps({"runs": runs, "config_differences": differences, "tests": pairs}, indent=1)


FORMATS: dict[str, Callable[[Comparison], str]] = {
    "table": as_text,
    "csv": as_csv,
    "json": as_json,
    "markdown": as_markdown,
}


def describe_clips(comparison: Comparison, pair: Pair) -> str:
    """Describes what a test is based on: common clips of all clips, and what is resampled."""
    a, b = (comparison.names[folder] for folder in (pair.a, pair.b))
    clips, (total_a, total_b), groups = pair.test.clips, pair.totals, pair.test.groups
    part = f"all {clips:,} {comparison.split} clips of both"
    if not clips == total_a == total_b:
        part = f"the {clips:,} common {comparison.split} clips, of {total_a:,} of {a} and {total_b:,} of {b}"
    resampled = f"{groups:,} groups; McNemar's test takes clips as independent" if groups else "clips"
    return f"On {part}; intervals by resampling {resampled}"


def _document(
    comparison: Comparison,
    parts: list[str],
    make_table: Callable[[list[str], list[list[str]]], str],
    make_paragraph: Callable[[str], str],
) -> str:
    """Appends differences of configs, and tests, to the first parts of a document."""
    names = comparison.names
    if comparison.differences:
        rows = [[key, *map(format_value, values)] for key, values in comparison.differences.items()]
        parts.append(make_table(["config", *(names[folder] for folder in comparison.two)], rows))
    if len(comparison.pairs) == 1:
        pair = comparison.pairs[0]
        a, b = names[pair.a], names[pair.b]
        rows = [
            [m.title, f"{m.a:.4f}", f"{m.b:.4f}", f"{m.difference:+.4f}", "{:+.4f} to {:+.4f}".format(*m.interval)]
            for m in pair.test.metrics.values()
        ]
        parts += [
            make_paragraph(f"{sentence}.") for sentence in (pair.test.describe(a, b), describe_clips(comparison, pair))
        ]
        parts.append(make_table([comparison.split, a, b, "difference", "95 % CI"], rows))
    elif comparison.pairs:
        parts += [make_table(*tests_table(comparison)), UNCORRECTED]
    if comparison.untested:
        parts += map(make_paragraph, comparison.untested[:_MAX_REASONS])
        if (more := len(comparison.untested) - _MAX_REASONS) > 0:
            parts.append(f"... and {more} more")
    return "\n\n".join(parts)


def tests_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Returns the head and the rows of a table of tests against the best run."""
    rows = []
    for pair in comparison.pairs:
        main = pair.test.main
        # B is the best run; the table shows the other one relative to it.
        points, high, low = (-100 * value for value in (main.difference, *main.interval))
        limits = f"{low:+.1f} to {high:+.1f}"
        name = comparison.names[pair.a]
        rows.append([name, f"{pair.test.clips:,}", f"{points:+.1f}", limits, format_p(pair.test.p_value)])
    return [f"{comparison.split}, against the best", "clips", "points", "95 % CI", "p"], rows


def format_value(value: Any) -> str:
    """Formats a value of a config for a table; ``-`` if it is absent."""
    text = "-" if value is None else json.dumps(value) if isinstance(value, bool | list | dict) else str(value)
    return text if len(text) <= _MAX_VALUE else text[: _MAX_VALUE - 3] + "..."


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Formats a table as Markdown, with special characters escaped."""
    cells = [[re.sub(r"([\\|`*_<>\[\]])", r"\\\1", cell).replace("\n", " ") for cell in row] for row in [head, *rows]]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])
