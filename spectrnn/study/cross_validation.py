"""Cross-validation: a run per fold, and results over all clips, each classified by a model trained without it."""

import json
import logging
import re
import statistics
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from spectrnn import distributed
from spectrnn.config.compose import quote_override
from spectrnn.data.dataset import list_clips, open_dataset_for_evaluation
from spectrnn.data.splits import fold_names
from spectrnn.errors import TrainingInterrupted, UserError
from spectrnn.evaluation.confusion import Confusion
from spectrnn.evaluation.evaluate import compute_metrics
from spectrnn.evaluation.metrics import METRICS as STANDARD_METRICS
from spectrnn.evaluation.plots import optional_picture
from spectrnn.evaluation.predictions import (
    PREDICTIONS,
    Predictions,
    concatenate,
    read_predictions,
    with_labels,
    write_predictions,
)
from spectrnn.evaluation.report.html import EvaluationResult, write_page
from spectrnn.evaluation.report.training import read_training
from spectrnn.files import write_json
from spectrnn.messages import counted, format_table
from spectrnn.model import serialization
from spectrnn.model.classifier import Classifier
from spectrnn.model.ensemble import Ensemble
from spectrnn.model.header import read_header
from spectrnn.runs import CHECKPOINT, FOLD, METRICS, MODEL, commit_resumed_config, original_overrides, read_config
from spectrnn.study.logs import logging_to, write_overrides
from spectrnn.training import checkpoint
from spectrnn.training.advice import log_warnings, summarize_warnings
from spectrnn.training.hyperparameters import hyperparameters
from spectrnn.training.logger import RunLogger
from spectrnn.training.preflight import RunComponents, preflight
from spectrnn.training.run_folder import finished_metrics
from spectrnn.training.train import exclusive_folder, removed_if_unused, train_exclusively

log = logging.getLogger(__name__)


class Fold(NamedTuple):
    """A fold: its name, and the folder of its run."""

    name: str
    folder: Path


def preflight_folds(config: DictConfig) -> RunComponents:
    """Validates the config of a cross-validation, as `preflight` that of a run; the data source has all folds.

    ``trainer.metric=auto`` is the main metric of the task for its results, which are of all clips; each fold's run
    chooses its own.
    """
    config = config.copy()
    OmegaConf.update(config, "data.fold", None, force_add=True)
    run = preflight(config)
    if run.trainer.metric == "auto":
        run = run._replace(trainer=replace(run.trainer, metric=run.task.metrics[0]))
    return run if config.folds == "all" else run._replace(source=replace(run.source, folds=config.folds))


def cross_validate(folder: Path, config: DictConfig, choices: Mapping[str, str]) -> dict[str, Any]:
    """Trains a model per fold, and pools the predictions of the clips that each model was not trained on.

    Folds that have finished are not trained again; one that was interrupted is continued.

    Args:
        folder: Folder of the cross-validation, with a folder ``fold-<name>`` per fold, metrics.json, predictions.csv
            and report.html.
        config: Config as train.yaml composes it, with `folds`.
        choices: Chosen option of each config group.

    Returns:
        The content of metrics.json: ``pooled`` metrics over all clips, their ``mean`` and sample standard deviation
        (``std``) over the folds, those of each fold, 95 % intervals; empty on all ranks but the first.

    Raises:
        UserError: An error in the config or the dataset; and folds that failed, after the others have been trained.
        TrainingInterrupted: A signal; the fold has been saved.
    """
    if (folder / CHECKPOINT).exists():
        raise UserError(f"hydra.run.dir={folder}: contains a single run; choose another folder")
    with removed_if_unused(folder, config), exclusive_folder(folder):
        run = preflight_folds(config)
        with distributed.process_group(run.device):  # all ranks read the files of rank 0, and return together
            folder = distributed.broadcast_object(folder)
            metrics = distributed.broadcast_object(None if distributed.rank() else finished_metrics(folder, run.config))
        if metrics is not None:
            log.info("\n%s\n\nthe cross-validation in %s is finished", format_folds(metrics), folder)
            return metrics
        folds = list_folds(folder, run)
        if not distributed.rank():
            _start(folder, run.config)
        failures = []
        for number, fold in enumerate(folds):
            log.info("\nfold %s (%d of %d)", fold.name, number + 1, len(folds))
            try:
                _train_fold(fold, folder, config, choices)
            except TrainingInterrupted as interrupted:
                raise TrainingInterrupted(f"fold {fold.name}: {interrupted}", interrupted.code) from None
            except UserError as error:
                failures.append(f"fold {fold.name}: {error}")
                log.error("%s", failures[-1])
        if failures:
            raise UserError("\n".join(failures))
        if config.final == "refit":
            _refit(folder, run, folds, config, choices)
        if distributed.rank():
            return {}
        if config.final == "ensemble":
            _save_ensemble(folder, run, folds)
        return _pool(folder, run, folds, choices)


