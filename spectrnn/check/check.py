"""`spectrnn check`: whether a dataset can be trusted, before anything is trained on it."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from spectrnn.check import leaks
from spectrnn.check.clean import clean_table, write_manifest
from spectrnn.check.issues import LEVELS, Issue, components
from spectrnn.check.measure import ClipStats, measure_clips
from spectrnn.check.metadata import metadata_leaks
from spectrnn.check.near_duplicates import Pair, exact_duplicates, near_duplicates
from spectrnn.check.quality import Limits, quality
from spectrnn.check.report import classes, json_report, text_report, verdict
from spectrnn.config.instantiate import instantiate, to_container, validate_kwargs
from spectrnn.data.clips import SPLITS, Clip, DataSource
from spectrnn.data.splits import assign_splits, require_classes, require_training_clips
from spectrnn.errors import UserError
from spectrnn.files import write_json

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class CheckConfig:
    """The top level of check.yaml."""

    data: dict[str, Any]
    out: str | None
    report: str | None
    limits: dict[str, Any]


@dataclass
class CorpusAnalysis:
    """All that a check knows of a dataset: rows of the table, sets and pairs of them.

    Args:
        clips: as the source gives them.
        names: their paths, short, for people.
        rows: their measurements.
        sides: the split (or fold) of each.
        exact: sets with the same samples.
        near: sets with the same recording, of which not all have the same samples.
        overlapping: pairs of which one holds a part of the other.
        cut: series of clips that are one recording.
        findings: what there is to tell of the splits, and of comparisons that were not made.
    """

    clips: Sequence[Clip]
    names: Sequence[str]
    rows: Sequence[ClipStats]
    sides: Sequence[str]
    exact: list[list[int]]
    near: list[list[int]]
    overlapping: list[Pair]
    cut: list[list[int]]
    findings: list[Issue]


def check_dataset(config: DictConfig) -> list[Issue]:
    """Checks a dataset: prints a report, and writes it as JSON, and the clean manifest where one is asked for.

    Args:
        config: of check.yaml.

    Returns:
        The findings, the gravest first.

    Raises:
        UserError: the dataset cannot be found, or a file not be written.
    """
    settings = CheckConfig(**validate_kwargs(to_container(config, "check"), CheckConfig, ""))
    limits = build_limits(settings.limits)
    source: DataSource = instantiate(config.data, "data")
    source.on_error = "skip"  # what cannot be read is told, and does not end the check
    examined = analyse_dataset(source)
    findings = all_issues(examined, limits, source.sample_rate)
    table = classes(examined.clips, examined.rows, examined.sides)
    print(text_report(findings, table, examined.rows))
    if settings.report is not None:
        _write_report(json_report(findings, table, examined.rows), Path(settings.report).expanduser())
    if settings.out is not None:
        _write_clean(examined, limits, source, Path(settings.out).expanduser())
    print(verdict(findings))
    return findings


def build_limits(settings: dict[str, Any]) -> Limits:
    """The limits of check.yaml, checked."""
    return Limits(**validate_kwargs(settings, Limits, "limits"))


def analyse_dataset(source: DataSource) -> CorpusAnalysis:
    """Decodes every clip once, and finds what belongs together."""
    clips = source.clips()
    sides, findings = _splits(clips, source)
    rows = measure_clips(clips)
    exact = exact_duplicates(rows)
    for same in exact:
        for row in same[1:]:  # what is true of the first is true of them
            rows[row] = rows[row]._replace(landmarks=rows[row].landmarks[:0])
    pairs, unproved = near_duplicates(clips, rows)
    if unproved:
        text = "pairs of clips that may sound alike, and were not compared: so many did; mend those and check again"
        findings.append(Issue("note", "unproved", text, unproved, []))
    whole = [(pair.first, pair.second) for pair in pairs if pair.whole]
    alike = components([*exact, *whole], len(clips))
    known = set(map(tuple, exact))
    near = [rows for rows in alike if tuple(rows) not in known]
    covered = {row for rows in near for row in rows}
    cut, named = leaks.numbered_series(clips, rows, sides)
    names = _short_names(clips)
    findings += leaks.series_issues(names, sides, cut, named)
    overlapping = [pair for pair in pairs if not pair.whole]
    return CorpusAnalysis(
        clips, names, rows, sides, [same for same in exact if same[0] not in covered], near, overlapping, cut, findings
    )


def all_issues(examined: CorpusAnalysis, limits: Limits, sample_rate: int) -> list[Issue]:
    """Everything there is to say, the gravest first; nothing that counts none."""
    clips, names, rows, sides = examined.clips, examined.names, examined.rows, examined.sides
    labels = [clip.label for clip in clips]
    findings = [
        *examined.findings,
        *quality(names, rows, limits, sample_rate),
        *leaks.duplicates(clips, names, sides, examined.exact, exact=True),
        *leaks.duplicates(clips, names, sides, examined.near, exact=False),
        leaks.overlaps(names, sides, examined.overlapping),
        leaks.groups(clips, sides),
        *leaks.recordings(clips, names, sides),
        *metadata_leaks(labels, rows),
        *_class_size_issues(labels, sides, limits),
    ]
    return sorted((finding for finding in findings if finding.count), key=lambda finding: LEVELS.index(finding.level))


def _splits(clips: Sequence[Clip], source: DataSource) -> tuple[list[str], list[Issue]]:
    """The splits as training would have them; where it could not train, what there is, and why it could not."""
    problems = []
    sides = [clip.split or clip.fold or "all" for clip in clips]
    try:
        sides = [clip.split or "all" for clip in assign_splits(clips, source)]
        require_classes(clips)
        require_training_clips(assign_splits(clips, source))
    except UserError as error:
        problems.append(str(error))
    return sides, [Issue("error", "splits", "training refuses this dataset", len(problems), problems)]


def _class_size_issues(labels: Sequence[str], sides: Sequence[str], limits: Limits) -> list[Issue]:
    counts, pairs = Counter(labels), Counter(zip(labels, sides, strict=True))
    tiny = [
        f"{label}: {count}" for label, count in sorted(counts.items(), key=lambda item: item[1]) if count < limits.tiny
    ]
    present = [side for side in SPLITS if side in set(sides)]
    empty = [side for side in SPLITS if side not in present] if present else []
    lacking = [f"{label}: none in {side}" for label in counts for side in present if not pairs[label, side]]
    return [
        Issue("warning", "tiny classes", f"classes with fewer than {limits.tiny} clips", len(tiny), tiny),
        Issue("warning", "empty splits", "splits without a clip", len(empty), empty),
        Issue("warning", "missing classes", "classes without a clip in a split", len(lacking), lacking),
    ]


def _write_report(content: dict[str, Any], path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(content, path)
    except OSError as error:
        raise UserError(f"report={path}: cannot be written ({error.strerror})") from error
    log.info("the report with all examples is in %s", path)


def _write_clean(examined: CorpusAnalysis, limits: Limits, source: DataSource, out: Path) -> None:
    unusable = [number for number, row in enumerate(examined.rows) if row.problem or limits.silent(row)]
    kin = [*examined.cut, *((pair.first, pair.second) for pair in examined.overlapping)]
    table = clean_table(examined.clips, unusable, [*examined.exact, *examined.near], kin, source)
    write_manifest(table.clips, out)
    left_out = ", ".join(f"{count} {reason}" for reason, count in table.dropped.items()) or "none"
    log.info("%s lists %d clips; left out: %s", out, len(table.clips), left_out)


def _short_names(clips: Sequence[Clip]) -> list[str]:
    """Paths below the folder that all clips share; parts of files with their seconds."""
    folders = {os.path.dirname(clip.path) for clip in clips}
    root = os.path.commonpath(folders) if all(folders) else ""
    names = (os.path.relpath(clip.path, root) if root else clip.path for clip in clips)
    return [
        name if clip.end is None and not clip.start else f"{name} [{clip.start:g} to {clip.end or 'end'} s]"
        for name, clip in zip(names, clips, strict=True)
    ]
