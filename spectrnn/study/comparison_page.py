"""The page of a comparison: learning curves, difference of the confusion matrices, and clips that one gets right."""

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch

from spectrnn.data.clips import Clip, DataSource, common_folder
from spectrnn.data.dataset import open_dataset_for_evaluation
from spectrnn.data.labels import SEPARATOR
from spectrnn.errors import UserError
from spectrnn.evaluation.confusion import Confusion
from spectrnn.evaluation.metrics import class_indices
from spectrnn.evaluation.report.html import clip_source, media_blocks, named_labels, render_page, to_json
from spectrnn.evaluation.report.media import MAX_AUDIO_SECONDS, render_clips
from spectrnn.evaluation.report.training import Training, learning_curves
from spectrnn.model import serialization
from spectrnn.runs import CHECKPOINT, MODEL
from spectrnn.study.comparison import Comparison, Pair, read_common_clips
from spectrnn.study.comparison_formats import UNCORRECTED, describe_clips, format_value, tests_table
from spectrnn.study.summary import describe_folder, runs_table
from spectrnn.training.checkpoint import read_history
from spectrnn.version import __version__

_SCRIPTS = ("page.js", "tables.js", "matrix.js", "figures.js", "players.js", "list.js", "comparison.js")
_NOTES_BYTES = 4000  # reserved for the notes on omissions, and frequencies
_MAX_LIST_FRACTION = 0.4  # of the file, for the list of clips
_MAX_PLAYED = 2000  # clips with audio, which are decoded
_MAX_MATRIX = 40  # classes in the matrix
_MAX_REASONS = 3  # why runs have failed, and cannot be tested
_MAX_CURVES = 6  # runs with learning curves
_BATCH_SIZE = 32
_CPU = torch.device("cpu")


@dataclass(kw_only=True)
class _ClipTable(DataSource):
    """A data source that is a list of clips."""

    table: list[Clip]

    def clips(self) -> list[Clip]:
        """Returns the list."""
        return self.table


def build_page(comparison: Comparison, max_bytes: int, trust: Sequence[str], folder: Path | None = None) -> bytes:
    """Builds a self-contained page, which links the reports of the runs.

    With several runs, the two that are compared clip by clip are the best one and the next that can be tested.

    Args:
        comparison: Comparison of runs.
        max_bytes: Maximum size; the page states how many clips are omitted.
        trust: Packages, besides spectrnn, whose classes a model file may instantiate.
        folder: Folder that the page will be in, to which its links are relative; None if unknown.

    Raises:
        UserError: A damaged file, or a model from a package that is not trusted.
    """
    names, best = comparison.names, comparison.runs[0]
    claim, lead = "No run has finished", ""
    if best.value is not None:
        claim, lead = f"Best: {names[best.folder]}", f"Its {best.split} {best.metric} is {best.value:.4f}. "
    data: dict[str, Any] = {"tables": [], "labels": [], "matrix": [[], []], "frequencies": [], "pair": None}
    if comparison.differences:
        rows = [[key, *map(format_value, values)] for key, values in comparison.differences.items()]
        head = ["", *(names[folder] for folder in comparison.two)]
        caption = "Values of the resolved configs that differ."
        data["tables"].append({"title": "Configuration", "caption": caption, "head": head, "rows": rows})
    if len(comparison.pairs) > 1:
        head, rows = tests_table(comparison)
        caption = UNCORRECTED[0].upper() + UNCORRECTED[1:] + "."
        data["tables"].append({"title": "Tests", "caption": caption, "head": ["", *head[1:]], "rows": rows})
    curve_names, data["curves"] = _learning_curves(comparison)
    pair = comparison.pairs[0] if comparison.pairs else None
    if pair:
        a, b = names[pair.a], names[pair.b]
        if len(comparison.runs) == 2:
            claim, lead = pair.test.claim(a, b), pair.test.evidence(a, b)
        else:
            lead += pair.test.describe(a, b)
        lead += f". {describe_clips(comparison, pair)}."
    failed = [f"{names[run.folder]} has failed: {run.error.splitlines()[0]}" for run in comparison.runs if run.error]
    data |= {
        "subject": describe_folder(len(comparison.runs), comparison.folder),
        "claim": re.sub("^run ", "Run ", claim),
        "lead": re.sub(r"(^|\. )run ", r"\1Run ", lead),
        "notes": [*failed[:_MAX_REASONS], *comparison.untested[:_MAX_REASONS]],
        "runs": runs_table(comparison.runs),
        "reports": [_link(run.folder / "report.html", folder) for run in comparison.runs],
        "curve_names": curve_names,
        "imprint": f"spectrnn {__version__}. Runs are in {comparison.folder}.",
    }
    return _add_clips(data, comparison, pair, max_bytes, trust) if pair else _render(data, [])


