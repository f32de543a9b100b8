"""Model card: what an exported model is, what it is for, what was measured, and what was not, as Markdown.

Sources: Mitchell et al., "Model cards for model reporting", 2019; the sections are those of Hugging Face's template,
https://huggingface.co/docs/hub/model-cards
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from torch import Tensor

from spectrnn.config.instantiate import format_value
from spectrnn.data.clips import SPLITS
from spectrnn.detection.thresholds import TunedThresholds
from spectrnn.evaluation.evaluate import OpenedModel, is_same_dataset
from spectrnn.evaluation.rankings import Array
from spectrnn.evaluation.report.tables import TableRow
from spectrnn.evaluation.report.text import class_rows, metric_rows
from spectrnn.export.card_metadata import card_metadata
from spectrnn.export.conditions import FRAME_MS, LOUD, QUIET, Conditions, groups_or_folds
from spectrnn.export.parity import TOLERANCE
from spectrnn.messages import counted, preview
from spectrnn.model.classifier import STAGES, Classifier
from spectrnn.model.ensemble import Ensemble
from spectrnn.runs import METRICS
from spectrnn.version import __version__

_MAX_CLASSES = 100  # listed
_MAX_GROUPS = 10  # listed
_UNKNOWN = "not described (`data.description`)"


@dataclass(frozen=True, kw_only=True)
class ModelStats:
    """Measurements of a model file.

    Args:
        size: Size of the file in bytes.
        reports: Metrics by split, from `evaluate.compute_metrics`.
        is_correct: Whether each clip of the split of the card is classified correctly, bool (clips,).
        differences: Largest difference between its probabilities and those of PyTorch, by parity case.
        speed: Seconds of audio per second, clip by clip, on one core.
    """

    size: int
    reports: dict[str, dict[str, Any]]
    is_correct: Array
    differences: dict[str, float]
    speed: float


def write_card(
    path: Path,
    *,
    model: OpenedModel,
    settings: Mapping[str, Any],
    split: str,
    tuned_thresholds: TunedThresholds | None,
    license: str,
    state: list[dict[str, Any]] | None,
    stats: Mapping[str, ModelStats],
    conditions: Conditions,
) -> None:
    """Writes a model card as a Markdown file.

    Args:
        path: File to write.
        model: Exported model, with the dataset of the metrics.
        settings: Config of the data source.
        split: Split of the metrics.
        tuned_thresholds: Detection thresholds tuned for the classifier; None if there are none.
        license: License of the model.
        state: Tensors of the state of a streaming model, as in its metadata; None for a model of clips.
        stats: Measurements by type of weights; the last one describes the exported file.
        conditions: Accuracy of the exported file by condition.
    """
    classifier, source, dataset, config = model.classifier, model.source, model.dataset, model.config
    trained = config.get("data") or {}
    weights, exported = list(stats.items())[-1]
    is_own = is_same_dataset(settings, trained)
    seconds = dataset.cache.lengths / dataset.cache.sample_rate
    counts = Counter(clip.split for clip in dataset.clips)
    max_seconds = f"{int(classifier.max_train_samples) / classifier.sample_rate:.2f}"
    packages = {"spectrnn": __version__, **{name: version(name) for name in ("torch", "onnx", "onnxruntime")}}
    stages = [
        [f"`{stage}`", _class(node), _escape(_settings(node))] for stage, node in config.items() if stage in STAGES
    ]
    splits = [[name, f"{counts[name]:,}"] for name in SPLITS if counts[name]] or [["none", f"{len(dataset.clips):,}"]]
    metrics = [
        [f"{name} ({counted(report['clips'], 'clip')})", *row]
        for name, report in exported.reports.items()
        for row in metric_rows(report)
    ]
    rows, note = class_rows(exported.reports[split], _MAX_CLASSES)
    classes = [[_escape(label), *row] for label, *row in rows]
    main, files, is_exclusive = classifier.task.metrics[0], [], classifier.task.thresholds is None
    title_of_main = exported.reports[split]["metrics"][main]["title"]
    for name, measured in stats.items():
        accuracy, loss = (f"{measured.reports[split][metric]:.4f}" for metric in (main, "loss"))
        difference = f"{max(measured.differences.values()):.1e}"
        files.append([name, f"{measured.size / 1e6:.2f} MB", accuracy, loss, difference, f"{measured.speed:.0f}"])
    differences = [
        [case, *(f"{measured.differences[case]:.1e}" for measured in stats.values())] for case in exported.differences
    ]
    results = _read_results(model.path.parent)
    description = _about(trained.get("description"))
    tested = "" if is_own else f" Evaluated on another dataset, {_class(settings)}: {_about(source.description)}."
    title = f"Sound classifier with {len(classifier.labels)} classes"
    factors = ["by class", "length", "level"]
    factors += ["estimated SNR"] * bool(conditions.snrs) + [conditions.group_noun] * bool(conditions.groups)
    fields = {
        "metadata": card_metadata(title, license, source, is_own, exported.reports),
        "num_classes": len(classifier.labels),
        "use": "tell these classes apart" if is_exclusive else "detect these classes, together or alone,",
        "other_sounds": "the output is always a distribution over these classes"
        if is_exclusive
        else "one may resemble a class",
        "sample_rate": classifier.sample_rate,
        "max_frequency": classifier.sample_rate // 2,
        "max_seconds": max_seconds,
        "labels": preview([*map(_escape, classifier.labels)], _MAX_CLASSES),
        "architecture": ", ".join(classifier.architecture),
        "ensemble": f", an ensemble of {classifier.num_members} models" if isinstance(classifier, Ensemble) else "",
        "parameters": f"{sum(parameter.numel() for parameter in classifier.parameters()):,}",
        "license": _escape(license),
        "version": __version__,
        "description": f"{description}.",
        "groups": "people" if source.group_noun in ("group", "speaker", "voice") else "sources",
        "conditions": _conditions(conditions, classifier.task.fraction_correct),
        "noise": _noise(config.get("augment")),
        "warnings": "".join(f"\n- Training warned: {_escape(text)}." for text in results.get("warnings", [])),
        "usage": _clip_usage(classifier) if state is None else _stream_usage(classifier, state, max_seconds),
        "data": f"{_class(trained)}: {description}. License: {_escape(str(trained.get('license') or 'not stated'))}."
        f"{tested} {len(dataset.clips):,} clips of {seconds.min():.2f} to {seconds.max():.2f} s (median "
        f"{np.median(seconds):.2f} s).",
        "splits": _table(["split", "clips"], splits),
        "split_method": " ".join(_split_method(model, split)),
        "stages": _table(["stage", "class", "settings"], stages),
        "hyperparameters": _hyperparameters(config, results),
        "factors": f"{', '.join(factors[:-1])} and {factors[-1]}",
        "metrics": _table(["split", "metric", "value", "95 % interval"], metrics),
        "split": split,
        "per_class": f"{note[:1].upper()}{note[1:]}.\n\n" * bool(note)
        + _table(["class", "precision", "recall", "F1", "clips"], classes),
        "thresholds": _thresholds(classifier, tuned_thresholds),
        "weights": weights,
        "files": _table(["weights", "size", f"{title_of_main} ({split})", "loss", "difference", "speed"], files),
        "tolerance": f"{TOLERANCE:g}",
        "differences": _table(["largest difference of a probability", *stats], differences),
        "versions": ", ".join(f"{name} {number}" for name, number in packages.items()),
    }
    template = Template(Path(__file__).with_name("card.md").read_text("utf-8"))
    path.write_text(template.substitute(fields), encoding="utf-8")


def _read_results(run: Path) -> dict[str, Any]:
    """Reads metrics.json of a run; empty if the model file is elsewhere, or the file is not that of a run."""
    with suppress(OSError, ValueError):
        content = json.loads((run / METRICS).read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    return {}


def _conditions(conditions: Conditions, fraction_correct: str) -> str:
    """Formats the accuracy by condition as tables."""

    def accuracy(row: TableRow) -> list[str]:
        clips, *fractions = row[-4:]
        value, low, high = (f"{fraction:.4f}" for fraction in fractions)
        return [f"{clips:,}", value, f"{low} to {high}"]

    columns = ["clips", fraction_correct, "95 % interval"]
    ranges = (
        ("length", ".2f", "s", conditions.lengths),
        ("level", ".1f", "dBFS", conditions.levels),
        ("estimated SNR", ".1f", "dB", conditions.snrs),
    )
    parts = [
        _table([name, *columns], ([f"{row[0]:{form}} to {row[1]:{form}} {unit}", *accuracy(row)] for row in rows))
        for name, form, unit, rows in ranges
        if rows
    ]
    if conditions.snrs:
        parts.append(
            "The SNR is estimated from each clip alone, as the ratio of the power of its loud frames to that of its "
            f"quiet ones ({LOUD:.0%} and {QUIET:.0%} quantile of frames of {FRAME_MS} ms); without pauses it is low."
        )
    if conditions.groups:
        rows = conditions.groups[:_MAX_GROUPS]
        parts.append(_table([conditions.group_noun, *columns], ([_escape(row[0]), *accuracy(row)] for row in rows)))
        if len(rows) < len(conditions.groups):
            parts.append(f"The {len(rows)} with the lowest {fraction_correct} are listed.")
    return "\n\n".join(parts)


def _noise(augment: Any) -> str:
    """States the noise that was added in training, which is all that is known about noise."""
    nodes = augment.values() if isinstance(augment, Mapping) else ()
    ranges = [(node["min_snr_db"], node["max_snr_db"]) for node in nodes if "min_snr_db" in node]
    if not ranges:
        return "No noise was added in training."
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    added = f"In training, noise was added to some clips, at {low:g} to {high:g} dB SNR"
    return f"{added}; accuracy in added noise was not measured."


def _hyperparameters(config: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Lists the settings of the training, and its length."""
    rows = [
        [name, f"{_class(node)}: {_escape(_settings(node))}".rstrip(": ")]
        for name in ("optimizer", "scheduler")
        if isinstance(node := config.get(name), Mapping)
    ]
    augment = config.get("augment")
    names = [_escape(str(name)) for name in augment] if isinstance(augment, Mapping) else []
    rows.append(["augmentation", ", ".join(names) or "none"])
    for title, key in (("epochs", "epochs"), ("best epoch", "best_epoch"), ("optimizer steps", "steps")):
        if key in results:
            rows.append([title, f"{results[key]:,}"])
    trainer = config.get("trainer") or {}
    rows += [["batch size", str(trainer.get("batch_size"))], ["seed", str(config.get("seed"))]]
    return _table(["setting", "value"], rows)


