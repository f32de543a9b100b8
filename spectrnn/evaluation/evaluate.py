"""`spectrnn eval`: evaluates a model on a split of a dataset."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig

from spectrnn import distributed
from spectrnn.config.instantiate import as_mapping, instantiate, to_container, validate_kwargs
from spectrnn.config.types import PositiveInt, ReportMegabytes
from spectrnn.data.batches import BucketedBatches
from spectrnn.data.clips import DataSource
from spectrnn.data.dataset import Dataset, open_dataset_for_evaluation
from spectrnn.devices import log_device, pick_device, reporting_out_of_memory
from spectrnn.errors import ErrorCollector, UserError
from spectrnn.evaluation.calibration import calibration_error_at
from spectrnn.evaluation.confusion import Confusion
from spectrnn.evaluation.metrics import (
    Metric,
    Outcome,
    bootstrap_intervals,
    classification_metrics,
    metrics_of,
    per_class_metrics,
)
from spectrnn.evaluation.plots import optional_picture
from spectrnn.evaluation.predictions import PREDICTIONS, Predictions, write_predictions
from spectrnn.evaluation.rankings import Array
from spectrnn.evaluation.report.html import EvaluationResult, write_page
from spectrnn.evaluation.report.text import MAX_ROWS, text_report, write_confusion, write_results
from spectrnn.evaluation.report.training import read_training
from spectrnn.files import cache_folder
from spectrnn.messages import counted, preview, printable
from spectrnn.model import serialization
from spectrnn.model.classifier import Classifier
from spectrnn.model.header import read_header
from spectrnn.model.task import Task
from spectrnn.progress import progress_bar
from spectrnn.runs import find_model, with_run_paths

log = logging.getLogger(__name__)

# Keys of data that do not change its splits.
_SPLIT_INDEPENDENT_KEYS = {
    "root",
    "path",
    "cache",
    "cache_gb",
    "storage",
    "negatives",
    "negative_share",
    "hard_share",
    "download",
    "max_seconds",
    "sample_rate",
    "sampling",
    "sampling_power",
    "on_error",
    "license",
    "description",
}


@dataclass(kw_only=True)
class EvalConfig:
    """Top level of eval.yaml."""

    data: dict[str, Any]
    metrics: dict[str, Any] | None = None
    run: str
    split: Literal["train", "val", "test", "all"]
    out: str | None
    format: Literal["text", "json"]
    batch_size: PositiveInt
    device: str
    report: bool
    report_max_mb: ReportMegabytes
    trust: list[str]


class OpenedModel(NamedTuple):
    """A model, and the split of a dataset that a command evaluates or tunes it on.

    Attributes:
        path: Model file.
        classifier: Classifier in evaluation mode.
        config: Config of the run that trained it, plain containers, with paths that lead to the run's data.
        source: Data source of the dataset.
        dataset: Dataset with the classifier's labels.
        batches: Batches of the split.
        is_held_out: Whether none of the clips were trained on, as far as is known.
        unknown_labels: Number of clips per label that the model does not know; they are not in the dataset.
        notes: Sentences for the report.
    """

    path: Path
    classifier: Classifier
    config: dict[str, Any]
    source: DataSource
    dataset: Dataset
    batches: BucketedBatches
    is_held_out: bool
    unknown_labels: dict[str, int]
    notes: list[str]


def open_model(config: DictConfig, errors: ErrorCollector, device: torch.device | None = None) -> OpenedModel:
    """Opens the model and the split of a command, and warns about clips that were trained on or are skipped.

    Args:
        config: Config with the keys data, run, split, batch_size, trust and, unless it is given, device.
        errors: Errors in the config so far, which are raised together with those that are found here.
        device: Device of the command; None for that of the config.

    Raises:
        UserError: An error in the config, the model or the dataset.
    """
    path: Path = errors.collect(find_model, config.run)
    device = device or errors.collect(pick_device, config.device)
    source: DataSource = errors.collect(instantiate, config.data, "data", DataSource)
    errors.raise_if_any()
    assert device is not None
    log_device(device)
    classifier, trained = serialization.load(path, device, config.trust)
    if source.sample_rate != classifier.sample_rate:
        raise UserError(f"data.sample_rate={source.sample_rate}: the model needs {classifier.sample_rate} Hz")
    dataset, unknown = open_dataset_for_evaluation(
        source, config.split, classifier.labels, device, classifier.task.label_format
    )
    classifier.features.use_cache(cache_folder(source.cache))
    now, before = to_container(config.data, "data"), with_run_paths(trained.get("data"), path.parent)
    warn_about_train_overlap(now, before, path, dataset, config.split, "the model")
    notes = []
    if unknown:
        names = preview([f"{label!r} ({counted(count, 'clip')})" for label, count in sorted(unknown.items())], 20)
        notes.append(f"labels that the model does not know were skipped: {names}")
        log.warning("%s", notes[0])
    is_held_out = config.split not in ("train", "all") or not is_same_dataset(now, before)
    batches = dataset.batches(config.split, config.batch_size, device, cover=True)
    trained = {**trained, "data": before}
    return OpenedModel(path, classifier, trained, source, dataset, batches, is_held_out, dict(unknown), notes)


@reporting_out_of_memory("batch_size")
def evaluate(config: DictConfig) -> dict[str, Any]:
    """Evaluates a model on a split, prints its results, and writes them, predictions.csv and report.html.

    Args:
        config: Config as eval.yaml composes it.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: An error in the config, the model or the dataset.
    """
    errors = ErrorCollector()
    errors.collect(validate_kwargs, to_container(config, ""), EvalConfig, "")
    nodes = (config.get("metrics") or {}).items()
    custom = {name: errors.collect(instantiate, node, f"metrics.{name}", Metric) for name, node in nodes}
    model = open_model(config, errors)
    classifier, split = model.classifier, config.split
    metrics = metrics_of(classifier.task, custom)
    outcome = predict_batches(classifier, model.batches, progress=True, with_embeddings=config.report)
    report = compute_metrics(outcome, classifier.labels, metrics)
    inverse = (1 / classifier.temperature).numpy(force=True)
    report["ece_uncalibrated"] = calibration_error_at(classifier.task, outcome.probabilities, outcome.targets, inverse)
    folder = Path(config.out or model.path.parent / "eval" / split).expanduser()
    content = {split: report, "model": str(model.path), "unknown_labels": model.unknown_labels}
    write_results(split, content, folder)
    clips = [model.dataset.clips[row] for row in model.dataset.rows(split)]
    write_predictions(Predictions.of(clips, outcome, classifier), folder / PREDICTIONS)
    model.dataset.list_skipped(folder)
    write_confusion(report, folder)
    if config.report:
        log.info("writing %s", folder / "report.html")
        result = EvaluationResult(
            classifier=classifier,
            dataset=model.dataset,
            split=split,
            outcome=outcome,
            metrics=report,
            batch_size=config.batch_size,
            model=model.path,
            notes=model.notes,
            is_held_out=model.is_held_out,
            config=model.config,
            training=[training] if (training := read_training(model.path.parent)) else [],
        )
        with optional_picture("report.html"):
            write_page(result, folder / "report.html", config.report_max_mb)
    print(json.dumps(content) if config.format == "json" else printable(text_report(split, report, MAX_ROWS)))
    log.info("the results are in %s", folder)
    return content


def warn_about_train_overlap(
    now: dict[str, Any], trained: Any, model: Path, dataset: Dataset, split: str, name: str
) -> None:
    """Warns if a split may contain clips that the model was trained on.

    `now` is the config node ``data`` of this command, `trained` that of the model file, which is not trusted; `name` is
    what messages call it.
    """
    if split == "all" or not isinstance(trained, dict):
        return
    if now["_target_"] == trained.get("_target_"):
        changed = [
            f"data.{name}={now.get(name)!r} (trained with {value!r})"
            for name, value in trained.items()
            if name not in _SPLIT_INDEPENDENT_KEYS and as_mapping(now.get(name)) != as_mapping(value)
        ]
        if changed:
            log.warning("the split may contain clips that %s was trained on: %s", name, ", ".join(changed))
            return
    if not is_same_dataset(now, trained):
        return
    splits = read_header(model).get("splits")
    before = splits.get(split) if isinstance(splits, dict) else None
    after = dataset.split_checksums[split]
    if before is None:
        log.warning(
            "the model file does not describe its %s split: it may contain clips that %s was trained on", split, name
        )
    elif before != after:
        log.warning(
            "the dataset has changed since the training of %s: its %s split had %.20s clips and has %s, "
            "which may contain clips that it was trained on",
            name,
            split,
            str(before).partition(" ")[0],
            after.partition(" ")[0],
        )


def is_same_dataset(now: Mapping[str, Any], trained: Any) -> bool:
    """Whether a config node ``data`` names the same dataset as that of a model file, which is not trusted."""
    return isinstance(trained, dict) and all(now.get(key) == trained.get(key) for key in ("_target_", "root", "path"))


@torch.inference_mode()
def predict_batches(
    classifier: Classifier, batches: BucketedBatches, progress: bool = False, with_embeddings: bool = False
) -> Outcome:
    """Computes the probabilities of all clips (collective if the batches are sharded).

    Args:
        classifier: Classifier; its mode is restored.
        batches: Batches of a dataset with the classifier's labels; a clip may have several crops.
        progress: Whether to show a progress bar.
        with_embeddings: Whether the outcome has embeddings: of a clip with several crops, the mean of theirs.

    Returns:
        Probabilities, decisions and targets, in the order of the batches' rows, on every rank.
    """
    training = classifier.training
    classifier.eval()
    rows, weights = [], []
    # Memory that is not written is not taken; a rank has at most all crops, and one more in each batch.
    probabilities = np.empty((len(batches.lengths) + len(batches), len(classifier.labels)), np.float32)
    embeddings = np.empty((len(probabilities), classifier.pooling.output_size * with_embeddings), np.float32)
    count, done = 0, 0.0
    with progress_bar(len(batches.rows), "evaluating", "clip", disable=not progress) as bar:
        for batch in batches.epoch():
            crops, pooled = classifier.probabilities_and_embeddings(batch.waveform, batch.lengths)
            probabilities[count : count + len(crops)] = crops.cpu().numpy()
            embeddings[count : count + len(crops)] = pooled[:, : embeddings.shape[1]].float().cpu().numpy()
            count += len(crops)
            rows.append(batch.rows)
            weights.append(batch.weights)
            done += float(batch.weights.sum())
            bar.update(round(done) - bar.n)
    classifier.train(training)
    own: tuple[Array, ...] = (
        probabilities[:count],
        torch.cat(rows).numpy(),
        torch.cat(weights).numpy(),
        embeddings[:count],
    )
    if batches.shard[1] > 1:
        shards = distributed.all_gather(own)
        own = tuple(np.concatenate(column) for column in zip(*shards, strict=True))
    means = mean_over_crops(classifier.task, *own[:3])
    vectors = _weighted_sums(own[3], *own[1:3]) if with_embeddings else None
    return Outcome.of(classifier.task, means, batches.targets, batches.seconds, vectors)


def _weighted_sums(vectors: Array, rows: Array, weights: Array) -> Array:
    """Combines the vectors of the crops of each clip, as `mean_over_crops` does their logits."""
    used = rows >= 0
    found, clips = np.unique(rows[used], return_inverse=True)
    sums = np.zeros((len(found), vectors.shape[1]), np.float32)
    np.add.at(sums, clips, vectors[used] * weights[used, None].astype(np.float32))
    return sums


def mean_over_crops(task: Task, probabilities: Array, rows: Array, weights: Array) -> Array:
    """Combines the crops of each clip: the probabilities of the weighted mean of their logits.

    So a temperature that is fitted to clips is the one to divide the logits of crops by. A clip of one crop keeps its
    probabilities.

    Args:
        task: Task of the classifier.
        probabilities: Probabilities of crops in any order, float32 (crops, classes).
        rows: Row of each crop's clip, int64 (crops,); crops of negative rows are not used.
        weights: Weight of each crop, float64 (crops,), with a sum of 1 for each clip.

    Returns:
        Probabilities float32 (clips, classes), in ascending order of the rows.
    """
    used = rows >= 0
    if not used.all():
        probabilities, rows, weights = probabilities[used], rows[used], weights[used]
    _, firsts, clips, counts = np.unique(rows, return_index=True, return_inverse=True, return_counts=True)
    means, several = probabilities[firsts], counts > 1
    if several.any():
        crops = several[clips]
        logits = task.logits(torch.from_numpy(probabilities[crops])).double().numpy()
        sums = np.zeros(means.shape)
        np.add.at(sums, clips[crops], weights[crops, None] * logits)
        means[several] = task.probabilities(torch.from_numpy(sums[several])).numpy()
    return means


def compute_metrics(
    outcome: Outcome, labels: list[str], metrics: Mapping[str, Metric], **resampling: Any
) -> dict[str, Any]:
    """Computes all results of a split, ready for JSON: metrics, 95 % intervals, per-class metrics, confusion matrix.

    Args:
        outcome: Answers for the clips.
        labels: Class names.
        metrics: Metrics by name.
        **resampling: Groups and folds, as for `bootstrap_intervals`.
    """
    values = classification_metrics(outcome, metrics)
    return {
        **values,
        "clips": len(outcome.targets),
        "correct": int(outcome.correct.sum()),
        "metrics": {
            name: {"title": m.title, "higher_is_better": m.higher_is_better, "is_fraction": m.is_fraction}
            for name, m in metrics.items()
            if name in values
        },
        "intervals_95": bootstrap_intervals(outcome, metrics, **resampling),
        "per_class": per_class_metrics(outcome, labels),
        "confusion": Confusion.count(outcome.decisions, outcome.targets, labels).to_json(),
    }
