"""Builds report.html: results, clips, and the page that shows them, in one file of bounded size."""

import base64
import hashlib
import html
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from spectrnn.data.clips import Clip, common_folder
from spectrnn.data.dataset import Dataset
from spectrnn.evaluation.confusion import Confusion
from spectrnn.evaluation.metrics import Array, Outcome
from spectrnn.evaluation.report.media import MAX_AUDIO_SECONDS, render_clips
from spectrnn.evaluation.report.tables import accuracy_by_group, accuracy_by_quantile, reliability
from spectrnn.files import atomic_write, reporting_write_errors
from spectrnn.inference.predictor import top_classes
from spectrnn.model.classifier import Classifier
from spectrnn.version import __version__

_SCRIPTS = ("page.js", "figures.js", "players.js", "clips.js", "report.js")
_NOTES_BYTES = 2000  # reserved for the notes on omissions
_MAX_CLIPS = 20_000  # listed
_MAX_LIST_FRACTION = 0.4  # of the file, for the list of clips
_MAX_CLASSES, _MAX_MATRIX = 500, 40  # in the table of classes; in the confusion matrix
_TOP_K = 5  # probabilities per clip
_SILENCE_DBFS = -100.0  # level of digital silence


class EvaluationResult(NamedTuple):
    """The result of a classifier on a split.

    Attributes:
        classifier: Classifier in evaluation mode.
        dataset: Dataset on the classifier's device.
        split: Name of the split: train, val, test or all.
        outcome: Answers for the clips, in the order of the split's rows.
        metrics: Metrics as `evaluate.compute_metrics` returns them.
        batch_size: Number of clips per batch.
        model: Model file.
        notes: Sentences that a reader must know.
        is_held_out: Whether the classifier was trained on none of the clips.
        fold_classifiers: Classifiers of a cross-validation, by fold, each for the clips of its fold; empty if
            `classifier` classified all of them.
    """

    classifier: Classifier
    dataset: Dataset
    split: str
    outcome: Outcome
    metrics: dict[str, Any]
    batch_size: int
    model: Path
    notes: list[str]
    is_held_out: bool
    fold_classifiers: Mapping[str, Classifier] = MappingProxyType({})

    def classifier_of(self, row: int) -> Classifier:
        """Returns the classifier of a row of the clip table."""
        return self.fold_classifiers.get(self.dataset.clips[row].fold or "", self.classifier)


def write_page(result: EvaluationResult, path: Path, max_mb: float) -> None:
    """Writes the report, atomically.

    Args:
        result: Result of an evaluation.
        path: File to write.
        max_mb: Maximum size in 10^6 bytes. Errors get audio and spectrogram first, the most confident ones before the
            others, then correct clips, the least confident ones first; the page notes what was omitted.

    Raises:
        UserError: A file that cannot be written.
    """
    page = build_page(result, round(max_mb * 1e6))
    with reporting_write_errors(str(path)), atomic_write(path) as temporary:
        temporary.write_bytes(page)


