"""Evaluation: a classifier over a split, its figures, tables and pictures."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from omegaconf import DictConfig

from spectrnn import distributed
from spectrnn.config.instantiate import instantiate, to_container, validate_kwargs
from spectrnn.config.types import PositiveInt
from spectrnn.data.batches import BucketedBatches
from spectrnn.data.clips import DataSource
from spectrnn.data.dataset import Dataset, open_for_evaluation
from spectrnn.devices import pick_device
from spectrnn.errors import ErrorCollector, UserError
from spectrnn.evaluation.calibration import apply_temperature
from spectrnn.evaluation.metrics import (
    Array,
    bootstrap_intervals,
    classification_metrics,
    confusion_matrix,
    expected_calibration_error,
    per_class_metrics,
)
from spectrnn.evaluation.report.html import EvaluationResult, ReportMegabytes, write_page
from spectrnn.evaluation.report.text import text_report, write_report
from spectrnn.evaluation.tune_thresholds import ThresholdTuner, TuneThresholdsConfig
from spectrnn.inference.predictor import Predictor
from spectrnn.model import serialization as model_file
from spectrnn.model.classifier import Classifier
from spectrnn.model.header import read_header
from spectrnn.progress import progress_bar
from spectrnn.runs import find_model

log = logging.getLogger(__name__)

# Of data's settings, those that decide no split.
_SPLIT_INDEPENDENT_KEYS = {"root", "path", "cache", "storage", "download", "max_seconds", "sample_rate", "on_error"}


@dataclass(kw_only=True)
class EvalConfig(TuneThresholdsConfig):
    """The top level of eval.yaml."""

    data: dict[str, Any]
    run: str
    split: Literal["train", "val", "test", "all"]
    out: str | None
    batch_size: PositiveInt
    device: str
    report: bool
    report_max_mb: ReportMegabytes


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Evaluates a model on a split of a dataset, and writes metrics.json, report.txt, confusion.png and report.html.

    Args:
        config: as eval.yaml composes it.

    Returns:
        What metrics.json holds.

    Raises:
        UserError: any mistake in the config, the model or the dataset.
    """
    errors = ErrorCollector()
    checked: dict[str, Any] = errors.collect(validate_kwargs, to_container(config, ""), EvalConfig, "")
    path: Path = errors.collect(find_model, config.run)
    device: torch.device = errors.collect(pick_device, config.device)
    source: DataSource = errors.collect(instantiate, config.data, "data")
    errors.raise_if_any()
    classifier, trained = model_file.load(path, device)
    if source.sample_rate != classifier.sample_rate:
        raise UserError(f"data.sample_rate={source.sample_rate}: the model takes {classifier.sample_rate} Hz")
    search = (
        ThresholdTuner(EvalConfig(**checked), Predictor(classifier), config.batch_size) if config.negatives else None
    )
    dataset, foreign = open_for_evaluation(source, config.split, classifier.labels, device)
    warn_about_train_overlap(to_container(config.data, "data"), trained.get("data"), path, dataset, config.split)
    notes: list[str] = []
    if foreign:
        some = [f"{label!r} ({count} clips)" for label, count in sorted(foreign.items())]
        names = ", ".join(some[:20]) + (f" and {len(some) - 20} more" if len(some) > 20 else "")
        notes.append(f"labels that the model does not know, left out: {names}")
        log.warning("%s", notes[0])
    batches = dataset.batches(config.split, config.batch_size, device)
    probabilities, targets = predict_batches(classifier, batches, progress=True)
    report = compute_metrics(probabilities, targets, classifier.labels)
    uncalibrated = apply_temperature(probabilities, 1 / float(classifier.temperature))
    report["ece_uncalibrated"] = expected_calibration_error(uncalibrated, targets)
    if search:
        report["thresholds"] = search.run(batches)
    folder = Path(config.out or path.parent / "eval" / config.split).expanduser()
    metrics = {config.split: report, "model": str(path), "unknown_labels": dict(foreign)}
    write_report(config.split, metrics, folder)
    dataset.list_skipped(folder)
    if config.report:
        page = folder / "report.html"
        log.info("writing %s, which opens in a browser", page)
        fresh = config.split not in ("train", "all") or not is_same_dataset(
            to_container(config.data, "data"), trained.get("data")
        )
        evaluation = EvaluationResult(
            classifier, dataset, config.split, probabilities, report, config.batch_size, path, notes, fresh
        )
        write_page(evaluation, page, config.report_max_mb)
    log.info("%s\n\nthe report is in %s", text_report(config.split, report), folder)
    if search:
        search.store(path)
    return metrics


