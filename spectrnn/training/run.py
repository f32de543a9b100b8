"""What a training leaves in its run's folder; only the first of several processes writes."""

import logging
import statistics
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError

from spectrnn import processes
from spectrnn.data.batches import Batch
from spectrnn.data.corpus import Corpus
from spectrnn.files import write_json
from spectrnn.inference.calibration import fit_temperature, tempered
from spectrnn.inference.evaluate import classify, full_report
from spectrnn.inference.metrics import Array, calibration_error, confusion, score
from spectrnn.inference.report.page import Evaluation, write_page
from spectrnn.model import file as model_file
from spectrnn.model.classifier import Classifier
from spectrnn.runs import MODEL, accept_resumed
from spectrnn.training import checkpoint
from spectrnn.training.logs import RunLog, table
from spectrnn.training.loop import Trainer

log = logging.getLogger(__name__)

_COLUMNS = ["accuracy", "balanced_accuracy", "macro_f1", "loss", "ece"]
_TURNED = ("features.n_mels", "model.hidden_size", "model.num_layers", "model.dropout", "head.dropout", "optimizer.lr",
           "optimizer.weight_decay", "trainer.batch_size", "trainer.epochs", "trainer.label_smoothing")  # fmt: skip
_GROUPS = ("data", "augment", "features", "normalize", "model", "pooling", "optimizer", "scheduler")


class Run:
    """A training and its folder.

    Args:
        folder: where model.safetensors, last.ckpt, metrics.json and TensorBoard's events go.
        config: of the run, plain containers.
        trainer: of the run.
        corpus: of the run.
    """

    def __init__(self, folder: Path, config: dict[str, Any], trainer: Trainer, corpus: Corpus) -> None:
        self.folder, self.config, self.trainer, self.corpus = folder, config, trainer, corpus
        self.classifier = trainer.learner.classifier
        self.shown = _shown(trainer, corpus)

    def begin(self, config: DictConfig, fresh: bool) -> None:
        """Writes the resolved config, and, before the first step, a first checkpoint."""
        if processes.rank():
            return
        _log_summary(self.classifier, self.corpus)
        accept_resumed(self.folder)
        self.corpus.list_skipped(self.folder)
        OmegaConf.save(config, self.folder / "config.yaml", resolve=True)
        if fresh:
            checkpoint.save(self.trainer.state_dict(), self.config, self.folder)

    def save(self, run_log: RunLog, better: bool) -> None:
        """Saves the run as it stands, and the classifier where it is the best so far."""
        if processes.rank():
            return
        trainer = self.trainer
        if better:
            self._write(trainer.learner.candidate)
        if trainer.epoch == 1 and not trainer.done:  # not before: drawing takes longer than all before the first step
            run_log.batch(self.classifier, *self.shown, trainer.clips_seen)
        run_log.flush()  # the curves reach as far as the checkpoint
        checkpoint.save(trainer.state_dict(), self.config, self.folder)

    def finish(self, run_log: RunLog, choices: Mapping[str, str]) -> dict[str, Any]:
        """Calibrates the best classifier, evaluates it, writes metrics.json and report.html, and prints the table.

        Args:
            run_log: of the run.
            choices: the option chosen in each config group.

        Returns:
            What metrics.json holds; nothing in any process but the first.
        """
        if processes.rank():
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
            if len(self.corpus.rows(split)):
                with trainer.clock.measure("evaluation"):
                    probabilities, targets = self._classify(best, split)
                found[split], metrics[split] = probabilities, score(probabilities, targets)
                best_of = "best_" if split == "val" else ""  # whose curve goes on to the last epoch
                final |= {f"{split}/{best_of}{name}": metrics[split][name] for name in ("accuracy", "macro_f1", "loss")}
                run_log.confusion(split, confusion(probabilities, targets), best.labels, step)
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
        if not len(self.corpus.rows("val")):
            return best
        before = float(best.temperature)
        best.temperature.fill_(1)
        with self.trainer.clock.measure("evaluation"):
            probabilities, targets = self._classify(best, "val")
        best.temperature.fill_(fit_temperature(probabilities, targets))
        temperature = float(best.temperature)
        if temperature != before:
            self._write(best)
        errors = [calibration_error(p, targets) for p in (probabilities, tempered(probabilities, temperature))]
        log.info("temperature %.2f: calibration error of val %.3f -> %.3f", temperature, *errors)
        return best

    def _classify(self, classifier: Classifier, split: str) -> tuple[Array, Array]:
        batches = self.corpus.batches(split, self.trainer.settings.batch_size, self.trainer.batches.device)
        return classify(classifier, batches)

    def _write(self, classifier: Classifier) -> None:
        try:
            model_file.save(classifier, self.config, self.folder / MODEL, self.corpus.fingerprints)
        except SafetensorError as error:
            raise OSError(f"{self.folder / MODEL} cannot be written: {error}") from error

    def _report(self, classifier: Classifier, split: str, probabilities: Array) -> None:
        path, settings, corpus = self.folder / "report.html", self.trainer.settings, self.corpus
        figures = full_report(probabilities, corpus.targets(corpus.rows(split)), classifier.labels)
        evaluation = Evaluation(classifier, corpus, split, probabilities, figures, settings.batch_size,
                                self.folder / MODEL, notes=[], fresh=True)  # fmt: skip
        write_page(evaluation, path, settings.report_megabytes)
        log.info("the report of the %s split is %s", split, path)


def hyperparameters(config: Mapping[str, Any], choices: Mapping[str, str]) -> dict[str, bool | int | float | str]:
    """What runs are compared by: the option chosen in each group, and the numbers that are turned most."""
    found: dict[str, bool | int | float | str] = {group: str(choices[group]) for group in _GROUPS if group in choices}
    found["augment"] = ",".join(config.get("augment") or ()) or "none"
    for key in _TURNED:
        group, name = key.split(".")
        if config[group].get(name) is not None:
            found[key] = config[group][name]
    return {**found, "seed": config["seed"]}


def _shown(trainer: Trainer, corpus: Corpus) -> tuple[Batch, list[str]]:
    """The batch whose clips TensorBoard shows, and their labels; a full one, if the first few hold one."""
    batch = max(islice(trainer.batches.epoch(0), 8), key=lambda batch: len(batch.rows))
    return batch, [corpus.clips[int(row)].label for row in batch.rows]


def _log_summary(classifier: Classifier, corpus: Corpus) -> None:
    seconds = float(corpus.store.lengths.mean()) / corpus.store.sample_rate
    stages = classifier.summary(min(seconds, corpus.max_seconds or seconds))
    log.info("%s parameters; a clip of average length on its way:", f"{sum(s.parameters for s in stages):,}")
    for stage in stages:
        log.info("  %-10s%-20s%10s", stage.name, " x ".join(map(str, stage.shape)), f"{stage.parameters:,}")
