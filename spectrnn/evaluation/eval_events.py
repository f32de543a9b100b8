"""`spectrnn eval-events`: precision and recall of the events that a model detects in annotated recordings."""

import csv
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from omegaconf import DictConfig

from spectrnn.config.instantiate import to_container, validate_kwargs
from spectrnn.config.types import NonNegativeFloat, PositiveFloat, PositiveFraction, PositiveInt
from spectrnn.data.audio import iter_blocks, open_audio
from spectrnn.detection.annotations import Annotation, read_annotations
from spectrnn.detection.events import Array, Event, MovingAverage
from spectrnn.detection.matching import match_events, match_intersections, scores, unite
from spectrnn.detection.settings import DetectionConfig, DetectionSettings
from spectrnn.devices import reporting_out_of_memory
from spectrnn.errors import ErrorCollector, UserError
from spectrnn.evaluation.psds import psds
from spectrnn.evaluation.report.text import events_report
from spectrnn.files import atomic_write, reporting_write_errors, write_json
from spectrnn.inference.formats import event_cells
from spectrnn.inference.pipeline import audio_paths
from spectrnn.inference.predictor import Predictor, load
from spectrnn.inference.sliding_window import Steps, join_steps, sliding_window_predict
from spectrnn.messages import counted, preview, printable
from spectrnn.progress import progress_bar
from spectrnn.runs import find_model

log = logging.getLogger(__name__)

_RATES = ("precision", "recall", "f1")


@dataclass(kw_only=True)
class EvalEventsConfig(DetectionConfig):
    """Top level of eval-events.yaml."""

    events: list[str]
    recordings: list[str]
    run: str
    trim_seconds: NonNegativeFloat
    collar: NonNegativeFloat
    end_fraction: PositiveFraction | None
    dtc: PositiveFraction
    gtc: PositiveFraction
    psds: bool
    cttc: PositiveFraction
    alpha_ct: NonNegativeFloat
    alpha_st: NonNegativeFloat
    max_efpr: PositiveFloat
    format: Literal["text", "json"]
    out: str | None
    batch_size: PositiveInt
    device: str
    trust: list[str]