def list_folds(folder: Path, run: RunComponents) -> list[Fold]:
    """Lists the folds of a run's data source, with their folders in that of a cross-validation.

    Raises:
        UserError: A dataset without folds, or folds that cannot be drawn.
    """
    names = fold_names(list_clips(run.source, run.task.label_format))
    if len(names) < 2:
        problem = f"a single fold, {names[0]}" if names else "no folds"
        raise UserError(
            f"folds=all: the dataset has {problem}; folds=5 draws some, folds=groups leaves out a group each"
        )
    parts = [re.sub(r"[^\w.-]+", "_", name) for name in names]
    if len({part.casefold() for part in parts}) < len(parts):
        parts = [f"{number}-{part}" for number, part in enumerate(parts)]
    return [Fold(name, folder / f"{FOLD}{part}") for name, part in zip(names, parts, strict=True)]


def _start(folder: Path, config: dict[str, Any]) -> None:
    """Writes the resolved config, after checking that it is the one that the folder was started with."""
    path = folder / "config.yaml"
    if path.exists():
        checkpoint.require_same_config(folder, yaml.safe_load(path.read_text(encoding="utf-8")), config)
    commit_resumed_config(folder)
    (folder / METRICS).unlink(missing_ok=True)
    OmegaConf.save(OmegaConf.create(config), path)


def _train_fold(fold: Fold, study: Path, config: DictConfig, choices: Mapping[str, str]) -> None:
    """Trains on all folds but one, whose clips are in the report of the cross-validation."""
    scheme = {} if config.folds == "all" else {"data.folds": config.folds}
    _train_within(study, fold.folder, config, {**scheme, "data.fold": fold.name, "trainer.report": False}, choices)


def _refit(
    study: Path, run: RunComponents, folds: Sequence[Fold], config: DictConfig, choices: Mapping[str, str]
) -> None:
    """Trains a model on all clips, and saves it with the temperature that the folds found."""
    with distributed.process_group(run.device):  # rank 0 may still be writing the last fold
        found = distributed.broadcast_object(None if distributed.rank() else _length_and_calibration(folds))
    assert found is not None
    length, temperature, thresholds = found
    log.info("\nfinal model: %s of all clips", counted(length["trainer.epochs"], "epoch"))
    changes = {"data.folds": None, "data.fold": "none", "data.val_fraction": 0, **length}
    _train_within(study, study / "final", config, changes, choices)
    if not distributed.rank():
        model, trained = serialization.load(study / "final" / MODEL, trust=serialization.stage_packages(config))
        model.temperature.copy_(temperature)
        if model.task.thresholds is not None and thresholds is not None:
            model.task.thresholds.copy_(thresholds)
        serialization.save(model, trained, study / MODEL, read_header(study / "final" / MODEL)["splits"])