def _clip_usage(classifier: Classifier) -> str:
    waveform = f"mono, {classifier.sample_rate} Hz, in [-1, 1); zeros after the end of each clip"
    rows = [
        ["input", "`waveform`", "float32", "(batch, samples)", waveform],
        ["input", "`lengths`", "int64", "(batch,)", "number of samples per clip"],
        ["output", "`probabilities`", "float32", "(batch, classes)", "in the order of the labels"],
    ]
    text = "A batch may contain any number of clips of any lengths; the probabilities of a clip depend on it alone."
    return f"{_table(['', 'name', 'type', 'shape', 'meaning'], rows)}\n\n{text}"


def _stream_usage(classifier: Classifier, state: list[dict[str, Any]], max_seconds: str) -> str:
    features = classifier.features
    rows = [
        ["input", "`waveform`", "(batch, samples)", f"the next block: mono, {features.sample_rate} Hz, in [-1, 1)", ""]
    ]
    for each in state:
        shape = ", ".join(["batch", *map(str, each["shape"])])
        rows.append(["input", f"`{each['name']}`", f"({shape})", "state", f"{each['fill']:g}"])
    rows += [
        ["output", "`probabilities`", "(batch, classes)", "of the stream so far, in the order of the labels", ""],
        ["output", "`next_...`", "as the state", "state for the next block", ""],
    ]
    return (
        "For live streams: the state of the model is an input and an output. All tensors are float32.\n\n"
        + _table(["", "name", "initial shape", "meaning", "initial value"], rows)
        + f"\n\nThe first block has {features.window_size} samples, each following one a multiple of the hop of "
        f"{features.hop_size} samples. Streams that start together may share a batch. Reset the state when a new sound "
        f"starts, and after {max_seconds} s at the latest: training clips were not longer."
    )


