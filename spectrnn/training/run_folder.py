"""The folder of a run: everything that a training writes. Only rank 0 writes."""

import json
import logging
import statistics
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import OmegaConf
from safetensors import SafetensorError

from spectrnn import distributed
from spectrnn.evaluation.calibration import calibration_error_at, fit_temperatures, fit_thresholds
from spectrnn.evaluation.confusion import Confusion
from spectrnn.evaluation.evaluate import compute_metrics, predict_batches
from spectrnn.evaluation.metrics import Outcome, bootstrap_intervals, classification_metrics, expected_calibration_error
from spectrnn.evaluation.plots import optional_picture
from spectrnn.evaluation.predictions import PREDICTIONS, Predictions, concatenate, write_predictions
from spectrnn.evaluation.rankings import Array
from spectrnn.evaluation.report.html import EvaluationResult, write_page
from spectrnn.evaluation.report.training import Training, package_versions
from spectrnn.files import write_json
from spectrnn.messages import counted, format_table
from spectrnn.model import serialization
from spectrnn.model.classifier import Classifier
from spectrnn.runs import METRICS, MODEL, UNREADABLE, commit_resumed_config, original_overrides
from spectrnn.threads import release_memory
from spectrnn.training import checkpoint
from spectrnn.training.advice import (
    dataset_warnings,
    feature_warnings,
    log_warnings,
    shift_warnings,
    training_sample,
    training_warnings,
)
from spectrnn.training.environment import describe_environment
from spectrnn.training.hyperparameters import hyperparameters
from spectrnn.training.logger import RunLogger
from spectrnn.training.trainer import Trainer, seed_generators

log = logging.getLogger(__name__)

_DECAYED = 0.05  # of the maximum learning rate


