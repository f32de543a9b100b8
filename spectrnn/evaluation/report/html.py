"""Builds report.html: the figures, the clips, and the page that shows them, in one file of bounded size."""

import base64
import hashlib
import html
import json
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Annotated, Any, NamedTuple

import numpy as np
from annotated_types import Ge

from spectrnn.data.clips import Clip
from spectrnn.data.dataset import Dataset
from spectrnn.errors import UserError
from spectrnn.evaluation.metrics import Array
from spectrnn.evaluation.report.media import MAX_AUDIO_SECONDS, media
from spectrnn.evaluation.report.tables import accuracy_by_group, accuracy_by_quantile, reliability
from spectrnn.files import atomic_write
from spectrnn.model.classifier import Classifier
from spectrnn.version import __version__

ReportMegabytes = Annotated[float, Ge(1)]  # 10^6 bytes

_SCRIPTS = ("page.js", "figures.js", "clips.js")
_RESERVE = 2000  # bytes for the sentences on what was left out
_MOST_CLIPS = 20_000  # that are listed
_CLIPS_SHARE = 0.4  # of the file, that the list may take
_MOST_CLASSES, _WIDEST = 500, 40  # in the table of classes, and in the confusion matrix
_TOP = 5  # probabilities of a clip
_SILENCE = -100.0  # dBFS: what digital silence is written as


class EvaluationResult(NamedTuple):
    """What a classifier said of a split.

    Attributes:
        classifier: in evaluation mode.
        dataset: on the classifier's device.
        split: train, val, test or all.
        probabilities: float (clips, classes), in the order of the split's rows.
        figures: of them, as `evaluate.full_report` gives them.
        batch_size: clips that are computed at once.
        model: the classifier's file.
        notes: sentences that a reader must know.
        fresh: whether the classifier was trained on none of the clips.
    """

    classifier: Classifier
    dataset: Dataset
    split: str
    probabilities: Array
    figures: dict[str, Any]
    batch_size: int
    model: Path
    notes: list[str]
    fresh: bool


def write_page(evaluation: EvaluationResult, path: Path, megabytes: float) -> None:
    """Writes the report, atomically.

    Args:
        evaluation: what it is about.
        path: the file.
        megabytes: that it may take. The errors get sound and picture first, the most confident ones before the others,
            then the clips that were right, the least confident ones first; the page says what was left out.

    Raises:
        UserError: the file cannot be written.
    """
    page = build_page(evaluation, round(megabytes * 1e6))
    try:
        with atomic_write(path) as temporary:
            temporary.write_bytes(page)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def build_page(evaluation: EvaluationResult, limit: int) -> bytes:
    """The report as `write_page` writes it, of at most `limit` bytes."""
    rows = evaluation.dataset.rows(evaluation.split)
    targets, probabilities = evaluation.dataset.targets(rows), evaluation.probabilities
    confidence, right = probabilities.max(1), probabilities.argmax(1) == targets
    order = np.lexsort((np.where(right, confidence, -confidence), right))
    seconds, levels = _lengths_and_levels(evaluation)
    groups = [evaluation.dataset.clips[row].group for row in rows]
    data = _summary(evaluation) | {
        "reliability": reliability(confidence, right),
        "lengths": accuracy_by_quantile(seconds, right),
        "levels": accuracy_by_quantile(levels, right),
        "groups": accuracy_by_group(groups, right),
        "group_count": len({group for group in groups if group is not None}),
    }
    room = limit - len(_render(data, [])) - _RESERVE
    folder, names = _names([evaluation.dataset.clips[row] for row in rows])
    clips, taken = [], 0
    for index in order[:_MOST_CLIPS].tolist():
        top = np.argsort(-probabilities[index], kind="stable")[:_TOP].tolist()
        clip = [
            names[index],
            groups[index],
            int(targets[index]),
            seconds[index],
            levels[index],
            [[label, round(float(probabilities[index, label]), 4)] for label in top],
        ]
        taken += len(_json(clip)) + 1
        if taken > _CLIPS_SHARE * room:
            break
        clips.append(clip)
    blocks = _media(evaluation, rows[order[: len(clips)]], room - taken)
    data |= {
        "folder": folder,
        "clips": clips,
        "notes": evaluation.notes + _omission_notes(len(rows), len(clips), len(blocks), limit, seconds),
    }
    return _render(data, blocks)