def _split_method(model: OpenedModel, split: str) -> list[str]:
    """Describes in sentences where the splits come from, and whether they share groups."""
    source, dataset = model.source, model.dataset
    random = f"chosen at random (seed {source.split_seed}), stratified by label"
    predefined = {clip.split for clip in source.labelled_clips(model.classifier.task.label_format)} - {None}
    if source.fold is not None:
        sentences = [f"Fold {_escape(str(source.fold))} of the dataset is the test split."]
    elif predefined:
        sentences = ["The splits are those of the dataset."]
    elif split == "all":
        sentences = ["Evaluated on all clips, regardless of their split."]
    else:
        sentences = [f"The test split is {source.test_fraction:.0%} of the clips, {random}."]
    if "val" not in predefined and any(clip.split == "val" for clip in dataset.clips):
        sentences.append(f"The validation split is {source.val_fraction:.0%} of the training clips, {random}.")
    splits: dict[str, set[str | None]] = {}
    noun, groups = groups_or_folds(source, dataset)
    for clip, group in zip(dataset.clips, groups, strict=True):
        if group is not None and clip.split is not None:
            splits.setdefault(group, set()).add(clip.split)
    if not splits:
        return [*sentences, "No groups, such as speakers, are known for these splits, which may share some."]
    shared = sum(len(names) > 1 for names in splits.values())
    count = f"{len(splits)}, of which {shared or 'none'} {'is' if shared == 1 else 'are'} in more than one split"
    return [*sentences, f"Number of {noun}s: {count}."]


