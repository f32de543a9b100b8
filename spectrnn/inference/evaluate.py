"""Evaluation: a classifier over a split, its figures, tables and pictures."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from omegaconf import DictConfig

from spectrnn import processes
from spectrnn.config import Count, build, check, plain
from spectrnn.data.batches import Batches
from spectrnn.data.clips import Source
from spectrnn.data.corpus import Corpus, open_for_evaluation
from spectrnn.devices import pick_device
from spectrnn.errors import Mistakes, UserError
from spectrnn.inference.calibration import tempered
from spectrnn.inference.metrics import Array, calibration_error, confusion, intervals, per_class, score
from spectrnn.inference.predictor import Predictor
from spectrnn.inference.report.files import text_report, write_report
from spectrnn.inference.report.page import Evaluation, Megabytes, write_page
from spectrnn.inference.thresholds import Search, ThresholdConfig
from spectrnn.model import file as model_file
from spectrnn.model.classifier import Classifier
from spectrnn.model.header import read_header
from spectrnn.progress import bar
from spectrnn.runs import find_model

log = logging.getLogger(__name__)

# Of data's settings, those that decide no split.
_HARMLESS = {"root", "path", "cache", "resident", "download", "max_seconds", "sample_rate", "on_error"}


@dataclass(kw_only=True)
class EvalConfig(ThresholdConfig):
    """The top level of eval.yaml."""

    data: dict[str, Any]
    run: str
    split: Literal["train", "val", "test", "all"]
    out: str | None
    batch_size: Count
    device: str
    report: bool
    report_megabytes: Megabytes


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Evaluates a model on a split of a corpus, and writes metrics.json, report.txt, confusion.png and report.html.

    Args:
        config: as eval.yaml composes it.

    Returns:
        What metrics.json holds.

    Raises:
        UserError: any mistake in the config, the model or the corpus.
    """
    mistakes = Mistakes()
    checked: dict[str, Any] = mistakes.attempt(check, plain(config, ""), EvalConfig, "")
    path: Path = mistakes.attempt(find_model, config.run)
    device: torch.device = mistakes.attempt(pick_device, config.device)
    source: Source = mistakes.attempt(build, config.data, "data")
    mistakes.tell()
    classifier, trained = model_file.load(path, device)
    if source.sample_rate != classifier.sample_rate:
        raise UserError(f"data.sample_rate={source.sample_rate}: the model takes {classifier.sample_rate} Hz")
    search = Search(EvalConfig(**checked), Predictor(classifier), config.batch_size) if config.negatives else None
    corpus, foreign = open_for_evaluation(source, config.split, classifier.labels, device)
    warn_of_other_clips(plain(config.data, "data"), trained.get("data"), path, corpus, config.split)
    notes: list[str] = []
    if foreign:
        some = [f"{label!r} ({count} clips)" for label, count in sorted(foreign.items())]
        names = ", ".join(some[:20]) + (f" and {len(some) - 20} more" if len(some) > 20 else "")
        notes.append(f"labels that the model does not know, left out: {names}")
        log.warning("%s", notes[0])
    batches = corpus.batches(config.split, config.batch_size, device)
    probabilities, targets = classify(classifier, batches, progress=True)
    report = full_report(probabilities, targets, classifier.labels)
    uncalibrated = tempered(probabilities, 1 / float(classifier.temperature))
    report["ece_uncalibrated"] = calibration_error(uncalibrated, targets)
    if search:
        report["thresholds"] = search.run(batches)
    folder = Path(config.out or path.parent / "eval" / config.split).expanduser()
    metrics = {config.split: report, "model": str(path), "unknown_labels": dict(foreign)}
    write_report(config.split, metrics, folder)
    corpus.list_skipped(folder)
    if config.report:
        page = folder / "report.html"
        log.info("writing %s, which opens in a browser", page)
        fresh = config.split not in ("train", "all") or not same_corpus(plain(config.data, "data"), trained.get("data"))
        evaluation = Evaluation(classifier, corpus, config.split, probabilities, report, config.batch_size, path, notes,
                                fresh)  # fmt: skip
        write_page(evaluation, page, config.report_megabytes)
    log.info("%s\n\nthe report is in %s", text_report(config.split, report), folder)
    if search:
        search.store(path)
    return metrics