@reporting_out_of_memory("batch_size")
def evaluate_events(node: DictConfig) -> dict[str, Any]:
    """Detects events in annotated recordings, and writes events.json and events.csv.

    Args:
        node: Config as eval-events.yaml composes it.

    Returns:
        The content of events.json: the detection settings, and ``events``, ``detected``, ``correct``, ``precision``,
        ``recall`` and ``f1`` of all events (``micro``) and ``per_class``, and the mean over the classes (``macro``);
        ``intersection`` has the last three by what true and detected events have in common, and ``psds`` that score;
        for both, true events of a class that overlap or touch are one.

    Raises:
        UserError: An error in the config, the model, a table or a recording.
    """
    config = EvalEventsConfig(**validate_kwargs(to_container(node, ""), EvalEventsConfig, ""))
    if not config.events:
        remedy = "name tables of the true events, or folders of label files: spectrnn eval-events events.csv run=..."
        raise UserError(f"events: missing; {remedy}")
    if config.threshold == "none":
        raise UserError("threshold=none: labels windows, and detects no events; model, or a number")
    recordings = {path: _folder(name, path) for name in config.recordings for path in audio_paths([name])}
    true = read_annotations([Path(table).expanduser() for table in config.events], recordings)
    model = find_model(config.run)
    predictor = load(str(model), config.device, config.trust)
    longest = predictor.window / predictor.sample_rate
    settings = DetectionSettings.resolve(
        config,
        predictor.labels,
        predictor.tuned_thresholds,
        longest,
        own=predictor.step_thresholds,
        frame_seconds=predictor.frame_seconds,
    )
    settings = replace(settings, trim_seconds=config.trim_seconds)
    assert settings.thresholds is not None
    thresholds = dict(zip(predictor.labels, settings.thresholds.tolist(), strict=True))
    labels = [label for label, threshold in thresholds.items() if np.isfinite(threshold)]
    columns = [predictor.labels.index(label) for label in labels]
    true, unknown = _known(true, labels)
    detected, steps, seconds = _detect(predictor, settings, true, config)
    counts, rows = _compare(true, detected, labels, config)
    united = {path: unite(events) for path, events in true.items()}
    if points := sum(event.end == event.start for events in true.values() for event in events):
        log.warning("left out of F1 by intersection and PSDS: %s without a length", counted(points, "event"))
    values = {name: value for name, value in asdict(settings).items() if name != "thresholds"}
    result = {
        **values,
        "thresholds": {label: thresholds[label] for label in labels},
        "collar": config.collar,
        "end_fraction": config.end_fraction,
        "recordings": len(true),
        "hours": seconds / 3600,
        "unknown_labels": unknown,
        **_summary(counts, labels),
        "intersection": _summary(_intersections(united, detected, labels, config), labels, _RATES)
        | {"dtc": config.dtc, "gtc": config.gtc},
    }
    if config.psds:
        steps = {path: (spans, values[:, columns]) for path, (spans, values) in steps.items()}
        criteria = {name: getattr(config, name) for name in ("dtc", "gtc", "cttc", "alpha_ct", "alpha_st", "max_efpr")}
        score = psds(steps, united, labels, **criteria) if any(united.values()) else None
        result["psds"] = {"score": score, **criteria}
    folder = Path(config.out or model.parent / "eval" / "events").expanduser()
    with reporting_write_errors(f"out={folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(result, folder / "events.json")
        with atomic_write(folder / "events.csv") as path, path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([["path", *Event._fields, "outcome"], *rows])
    print(json.dumps(result) if config.format == "json" else printable(events_report(result)))
    log.info("the results are in %s; events.csv lists what is correct, false or missed", folder)
    return result


def _folder(name: str, path: str) -> Path:
    """Returns the folder that a recording was found in: that which was named, or its own."""
    folder = Path(name).expanduser()
    return folder if folder.is_dir() else Path(path).parent


def _known(true: Mapping[str, list[Annotation]], labels: list[str]) -> tuple[dict[str, list[Annotation]], Counter[str]]:
    """Leaves out the events of labels that the model does not detect; returns the others, and the number by label.

    Raises:
        UserError: No event of a label that the model detects, or one without times.
    """
    unknown = Counter(event.label for events in true.values() for event in events if event.label not in labels)
    known = {path: [event for event in events if event.label in labels] for path, events in true.items()}
    if unknown:
        names = preview([f"{label!r} ({count})" for label, count in sorted(unknown.items())], 20)
        log.warning("events of labels that the model does not detect are left out: %s", names)
    untimed = [path for path, events in known.items() if any(event.end == np.inf for event in events)]
    if untimed:
        problem = f"rows of {preview(untimed, 3)} have no start and end, and labels that the model detects"
        raise UserError(f"events: {problem}; only rows of recordings without events may be without times")
    if not any(known.values()):
        raise UserError(f"events: none is of a label that the model detects: {preview(list(map(repr, labels)), 20)}")
    return known, unknown


def _detect(
    predictor: Predictor, settings: DetectionSettings, true: Mapping[str, Any], config: EvalEventsConfig
) -> tuple[dict[str, list[Event]], dict[str, Steps], float]:
    """Returns detected events and, for PSDS, smoothed probabilities by recording; and the length of all in s."""
    errors = ErrorCollector()
    lengths = {}
    for path in true:
        with errors.catch(), open_audio(path) as recording:
            lengths[path] = recording.reader.seconds
    errors.raise_if_any()
    found: dict[str, list[Event]] = {}
    smoothed: dict[str, Steps] = {}
    seconds = 0.0
    with progress_bar(round(sum(lengths.values())), "detecting", "s") as bar:
        for path in true:
            detector = settings.detector(predictor.labels)
            assert detector is not None
            blocks = iter_blocks(path, predictor.sample_rate)
            found[path] = []
            steps, average = [], MovingAverage(settings.smoothing_windows)
            for spans, probabilities in sliding_window_predict(
                predictor, blocks, settings.window, settings.hop, config.batch_size
            ):
                found[path] += detector.push(spans, probabilities)
                if config.psds:
                    steps.append((spans, average.push(probabilities)))
            found[path] += detector.finish()
            if steps:
                smoothed[path] = join_steps(
                    [*steps, (np.empty((0, 2)), average.finish().reshape(-1, len(predictor.labels)))]
                )
            seconds += detector.seconds
            bar.update(round(seconds) - bar.n)
    return found, smoothed, seconds


def _summary(counts: Array, labels: list[str], names: Sequence[str] | None = None) -> dict[str, Any]:
    """Returns the scores, or some of them, of all events, per class with events, and their mean."""
    rows = {label: scores(row) for label, row in zip(labels, counts, strict=True) if row.any()}
    micro, rates = scores(counts.sum(0)), {name: _mean(row[name] for row in rows.values()) for name in _RATES}
    kept = list(names or micro)
    per_class = {label: {name: row[name] for name in kept} for label, row in rows.items()}
    return {"micro": {name: micro[name] for name in kept}, "macro": rates, "per_class": per_class}


def _intersections(
    true: Mapping[str, list[Annotation]],
    detected: Mapping[str, list[Event]],
    labels: list[str],
    config: EvalEventsConfig,
) -> Array:
    """Returns the number of true events, of found ones and false detections, and of found ones by label, (n, 3)."""
    counts = np.zeros((len(labels), 3), np.int64)
    for path, events in true.items():
        found, false = match_intersections(events, detected[path], config.dtc, config.gtc)
        for event in events:
            counts[labels.index(event.label), 0] += 1
        for row in found:
            counts[labels.index(events[row].label), 1:] += 1
        for column in false:
            counts[labels.index(detected[path][column].label), 1] += 1
    return counts


def _compare(
    true: Mapping[str, list[Annotation]],
    detected: Mapping[str, list[Event]],
    labels: list[str],
    config: EvalEventsConfig,
) -> tuple[Array, list[list[str]]]:
    """Returns the number of true, detected and correct events by label, (labels, 3), and a row for each event."""
    counts = np.zeros((len(labels), 3), np.int64)
    rows = []
    for path, events in true.items():
        pairs = match_events(events, detected[path], config.collar, config.end_fraction)
        found, correct = {row for row, _ in pairs}, {column for _, column in pairs}
        for row, event in enumerate(events):
            counts[labels.index(event.label)] += (1, 0, row in found)
        for column, detection in enumerate(detected[path]):
            counts[labels.index(detection.label), 1] += 1
            rows.append([path, *event_cells(detection), "correct" if column in correct else "false"])
        missed = (event for row, event in enumerate(events) if row not in found)
        rows += [[path, f"{start:.3f}", f"{end:.3f}", label, "", "missed"] for start, end, label in missed]
    return counts, rows


def _mean(values: Any) -> float | None:
    """Returns the mean of the values that are not None; None if all are."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