def _thresholds(classifier: Classifier, tuned: TunedThresholds | None) -> str:
    temperature, *of_members = classifier.temperatures
    divisors = {"the model divides its logits by": [temperature], "its members divide their logits by": of_members}
    divisions = [
        f"{text} {', '.join(map(_format_temperature, values))}"
        for text, values in divisors.items()
        if any((value != 1).any() for value in values)
    ]
    calibration = (
        f"Probabilities are calibrated: {'; '.join(divisions)}."
        if divisions
        else "Probabilities are not calibrated (temperature 1)."
    )
    if (own := classifier.task.thresholds) is not None:
        rows = ([_escape(label), f"{value:.3f}"] for label, value in zip(classifier.labels, own.tolist(), strict=True))
        calibration += " A class is detected if its probability reaches its threshold:\n\n"
        calibration += _table(["class", "threshold"], list(rows)[:_MAX_CLASSES])
        if tuned is None:
            return calibration
    if tuned is None:
        return f"No thresholds were tuned; the predicted class is the most probable one. {calibration}"
    background = preview([*map(_escape, tuned.background)], _MAX_CLASSES) or "none"
    listed = list(tuned.by_label.items())[:_MAX_CLASSES]
    return (
        f"{calibration}\n\nDetection thresholds for long recordings were tuned on {tuned.hours:.2f} hours, for at most "
        f"{tuned.max_false_alarms_per_hour:g} false alarms per hour and class: windows of {tuned.window:g} s, a hop "
        f"of {tuned.hop:g} s, probabilities averaged over {counted(tuned.smoothing_windows, 'window')}; an event ends "
        f"below {tuned.offset_ratio:.0%} of its threshold and lasts at least {tuned.min_event_seconds:g} s. Background "
        f"classes: {background}.\n\n"
        + _table(["class", "threshold"], ([_escape(label), f"{value:.3f}"] for label, value in listed))
        + f"\n\nThe file has those of all {len(tuned.by_label):,} classes." * (len(listed) < len(tuned.by_label))
    )


def _format_temperature(temperature: Tensor) -> str:
    """A temperature (), or the range of those of the classes (classes,)."""
    low, high = temperature.min().item(), temperature.max().item()
    return f"{low:.3f}" if temperature.ndim == 0 else f"{low:.3f} to {high:.3f} (by class)"


def _table(header: list[str], rows: Iterable[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


def _settings(node: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={format_value(value)}" for key, value in node.items() if not key.startswith("_"))


def _about(description: Any) -> str:
    return _escape(str(description or "").rstrip(".")) or _UNKNOWN


def _class(node: Mapping[str, Any]) -> str:
    return _escape(str(node.get("_target_", "unknown")).rpartition(".")[2])


def _escape(text: str) -> str:
    """Escapes the characters of a label that Markdown would interpret."""
    return re.sub(r"([\\`*_{}\[\]<>|#&~])", r"\\\1", text)