def _add_clips(data: dict[str, Any], comparison: Comparison, pair: Pair, max_bytes: int, trust: Sequence[str]) -> bytes:
    """Adds the difference of the confusion matrices, and clips with audio, and renders the page."""
    tables = read_common_clips(pair.a, pair.b, comparison.split)[:2]
    a = tables[0]
    targets = a.targets
    of_a, of_b = (Confusion.count(table.decisions, table.targets, a.labels) for table in tables)
    difference = of_b - of_a
    shown = difference.largest_classes(_MAX_MATRIX, with_diagonal=True)
    right = np.stack([table.outcome.correct for table in tables])
    rows = np.flatnonzero(right[0] != right[1])
    # The most confident errors first.
    confidence = np.stack([table.probabilities.max(1) for table in tables])
    rows = rows[np.argsort(-np.where(right[0], confidence[1], confidence[0])[rows], kind="stable")]
    named = {*shown.tolist()}
    data |= {
        "labels": named_labels(difference.labels, named),
        "matrix": [shown.tolist(), difference.part(shown).tolist()],
    }
    data["pair"] = {
        "a": comparison.names[pair.a],
        "b": comparison.names[pair.b],
        "metrics": [metric._asdict() for metric in pair.test.metrics.values()],
        "clip_count": len(rows),
        "clips": [],
    }
    budget = max_bytes - len(_render(data, [])) - _NOTES_BYTES
    reserved = (1 - _MAX_LIST_FRACTION) * budget  # for audio and spectrograms
    folder = common_folder(a.clips[row].path for row in rows)
    data["clips_caption"] = f"The most confident errors first. Clips are in {folder.rstrip('/') or 'several folders'}."
    with tempfile.TemporaryDirectory() as cache:
        media = _Media([a.clips[row] for row in rows[:_MAX_PLAYED]], pair, trust, cache)
        for number, row in enumerate(rows.tolist()):
            answers = [
                [class_indices(table.decisions[row]), round(float(values[row]), 4)]
                for table, values in zip(tables, confidence, strict=True)
            ]
            actual = class_indices(targets[row])
            about = [a.clips[row].group, actual, media.seconds.get(number)]
            clip = [*clip_source(a.clips[row], folder), *about, bool(right[0, row]), *answers]
            new = {*np.hstack([actual, *(classes for classes, _ in answers)]).astype(int).tolist()} - named
            budget -= len(to_json(clip)) + 1 + sum(len(to_json(a.labels[label])) for label in new)
            if budget < reserved:
                break
            data["pair"]["clips"].append(clip)
            named |= new
        listed = len(data["pair"]["clips"])
        data["labels"] = named_labels(difference.labels, named)
        blocks = media_blocks(media.render(listed), budget)
    data["frequencies"] = media.frequencies
    limit = f"to stay under {max_bytes / 1e6:g} MB (report_max_mb)"
    if listed < len(rows):
        data["notes"].append(f"{len(rows) - listed:,} of {len(rows):,} clips are not listed, {limit}.")
    if len(blocks) < listed:
        most = f"as a page plays at most {_MAX_PLAYED:,}" if len(blocks) == _MAX_PLAYED else limit
        reason = media.problem or most
        data["notes"].append(
            f"Audio and spectrogram of {listed - len(blocks):,} of {listed:,} clips are omitted, {reason}."
        )
    if any(seconds > MAX_AUDIO_SECONDS for seconds in media.seconds.values()):
        data["notes"].append(
            f"Clips longer than {MAX_AUDIO_SECONDS} s can be played for their first {MAX_AUDIO_SECONDS} s."
        )
    return _render(data, blocks)