def build_page(result: EvaluationResult, max_bytes: int) -> bytes:
    """Builds the report as `write_page` writes it, with at most `max_bytes` bytes."""
    rows, cache = result.dataset.rows(result.split), result.dataset.cache
    probabilities, targets = result.outcome.probabilities, result.outcome.targets
    confidence, correct = probabilities.max(1), result.outcome.correct
    order = np.lexsort((np.where(correct, confidence, -confidence), correct))
    seconds, levels = _lengths_and_levels(result)
    groups = [result.dataset.clips[row].group for row in rows]
    data = _summary(result) | {
        "notes": result.notes,
        "reliability": reliability(confidence, correct),
        "lengths": accuracy_by_quantile((cache.lengths[rows] / cache.sample_rate).round(3), correct),
        "levels": accuracy_by_quantile(levels, correct),
        "groups": accuracy_by_group(groups, correct),
        "group_count": len({group for group in groups if group is not None}),
    }
    budget = max_bytes - len(_render(data, [])) - _NOTES_BYTES
    folder, names = relative_names([result.dataset.clips[row] for row in rows])
    labels, named = result.classifier.labels, {*data["matrix"][0], *(row[0] for row in data["classes"])}
    clips, used = [], 0
    for index in order[:_MAX_CLIPS].tolist():
        top = top_classes(probabilities[index], _TOP_K).tolist()
        scores = [[label, round(float(probabilities[index, label]), 4)] for label in top]
        clip = [names[index], groups[index], int(targets[index]), seconds[index], levels[index], scores]
        new = {int(targets[index]), *top} - named
        used += len(to_json(clip)) + 1 + sum(len(to_json(labels[label])) for label in new)
        if used > _MAX_LIST_FRACTION * budget:
            break
        clips.append(clip)
        named |= new
    media = render_clips(result.classifier_of, result.dataset, rows[order[: len(clips)]], result.batch_size)
    blocks = media_blocks(enumerate(media), budget - used)
    notes = [*result.notes, *_notes_on_crops(result.dataset, rows)]
    notes += _omission_notes(len(rows), len(clips), len(blocks), max_bytes, seconds)
    data |= {"folder": folder, "clips": clips, "notes": notes, "labels": named_labels(labels, named)}
    return _render(data, blocks)


def _summary(result: EvaluationResult) -> dict[str, Any]:
    """The page's data on the split as a whole, and on the classifier."""
    metrics, classifier = result.metrics, result.classifier
    confusion = Confusion.from_json(metrics["confusion"])
    occurring = {*confusion.cells[:, :2].ravel().tolist()}
    classes = [
        [index, *(round(row[name], 4) for name in ("precision", "recall", "f1")), row["support"]]
        for index, row in enumerate(metrics["per_class"].values())
        if index in occurring
    ]
    shown = confusion.largest_classes(_MAX_MATRIX)
    classes = sorted(classes, key=lambda row: row[3])
    named = {*shown.tolist(), *(row[0] for row in classes[:_MAX_CLASSES])}
    return {
        "split": result.split,
        "is_held_out": result.is_held_out,
        "model": str(result.model),
        "version": __version__,
        "stages": classifier.architecture,
        "parameters": sum(p.numel() for p in classifier.parameters()),
        "count": metrics["clips"],
        "correct": confusion.correct,
        "metrics": [
            {**description, "value": metrics[name], "interval": metrics["intervals_95"].get(name)}
            for name, description in metrics["metrics"].items()
        ],
        "accuracy": [metrics["accuracy"], *metrics["intervals_95"]["accuracy"]],
        "labels": named_labels(classifier.labels, named),
        "matrix": [shown.tolist(), confusion.part(shown).tolist(), confusion.actual[shown].tolist()],
        "classes": classes[:_MAX_CLASSES],
        "class_count": len(classes),
        "frequencies": [round(hertz, 1) for hertz in classifier.features.center_frequencies.tolist()],
    }


def named_labels(labels: Sequence[str], named: Collection[int]) -> list[str]:
    """Returns the labels that a page names; the others, of which there may be thousands, are empty."""
    return [label if index in named else "" for index, label in enumerate(labels)]


def _lengths_and_levels(result: EvaluationResult) -> tuple[Array, Array]:
    """Length in s and RMS level in dBFS of what the page shows of each clip, (clips,) each."""
    dataset, device = result.dataset, result.classifier.temperature.device
    batches = dataset.batches(result.split, result.batch_size, device)
    samples, power = np.zeros(len(dataset.clips)), np.zeros(len(dataset.clips))
    for batch in batches.epoch():
        samples[batch.rows.numpy()] = batch.lengths.cpu().numpy()
        power[batch.rows.numpy()] = (batch.waveform.square().sum(1) / batch.lengths).cpu().numpy()
    levels = 10 * np.log10(np.maximum(power[batches.rows], 10 ** (_SILENCE_DBFS / 10)))
    return (samples[batches.rows] / dataset.cache.sample_rate).round(3), levels.round(1)


