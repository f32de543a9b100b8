"""The report: as text for people, as JSON for programs."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from spectrnn.check.issues import LEVELS, Issue, as_json
from spectrnn.check.measure import ClipStats
from spectrnn.data.clips import SPLITS, Clip

_WIDTH = 100  # columns
_SHOWN, _KEPT = 4, 1000  # examples of a finding, in the text and in the JSON
_WIDEST_TABLE = 40  # classes that the text lists


def classes(clips: Sequence[Clip], rows: Sequence[ClipStats], sides: Sequence[str]) -> list[dict[str, Any]]:
    """A row a class: its clips in each split, and their lengths in seconds."""
    labels = np.array([clip.label for clip in clips])
    seconds = np.array([row.seconds for row in rows])
    usable = np.array([row.problem is None for row in rows])
    table = []
    for label in sorted(set(labels)):
        mine = labels == label
        lengths = seconds[mine & usable]
        quantiles = np.quantile(lengths, [0, 0.5, 1]).round(3).tolist() if len(lengths) else [0.0] * 3
        counts = Counter(sides[int(row)] for row in np.flatnonzero(mine))
        table.append(
            {
                "label": str(label),
                "clips": int(mine.sum()),
                "splits": dict(counts),
                "seconds": dict(zip(("shortest", "median", "longest"), quantiles, strict=True)),
            }
        )
    return table


def json_report(
    findings: Sequence[Issue], table: Sequence[dict[str, Any]], rows: Sequence[ClipStats]
) -> dict[str, Any]:
    """All of it: counts of every level, findings with their examples, classes."""
    return {
        "clips": len(rows),
        "hours": round(sum(row.seconds for row in rows) / 3600, 4),
        **{f"{level}s": sum(finding.level == level for finding in findings) for level in LEVELS},
        "findings": [as_json(finding, _KEPT) for finding in findings],
        "classes": list(table),
    }


def text_report(findings: Sequence[Issue], table: Sequence[dict[str, Any]], rows: Sequence[ClipStats]) -> str:
    """The dataset in a line, the findings with the gravest first, the classes."""
    lengths = np.array([row.seconds for row in rows if row.problem is None])
    spread = (
        f", clips of {lengths.min():.2f} to {lengths.max():.2f} s (median {np.median(lengths):.2f} s)"
        if len(lengths)
        else ""
    )
    lines = [f"{len(rows)} clips of {len(table)} classes, {lengths.sum() / 60:.1f} minutes{spread}", ""]
    for finding in findings:
        lines += _paragraph(finding)
    if not findings:
        lines += ["nothing found", ""]
    return "\n".join([*lines, *_class_lines(table)])


def verdict(findings: Sequence[Issue]) -> str:
    """How many findings there are of each level, and what that means for the exit code."""
    counts = Counter(finding.level for finding in findings)
    told = ", ".join(f"{counts[level]} {level}{'s' if counts[level] != 1 else ''}" for level in LEVELS)
    return f"{told} (exit code {int(counts['error'] > 0)}: only errors make it 1)"


def _paragraph(finding: Issue) -> list[str]:
    margin = 9
    lines = [f"{finding.kind} ({finding.count})", *_wrapped(finding.text, _WIDTH - margin)]
    shown = [_shortened(example, _WIDTH - margin - 2) for example in finding.examples[:_SHOWN]]
    more = len(finding.examples) - len(shown)
    lines += [f"  {example}" for example in [*shown, *([f"... and {more} more"] if more else [])]]
    return [f"{finding.level if number == 0 else '':<{margin}}{line}" for number, line in enumerate(lines)] + [""]


def _class_lines(table: Sequence[dict[str, Any]]) -> list[str]:
    names = [*SPLITS, *sorted({name for row in table for name in row["splits"]} - set(SPLITS))]
    names = [name for name in names if any(row["splits"].get(name) for row in table)]
    width = min(30, max(len("class"), *(len(row["label"]) for row in table)))
    lines = [
        f"{'class':<{width}} {'clips':>7}"
        + "".join(f"{name:>8}" for name in names)
        + f"{'shortest':>12}{'median':>9}{'longest':>9}  s"
    ]
    for row in sorted(table, key=lambda row: row["clips"])[:_WIDEST_TABLE]:
        counts = "".join(f"{row['splits'].get(name, 0) or '.':>8}" for name in names)
        low, middle, high = row["seconds"].values()
        lines.append(
            f"{_shortened(row['label'], width):<{width}} {row['clips']:>7}{counts}"
            f"{low:>12.2f}{middle:>9.2f}{high:>9.2f}"
        )
    if len(table) > _WIDEST_TABLE:
        lines.append(f"... and {len(table) - _WIDEST_TABLE} larger classes, which the JSON lists")
    total: Counter[str] = Counter()
    for row in table:
        total.update(row["splits"])
    sums = "".join(f"{total[name]:>8}" for name in names)
    return [*lines, f"{'all':<{width}} {sum(row['clips'] for row in table):>7}{sums}", ""]


def _wrapped(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width, break_long_words=False)


def _shortened(text: str, width: int) -> str:
    """In the middle: a path's end says more than its beginning."""
    return text if len(text) <= width else f"{text[: width // 3]}...{text[-(width - width // 3 - 3) :]}"