class _Media:
    """Audio and spectrograms of clips, as far as their files and a model of the pair exist.

    Args:
        clips: Clips.
        pair: Runs, one of whose models computes the spectrograms.
        trust: Packages, besides spectrnn, whose classes a model file may instantiate.
        cache: Folder for the decoded clips.

    Attributes:
        seconds: Length in s by the number of the clip.
        frequencies: Center frequencies of the spectrogram's bands in Hz.
        problem: Why clips have no audio; "" if all have.
    """

    def __init__(self, clips: Sequence[Clip], pair: Pair, trust: Sequence[str], cache: str) -> None:
        self.seconds: dict[int, float] = {}
        self.frequencies: list[float] = []
        self.problem = ""
        self._rows: dict[int, int] = {}
        found = {clip: number for number, clip in enumerate(clips) if Path(clip.path).is_file()}
        folders = [pair.b, *sorted(pair.b.glob("fold-*")), pair.a, *sorted(pair.a.glob("fold-*"))]
        model = next((folder / MODEL for folder in folders if (folder / MODEL).is_file()), None)
        if len(found) < len(clips):
            self.problem = f"as files such as {next(clip.path for clip in clips if clip not in found)} do not exist"
        if model is None:
            self.problem = "as neither run has a model file"
        if model is None or not found:
            return
        self._classifier, config = serialization.load(model, _CPU, trust)
        classes = self._classifier.task.label_format.classes
        if not {name for clip in found for name in classes(clip.label)} <= {*self._classifier.labels}:
            self.problem = f"as {model} has other labels"
            return
        data = config.get("data")
        max_seconds = data.get("max_seconds") if isinstance(data, dict) else None
        source = _ClipTable(
            table=list(found),
            labels=None,
            sample_rate=self._classifier.sample_rate,
            max_seconds=max_seconds if isinstance(max_seconds, int | float) else None,
            folds=None,
            fold=None,
            val_fraction=0,
            val_groups="auto",
            test_fraction=0,
            split_seed=0,
            label_separator=SEPARATOR,
            sampling="natural",
            sampling_power=1,
            on_error="skip",
            negatives=[],
            negative_share=0,
            hard_share=0,
            rehearsal_clips=0,
            rehearsal=None,
            storage="ram",
            license=None,
            description=None,
            cache=cache,
            cache_gb=None,
        )
        try:
            self._dataset, _ = open_dataset_for_evaluation(
                source, "all", self._classifier.labels, _CPU, self._classifier.task.label_format
            )
        except UserError as error:
            self.problem = f"as they cannot be read ({error})"
            return
        if self._dataset.skipped:
            self.problem = f"as files cannot be read, such as {self._dataset.skipped[0]}"
        self.frequencies = [round(hertz, 1) for hertz in self._classifier.features.picture.center_frequencies.tolist()]
        self._rows = {found[clip]: row for row, clip in enumerate(self._dataset.clips)}
        samples = self._dataset.batches("all", _BATCH_SIZE, _CPU).lengths
        for number, row in self._rows.items():
            self.seconds[number] = round(int(samples[row]) / source.sample_rate, 3)

    def render(self, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields number, audio and spectrogram of each of the first clips that can be read."""
        rows = {number: row for number, row in sorted(self._rows.items()) if number < count}
        if rows:
            clips = render_clips(lambda _: self._classifier, self._dataset, np.array(list(rows.values())), _BATCH_SIZE)
            for number, clip in zip(rows, clips, strict=True):
                yield number, {name: clip[name] for name in ("audio", "spectrogram")}  # attention is of one model only


def _link(report: Path, folder: Path | None) -> str | None:
    """The address of a report in a page in a folder; None if there is no such report."""
    if not report.is_file():
        return None
    try:
        return (
            report.absolute().as_uri()
            if folder is None
            else quote(os.path.relpath(report, folder).replace(os.sep, "/"))
        )
    except ValueError:  # on another drive
        return report.absolute().as_uri()


def _learning_curves(comparison: Comparison) -> tuple[list[str], list[dict[str, Any]]]:
    """The names of the best runs that have checkpoints, and for each plot its title and a line per run and fold."""
    metric = comparison.runs[0].metric or "accuracy"
    names: list[str] = []
    trainings: list[list[Training]] = []  # of the folds of each run
    for run in comparison.runs:
        paths = [run.folder, *sorted(run.folder.glob("fold-*"))]
        found = [history for path in paths if (path / CHECKPOINT).is_file() and (history := read_history(path))]
        if found and len(names) < _MAX_CURVES:
            names.append(comparison.names[run.folder])
            trainings.append([Training(history, metric, None, {}) for history in found])
    return names, learning_curves(trainings, metric)


def _render(data: dict[str, Any], blocks: Sequence[str]) -> bytes:
    return render_page("comparison.html", _SCRIPTS, f"{data['claim']}: {data['subject']}", data, blocks)