def _summary(evaluation: EvaluationResult) -> dict[str, Any]:
    """What the page tells of the whole split, and of the classifier."""
    figures, classifier = evaluation.figures, evaluation.classifier
    counts = np.array(figures["confusion"]["counts"])
    table = [
        [number, *(round(row[name], 4) for name in ("precision", "recall", "f1")), row["support"]]
        for number, row in enumerate(figures["per_class"].values())
        if row["support"] or counts[:, number].any()
    ]
    worst = np.argsort(np.diag(counts) * 2 - counts.sum(0) - counts.sum(1), kind="stable")[:_WIDEST]
    stages = (classifier.features, classifier.normalization, classifier.encoder, classifier.pooling)
    return {
        "split": evaluation.split,
        "fresh": evaluation.fresh,
        "model": str(evaluation.model),
        "version": __version__,
        "stages": [type(stage).__name__ for stage in stages],
        "parameters": sum(p.numel() for p in classifier.parameters()),
        "count": figures["clips"],
        "right": int(np.trace(counts)),
        "headline": {
            name: [figures[name], *figures["intervals_95"].get(name, [])]
            for name in ("accuracy", "balanced_accuracy", "macro_f1", "loss", "top_3", "ece")
            if name in figures
        },
        "labels": classifier.labels,
        "matrix": [sorted(worst.tolist()), counts[np.ix_(np.sort(worst), np.sort(worst))].tolist()],
        "classes": sorted(table, key=lambda row: row[3])[:_MOST_CLASSES],
        "class_count": len(table),
        "frequencies": [round(hertz, 1) for hertz in classifier.features.frequencies.tolist()],
    }


def _lengths_and_levels(evaluation: EvaluationResult) -> tuple[Array, Array]:
    """Of each clip as it was classified: its seconds, and its root mean square in dB of full scale."""
    dataset, device = evaluation.dataset, evaluation.classifier.max_train_samples.device
    batches = dataset.batches(evaluation.split, evaluation.batch_size, device)
    found, power = np.zeros(len(dataset.clips)), np.zeros(len(dataset.clips))
    for batch in batches.epoch():
        found[batch.rows.numpy()] = batch.lengths.cpu().numpy()
        power[batch.rows.numpy()] = (batch.waveform.square().sum(1) / batch.lengths).cpu().numpy()
    levels = 10 * np.log10(np.maximum(power[batches.rows], 10 ** (_SILENCE / 10)))
    return (found[batches.rows] / dataset.store.sample_rate).round(3), levels.round(1)


def _names(clips: Sequence[Clip]) -> tuple[str, list[str]]:
    """The folder that all clips are in, and what each is called in there, with its part of the file where it is one."""
    try:
        folder = os.path.commonpath([os.path.dirname(clip.path) for clip in clips])
    except ValueError:  # some absolute, some not
        folder = ""
    inside = len(folder.rstrip(os.sep)) + 1 if folder else 0
    parts = [
        f" [{clip.start:g} to {'the end' if clip.end is None else f'{clip.end:g}'} s]"
        if clip.start or clip.end is not None
        else ""
        for clip in clips
    ]
    return folder, [clip.path[inside:] + part for clip, part in zip(clips, parts, strict=True)]


def _media(evaluation: EvaluationResult, rows: Array, room: int) -> list[str]:
    """The blocks of as many of the clips as there is room for, in their order."""
    blocks: list[str] = []
    for number, clip in enumerate(media(evaluation.classifier, evaluation.dataset, rows, evaluation.batch_size)):
        blocks.append(f'<script type="application/json" id="clip-{number}">{_json(clip)}</script>\n')
        room -= len(blocks[-1])
        if room < 0:
            return blocks[:-1]
    return blocks


def _omission_notes(clips: int, listed: int, rendered: int, limit: int, seconds: Array) -> list[str]:
    why = f"to stay under {limit / 1e6:g} MB (report_max_mb)"
    notes = []
    if listed < clips:
        reason = why if listed < _MOST_CLIPS else f"as a page holds {_MOST_CLIPS:,} at most"
        notes.append(
            f"{clips - listed:,} of {clips:,} clips are left out of the list of clips, {reason}; "
            "all of them are in the figures."
        )
    if rendered < listed:
        notes.append(f"Sound and picture of {listed - rendered:,} of the {listed:,} listed clips are left out, {why}.")
    if (seconds > MAX_AUDIO_SECONDS).any():
        notes.append(f"Of clips longer than {MAX_AUDIO_SECONDS} s, the first {MAX_AUDIO_SECONDS} s can be heard.")
    return notes


def _render(data: dict[str, Any], blocks: Sequence[str]) -> bytes:
    """The file. Its policy lets the page run its own style and script, by their digests, and load nothing at all."""
    folder = files(__package__)
    style = folder.joinpath("page.css").read_text(encoding="utf-8")
    script = "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in _SCRIPTS)
    policy = (
        f"default-src 'none'; img-src data:; media-src data:; style-src {_digest(style)}; "
        f"script-src {_digest(script)}; base-uri 'none'; form-action 'none'"
    )
    title = html.escape(f"{data['model']}, {data['split']}: {data['right'] / data['count']:.1%} right")
    return (
        Template(folder.joinpath("page.html").read_text(encoding="utf-8"))
        .substitute(policy=policy, title=title, style=style, script=script, data=_json(data), media="".join(blocks))
        .encode("utf-8", "replace")
    )


def _json(content: Any) -> str:
    """JSON in ASCII that no label or path can break out of, as it holds no ``<``."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