class RunFolder:
    """Writes model.safetensors, last.ckpt, config.yaml, metrics.json, report.html and the logs of a run.

    Args:
        path: Folder of the run.
        config: Resolved config, plain containers; written with the plan of the training in place of ``auto``.
        trainer: Trainer of the run.
        logger: Logger of the run.

    Attributes:
        warnings: Sentences about the dataset that make the results hard to judge.
    """

    def __init__(self, path: Path, config: dict[str, Any], trainer: Trainer, logger: RunLogger) -> None:
        self.path, self.trainer, self.logger = path, trainer, logger
        self.config = {**config, "trainer": {**config["trainer"], **trainer.plan._asdict()}}
        self.classifier, self.dataset = trainer.classifier, trainer.dataset
        metric = trainer.plan.metric
        selecting = trainer.metrics[metric] if trainer.plan.select == "best" else None
        self.warnings = [
            *dataset_warnings(trainer.dataset, metric, selecting),
            *feature_warnings(self.classifier, trainer.config.augmented_versions),
        ]

    def start(self, choices: Mapping[str, str], resumed_at: int | None) -> None:
        """Starts the log, and writes the resolved config and the state before the first step of a new run.

        Args:
            choices: Chosen option of each config group, for the loggers.
            resumed_at: Step of the checkpoint that a resumed run continues from; None for a new run.
        """
        if distributed.rank():
            return
        (self.path / METRICS).unlink(missing_ok=True)  # a run that has it is finished
        (self.path / UNREADABLE).unlink(missing_ok=True)
        log_warnings(self.warnings)
        _log_summary(self.trainer)
        commit_resumed_config(self.path)
        overrides = original_overrides(self.path) or []
        self.logger.start(self.path, hyperparameters(self.config, choices, overrides), resumed_at)
        config = OmegaConf.to_yaml(OmegaConf.create(self.config))
        self.logger.log_text("config", f"```yaml\n{config}```")
        self.logger.log_text("overrides", "\n".join(f"    {override}" for override in overrides) or "none")
        self.logger.log_text("environment", describe_environment(self.trainer.device, self.trainer.precision))
        self.dataset.list_skipped(self.path)
        (self.path / "config.yaml").write_text(config, encoding="utf-8")
        if resumed_at is None:
            checkpoint.save(self.trainer.state_dict(), self.config, self.path)

    def save(self, is_best: bool) -> None:
        """Saves the state of the run, and the classifier if it is the best so far."""
        if distributed.rank():
            return
        trainer = self.trainer
        if is_best:
            self._save_model(trainer.eval_model)
        self.logger.flush()  # so that the curves reach as far as the checkpoint
        checkpoint.save(trainer.state_dict(), self.config, self.path)

    def finish(self, splits: Sequence[str]) -> dict[str, Any]:
        """Calibrates and evaluates the best classifier, writes predictions.csv and metrics.json, then the report.

        Args:
            splits: Splits to evaluate on, of those that have clips.

        Returns:
            The content of metrics.json; empty on all ranks but the first.
        """
        if distributed.rank():
            return {}
        trainer = self.trainer
        release_memory()  # so that drawing, whose packages are imported now, does not raise the peak
        # A step beyond any checkpoint: if the run is killed here and resumed, these events are dropped.
        step = trainer.clips_seen + 1
        best = self._calibrated_model()
        results: dict[str, Outcome] = {}
        for split in splits:
            if len(self.dataset.rows(split)):
                results[split] = self._predict(best, split, with_embeddings=trainer.config.report)
        scores = {split: classification_metrics(result, trainer.metrics) for split, result in results.items()}
        intervals = {split: bootstrap_intervals(result, trainer.metrics) for split, result in results.items()}
        main = best.task.metrics[0]
        trained = self._predict(best, training_sample(self.dataset.rows("train")))  # without augmentation
        score = trainer.metrics[main].value(trained)
        shift = shift_warnings(main, trainer.metrics[main].title, scores, intervals)
        warnings = [*self.warnings, *self._training_warnings(score, trainer.metrics[main].title), *shift]
        speed = statistics.median(epoch["train"]["clips_per_second"] for epoch in trainer.history)
        clips = len(trainer.train.rows)
        seconds = sum(clips / epoch["train"]["clips_per_second"] for epoch in trainer.history)
        metrics: dict[str, Any] = {
            "train": {
                **trainer.history[-1]["train"],
                "final_accuracy": float(trained.correct.mean()),
                "clips_per_second": speed,
                "seconds": seconds,
                "clips": clips,
            },
            "epochs": trainer.epoch,
            "max_epochs": trainer.plan.epochs,
            "batch_size": trainer.plan.batch_size,
            "patience": trainer.plan.patience,
            "steps": trainer.epoch * trainer.epoch_steps,
            "best_epoch": trainer.best_epoch,
            "parameters": sum(p.numel() for p in best.parameters()),
            "temperature": best.temperature.tolist(),
            "thresholds": None if best.task.thresholds is None else best.task.thresholds.tolist(),
            "metric": trainer.plan.metric,
            "higher_is_better": trainer.metrics[trainer.plan.metric].higher_is_better,
            **scores,
            "intervals_95": intervals,
            "warnings": warnings,
            "history": [_without_speed(epoch) for epoch in trainer.history],
            "versions": package_versions(),
        }
        # Not val/accuracy, whose curve ends with the last epoch, which need not be the best one.
        names = {"val": "best_model/val_", "test": "test/"}
        final = {names[split] + name: value for split, score in scores.items() for name, value in score.items()}
        self.logger.finish(final, step)
        if results:
            tables = [
                Predictions.of([self.dataset.clips[row] for row in self.dataset.rows(split)], result, best)
                for split, result in results.items()
            ]
            write_predictions(concatenate(tables), self.path / PREDICTIONS)
        write_json(metrics, self.path / METRICS)
        # All results are there: a picture that fails, or a process that is killed for lack of memory, leaves them.
        self._log_pictures(best, results, step)
        if trainer.config.report and results:
            with trainer.clock.measure("report"), optional_picture("report.html"):
                split = list(results)[-1]
                training = Training(metrics["history"], metrics["metric"], metrics["best_epoch"], metrics["versions"])
                self._write_report(best, split, results[split], warnings, training)
        log.info("\ntime breakdown\n%s", trainer.clock.table())
        if scores:
            titles = {name: trainer.metrics[name].title for name in next(iter(scores.values()))}
            rows = [[title, *(f"{score[name]:.4f}" for score in scores.values())] for name, title in titles.items()]
            log.info("\n%s\n", format_table(["", *scores], rows))
        log.info("%.0f clips/s; the run is in %s", speed, self.path)
        log.info(
            "next: spectrnn predict RECORDINGS run=%s\n"
            "      spectrnn tune-thresholds negatives=[RECORDINGS] run=%s\n"
            "      tensorboard --logdir %s",
            *3 * [self.path],
        )
        log_warnings(warnings)  # again, and last, so that they are seen
        return metrics

    def _log_pictures(self, classifier: Classifier, results: Mapping[str, Outcome], step: int) -> None:
        """Logs clips of a training batch, with attention weights if there are any, and confusion matrices."""
        trainer = self.trainer
        with optional_picture("the log of training clips"):
            batch = max(islice(trainer.train.epoch(0), 8), key=lambda batch: len(batch.rows))  # the largest of some
            titles = [self.dataset.clip(int(row)).label for row in batch.rows]
            seed_generators(trainer.device, trainer.seed, 0)  # of the augmentation
            self.logger.log_batch(self.classifier, batch, titles, step)
            self.logger.log_attention(classifier, batch, titles, step)
        for split, outcome in results.items():
            with optional_picture(f"the confusion matrix of the {split} split"):
                confusion = Confusion.count(outcome.decisions, outcome.targets, classifier.labels)
                self.logger.log_confusion(split, confusion, step)
                self.logger.log_pr_curves(split, outcome, classifier.labels, step)
        self.logger.flush()

    def _training_warnings(self, score: float, title: str) -> list[str]:
        trainer, optimizer = self.trainer, self.trainer.optimizer
        rate, maximum = optimizer.param_groups[0]["lr"], optimizer.defaults.get("lr", 0.0)
        return training_warnings(
            trainer.history,
            trainer.best_epoch,
            score,
            (title, trainer.classifier.task.fraction_correct),
            has_stopped=trainer.stop_epoch is not None,
            has_decayed=rate <= _DECAYED * maximum,
        )

    def _calibrated_model(self) -> Classifier:
        """Loads the best classifier, and fits temperature and thresholds to the validation split if there is one.

        The fit starts from temperature 1 whatever the file contains, so that a run that is killed here and resumed ends
        with the same result. A file that has this temperature already is not written again, as thresholds may have been
        tuned for it in the meantime.
        """
        path, device = self.path / MODEL, self.trainer.device
        best, _ = serialization.load(path, device, trust=serialization.stage_packages(self.config))
        if self.trainer.val is None:
            return best
        saved = {name: tensor.clone() for name, tensor in best.state_dict().items()}
        best.temperature.fill_(1)
        outcome = self._predict(best, "val")
        probabilities, targets = outcome.probabilities, outcome.targets
        fitted = fit_temperatures(probabilities, targets)
        before = expected_calibration_error(probabilities, targets)
        after = calibration_error_at(best.task, probabilities, targets, fitted)
        if after <= before:
            best.temperature.copy_(torch.from_numpy(fitted))
            log.info("temperature %.2f: calibration error of val %.3f -> %.3f", fitted.mean(), before, after)
        else:
            message = "temperature 1: %.2f, fitted to val, would raise its calibration error from %.3f to %.3f"
            log.info(message, fitted.mean(), before, after)
        if best.task.thresholds is not None:
            probabilities = self._predict(best, "val").probabilities
            best.task.thresholds.copy_(torch.from_numpy(fit_thresholds(probabilities, targets)))
            limits = sorted({f"{limit:.2f}" for limit in best.task.thresholds.aminmax()})
            log.info("thresholds %s: of the best macro F1 of val", " to ".join(limits))
        if any(not torch.equal(tensor, saved[name]) for name, tensor in best.state_dict().items()):
            self._save_model(best)
        return best

    def _predict(self, classifier: Classifier, rows: str | Array, with_embeddings: bool = False) -> Outcome:
        batches = self.dataset.batches(rows, self.trainer.plan.batch_size, self.trainer.device, cover=True)
        with self.trainer.clock.measure("evaluation"):
            return predict_batches(classifier, batches, with_embeddings=with_embeddings)

    def _save_model(self, classifier: Classifier) -> None:
        try:
            serialization.save(classifier, self.config, self.path / MODEL, self.dataset.split_checksums)
        except SafetensorError as error:
            raise OSError(f"{self.path / MODEL} cannot be written: {error}") from error

    def _write_report(
        self, classifier: Classifier, split: str, outcome: Outcome, notes: list[str], training: Training
    ) -> None:
        path, batch_size = self.path / "report.html", self.trainer.plan.batch_size
        metrics = compute_metrics(outcome, classifier.labels, self.trainer.metrics)
        result = EvaluationResult(
            classifier,
            self.dataset,
            split,
            outcome,
            metrics,
            batch_size,
            self.path / MODEL,
            notes,
            is_held_out=True,
            config=self.config,
            training=[training],
        )
        write_page(result, path, self.trainer.config.report_max_mb)
        log.info("the report of the %s split is %s", split, path)


