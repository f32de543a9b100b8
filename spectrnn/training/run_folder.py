"""What a training leaves in its run's folder; only the first of several processes writes."""

import logging
import statistics
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError

from spectrnn import distributed
from spectrnn.data.batches import Batch
from spectrnn.data.dataset import Dataset
from spectrnn.evaluation.calibration import apply_temperature, fit_temperature
from spectrnn.evaluation.evaluate import compute_metrics, predict_batches
from spectrnn.evaluation.metrics import Array, classification_metrics, confusion_matrix, expected_calibration_error
from spectrnn.evaluation.report.html import EvaluationResult, write_page
from spectrnn.files import write_json
from spectrnn.model import serialization as model_file
from spectrnn.model.classifier import Classifier
from spectrnn.runs import MODEL, commit_resumed_config
from spectrnn.training import checkpoint
from spectrnn.training.logger import RunLogger, table
from spectrnn.training.trainer import Trainer

log = logging.getLogger(__name__)

_COLUMNS = ["accuracy", "balanced_accuracy", "macro_f1", "loss", "ece"]
_HPARAM_KEYS = (
    "features.n_mels",
    "model.hidden_size",
    "model.num_layers",
    "model.dropout",
    "head.dropout",
    "optimizer.lr",
    "optimizer.weight_decay",
    "trainer.batch_size",
    "trainer.epochs",
    "task.label_smoothing",
)
_GROUPS = ("data", "augment", "features", "normalize", "model", "pooling", "optimizer", "scheduler")