def relative_names(clips: Sequence[Clip]) -> tuple[str, list[str]]:
    """Returns the common folder of all clips, and the path of each in it, with start and end if it is a part."""
    folder = common_folder(clip.path for clip in clips)
    names = []
    for clip in clips:
        end = "end" if clip.end is None else f"{clip.end:g}"
        is_part = clip.start or clip.end is not None
        names.append(clip.path[len(folder) :] + (f" [{clip.start:g} to {end} s]" if is_part else ""))
    return folder.rstrip("/"), names


def media_blocks(media: Iterable[tuple[int, Mapping[str, Any]]], budget: int) -> list[str]:
    """Returns the script elements of as many clips as fit into a number of bytes.

    Args:
        media: Number of each clip in the list of clips, and its audio and spectrogram from `render_clips`.
        budget: Number of bytes.
    """
    blocks: list[str] = []
    for number, clip in media:
        blocks.append(f'<script type="application/json" id="clip-{number}">{to_json(clip)}</script>\n')
        budget -= len(blocks[-1])
        if budget < 0:
            return blocks[:-1]
    return blocks


def _notes_on_crops(dataset: Dataset, rows: Array) -> list[str]:
    limit = dataset.max_seconds
    count = 0 if limit is None else (dataset.cache.lengths[rows] > round(limit * dataset.cache.sample_rate)).sum()
    if not count:
        return []
    they, are = ("it", "is") if count == 1 else ("they", "are")
    return [
        f"{count:,} of {len(rows):,} clips {are} longer than {limit:g} s (data.max_seconds); {they} {are} classified "
        f"in overlapping crops, and the page shows the {limit:g} s in their middle."
    ]


def _omission_notes(clips: int, listed: int, rendered: int, max_bytes: int, seconds: Array) -> list[str]:
    limit = f"to stay under {max_bytes / 1e6:g} MB (report_max_mb)"
    notes = []
    if listed < clips:
        are = "is" if clips - listed == 1 else "are"
        reason = limit if listed < _MAX_CLIPS else f"as a page lists at most {_MAX_CLIPS:,}"
        notes.append(
            f"{clips - listed:,} of {clips:,} clips {are} omitted from the list of clips, {reason}; "
            "the metrics include all of them."
        )
    if rendered < listed:
        notes.append(
            f"Audio and spectrogram of {listed - rendered:,} of the {listed:,} listed clips are omitted, {limit}."
        )
    if (seconds > MAX_AUDIO_SECONDS).any():
        notes.append(f"Clips longer than {MAX_AUDIO_SECONDS} s can be played for their first {MAX_AUDIO_SECONDS} s.")
    return notes


def _render(data: dict[str, Any], blocks: Sequence[str]) -> bytes:
    title = f"{data['model']}, {data['split']}: accuracy {data['correct'] / data['count']:.1%}"
    return render_page("page.html", _SCRIPTS, title, data, blocks)


def render_page(
    template: str, scripts: Sequence[str], title: str, data: dict[str, Any], blocks: Sequence[str]
) -> bytes:
    """Renders a self-contained page, whose policy allows its own style and script, by hash, and no requests at all.

    Args:
        template: HTML file in this package.
        scripts: JavaScript files in this package, in order.
        title: Title of the page.
        data: Data of the page, ready for JSON.
        blocks: Script elements with the clips, from `media_blocks`.
    """
    folder = files(__package__)
    style = folder.joinpath("page.css").read_text(encoding="utf-8")
    script = "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in scripts)
    policy = (
        f"default-src 'none'; img-src data:; media-src data:; style-src {_csp_hash(style)}; "
        f"script-src {_csp_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    parts = {"policy": policy, "title": html.escape(title), "style": style, "script": script}
    return (
        Template(folder.joinpath(template).read_text(encoding="utf-8"))
        .substitute(parts, data=to_json(data), media="".join(blocks))
        .encode("utf-8", "replace")
    )


def to_json(content: Any) -> str:
    """Formats JSON in ASCII without ``<``, so that no label or path can end the script element."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _csp_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