def _length_and_calibration(folds: Sequence[Fold]) -> tuple[dict[str, Any], Tensor, Tensor | None]:
    """Returns the length of a training of all clips, as config values, and the folds' mean temperature and thresholds.

    The epochs have as many steps as the models of the folds took on average until their best epochs.
    """
    results = [_read_metrics(fold.folder) for fold in folds]
    sizes = [read_config(fold.folder)["trainer"]["batch_size"] for fold in folds]
    batch_size = statistics.mode(sizes)  # an automatic one may differ between folds
    clips_seen = statistics.fmean(
        result["best_epoch"] * result["train"]["clips"] * (batch_size / size)
        for result, size in zip(results, sizes, strict=True)
    )
    clips = sum(len(_held_out_predictions(fold).clips) for fold in folds)
    temperature = torch.tensor([result["temperature"] for result in results]).log().mean(0).exp()
    found = [result["thresholds"] for result in results]
    thresholds = None if None in found else torch.tensor(found).mean(0)
    epochs = max(1, round(clips_seen / clips))
    return {"trainer.epochs": epochs, "trainer.steps": None, "trainer.batch_size": batch_size}, temperature, thresholds


def _save_ensemble(study: Path, run: RunComponents, folds: Sequence[Fold]) -> None:
    """Saves the folds' models as one model file."""
    config = {**run.config, "data": {**run.config["data"], "folds": None, "fold": "none"}}
    serialization.save(Ensemble(_load_models(run, folds)), config, study / MODEL)


def _load_models(run: RunComponents, folds: Sequence[Fold]) -> list[Classifier]:
    trust = serialization.stage_packages(run.config)
    return [serialization.load(fold.folder / MODEL, run.device, trust)[0] for fold in folds]


def _train_within(
    study: Path, folder: Path, config: DictConfig, changes: Mapping[str, Any], choices: Mapping[str, str]
) -> None:
    """Trains a run of a cross-validation, in a folder like that of any run."""
    own = config.copy()
    for key, value in {**changes, "folds": None, "final": None, "resume": None}.items():
        OmegaConf.update(own, key, value, force_add=True)
    if not distributed.rank():
        replaced = {*changes, "folds", "final", "resume"}
        given = [o for o in original_overrides(study) or [] if o.partition("=")[0].lstrip("+~") not in replaced]
        overrides = [*given, *(f"{key}={quote_override(value)}" for key, value in changes.items())]
        write_overrides(folder, overrides)
    with nullcontext() if distributed.rank() else logging_to(folder / "train.log"):
        train_exclusively(folder, own, choices)


def _pool(folder: Path, run: RunComponents, folds: Sequence[Fold], choices: Mapping[str, str]) -> dict[str, Any]:
    """Pools the folds' predictions, and writes predictions.csv and metrics.json, then the report."""
    results = [_read_metrics(fold.folder) for fold in folds]
    pooled = concatenate([_held_out_predictions(fold) for fold in folds])
    write_predictions(pooled, folder / PREDICTIONS)

    metrics = {name: {**STANDARD_METRICS, **run.metrics}[name] for name in results[0]["test"]}
    by_fold = {name: [result["test"][name] for result in results] for name in metrics}
    groups, fold_of = [clip.group or clip.path for clip in pooled.clips], [clip.fold for clip in pooled.clips]
    has_groups = any(clip.group for clip in pooled.clips)
    # Folds of a single group leave nothing to resample within them.
    is_divisible = len({*zip(groups, fold_of, strict=True)}) > len(folds)
    report = compute_metrics(
        pooled.outcome,
        pooled.labels,
        metrics,
        groups=np.array(groups) if has_groups else None,
        folds=np.array(fold_of) if is_divisible else None,
    )
    correct: dict[str, list[bool]] = {}
    for clip, is_correct in zip(pooled.clips, pooled.outcome.correct.tolist(), strict=True):
        if clip.group:
            correct.setdefault(clip.group, []).append(is_correct)
    content: dict[str, Any] = {
        "train": {"seconds": sum(result["train"]["seconds"] for result in results)},
        "metric": run.trainer.metric,
        "higher_is_better": metrics[run.trainer.metric].higher_is_better,
        "pooled": {name: report[name] for name in metrics},
        "mean": {name: statistics.fmean(values) for name, values in by_fold.items()},
        "std": {name: statistics.stdev(values) for name, values in by_fold.items()},
        "folds": {fold.name: result["test"] for fold, result in zip(folds, results, strict=True)},
        "intervals_95": {"pooled": report["intervals_95"]},
        "clips": report["clips"],
        "per_class": report["per_class"],
        "confusion": report["confusion"],
        "groups": {
            name: {"clips": len(values), "accuracy": statistics.fmean(values)}
            for name, values in sorted(correct.items())
        },
        "warnings": summarize_warnings({f.name: r.get("warnings", []) for f, r in zip(folds, results, strict=True)}),
    }
    write_json(content, folder / METRICS)
    _log(folder, run, content, choices)
    if run.trainer.report:
        with optional_picture("report.html"):
            _write_report(folder, run, folds, pooled, report, content["warnings"])
    log.info("\n%s\n\nthe cross-validation is in %s", format_folds(content), folder)
    log_warnings(content["warnings"])
    return content