def warn_of_other_clips(now: dict[str, Any], trained: Any, model: Path, corpus: Corpus, split: str) -> None:
    """Tells of a split that may hold clips that the model was trained on.

    Args:
        now: the settings of the corpus.
        trained: those of the model's own.
        model: its file.
        corpus: that is open now.
        split: of it.
    """
    if not _warn_of_other_splits(now, trained, split):
        _warn_of_another_corpus(now, trained, model, corpus, split)


def same_corpus(now: Mapping[str, Any], trained: Any) -> bool:
    """Whether a corpus's settings name that of a model, whose header may come from a stranger."""
    places = ("_target_", "root", "path")
    return isinstance(trained, dict) and all(now.get(key) == trained.get(key) for key in places)


def _warn_of_other_splits(now: dict[str, Any], trained: Any, split: str) -> bool:
    """The model's own corpus, cut otherwise than for its training, tests on what it was trained on."""
    other: list[str] = []
    if split != "all" and isinstance(trained, dict) and now["_target_"] == trained.get("_target_"):
        other = [f"data.{name}={now.get(name)!r} (trained with {value!r})" for name, value in trained.items()
                 if name not in _HARMLESS and now.get(name) != value]  # fmt: skip
        if other:
            log.warning("the split may hold clips that the model was trained on: %s", ", ".join(other))
    return bool(other)


def _warn_of_another_corpus(now: dict[str, Any], trained: Any, model: Path, corpus: Corpus, split: str) -> None:
    """The model's own corpus, whose files are others now, may draw clips for this split that once were trained on."""
    if split == "all" or not same_corpus(now, trained):
        return
    written = read_header(model).get("splits")
    before = written.get(split) if isinstance(written, dict) else None
    if before is None:
        log.warning(
            "the model does not say what its %s split was: it may hold clips that the model was trained on", split
        )
    elif before != (found := corpus.fingerprints[split]):
        log.warning("the corpus has changed since the training: its %s split had %.20s clips and has %s, "
                    "which may hold clips that the model was trained on",
                    split, str(before).partition(" ")[0], found.partition(" ")[0])  # fmt: skip


@torch.inference_mode()
def classify(classifier: Classifier, batches: Batches, progress: bool = False) -> tuple[Array, Array]:
    """Runs a classifier over batches.

    Args:
        classifier: its mode is restored afterwards.
        batches: from a corpus with the classifier's labels.
        progress: show a bar.

    Returns:
        Probabilities float32 (clips, classes) and targets int64 (clips,), in the order of the batches' rows. Where
        processes share the batches, all of them must ask, and all get the whole.
    """
    training = classifier.training
    classifier.eval()
    probabilities, rows = [], []
    with bar(len(batches.rows), "evaluating", "clip", disable=not progress) as shown:
        for batch in batches.epoch():
            probabilities.append(classifier.probabilities(batch.waveform, batch.lengths))
            rows.append(batch.rows)
            shown.update(len(batch.rows))
    classifier.train(training)
    found = torch.cat(probabilities).cpu().numpy(), torch.cat(rows).numpy()
    parts = processes.gathered(found) if batches.share[1] > 1 else [found]
    values, order = (np.concatenate(column) for column in zip(*parts, strict=True))
    values, order = values[order >= 0], order[order >= 0]
    return values[order.argsort()], batches.targets


def full_report(probabilities: Array, targets: Array, labels: list[str]) -> dict[str, Any]:
    """All figures of a split, ready for JSON: headline, 95 % intervals, per class, confusion matrix."""
    matrix = confusion(probabilities, targets)
    return {
        **score(probabilities, targets),
        "clips": len(targets),
        "intervals_95": intervals(probabilities, targets),
        "per_class": per_class(matrix, labels),
        "confusion": {"labels": labels, "counts": matrix.tolist()},
    }