class RunFolder:
    """A training and its folder.

    Args:
        folder: where model.safetensors, last.ckpt, metrics.json and TensorBoard's events go.
        config: of the run, plain containers.
        trainer: of the run.
        dataset: of the run.
    """

    def __init__(self, folder: Path, config: dict[str, Any], trainer: Trainer, dataset: Dataset) -> None:
        self.folder, self.config, self.trainer, self.dataset = folder, config, trainer, dataset
        self.classifier = trainer.learner.classifier
        self.shown = _preview_batch(trainer, dataset)

    def begin(self, config: DictConfig, fresh: bool) -> None:
        """Writes the resolved config, and, before the first step, a first checkpoint."""
        if distributed.rank():
            return
        _log_summary(self.classifier, self.dataset)
        commit_resumed_config(self.folder)
        self.dataset.list_skipped(self.folder)
        OmegaConf.save(config, self.folder / "config.yaml", resolve=True)
        if fresh:
            checkpoint.save(self.trainer.state_dict(), self.config, self.folder)

    def save(self, run_log: RunLogger, better: bool) -> None:
        """Saves the run as it stands, and the classifier where it is the best so far."""
        if distributed.rank():
            return
        trainer = self.trainer
        if better:
            self._write(trainer.learner.candidate)
        if trainer.epoch == 1 and not trainer.done:  # not before: drawing takes longer than all before the first step
            run_log.batch(self.classifier, *self.shown, trainer.clips_seen)
        run_log.flush()  # the curves reach as far as the checkpoint
        checkpoint.save(trainer.state_dict(), self.config, self.folder)

    def finish(self, run_log: RunLogger, choices: Mapping[str, str]) -> dict[str, Any]:
        """Calibrates the best classifier, evaluates it, writes metrics.json and report.html, and prints the table.

        Args:
            run_log: of the run.
            choices: the option chosen in each config group.

        Returns:
            What metrics.json holds; nothing in any process but the first.
        """
        if distributed.rank():
            return {}
        trainer = self.trainer
        # A step that no checkpoint has reached: if the run is killed here and goes on, nothing is told twice.
        step = trainer.clips_seen + 1
        best = self._calibrated()
        run_log.attention(best, *self.shown, step)
        speeds = [epoch["train"]["clips_per_second"] for epoch in trainer.history]
        metrics: dict[str, Any] = {
            "train": {**trainer.history[-1]["train"], "clips_per_second": statistics.median(speeds)},
            "epochs": trainer.epoch,
            "parameters": sum(p.numel() for p in best.parameters()),
            "temperature": float(best.temperature),
        }
        final: dict[str, float] = {}
        found: dict[str, Array] = {}
        for split in ("val", "test"):
            if len(self.dataset.rows(split)):
                with trainer.clock.measure("evaluation"):
                    probabilities, targets = self._classify(best, split)
                found[split], metrics[split] = probabilities, classification_metrics(probabilities, targets)
                best_of = "best_" if split == "val" else ""  # whose curve goes on to the last epoch
                final |= {f"{split}/{best_of}{name}": metrics[split][name] for name in ("accuracy", "macro_f1", "loss")}
                run_log.confusion(split, confusion_matrix(probabilities, targets), best.labels, step)
        run_log.finish(hyperparameters(self.config, choices), final, step)
        write_json(metrics, self.folder / "metrics.json")
        if trainer.settings.report and found:
            with trainer.clock.measure("report"):
                self._report(best, *list(found.items())[-1])
        log.info("\nwhere the time went\n%s", trainer.clock.table())
        log.info("\n%s\n", table({split: metrics.get(split) for split in ("val", "test")}, _COLUMNS))
        log.info("%.0f clips/s; the run is in %s", metrics["train"]["clips_per_second"], self.folder)
        return metrics

    def _calibrated(self) -> Classifier:
        """The best classifier, at the temperature of the validation split, where there is one.

        It is fitted from temperature 1 on, whatever the file says, so that a run that is killed here and goes on ends
        alike. A file that says it already is left alone: what was decided for this very classifier stays in it.
        """
        path = self.folder / MODEL
        best, _ = model_file.load(path, self.trainer.batches.device)
        if not len(self.dataset.rows("val")):
            return best
        before = float(best.temperature)
        best.temperature.fill_(1)
        with self.trainer.clock.measure("evaluation"):
            probabilities, targets = self._classify(best, "val")
        best.temperature.fill_(fit_temperature(probabilities, targets))
        temperature = float(best.temperature)
        if temperature != before:
            self._write(best)
        errors = [
            expected_calibration_error(p, targets)
            for p in (probabilities, apply_temperature(probabilities, temperature))
        ]
        log.info("temperature %.2f: calibration error of val %.3f -> %.3f", temperature, *errors)
        return best

    def _classify(self, classifier: Classifier, split: str) -> tuple[Array, Array]:
        batches = self.dataset.batches(split, self.trainer.settings.batch_size, self.trainer.batches.device)
        return predict_batches(classifier, batches)

    def _write(self, classifier: Classifier) -> None:
        try:
            model_file.save(classifier, self.config, self.folder / MODEL, self.dataset.fingerprints)
        except SafetensorError as error:
            raise OSError(f"{self.folder / MODEL} cannot be written: {error}") from error

    def _report(self, classifier: Classifier, split: str, probabilities: Array) -> None:
        path, settings, dataset = self.folder / "report.html", self.trainer.settings, self.dataset
        figures = compute_metrics(probabilities, dataset.targets(dataset.rows(split)), classifier.labels)
        evaluation = EvaluationResult(
            classifier,
            dataset,
            split,
            probabilities,
            figures,
            settings.batch_size,
            self.folder / MODEL,
            notes=[],
            fresh=True,
        )
        write_page(evaluation, path, settings.report_max_mb)
        log.info("the report of the %s split is %s", split, path)


def hyperparameters(config: Mapping[str, Any], choices: Mapping[str, str]) -> dict[str, bool | int | float | str]:
    """What runs are compared by: the option chosen in each group, and the numbers that are turned most."""
    found: dict[str, bool | int | float | str] = {group: str(choices[group]) for group in _GROUPS if group in choices}
    found["augment"] = ",".join(config.get("augment") or ()) or "none"
    for key in _HPARAM_KEYS:
        group, name = key.split(".")
        if config[group].get(name) is not None:
            found[key] = config[group][name]
    return {**found, "seed": config["seed"]}


def _preview_batch(trainer: Trainer, dataset: Dataset) -> tuple[Batch, list[str]]:
    """The batch whose clips TensorBoard shows, and their labels; a full one, if the first few hold one."""
    batch = max(islice(trainer.batches.epoch(0), 8), key=lambda batch: len(batch.rows))
    return batch, [dataset.clips[int(row)].label for row in batch.rows]


def _log_summary(classifier: Classifier, dataset: Dataset) -> None:
    seconds = float(dataset.store.lengths.mean()) / dataset.store.sample_rate
    stages = classifier.summary(min(seconds, dataset.max_seconds or seconds))
    log.info("%s parameters; a clip of average length on its way:", f"{sum(s.parameters for s in stages):,}")
    for stage in stages:
        log.info("  %-10s%-20s%10s", stage.name, " x ".join(map(str, stage.shape)), f"{stage.parameters:,}")
