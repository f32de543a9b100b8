"""Builds report.html: results, clips, and the page that shows them, in one file of bounded size."""

import base64
import hashlib
import html
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import yaml

from spectrnn.data.clips import Clip, common_folder
from spectrnn.data.dataset import Dataset
from spectrnn.data.remote import is_address
from spectrnn.evaluation.confusion import Confusion
from spectrnn.evaluation.metrics import Outcome, wilson_interval
from spectrnn.evaluation.rankings import Array
from spectrnn.evaluation.report.answers import Answers
from spectrnn.evaluation.report.map import clip_map
from spectrnn.evaluation.report.media import MAX_AUDIO_SECONDS, render_clips
from spectrnn.evaluation.report.tables import accuracy_by_group, accuracy_by_quantile, class_scores, reliability
from spectrnn.evaluation.report.thresholds import operating_points
from spectrnn.evaluation.report.training import Training, learning_curves, package_versions
from spectrnn.files import atomic_write, reporting_write_errors
from spectrnn.inference.predictor import top_classes
from spectrnn.model.classifier import Classifier

_SCRIPTS = (
    "page.js",
    "tables.js",
    "matrix.js",
    "figures.js",
    "answers.js",
    "thresholds.js",
    "players.js",
    "list.js",
    "marks.js",
    "map.js",
    "clips.js",
    "report.js",
)
_NOTES_BYTES = 2000  # reserved for the notes on omissions
_MAX_CLIPS = 20_000  # listed
_MAX_LIST_FRACTION = 0.4  # of the file, for the list of clips
_MAX_CLASSES, _MAX_MATRIX = 500, 200  # in the table of classes; in the confusion matrix
_MAX_CONFUSIONS = 50  # in the table of them
_MAX_COLUMNS = 200  # classes up to which a page has all probabilities, as predictions.csv
_MAX_PROBABILITIES_FRACTION = 0.2  # of the file
_TOP_K = 5  # probabilities per clip
_DIGITS = 4  # of these
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
        config: Resolved config of the training; empty if unknown.
        training: Training of the classifier, or of each fold; empty if unknown.
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
    config: Mapping[str, Any] = MappingProxyType({})
    training: Sequence[Training] = ()

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
    rows, cache, probabilities = result.dataset.rows(result.split), result.dataset.cache, result.outcome.probabilities
    answers = Answers.of(result.outcome)
    seconds, levels = _lengths_and_levels(result)
    clips = [result.dataset.clips[row] for row in rows]
    groups = [clip.group for clip in clips]
    data = _summary(result) | {
        "notes": result.notes,
        "reliability": reliability(*answers.pairs(result.outcome)),
        "lengths": accuracy_by_quantile((cache.lengths[rows] / cache.sample_rate).round(3), answers.correct),
        "levels": accuracy_by_quantile(levels, answers.correct),
        "groups": accuracy_by_group(groups, answers.correct),
        "group_count": len({group for group in groups if group is not None}),
        "key": _base64(
            hashlib.sha256(to_json([[*clip_source(clip, ""), clip.label] for clip in clips]).encode()).digest()
        ),
    }
    budget = max_bytes - len(_render(data, [])) - _NOTES_BYTES
    width = 16 / 3 * probabilities.shape[1]  # base64 of float32
    is_whole = probabilities.shape[1] <= _MAX_COLUMNS
    is_whole &= width * min(len(rows), _MAX_CLIPS) <= _MAX_PROBABILITIES_FRACTION * budget
    labels, named = Confusion.from_json(result.metrics["confusion"]).labels, _named(data)
    folder = common_folder(clip.path for clip in clips)
    listed, used = [], 0.0
    for index in answers.order()[:_MAX_CLIPS].tolist():
        actual, predicted = answers.actual[index], answers.predicted[index]
        shown = dict.fromkeys([*top_classes(probabilities[index], _TOP_K).tolist(), *actual])
        scores = [[label, float(f"{probabilities[index, label]:.{_DIGITS}g}")] for label in shown]
        confidence = [float(f"{answers.confidence[index]:.{_DIGITS}g}")] if data["has_sets"] else []
        about = [groups[index], actual, predicted, seconds[index], levels[index], scores, *confidence]
        clip = [*clip_source(clips[index], folder), *about]
        new = {*actual, *predicted, *shown} - named
        used += len(to_json(clip)) + 1 + is_whole * width + sum(len(to_json(labels[label])) for label in new)
        if used > _MAX_LIST_FRACTION * budget:
            break
        listed.append(clip)
        named |= new
    order = answers.order()[: len(listed)]
    embeddings = result.outcome.embeddings
    places = clip_map(None if embeddings is None else embeddings[order])
    used += len(to_json(places))
    media = render_clips(result.classifier_of, result.dataset, rows[order], result.batch_size)
    blocks = media_blocks(enumerate(media), budget - round(used))
    notes = [*result.notes, *_notes_on_crops(result.dataset, rows)]
    notes += _omission_notes(len(rows), len(listed), len(blocks), max_bytes, seconds)
    data |= {
        "folder": folder.rstrip("/"),
        "prefix": folder,
        "base": folder if is_address(folder) else os.path.join(os.path.abspath(folder), ""),
        "clips": listed,
        "map": places,
        "probabilities": _base64(probabilities[order].astype("<f4").tobytes()) if is_whole else None,
        "notes": notes,
        "labels": named_labels(labels, named),
    }
    return _render(data, blocks)


