"""The model card: what a file is, what it was trained on, what it is worth, and where that ends; as Markdown.

Source: Mitchell et al., "Model cards for model reporting", 2019.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from spectrnn.config.instantiate import format_value
from spectrnn.data.clips import SPLITS, DataSource
from spectrnn.data.dataset import Dataset
from spectrnn.detection.thresholds import TunedThresholds
from spectrnn.evaluation.evaluate import is_same_dataset
from spectrnn.export.parity import TOLERANCE
from spectrnn.model.classifier import Classifier
from spectrnn.version import __version__

_STAGES = ("features", "normalize", "model", "pooling")
_METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "loss": "loss (nats)",
    "top_3": "right among the first 3",
    "ece": "calibration error",
}


@dataclass(frozen=True, kw_only=True)
class ModelStats:
    """What was measured of a file.

    Args:
        size: bytes.
        reports: split -> figures, as `inference.evaluate.full_report` gives them.
        differences: case of the certification -> largest difference of a probability from PyTorch's.
        rate: seconds of sound that it classifies in a second, clip by clip, on one core.
    """

    size: int
    reports: dict[str, dict[str, Any]]
    differences: dict[str, float]
    rate: float


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a card is written from.

    Args:
        classifier: that was exported.
        config: of the run that made it.
        source, settings, dataset, split: what the figures were measured on.
        tuned_thresholds: the thresholds that were chosen for it; None where none were.
        license: of the model.
        state: of a stream, as the file's metadata has it; None where the file takes clips.
        findings: kind of weights -> what was measured; the last is that of the file beside the card.
    """

    classifier: Classifier
    config: Mapping[str, Any]
    source: DataSource
    settings: Mapping[str, Any]
    dataset: Dataset
    split: str
    tuned_thresholds: TunedThresholds | None
    license: str
    state: list[dict[str, Any]] | None
    findings: Mapping[str, ModelStats]

    @property
    def weights(self) -> str:
        """The kind of the file's weights."""
        return list(self.findings)[-1]

    @property
    def longest(self) -> float:
        """Of the clips that the classifier was trained on, s."""
        return int(self.classifier.max_train_samples) / self.classifier.sample_rate


def write_card(card: ModelCard, path: Path) -> None:
    """Writes the card as a Markdown file."""
    sections = {
        "": _what_it_is,
        "How to run it": _how_to_run,
        "Data": _data,
        "What it is worth": _evaluation,
        "Thresholds": _thresholds,
        "Limits": _limits,
        "This file": _file,
    }
    text = "\n\n".join(
        "\n".join([*([f"## {title}", ""] if title else []), *section(card)]) for title, section in sections.items()
    )
    path.write_text(text + "\n", encoding="utf-8")


def _what_it_is(card: ModelCard) -> list[str]:
    classifier = card.classifier
    rows = [
        [
            f"`{stage}`",
            _class(node),
            ", ".join(f"{key}={format_value(value)}" for key, value in node.items() if not key.startswith("_")),
        ]
        for stage, node in card.config.items()
        if stage in _STAGES
    ]
    parameters = sum(parameter.numel() for parameter in classifier.parameters())
    return [
        f"# A sound classifier of {len(classifier.labels)} classes",
        "",
        f"It takes a recording at {classifier.sample_rate} Hz and gives the probability of each class: "
        + ", ".join(map(_text, classifier.labels))
        + ".",
        "",
        f"Trained with spectrnn, {parameters:,} parameters. All stages are in `model.onnx`, features and normalization "
        "too:",
        "",
        *_table(["stage", "class", "settings"], [[stage, kind, _text(settings)] for stage, kind, settings in rows]),
        "",
        f"Licence: {_text(card.license)}",
    ]


def _how_to_run(card: ModelCard) -> list[str]:
    waveform = f"mono, {card.classifier.sample_rate} Hz, in [-1, 1)"
    return [
        "    pip install onnxruntime soundfile",
        "    python example.py recording.wav",
        "",
        *(_of_clips(waveform) if card.state is None else _of_streams(waveform, card)),
        "",
        "Labels, sample rate and thresholds are in the file, as JSON under `spectrnn` in its metadata.",
        "",
        "Whether it works on your machine as it did on ours, the clips in `golden/` tell:",
        "",
        "    pip install 'spectrnn[export]'",
        "    spectrnn export verify=model.onnx",
    ]