def warn_about_train_overlap(now: dict[str, Any], trained: Any, model: Path, dataset: Dataset, split: str) -> None:
    """Tells of a split that may hold clips that the model was trained on.

    Args:
        now: the settings of the dataset.
        trained: those of the model's own.
        model: its file.
        dataset: that is open now.
        split: of it.
    """
    if not _warn_of_other_splits(now, trained, split):
        _warn_of_another_corpus(now, trained, model, dataset, split)


def is_same_dataset(now: Mapping[str, Any], trained: Any) -> bool:
    """Whether a dataset's settings name that of a model, whose header may come from a stranger."""
    places = ("_target_", "root", "path")
    return isinstance(trained, dict) and all(now.get(key) == trained.get(key) for key in places)


def _warn_of_other_splits(now: dict[str, Any], trained: Any, split: str) -> bool:
    """The model's own dataset, cut otherwise than for its training, tests on what it was trained on."""
    other: list[str] = []
    if split != "all" and isinstance(trained, dict) and now["_target_"] == trained.get("_target_"):
        other = [
            f"data.{name}={now.get(name)!r} (trained with {value!r})"
            for name, value in trained.items()
            if name not in _SPLIT_INDEPENDENT_KEYS and now.get(name) != value
        ]
        if other:
            log.warning("the split may hold clips that the model was trained on: %s", ", ".join(other))
    return bool(other)


def _warn_of_another_corpus(now: dict[str, Any], trained: Any, model: Path, dataset: Dataset, split: str) -> None:
    """The model's own dataset, whose files are others now, may draw clips for this split that once were trained on."""
    if split == "all" or not is_same_dataset(now, trained):
        return
    written = read_header(model).get("splits")
    before = written.get(split) if isinstance(written, dict) else None
    if before is None:
        log.warning(
            "the model does not say what its %s split was: it may hold clips that the model was trained on", split
        )
    elif before != (found := dataset.fingerprints[split]):
        log.warning(
            "the dataset has changed since the training: its %s split had %.20s clips and has %s, "
            "which may hold clips that the model was trained on",
            split,
            str(before).partition(" ")[0],
            found.partition(" ")[0],
        )


@torch.inference_mode()
def predict_batches(classifier: Classifier, batches: BucketedBatches, progress: bool = False) -> tuple[Array, Array]:
    """Runs a classifier over batches.

    Args:
        classifier: its mode is restored afterwards.
        batches: from a dataset with the classifier's labels.
        progress: show a bar.

    Returns:
        Probabilities float32 (clips, classes) and targets int64 (clips,), in the order of the batches' rows. Where
        processes share the batches, all of them must ask, and all get the whole.
    """
    training = classifier.training
    classifier.eval()
    probabilities, rows = [], []
    with progress_bar(len(batches.rows), "evaluating", "clip", disable=not progress) as shown:
        for batch in batches.epoch():
            probabilities.append(classifier.probabilities(batch.waveform, batch.lengths))
            rows.append(batch.rows)
            shown.update(len(batch.rows))
    classifier.train(training)
    found = torch.cat(probabilities).cpu().numpy(), torch.cat(rows).numpy()
    parts = distributed.all_gather(found) if batches.share[1] > 1 else [found]
    values, order = (np.concatenate(column) for column in zip(*parts, strict=True))
    values, order = values[order >= 0], order[order >= 0]
    return values[order.argsort()], batches.targets


def compute_metrics(probabilities: Array, targets: Array, labels: list[str]) -> dict[str, Any]:
    """All figures of a split, ready for JSON: headline, 95 % intervals, per class, confusion matrix."""
    matrix = confusion_matrix(probabilities, targets)
    return {
        **classification_metrics(probabilities, targets),
        "clips": len(targets),
        "intervals_95": bootstrap_intervals(probabilities, targets),
        "per_class": per_class_metrics(matrix, labels),
        "confusion": {"labels": labels, "counts": matrix.tolist()},
    }
