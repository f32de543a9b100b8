"""Model card: architecture, data, metrics and limitations of an exported model, as Markdown.

Source: Mitchell et al., "Model cards for model reporting", 2019.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from spectrnn.config.instantiate import format_value
from spectrnn.data.clips import SPLITS, DataSource
from spectrnn.data.dataset import Dataset
from spectrnn.detection.thresholds import TunedThresholds
from spectrnn.evaluation.evaluate import is_same_dataset
from spectrnn.evaluation.report.text import class_rows, metric_rows
from spectrnn.export.parity import TOLERANCE
from spectrnn.messages import counted, preview
from spectrnn.model.classifier import STAGES, Classifier
from spectrnn.model.ensemble import Ensemble
from spectrnn.version import __version__

_MAX_CLASSES = 100  # listed


@dataclass(frozen=True, kw_only=True)
class ModelStats:
    """Measurements of a model file.

    Args:
        size: Size of the file in bytes.
        reports: Metrics by split, from `evaluate.compute_metrics`.
        differences: Largest difference between its probabilities and those of PyTorch, by parity case.
        speed: Seconds of audio per second, clip by clip, on one core.
    """

    size: int
    reports: dict[str, dict[str, Any]]
    differences: dict[str, float]
    speed: float


def write_card(
    path: Path,
    *,
    classifier: Classifier,
    config: Mapping[str, Any],
    source: DataSource,
    settings: Mapping[str, Any],
    dataset: Dataset,
    split: str,
    tuned_thresholds: TunedThresholds | None,
    license: str,
    state: list[dict[str, Any]] | None,
    stats: Mapping[str, ModelStats],
) -> None:
    """Writes a model card as a Markdown file.

    Args:
        path: File to write.
        classifier: Exported classifier.
        config: Config of the run that trained it.
        source: Data source of the metrics.
        settings: Config of the data source.
        dataset: Dataset of the metrics.
        split: Split of the metrics.
        tuned_thresholds: Detection thresholds tuned for the classifier; None if there are none.
        license: License of the model.
        state: Tensors of the state of a streaming model, as in its metadata; None for a model of clips.
        stats: Measurements by type of weights; the last one describes the exported file.
    """
    trained = config.get("data")
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
        [f"{name} ({report['clips']:,} clip{'s' * (report['clips'] != 1)})", *row]
        for name, report in exported.reports.items()
        for row in metric_rows(report)
    ]
    rows, note = class_rows(exported.reports[split], _MAX_CLASSES)
    classes = [[_escape(label), *row] for label, *row in rows]
    files = []
    for name, measured in stats.items():
        accuracy, loss = (f"{measured.reports[split][metric]:.4f}" for metric in ("accuracy", "loss"))
        difference = f"{max(measured.differences.values()):.1e}"
        files.append([name, f"{measured.size / 1e6:.2f} MB", accuracy, loss, difference, f"{measured.speed:.0f}"])
    differences = [
        [case, *(f"{measured.differences[case]:.1e}" for measured in stats.values())] for case in exported.differences
    ]
    fields = {
        "num_classes": len(classifier.labels),
        "sample_rate": classifier.sample_rate,
        "max_frequency": classifier.sample_rate // 2,
        "max_seconds": max_seconds,
        "labels": preview([*map(_escape, classifier.labels)], _MAX_CLASSES),
        "ensemble": f", an ensemble of {classifier.num_members} models" if isinstance(classifier, Ensemble) else "",
        "parameters": f"{sum(parameter.numel() for parameter in classifier.parameters()):,}",
        "stages": _table(["stage", "class", "settings"], stages),
        "license": _escape(license),
        "usage": _clip_usage(classifier) if state is None else _stream_usage(classifier, state, max_seconds),
        "data": f"{'Trained and evaluated' if is_own else 'Evaluated'} on {_class(settings)}: "
        f"{len(dataset.clips):,} clips of {seconds.min():.2f} to {seconds.max():.2f} s (median "
        f"{np.median(seconds):.2f} s)" + ("." if is_own else f"; trained on {_class(trained or {})}, another dataset."),
        "splits": _table(["split", "clips"], splits),
        "split_method": " ".join(_split_method(source, dataset, split)),
        "metrics": _table(["split", "metric", "value", "95 % interval"], metrics),
        "split": split,
        "per_class": f"{note[:1].upper()}{note[1:]}.\n\n" * bool(note)
        + _table(["class", "precision", "recall", "F1", "clips"], classes),
        "thresholds": _thresholds(classifier, tuned_thresholds),
        "weights": weights,
        "files": _table(["weights", "size", f"accuracy ({split})", "loss", "difference", "speed"], files),
        "tolerance": f"{TOLERANCE:g}",
        "differences": _table(["largest difference of a probability", *stats], differences),
        "versions": ", ".join(f"{name} {number}" for name, number in packages.items()),
    }
    template = Template(Path(__file__).with_name("card.md").read_text("utf-8"))
    path.write_text(template.substitute(fields), encoding="utf-8")


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


def _split_method(source: DataSource, dataset: Dataset, split: str) -> list[str]:
    """Describes in sentences where the splits come from, and whether they share groups."""
    random = f"chosen at random (seed {source.split_seed}), stratified by label"
    predefined = {clip.split for clip in source.labelled_clips()} - {None}
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
    for clip in dataset.clips:
        if clip.group is not None and clip.split is not None:
            splits.setdefault(clip.group, set()).add(clip.split)
    if not splits:
        return [*sentences, "The dataset does not define groups, such as speakers; splits may share some."]
    shared = sum(len(names) > 1 for names in splits.values())
    count = f"{len(splits)}, of which {shared or 'none'} {'is' if shared == 1 else 'are'} in more than one split"
    return [*sentences, f"Groups (speakers, devices, recordings): {count}."]


def _thresholds(classifier: Classifier, tuned: TunedThresholds | None) -> str:
    temperature, *of_members = classifier.temperatures.tolist()
    divisors = {"the model divides its logits by": [temperature], "its members divide their logits by": of_members}
    divisions = [
        f"{text} {', '.join(f'{value:.3f}' for value in values)}"
        for text, values in divisors.items()
        if any(value != 1 for value in values)
    ]
    calibration = (
        f"Probabilities are calibrated: {'; '.join(divisions)}."
        if divisions
        else "Probabilities are not calibrated (temperature 1)."
    )
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


def _table(header: list[str], rows: Iterable[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


def _settings(node: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={format_value(value)}" for key, value in node.items() if not key.startswith("_"))


def _class(node: Mapping[str, Any]) -> str:
    return _escape(str(node.get("_target_", "unknown")).rpartition(".")[2])


def _escape(text: str) -> str:
    """Escapes the characters of a label that Markdown would interpret."""
    return re.sub(r"([\\`*_{}\[\]<>|#&~])", r"\\\1", text)