def _log(folder: Path, run: RunComponents, content: Mapping[str, Any], choices: Mapping[str, str]) -> None:
    """Logs hyperparameters and results of the cross-validation as those of a run, of a single step."""
    values = {f"{row}/{name}": value for row in ("pooled", "mean", "std") for name, value in content[row].items()}
    with RunLogger(run.loggers, run.trainer.metric, run.task.fraction_correct) as logger:
        # Resumed at 0: what was logged before, by a process that was killed then, is replaced.
        logger.start(folder, hyperparameters(run.config, choices, original_overrides(folder) or []), 0)
        logger.finish(values, 1)
        with optional_picture("the confusion matrix of all folds"):
            logger.log_confusion("pooled", Confusion.from_json(content["confusion"]), 1)


def format_folds(content: Mapping[str, Any]) -> str:
    """Formats the content of a cross-validation's metrics.json: a row per fold, mean, deviation, and pooled metrics."""
    names = [*content["pooled"]]
    rows = [[f"fold {fold}", *(f"{values[name]:.4f}" for name in names)] for fold, values in content["folds"].items()]
    rows += [[row, *(f"{content[row][name]:.4f}" for name in names)] for row in ("mean", "std", "pooled")]
    intervals = content["intervals_95"]["pooled"]
    for bound, title in enumerate(("95 % CI, low", "95 % CI, high")):
        rows.append([title, *(f"{intervals[name][bound]:.4f}" if name in intervals else "" for name in names)])
    return format_table(["", *names], rows)


def _read_metrics(folder: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    return metrics


def _held_out_predictions(fold: Fold) -> Predictions:
    """The predictions of the clips of a fold, by the model that was trained on the others."""
    test = read_predictions(fold.folder / PREDICTIONS).of_split("test")
    return replace(test, clips=[clip._replace(fold=fold.name) for clip in test.clips])


def _write_report(
    folder: Path,
    run: RunComponents,
    folds: Sequence[Fold],
    pooled: Predictions,
    metrics: dict[str, Any],
    warnings: list[str],
) -> None:
    models = _load_models(run, folds)
    labels = models[0].labels
    dataset, _ = open_dataset_for_evaluation(run.source, "all", labels, run.device, run.task.label_format)
    # As in each fold's run, a clip belongs to the test split of its fold; one without a fold was always trained on.
    names = [fold.name for fold in folds]
    dataset = replace(dataset, clips=[c._replace(split="test" if c.fold in names else "train") for c in dataset.clips])
    members: dict[str | None, list[int]] = {name: [] for name in names}
    for row, clip in enumerate(dataset.clips):
        members.get(clip.fold, []).append(row)
    order = np.argsort([row for name in names for row in members[name]])  # from that of the folds to that of the rows
    result = EvaluationResult(
        classifier=models[0],
        dataset=dataset,
        split="test",
        outcome=with_labels(pooled, labels).rows(order).outcome,
        metrics=metrics,
        batch_size=read_config(folds[0].folder)["trainer"]["batch_size"],
        model=folder,
        notes=[f"Cross-validation with {len(folds)} folds: the model of each clip was trained without it.", *warnings],
        is_held_out=True,
        fold_classifiers=dict(zip(names, models, strict=True)),
        config=run.config,
        training=[training for fold in folds if (training := read_training(fold.folder))],
    )
    write_page(result, folder / "report.html", run.trainer.report_max_mb)
    log.info("the report of all folds is %s", folder / "report.html")
