"""`spectrnn tune-thresholds`: tunes detection thresholds for a false-alarm rate, and stores them in the model file."""

import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from omegaconf import DictConfig

from spectrnn.config.instantiate import to_container, validate_kwargs
from spectrnn.config.types import (
    HopSeconds,
    NonNegativeFloat,
    NumWindows,
    PositiveFraction,
    PositiveInt,
    ReportMegabytes,
    WindowSeconds,
)
from spectrnn.data.audio import FULL_SCALE, iter_blocks, open_audio
from spectrnn.data.batches import BucketedBatches
from spectrnn.data.cache import AudioHash
from spectrnn.data.clips import Clip
from spectrnn.data.negatives import warn_about_copies
from spectrnn.detection.events import Array, EventDetector
from spectrnn.detection.settings import DetectionConfig, DetectionSettings
from spectrnn.detection.thresholds import TunedThresholds, WindowSettings
from spectrnn.devices import reporting_out_of_memory
from spectrnn.errors import ErrorCollector, UserError
from spectrnn.evaluation.evaluate import open_model
from spectrnn.evaluation.plots import optional_picture
from spectrnn.evaluation.report.detection import PAGE, FalseAlarm, Miss, TunedDetection, write_page
from spectrnn.evaluation.report.text import thresholds_report, write_thresholds
from spectrnn.inference.pipeline import audio_paths
from spectrnn.inference.predictor import Chunk, Predictor
from spectrnn.inference.sliding_window import sliding_window_predict
from spectrnn.messages import counted, preview, printable
from spectrnn.model import serialization
from spectrnn.model.header import read_header
from spectrnn.progress import progress_bar

log = logging.getLogger(__name__)

_EXCLUSIVE = 0.0  # lowest logit of classes that exclude each other, see below
_INDEPENDENT = -9.0  # of other classes, whose probabilities may all be low

_LOW_RECALL = 0.5  # below which a class is warned about


def candidate_thresholds(lowest: float) -> Array:
    """Returns the thresholds that are tried, (thresholds,), rising; the closer to 0 or 1, the denser.

    Of classes that exclude each other none is below 0.5: there another class may be more probable, and recordings
    without events cannot show how often the sounds of one class would be detected as another.

    Args:
        lowest: Logit of the lowest one.
    """
    return np.unique(np.append(1 / (1 + np.exp(-np.arange(lowest, 14, 0.05))), 1).round(6))


@dataclass(kw_only=True)
class TuneThresholdsConfig:
    """Top level of tune-thresholds.yaml."""

    data: dict[str, Any]
    run: str
    split: Literal["train", "val", "test", "all"]
    out: str | None
    report_max_mb: ReportMegabytes
    batch_size: PositiveInt
    device: str
    trust: list[str]
    negatives: list[str]
    max_false_alarms_per_hour: NonNegativeFloat
    window: WindowSeconds | None
    hop: HopSeconds | None
    smoothing_windows: NumWindows | None
    offset_ratio: PositiveFraction | None
    min_event_seconds: NonNegativeFloat | None
    background: list[str | int]


@reporting_out_of_memory("batch_size")
def tune_thresholds(config: DictConfig) -> dict[str, Any]:
    """Tunes the thresholds of a model, prints and writes the results and a page, and changes the model file.

    The model file is replaced by one with the same weights and the new thresholds, which predict and stream use.

    Args:
        config: Config as tune-thresholds.yaml composes it.

    Returns:
        The content of thresholds.json.

    Raises:
        UserError: An error in the config, the model, the dataset or the recordings.
    """
    errors = ErrorCollector()
    settings = errors.collect(validate_kwargs, to_container(config, ""), TuneThresholdsConfig, "")
    model = open_model(config, errors)
    tuner = ThresholdTuner(TuneThresholdsConfig(**settings), Predictor(model.classifier))
    _warn_about_training_recordings(tuner.recordings, model.dataset.clips, read_header(model.path)["config"])
    # Whole clips, as windows slide over them; one by one, as long ones would not fit into memory together.
    clips = replace(model.dataset, max_seconds=None).batches(config.split, 1, torch.device("cpu"))
    thresholds, result = tuner.run(clips)
    hashes = [audio_hash.digest() for audio_hash in tuner.hashes.values()]
    events = [label for label, is_event in zip(tuner.labels, tuner.is_event, strict=True) if is_event]
    warn_about_copies([*tuner.hashes], hashes, model.dataset.hashes_of(events), "negatives")
    folder = Path(config.out or model.path.parent / "thresholds").expanduser()
    write_thresholds(result, folder)
    model.dataset.list_skipped(folder)
    with optional_picture(PAGE):
        write_page(
            TunedDetection(
                classifier=model.classifier,
                model=model.path,
                split=config.split,
                result=result,
                notes=[*model.notes, *tuner.warnings],
                false_alarms=tuner.false_alarms(thresholds.as_array(tuner.labels)),
                misses=tuner.misses,
                clips=model.dataset.clips,
            ),
            folder / PAGE,
            config.report_max_mb,
        )
    print(printable(thresholds_report(result)))
    log.info("the results are in %s; %s has the false alarms and the misses to listen to", folder, folder / PAGE)
    serialization.save_thresholds(model.path, asdict(thresholds))
    log.info(
        "%s now contains these thresholds, which predict and stream use\n"
        "next: spectrnn predict RECORDINGS window=model run=%s\n"
        "      spectrnn eval-events EVENTS.csv run=%s",
        model.path,
        *2 * [model.path.parent],
    )
    return result