def _summary(result: EvaluationResult) -> dict[str, Any]:
    """The page's data on the split as a whole, and on the classifier."""
    metrics, classifier = result.metrics, result.classifier
    count, correct = metrics["clips"], metrics["correct"]
    confusion = Confusion.from_json(metrics["confusion"])
    shown, errors = confusion.largest_classes(_MAX_MATRIX), confusion.largest_errors(_MAX_CONFUSIONS)
    thresholds = None if result.fold_classifiers else classifier.task.thresholds
    classes = [
        [
            index,
            *class_scores(row),
            row["support"],
            row.get("average_precision"),
            None if thresholds is None else round(float(thresholds[index]), _DIGITS),
        ]
        for index, row in enumerate(metrics["per_class"].values())
    ]
    classes.sort(key=lambda row: (not row[4], 0 if row[3] is None else row[3]))
    data = {
        "split": result.split,
        "fraction_correct": classifier.task.fraction_correct,
        "has_sets": result.outcome.targets.ndim == 2,
        "is_held_out": result.is_held_out,
        "model": str(result.model),
        "stages": classifier.architecture,
        "parameters": sum(p.numel() for p in classifier.parameters()),
        "count": count,
        "correct": correct,
        "metrics": [
            {**description, "value": metrics[name], "interval": metrics["intervals_95"].get(name)}
            for name, description in metrics["metrics"].items()
        ],
        "accuracy": [correct / count, *metrics["intervals_95"].get("accuracy", wilson_interval(correct, count))],
        "matrix": [shown.tolist(), confusion.part(shown).tolist(), confusion.actual[shown].tolist()],
        "confusions": [[*cell, round(cell[2] / confusion.actual[cell[0]], 4)] for cell in errors.tolist()],
        "classes": classes[:_MAX_CLASSES],
        "class_count": len(classes),
        "untested": sum(not row[4] for row in classes),
        "operating": _operating(result.outcome),
        "frequencies": [round(hertz, 1) for hertz in classifier.features.picture.center_frequencies.tolist()],
        "curves": learning_curves([result.training], result.training[0].metric) if result.training else [],
        "config": yaml.safe_dump(dict(result.config), sort_keys=False, allow_unicode=True) if result.config else "",
        "versions": package_versions(),
        "trained_with": dict(result.training[0].versions) if result.training else {},
    }
    return data | {"labels": named_labels(confusion.labels, _named(data))}


def _operating(outcome: Outcome) -> list[dict[str, Any]]:
    """The curves over thresholds of each of two classes; none with other numbers of classes, or clips of one only."""
    probabilities, targets = outcome.probabilities, outcome.targets
    if targets.ndim == 2 or probabilities.shape[1] != 2 or len(np.unique(targets)) != 2:
        return []
    return [operating_points(probabilities[:, label], targets == label) for label in range(2)]


def _named(data: Mapping[str, Any]) -> set[int]:
    """The classes that a summary names."""
    pairs = [label for row in data["confusions"] for label in row[:2]]
    return {*data["matrix"][0], *pairs, *(row[0] for row in data["classes"])}


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


def clip_source(clip: Clip, folder: str) -> list[Any]:
    """Returns the path of a clip in a folder that contains it, and its start and end in s; None for the file's."""
    return [clip.path[len(folder) :], clip.start, clip.end]


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
    main = data["metrics"][0]
    value = f"{main['value']:.1%}" if main["is_fraction"] else f"{main['value']:.3f}"
    title = f"{data['model']}, {data['split']}: {main['title']} {value}"
    return render_page("page.html", _SCRIPTS, title, data, blocks)


def render_page(
    template: str, scripts: Sequence[str], title: str, data: dict[str, Any], blocks: Sequence[str]
) -> bytes:
    """Renders a self-contained page, whose policy allows its own style and script, by hash, and no requests at all.

    Args:
        template: HTML file in this package, the body of the page.
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
    body = folder.joinpath(template).read_text(encoding="utf-8")
    parts = {"policy": policy, "title": html.escape(title), "style": style, "body": body, "script": script}
    return (
        Template(folder.joinpath("frame.html").read_text(encoding="utf-8"))
        .substitute(parts, data=to_json(data), media="".join(blocks))
        .encode("utf-8", "replace")
    )


def to_json(content: Any) -> str:
    """Formats JSON in ASCII without ``<``, so that no label or path can end the script element."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _csp_hash(text: str) -> str:
    return f"'sha256-{_base64(hashlib.sha256(text.encode()).digest())}'"


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
