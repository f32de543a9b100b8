"""`spectrnn train`: from a config to a trained classifier in a run's folder."""

import logging
import shutil
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from tqdm.contrib.logging import logging_redirect_tqdm

from spectrnn.config import Whole, build, check, plain
from spectrnn.data.batches import Batch
from spectrnn.data.clips import Source
from spectrnn.data.corpus import Corpus, open_corpus
from spectrnn.data.splits import fingerprints
from spectrnn.devices import pick_device
from spectrnn.errors import SettingError, UserError
from spectrnn.files import write_json
from spectrnn.frontend.augment import Augment
from spectrnn.inference.evaluate import classify
from spectrnn.inference.metrics import confusion, score
from spectrnn.model import file as model_file
from spectrnn.model.classifier import Classifier
from spectrnn.progress import Stopwatch
from spectrnn.runs import CHECKPOINT, MODEL, accept_resumed
from spectrnn.training import checkpoint
from spectrnn.training.logs import RunLog, table
from spectrnn.training.loop import Settings, Trainer, seed_everything

log = logging.getLogger(__name__)

_COLUMNS = ["accuracy", "balanced_accuracy", "macro_f1", "loss", "ece"]
_TURNED = ("features.n_mels", "model.hidden_size", "model.num_layers", "model.dropout", "head.dropout", "optimizer.lr",
           "optimizer.weight_decay", "trainer.batch_size", "trainer.epochs", "trainer.label_smoothing")  # fmt: skip
_GROUPS = ("data", "augment", "features", "normalize", "model", "pooling", "optimizer", "scheduler")


@dataclass(kw_only=True)
class TrainConfig:
    """The top level of train.yaml."""

    data: dict[str, Any]
    augment: dict[str, Any] | None = None
    features: dict[str, Any]
    normalize: dict[str, Any]
    model: dict[str, Any]
    pooling: dict[str, Any]
    head: dict[str, Any]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    trainer: dict[str, Any]
    seed: Whole
    resume: str | None


def train_in(folder: Path, config: DictConfig, choices: Mapping[str, str]) -> dict[str, Any]:
    """`train`, leaving no folder behind where a mistake ended the run before it began."""
    try:
        if not config.resume and any((folder / name).exists() for name in (MODEL, CHECKPOINT)):
            raise UserError(f"hydra.run.dir={folder}: holds a run already; resume={folder} goes on with it")
        (folder / ".hydra").mkdir(exist_ok=True)
        with FileLock(folder / ".hydra" / "lock", blocking=False), logging_redirect_tqdm():
            return train(config, folder, choices)
    except Timeout as error:
        raise UserError(f"hydra.run.dir={folder}: another run is writing there; start again") from error
    except UserError:
        written = {path.name for path in folder.iterdir()}
        if written <= {".hydra", "train.log"}:
            logging.shutdown()
            shutil.rmtree(folder)
        raise


def train(config: DictConfig, folder: Path, choices: Mapping[str, str]) -> dict[str, Any]:
    """Trains a classifier.

    Args:
        config: as train.yaml composes it.
        folder: of the run; model.safetensors, last.ckpt, metrics.json and TensorBoard's events are written there.
        choices: the option chosen in each config group, for TensorBoard.

    Returns:
        What metrics.json holds.

    Raises:
        UserError: any mistake in the config, the corpus or the folder.
    """
    clock = Stopwatch()
    plain_config = plain(config, "")
    check(plain_config, TrainConfig, "")
    settings: Settings = build(config.trainer, "trainer")
    source: Source = build(config.data, "data")
    device = pick_device(settings.device, "trainer.device")
    augment = Augment([build(node, f"augment.{name}") for name, node in (config.get("augment") or {}).items()])
    _try_stages(plain_config, source.sample_rate)
    state = checkpoint.load(folder, plain_config) if config.resume else None

    corpus = open_corpus(source, device)
    log.info("%s", corpus.describe())
    seed_everything(config.seed, 0)
    classifier = Classifier(plain_config, corpus.labels, augment).to(device)
    trainer = _trainer(config, settings, classifier, corpus, clock)
    if state is None:
        _fit_normalization(classifier, corpus, settings.batch_size, device)
    else:
        trainer.load_state_dict(state)
        accept_resumed(folder)
        log.info("going on after epoch %d", trainer.epoch)
    _log_summary(classifier, corpus)
    OmegaConf.save(config, folder / "config.yaml", resolve=True)

    shown, splits = _shown(trainer, corpus), fingerprints(corpus.clips)

    def after_epoch(better: bool) -> None:
        if better:
            model_file.save(trainer.candidate, plain_config, folder / MODEL, splits)
        checkpoint.save(trainer.state_dict(), plain_config, folder)
        if trainer.epoch == 1:  # not before: drawing them takes longer than anything else before the first step
            run_log.batch(classifier, *shown, trainer.clips_seen)

    with RunLog(folder, trainer.clips_seen if state else None) as run_log:
        clock.begun("start")
        trainer.fit(run_log, after_epoch)
        best, _ = model_file.load(folder / MODEL, device)
        run_log.attention(best, *shown, trainer.clips_seen)
        return _finish(run_log, trainer, best, corpus, hyperparameters(plain_config, choices), folder)