def _of_clips(waveform: str) -> list[str]:
    rows = [
        ["in", "`waveform`", "float32", "(batch, samples)", f"{waveform}; zeros beyond each clip's length"],
        ["in", "`lengths`", "int64", "(batch,)", "samples of each clip"],
        ["out", "`probabilities`", "float32", "(batch, classes)", "in the order of the labels"],
    ]
    return [
        *_table(["", "name", "type", "shape", "meaning"], rows),
        "",
        "Any number of clips, of any lengths: a clip's probabilities do not depend on the others.",
    ]


def _of_streams(waveform: str, card: ModelCard) -> list[str]:
    features, state = card.classifier.features, card.state or []
    rows = [["in", "`waveform`", "(batch, samples)", f"the next packet: {waveform}", ""]]
    rows += [
        ["in", f"`{each['name']}`", f"({', '.join(['batch', *map(str, each['shape'])])})", "state", f"{each['fill']:g}"]
        for each in state
    ]
    rows += [
        ["out", "`probabilities`", "(batch, classes)", "of all that was heard, in the order of the labels", ""],
        ["out", "`next_...`", "as the state", "the state for the next packet", ""],
    ]
    return [
        "For live streams: what the model keeps between packets goes in and comes out. All is float32.",
        "",
        *_table(["", "name", "shape at first", "meaning", "begins with"], rows),
        "",
        f"The first packet is of {features.window_size} samples, the others of any number of whole hops of "
        f"{features.hop_size}. Streams that begin together may share a batch. Begin anew, with the first state, where "
        f"a new sound begins, and after {card.longest:.2f} s at the latest: longer ones were not in the training.",
    ]


def _data(card: ModelCard) -> list[str]:
    trained = card.config.get("data")
    own = is_same_dataset(card.settings, trained)
    clips, lengths = card.dataset.clips, card.dataset.store.lengths / card.dataset.store.sample_rate
    counts = Counter(clip.split for clip in clips)
    rows = [[part, f"{counts[part]:,}"] for part in SPLITS if counts[part]]
    return [
        f"{'Trained and measured' if own else 'Measured'} on {_class(card.settings)}, "
        f"{len(clips):,} clips of {lengths.min():.2f} to {lengths.max():.2f} s (median {np.median(lengths):.2f} s)"
        + ("." if own else f"; trained on {_class(trained or {})}, another dataset."),
        "",
        *_table(["split", "clips"], rows or [["none", f"{len(clips):,}"]]),
        "",
        *_how_split(card),
    ]


def _how_split(card: ModelCard) -> list[str]:
    source, clips = card.source, card.dataset.clips
    drawn = f"seed {source.split_seed}, in proportion to the labels"
    given = {clip.split for clip in source.clips()} - {None}
    if source.fold is not None:
        ways = [f"Fold {_text(str(source.fold))} of the dataset tests, the others train."]
    elif given:
        ways = ["The dataset brings its split."]
    elif card.split == "all":
        ways = ["Measured on all clips, whatever split they are in."]
    else:
        ways = [f"The test split is {source.test_fraction:.0%} of the clips, drawn ({drawn})."]
    if "val" not in given and any(clip.split == "val" for clip in clips):
        ways.append(f"The validation split is {source.val_fraction:.0%} of the training clips, drawn ({drawn}).")
    sides: dict[str, set[str | None]] = {}
    for clip in clips:
        if clip.group is not None and clip.split is not None:
            sides.setdefault(clip.group, set()).add(clip.split)
    if sides:
        shared = sum(len(among) > 1 for among in sides.values())
        ways.append(
            f"Groups (speakers, recorders, sources): {len(sides)}, of which {shared or 'none'} "
            f"{'is' if shared == 1 else 'are'} in more than one split."
        )
    else:
        ways.append("The dataset names no groups, such as speakers: whether one is in two splits is unknown.")
    return [" ".join(ways)]