def _without_speed(epoch: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of an epoch that the seed determines."""
    train = {name: value for name, value in epoch["train"].items() if name != "clips_per_second"}
    return {"epoch": epoch["epoch"], "train": train, "val": epoch["val"]}


def finished_metrics(folder: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the content of metrics.json if a run of this config has finished; None if there is more to train.

    Args:
        folder: Folder of the run.
        config: Resolved config; keys that determine the result must be those that the run was started with.

    Raises:
        UserError: A run of another config.
    """
    if not (folder / METRICS).is_file():
        return None
    before = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    checkpoint.require_same_config(folder, before, config)
    length, length_before = ([node["trainer"].get(name) for name in ("epochs", "steps")] for node in (config, before))
    if length != length_before or before.get("final") != config.get("final"):
        return None
    metrics: dict[str, Any] = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    return metrics


def _log_summary(trainer: Trainer) -> None:
    dataset = trainer.dataset
    seconds = float(dataset.cache.lengths.mean()) / dataset.cache.sample_rate
    stages = trainer.classifier.summary(min(seconds, dataset.max_seconds or seconds))
    log.info("%s parameters; output shapes for a clip of average length:", f"{sum(s.parameters for s in stages):,}")
    for stage in stages:
        log.info("  %-10s%-20s%10s", stage.name, " x ".join(map(str, stage.shape)), f"{stage.parameters:,}")
    plan, num_batches, config = trainer.plan, len(trainer.train), trainer.config
    settings = {"epochs": config.epochs, "batch_size": config.batch_size, "patience": config.patience}
    log.info(
        "training: %s%s of %s of at most %s (%s)%s",
        "" if plan.patience is None else "up to ",
        counted(plan.epochs, "epoch"),
        counted(num_batches, "batch", "batches"),
        counted(plan.batch_size, "clip"),
        f"{plan.epochs * trainer.epoch_steps:,} step{'s' * (plan.epochs * trainer.epoch_steps > 1)}",
        "".join(f", trainer.{name}=auto" for name, value in settings.items() if value == "auto"),
    )