def _warn_about_training_recordings(recordings: Iterable[str], clips: Iterable[Clip], config: Any) -> None:
    """Warns about recordings without events that the model was trained on.

    Args:
        recordings: Paths of the recordings.
        clips: Clip table of the dataset of the thresholds.
        config: Config of the training in the model file, which is not trusted.
    """
    known = {os.path.realpath(clip.path) for clip in clips if clip.split in ("train", "val")}
    augment = config.get("augment")
    noise = augment.get("background_noise") if isinstance(augment, dict) else None
    folder = noise.get("path") if isinstance(noise, dict) else None
    place = os.path.join(os.path.realpath(os.path.expanduser(folder)), "") if isinstance(folder, str) else None
    found = [
        path
        for path in recordings
        if (real := os.path.realpath(path)) in known or (place is not None and real.startswith(place))
    ]
    if found:
        log.warning(
            "%s of the training, such as %s: there will be more false alarms elsewhere; use others",
            counted(len(found), "of the negatives was part", "of the negatives were part"),
            found[0],
        )


class ThresholdTuner:
    """Tunes the detection thresholds of a classifier.

    Args:
        config: Target rate, recordings without events, and detection settings.
        predictor: Predictor of the classifier.

    Attributes:
        warnings: Sentences about the result, after `run`.
        misses: Clips that are not detected at the chosen thresholds, after `run`.
        hashes: Hash of the samples of each recording, by path, after `run`.

    Raises:
        UserError: All errors in the detection settings and the recordings, one per line.
    """

    def __init__(self, config: TuneThresholdsConfig, predictor: Predictor) -> None:
        self.config, self.predictor, self.labels = config, predictor, predictor.labels
        self.warnings: list[str] = []
        self.misses: list[Miss] = []
        self.hashes: dict[str, AudioHash] = {}
        self.thresholds = candidate_thresholds(_EXCLUSIVE if predictor.thresholds is None else _INDEPENDENT)
        errors = ErrorCollector()
        detection = DetectionConfig(
            window=config.window,
            hop=config.hop,
            smoothing_windows=config.smoothing_windows,
            threshold=float(self.thresholds[0]),
            offset_ratio=config.offset_ratio,
            min_event_seconds=config.min_event_seconds,
            background=config.background,
        )
        default_window = predictor.window / predictor.sample_rate
        self.settings: DetectionSettings = errors.collect(
            DetectionSettings.resolve,
            detection,
            self.labels,
            None,
            default_window,
            frame_seconds=predictor.frame_seconds,
        )
        if not config.negatives:
            errors.add("negatives: missing; name recordings without any event")
        self.recordings: dict[str, float] = {}  # lengths in s, according to the headers
        for path in audio_paths(config.negatives):
            try:
                with open_audio(path) as recording:
                    self.recordings[path] = recording.reader.seconds
            except UserError as error:
                errors.by_key[path] = f"negatives: {error}"
        errors.raise_if_any()
        self.is_event = np.isfinite(self.settings.thresholds)
        self.candidates = np.where(self.is_event, self.thresholds[:, None], np.inf)  # (thresholds, classes)
        # Of each recording, the position of the highest threshold at which each class is detected, (classes,), or -1.
        self._highest: dict[str, Array] = {}
        # Of each class, its clips: row, and whether it is detected, bool (thresholds,).
        self._detected: dict[int, list[tuple[int, Array]]] = defaultdict(list)

    def run(self, batches: BucketedBatches) -> tuple[TunedThresholds, dict[str, Any]]:
        """Detects events in the recordings, and in each clip of a split embedded in silence, at all thresholds.

        Args:
            batches: Batches of the split.

        Returns:
            The thresholds, and the results for JSON: the detection settings, and ``per_class`` for each label:
            ``threshold``; whether it is ``reached``; the ``false_alarms_per_hour`` and the ``recall`` at it;
            ``confusion_rate``, the fraction of the other clips that are detected as this class (None if there are
            none); and the ``curve``.

        Raises:
            UserError: A recording that is truncated or damaged.
        """
        counts, hours = self._count_false_alarms()
        recall, confusion_rate = self._detection_rates(batches)
        allowed = self.config.max_false_alarms_per_hour * hours
        per_class: dict[str, dict[str, Any]] = {}
        for index in np.flatnonzero(self.is_event).tolist():
            position, reached = _first_feasible(counts[:, index] <= allowed + 1e-9)
            rate = counts[:, index] / hours
            self.misses += self._misses_of(index, position)
            per_class[self.labels[index]] = {
                "threshold": float(self.thresholds[position]),
                "reached": reached,
                "false_alarms_per_hour": float(rate[position]),
                "recall": _number(recall[position, index]),
                "confusion_rate": _number(confusion_rate[position, index]),
                "curve": _curve(self.thresholds, rate, recall[:, index]),
            }
        recalls = {label: row["recall"] for label, row in per_class.items() if row["recall"] is not None}
        missed = [f"{label} ({value:.3f})" for label, value in recalls.items() if value < _LOW_RECALL]
        self._warn(hours, [label for label, row in per_class.items() if not row["reached"]], missed)
        settings = {field.name: getattr(self.settings, field.name) for field in fields(WindowSettings)} | {
            "background": [label for label, is_event in zip(self.labels, self.is_event, strict=True) if not is_event],
            "max_false_alarms_per_hour": self.config.max_false_alarms_per_hour,
            "hours": hours,
        }
        by_label = {label: row["threshold"] for label, row in per_class.items()}
        return TunedThresholds(by_label=by_label, **settings), {**settings, "per_class": per_class}

    def _count_false_alarms(self) -> tuple[Array, float]:
        """Number of events in all recordings, int64 (thresholds, classes), and their length in hours."""
        counts, seconds = np.zeros(self.candidates.shape, np.int64), 0.0
        with progress_bar(round(sum(self.recordings.values())), "scanning", "s") as bar:
            for path in self.recordings:
                try:
                    found, length = self._count_events(self._hashed_blocks(path))
                except UserError as error:
                    raise UserError(f"negatives: {error}") from error
                at, label = np.nonzero(found)
                np.maximum.at(highest := np.full(len(self.labels), -1), label, at)
                self._highest[path] = highest
                counts, seconds = counts + found, seconds + length
                bar.update(round(seconds) - bar.n)
        return counts, seconds / 3600

    def _hashed_blocks(self, path: str) -> Iterator[Chunk]:
        """Decodes a recording, and hashes it on the way."""
        self.hashes[path] = AudioHash()
        for block in iter_blocks(path, self.predictor.sample_rate):
            self.hashes[path].update(block)
            yield block

    def _detection_rates(self, batches: BucketedBatches) -> tuple[Array, Array]:
        """Fractions of clips in which each class is detected: of its own clips (recall), and of all other clips.

        Each clip is embedded between two windows of silence, so that it counts as it would in a recording, where no
        window need match it, and where its probabilities are averaged with those around it.

        Returns:
            Two arrays float64 (thresholds, classes), NaN if there is no such clip.
        """
        silence = np.zeros(round(self.settings.window * self.predictor.sample_rate), np.int16)
        sums = np.zeros((2, *self.candidates.shape))
        own_clips, encode = np.zeros(len(self.labels)), self.predictor.classifier.task.encode
        with progress_bar(len(batches.rows), "scanning", "clip") as bar:
            for batch in batches.epoch():
                waveforms, targets = batch.waveform.cpu().numpy(), encode(batch.targets).bool().numpy()
                for row, waveform, length, own in zip(
                    batch.rows.tolist(), waveforms, batch.lengths.tolist(), targets, strict=True
                ):
                    clip = np.rint(waveform[:length] * FULL_SCALE).astype(np.int16)
                    counts, _ = self._count_events([silence, clip, silence])
                    for index in np.flatnonzero(counts.any(0)):  # of many classes, few are detected
                        sums[int(not own[index]), :, index] += counts[:, index] > 0
                    own_clips += own
                    for event in np.flatnonzero(own & self.is_event).tolist():
                        self._detected[event].append((row, counts[:, event] > 0))
                bar.update(len(waveforms))
        clips = np.stack([own_clips, len(batches.rows) - own_clips])
        with np.errstate(invalid="ignore"):
            recall, confusion_rate = sums / clips[:, None]
        return recall, confusion_rate

    def _misses_of(self, index: int, position: int) -> list[Miss]:
        """The clips of a class that are not detected at a threshold, given by its position."""
        return [
            Miss(row, self.labels[index], float(self.thresholds[detected][-1]) if detected.any() else None)
            for row, detected in self._detected[index]
            if not detected[position]
        ]

    def false_alarms(self, thresholds: Array) -> list[FalseAlarm]:
        """Detects the events in the recordings at thresholds (classes,) that were tried, after `run`."""
        chosen = np.searchsorted(self.thresholds, thresholds[self.is_event])
        settings, found = replace(self.settings, thresholds=thresholds), []
        for path in (path for path, highest in self._highest.items() if (highest[self.is_event] >= chosen).any()):
            detector = settings.detector(self.labels)
            assert detector is not None
            for windows in self._windows(iter_blocks(path, self.predictor.sample_rate)):
                found += [FalseAlarm(path, event) for event in detector.push(*windows)]
            found += [FalseAlarm(path, event) for event in detector.finish()]
        return found

    def _windows(self, blocks: Iterable[Chunk]) -> Iterator[tuple[Array, Array]]:
        settings = self.settings
        return sliding_window_predict(self.predictor, blocks, settings.window, settings.hop, self.config.batch_size)

    def _count_events(self, blocks: Iterable[Chunk]) -> tuple[Array, float]:
        """Number of events in a recording, int64 (thresholds, classes), and its length in s."""
        settings = self.settings
        detector = EventDetector(
            self.labels, self.candidates, settings.smoothing_windows, settings.offset_ratio, settings.min_event_seconds
        )
        return detector.count(self._windows(blocks)), detector.seconds

    def _warn(self, hours: float, not_reached: list[str], missed: list[str]) -> None:
        rate = self.config.max_false_alarms_per_hour
        if hours * rate < 1:
            self.warnings.append(
                f"{hours:.3g} h of negatives are too short to verify {rate:g} false alarms per hour: even with no "
                f"detection in them, up to {3 / hours:.2g} per hour are possible (95 % confidence)"
            )
        if not_reached:
            names = preview(not_reached, 20)
            self.warnings.append(f"no threshold up to 1 reaches {rate:g} false alarms per hour for {names}")
        if missed:
            self.warnings.append(
                f"few events will be detected, by their recall in clips, of {preview(missed, 20)}; allow more false "
                "alarms, use a window as long as these sounds, or train with data.negatives and augment=[pad,...], or "
                "with a class of background sounds (then background=[CLASS])"
            )
        for warning in self.warnings:
            log.warning("%s", warning)


def _first_feasible(feasible: Array) -> tuple[int, bool]:
    """Index of the lowest threshold from which on all are feasible, and whether there is one; else the last index.

    A higher threshold need not give fewer events: a long event at a low threshold may be several at a higher one.
    """
    infeasible = np.flatnonzero(~feasible)
    first = int(infeasible[-1]) + 1 if len(infeasible) else 0
    return min(first, len(feasible) - 1), first < len(feasible)


def _curve(thresholds: Array, rate: Array, recall: Array) -> dict[str, list[float | None]]:
    """The thresholds at which the false-alarm rate or the recall changes, with both."""
    points = np.stack([rate, np.nan_to_num(recall)])
    kept = np.flatnonzero(np.append(True, (points[:, 1:] != points[:, :-1]).any(0)))
    return {
        "threshold": thresholds[kept].tolist(),
        "false_alarms_per_hour": rate[kept].tolist(),
        "recall": [_number(value) for value in recall[kept]],
    }


def _number(value: float) -> float | None:
    """Converts NaN, which JSON does not support, to None."""
    return None if np.isnan(value) else float(value)