def _evaluation(card: ModelCard) -> list[str]:
    reports = card.findings[card.weights].reports
    rows = [
        [f"{part} ({report['clips']:,} clips)", title, f"{report[name]:.4f}", _interval(report, name)]
        for part, report in reports.items()
        for name, title in _METRICS.items()
        if name in report
    ]
    classes = reports[card.split]["per_class"].items()
    return [
        "95 % intervals are by bootstrap over clips; they say nothing of other rooms, people or microphones.",
        "",
        *_table(["split", "metric", "value", "95 % interval"], rows),
        "",
        f"Of each class, on the {card.split} split:",
        "",
        *_table(
            ["class", "precision", "recall", "F1", "clips"],
            [
                [
                    _text(label),
                    f"{row['precision']:.3f}",
                    f"{row['recall']:.3f}",
                    f"{row['f1']:.3f}",
                    str(row["support"]),
                ]
                for label, row in classes
            ],
        ),
    ]


def _thresholds(card: ModelCard) -> list[str]:
    temperature = float(card.classifier.temperature)
    calibrated = (
        "Probabilities are not calibrated: the temperature is 1."
        if temperature == 1
        else f"Probabilities are calibrated: logits are divided by {temperature:.3f} inside."
    )
    if card.tuned_thresholds is None:
        return [f"None were chosen: the class is the most probable one. {calibrated}"]
    chosen = card.tuned_thresholds
    background = ", ".join(map(_text, chosen.background)) or "none"
    return [
        calibrated,
        "",
        f"For events in long recordings, thresholds were chosen on {chosen.hours:.2f} hours, for at most "
        f"{chosen.max_false_alarms_per_hour:g} false alarms an hour and class: windows of {chosen.window:g} s every "
        f"{chosen.hop:g} s, probabilities averaged over {chosen.smoothing_windows} windows; an event ends below "
        f"{chosen.offset_ratio:.0%} of its threshold and lasts {chosen.min_event_seconds:g} s at least. "
        f"Background classes: {background}.",
        "",
        *_table(["class", "threshold"], [[_text(label), f"{value:.3f}"] for label, value in chosen.thresholds.items()]),
    ]


def _limits(card: ModelCard) -> list[str]:
    rate = card.classifier.sample_rate
    return [
        f"- It always names one of its {len(card.classifier.labels)} classes; it was not tested on any other sound.",
        f"- Trained on clips of up to {card.longest:.2f} s. Cut longer recordings into pieces of that length, and take "
        "the mean of their probabilities; that it computes longer ones, too, does not mean that it understands them.",
        f"- It takes {rate} Hz alone, and hears nothing above {rate // 2} Hz. Resample before.",
        "- Rooms, microphones, noise and people other than those of the dataset were not tested.",
        "- Certified with onnxruntime on a CPU; other runtimes were not tested: verify there.",
    ]


def _file(card: ModelCard) -> list[str]:
    rows = [
        [
            name,
            f"{finding.size / 1e6:.2f} MB",
            f"{finding.reports[card.split]['accuracy']:.4f}",
            f"{finding.reports[card.split]['loss']:.4f}",
            f"{max(finding.differences.values()):.1e}",
            f"{finding.rate:.0f} s",
        ]
        for name, finding in card.findings.items()
    ]
    columns = [list(finding.differences.values()) for finding in card.findings.values()]
    cases = zip(card.findings[card.weights].differences, zip(*columns, strict=True), strict=True)
    tools = {"spectrnn": __version__, **{name: version(name) for name in ("torch", "onnx", "onnxruntime")}}
    return [
        f"Weights: {card.weights}. Difference: the largest of a probability from PyTorch's. Speed: sound a second, "
        "clip by clip, on one core of the machine that exported it.",
        "",
        *_table(["weights", "size", f"accuracy ({card.split})", "loss", "difference", "speed"], rows),
        "",
        f"The float32 file was held against PyTorch, which heard each clip alone; {TOLERANCE:g} was allowed:",
        "",
        *_table(
            ["largest difference of a probability", *card.findings],
            [[name, *(f"{value:.1e}" for value in values)] for name, values in cases],
        ),
        "",
        "Made with " + ", ".join(f"{name} {number}" for name, number in tools.items()) + ".",
    ]


def _interval(report: Mapping[str, Any], name: str) -> str:
    found = report["intervals_95"].get(name)
    return f"{found[0]:.4f} to {found[1]:.4f}" if found else ""


def _table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _class(node: Mapping[str, Any]) -> str:
    return _text(str(node.get("_target_", "unknown")).rpartition(".")[2])


def _text(text: str) -> str:
    """A label as Markdown shows it: what would be markup is escaped."""
    return re.sub(r"([\\`*_{}\[\]<>|#&~])", r"\\\1", text)
