"""The `check` command."""

import json
import logging
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig

from spectrnn.check.analysis import LEVELS, DatasetAnalysis, Issue, analyze_dataset
from spectrnn.check.clean import clean_table, write_manifest
from spectrnn.check.leaks import leak_issues, overlapping_segments
from spectrnn.check.metadata import metadata_issues
from spectrnn.check.quality import Limits, quality_issues
from spectrnn.check.report import json_report, summary, text_report
from spectrnn.config.instantiate import instantiate, to_container, validate_kwargs
from spectrnn.data.clips import SPLITS, DataSource, similar_labels
from spectrnn.data.scan import KINDS, Ignored, summarize
from spectrnn.errors import UserError
from spectrnn.files import reporting_write_errors, write_json
from spectrnn.messages import counted, printable
from spectrnn.model.task import Task

log = logging.getLogger(__name__)

# Errors that concern a dataset as a whole, and remain in a cleaned manifest.
_NOT_CLEANED = {"invalid splits", "predictable from format", "predictable from sample rate"}


@dataclass(kw_only=True)
class CheckConfig:
    """Top level of configs/check.yaml, which documents its keys."""

    data: dict[str, Any]
    task: dict[str, Any]
    out: str | None
    format: Literal["text", "json"]
    report: str | None
    limits: dict[str, Any]


def run_check(config: DictConfig) -> None:
    """Checks a dataset, as `check_dataset`.

    Raises:
        UserError: As `check_dataset`, or a dataset with errors.
    """
    errors = [issue.kind for issue in check_dataset(config) if issue.level == "error"]
    remaining = [kind for kind in errors if kind in _NOT_CLEANED]
    if not errors:
        return
    steps = []
    if remaining != errors:
        steps = ["out=clean.csv writes a manifest without the clips that can be dropped"]
    if config.out:
        checked = shlex.join(["spectrnn", "check", "data=manifest", f"data.path={config.out}"])
        steps = [f"{config.out} is without the clips that can be dropped: {checked}"]
    if remaining:
        steps.append(f"no choice of clips removes: {', '.join(remaining)}")
    raise UserError("; ".join(["the dataset has errors", *steps]))


def check_dataset(config: DictConfig) -> list[Issue]:
    """Checks the dataset of a check.yaml: prints the report, and writes it as JSON and a cleaned manifest if requested.

    Returns:
        The issues, most severe first.

    Raises:
        UserError: An invalid config, a dataset that cannot be found, or a file that cannot be written.
    """
    settings = CheckConfig(**validate_kwargs(to_container(config, "check"), CheckConfig, ""))
    limits: Limits = instantiate(settings.limits, "limits", Limits)
    source: DataSource = instantiate(config.data, "data", DataSource)
    task: Task = instantiate(config.task, "task", Task, num_classes=2)
    if settings.out is not None and source.has_label_sets:
        raise UserError(f"out={settings.out}: a manifest cannot have the events of annotated recordings")
    analysis = analyze_dataset(source, task.label_format)
    issues = find_issues(analysis, limits, source.sample_rate)
    if settings.format == "json":
        print(json.dumps(json_report(analysis, issues)))
    else:
        print(printable(text_report(analysis, issues)))
    if settings.report is not None:
        path = Path(settings.report).expanduser()
        with reporting_write_errors(f"report={path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(json_report(analysis, issues), path)
        log.info("wrote %s, with all issues", path)
    if settings.out is not None:
        out = Path(settings.out).expanduser()
        unusable = [row for row, clip in enumerate(analysis.stats) if clip.error or limits.is_silent(clip)]
        duplicates = [*analysis.exact_duplicates, *analysis.near_duplicates]
        related = [*analysis.cut_recordings, *analysis.overlaps, *overlapping_segments(analysis.clips)]
        clips, dropped = clean_table(analysis.clips, unusable, duplicates, related, source, task.label_format)
        write_manifest(clips, out)
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "none"
        log.info("wrote %s with %s; dropped: %s", out, counted(len(clips), "clip"), reasons)
        log.info("next: %s", shlex.join(["spectrnn", "train", "data=manifest", f"data.path={settings.out}"]))
    if settings.format == "text":
        print(summary(issues))
    return issues


def find_issues(analysis: DatasetAnalysis, limits: Limits, sample_rate: int) -> list[Issue]:
    """Derives all issues of a dataset with a count of one or more, most severe first; arguments as `quality_issues`."""
    errors = analysis.split_errors
    issues = [
        Issue("error", "invalid splits", "training would reject this dataset", len(errors), errors),
        *quality_issues(analysis, limits, sample_rate),
        *leak_issues(analysis),
        *metadata_issues(analysis.classes, analysis.stats),
        *_class_size_issues(analysis, limits.min_clips_per_class),
        *_ignored_issues(analysis.ignored),
    ]
    return sorted((issue for issue in issues if issue.count), key=lambda issue: LEVELS.index(issue.level))


def _ignored_issues(ignored: Sequence[Ignored]) -> list[Issue]:
    lines: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for item in ignored:
        lines[item.kind].append(str(item))
    texts = summarize(ignored)
    return [Issue("warning", kind, texts[kind], len(lines[kind]), lines[kind]) for kind in texts]


def _class_size_issues(analysis: DatasetAnalysis, min_clips: int) -> list[Issue]:
    counts = Counter(label for labels in analysis.classes for label in labels)
    by_clip = zip(analysis.classes, analysis.splits, strict=True)
    pairs = {(label, split) for labels, split in by_clip for label in labels}
    small = [f"{label}: {count}" for label, count in reversed(counts.most_common()) if count < min_clips]
    present = [split for split in SPLITS if split in set(analysis.splits)]
    empty = [split for split in SPLITS if split not in present] if present else []
    similar = similar_labels(counts)
    missing = [f"{label}: none in {split}" for label in counts for split in present if (label, split) not in pairs]
    return [
        Issue(
            "warning",
            "similar labels",
            "sets of labels that differ in case, blanks or Unicode form only, and are different classes",
            len(similar),
            similar,
        ),
        Issue("warning", "small classes", f"classes with fewer than {min_clips} clips", len(small), small),
        Issue("warning", "empty splits", "splits without clips", len(empty), empty),
        Issue("warning", "missing classes", "classes without clips in a split", len(missing), missing),
    ]