def hyperparameters(config: Mapping[str, Any], choices: Mapping[str, str]) -> dict[str, bool | int | float | str]:
    """What runs are compared by: the option chosen in each group, and the numbers that are turned most."""
    found: dict[str, bool | int | float | str] = {group: str(choices[group]) for group in _GROUPS if group in choices}
    found["augment"] = ",".join(config.get("augment") or ()) or "none"
    for key in _TURNED:
        group, name = key.split(".")
        if config[group].get(name) is not None:
            found[key] = config[group][name]
    return {**found, "seed": config["seed"]}


def _trainer(
    config: DictConfig, settings: Settings, classifier: Classifier, corpus: Corpus, clock: Stopwatch
) -> Trainer:
    device = next(classifier.parameters()).device
    batches = corpus.batches("train", settings.batch_size, device, config.seed)
    classifier.longest.fill_(int(batches.lengths.max()))
    val = corpus.batches("val", settings.batch_size, device) if len(corpus.rows("val")) else None
    optimizer = build(config.optimizer, "optimizer", params=classifier.parameters())
    steps = settings.epochs * -(-len(batches) // settings.accumulate)
    schedule = build(config.scheduler, "scheduler", optimizer=optimizer, steps=steps)
    try:
        return Trainer(settings, classifier, optimizer, schedule, batches, val, config.seed, clock)
    except SettingError as error:
        raise UserError(f"trainer.{error}") from error


def _try_stages(config: dict[str, Any], sample_rate: int) -> None:
    """Builds the classifier once for nothing, so that a mistake in a stage shows before any audio is read."""
    rate = Classifier(config, ["a", "b"]).sample_rate
    model_file.require_ours(config)
    if rate != sample_rate:
        raise UserError(f"features.sample_rate={rate}: the corpus has data.sample_rate={sample_rate} Hz")


def _shown(trainer: Trainer, corpus: Corpus) -> tuple[Batch, list[str]]:
    """The batch whose clips TensorBoard shows, and their labels; a full one, if the first few hold one."""
    batch = max(islice(trainer.train_batches.epoch(0), 8), key=lambda batch: len(batch.rows))
    return batch, [corpus.clips[int(row)].label for row in batch.rows]


def _fit_normalization(classifier: Classifier, corpus: Corpus, batch_size: int, device: torch.device) -> None:
    batches = corpus.batches("train", batch_size, device)
    with torch.no_grad():
        classifier.normalize.fit(classifier.features(batch.waveform, batch.lengths) for batch in batches.epoch())


def _log_summary(classifier: Classifier, corpus: Corpus) -> None:
    seconds = float(corpus.store.lengths.mean()) / corpus.store.sample_rate
    stages = classifier.summary(min(seconds, corpus.max_seconds or seconds))
    log.info("%s parameters; a clip of average length on its way:", f"{sum(s.parameters for s in stages):,}")
    for stage in stages:
        log.info("  %-10s%-20s%10s", stage.name, " x ".join(map(str, stage.shape)), f"{stage.parameters:,}")


def _finish(
    run_log: RunLog,
    trainer: Trainer,
    best: Classifier,
    corpus: Corpus,
    hyperparameters: Mapping[str, Any],
    folder: Path,
) -> dict[str, Any]:
    """Evaluates the best classifier, writes metrics.json, and prints the table."""
    speeds = [epoch["train"]["clips_per_second"] for epoch in trainer.history]
    metrics: dict[str, Any] = {
        "train": {**trainer.history[-1]["train"], "clips_per_second": statistics.median(speeds)},
        "epochs": trainer.epoch,
        "parameters": sum(p.numel() for p in best.parameters()),
    }
    final = {"clips_per_second": metrics["train"]["clips_per_second"]}
    for split in ("val", "test"):
        if len(corpus.rows(split)):
            with trainer.clock.measure("evaluation"):
                batches = corpus.batches(split, trainer.settings.batch_size, trainer.device)
                probabilities, targets = classify(best, batches)
            metrics[split] = score(probabilities, targets)
            final |= {f"{split}_{name}": metrics[split][name] for name in ("accuracy", "macro_f1", "loss")}
            run_log.confusion(split, confusion(probabilities, targets), best.labels, trainer.clips_seen)
    write_json(metrics, folder / "metrics.json")
    run_log.finish(hyperparameters, final)
    log.info("\nwhere the time went\n%s", trainer.clock.table())
    log.info("\n%s\n", table({split: metrics.get(split) for split in ("val", "test")}, _COLUMNS))
    log.info("%.0f clips/s; the run is in %s", metrics["train"]["clips_per_second"], folder)
    return metrics
