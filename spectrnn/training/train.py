"""`spectrnn train`: trains a classifier and writes the run folder."""

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from omegaconf import DictConfig
from tqdm.contrib.logging import logging_redirect_tqdm

from spectrnn import distributed
from spectrnn.config.instantiate import instantiate
from spectrnn.config.types import MAX_CLIP_SECONDS
from spectrnn.data.dataset import Dataset, open_dataset
from spectrnn.devices import log_device, reporting_out_of_memory
from spectrnn.errors import FileErrors, StorageError, UserError
from spectrnn.evaluation.evaluate import is_same_dataset, warn_about_train_overlap
from spectrnn.files import cache_folder, remove_stale_temporaries
from spectrnn.model.classifier import Classifier, build_stages
from spectrnn.model.header import read_header
from spectrnn.progress import Stopwatch
from spectrnn.runs import CHECKPOINT, LOCK, MODEL, UNREADABLE, with_run_paths
from spectrnn.training import checkpoint
from spectrnn.training.logger import NullLogger, RunLogger
from spectrnn.training.optimizers import without_decay_of_vectors
from spectrnn.training.plan import continued, plan_training
from spectrnn.training.preflight import RunComponents, preflight
from spectrnn.training.run_folder import RunFolder, finished_metrics
from spectrnn.training.trainer import EpochCallback, Trainer, seed_generators
from spectrnn.training.warm_start import Freezing, load_initial_weights, parameter_groups

log = logging.getLogger(__name__)


def run_training(folder: Path, config: DictConfig, choices: Mapping[str, str]) -> dict[str, Any]:
    """Runs `train` in a new folder or, with `resume`, in one that contains a run.

    Raises:
        UserError: As `train` raises; and a folder that contains another run.
        TrainingInterrupted: A signal; the run has been saved.
    """
    if not config.resume and not distributed.rank() and any((folder / name).exists() for name in (MODEL, CHECKPOINT)):
        raise UserError(f"hydra.run.dir={folder}: contains a run already; resume={folder} continues it")
    with removed_if_unused(folder, config):
        return train_exclusively(folder, config, choices)


@contextmanager
def removed_if_unused(folder: Path, config: DictConfig) -> Iterator[None]:
    """Removes the folder of a new run if the block raises a `UserError` before the run has started.

    It is kept if it lists the files of a `FileErrors`.
    """
    try:
        yield
    except UserError as error:
        if distributed.rank() == 0 and isinstance(error, FileErrors) and error.is_shortened:
            error.list_in(folder / UNREADABLE)
        if distributed.rank() == 0 and not config.resume:
            files = {path.name for path in folder.iterdir()}
            if files <= {".hydra", "train.log"}:
                logging.shutdown()
                shutil.rmtree(folder)
        raise


@contextmanager
def exclusive_folder(folder: Path) -> Iterator[None]:
    """Holds the lock of a run folder within the block, and removes what a killed process has left.

    Raises:
        UserError: Another process holds it.
    """
    if distributed.rank():  # rank 0 holds it
        yield
        return
    (folder / LOCK).parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, blocking=False):
            remove_stale_temporaries(folder)
            yield
    except Timeout as error:
        raise UserError(f"hydra.run.dir={folder}: another process is using this run folder") from error


def train_exclusively(folder: Path, config: DictConfig, choices: Mapping[str, str]) -> dict[str, Any]:
    """Runs `train`, or continues it if the folder contains a run of this config, with exclusive access to the folder.

    Returns:
        The content of metrics.json; that of a finished run is read, unless `resume` is set, which continues it.
    """
    with exclusive_folder(folder), logging_redirect_tqdm():
        return train(config, folder, choices)


@reporting_out_of_memory("trainer.batch_size", "data.max_seconds")
def train(
    config: DictConfig,
    folder: Path,
    choices: Mapping[str, str],
    on_epoch: EpochCallback | None = None,
    splits: Sequence[str] = ("val", "test"),
) -> dict[str, Any]:
    """Trains a classifier.

    Args:
        config: Config as train.yaml composes it.
        folder: Folder of the run, which receives model.safetensors, last.ckpt, metrics.json and the logs.
            With several processes that of rank 0 is used.
        choices: Chosen option of each config group, for the loggers.
        on_epoch: As for `Trainer.fit`.
        splits: Splits that the best classifier is evaluated on.

    Returns:
        The content of metrics.json; empty on all ranks but the first.

    Raises:
        UserError: An error in the config, the dataset or the folder.
        TrainingInterrupted: A signal; the run has been saved.
    """
    clock = Stopwatch()
    run = preflight(config)
    log_device(run.device, run.precision)
    with distributed.process_group(run.device):
        folder = distributed.broadcast_object(folder)
        run = continued(run, folder)
        if not config.resume and (metrics := finished_metrics(folder, run.config)) is not None:
            return metrics
        state = checkpoint.load(folder, run.config)
        dataset = open_dataset(run.source, run.device, run.task.label_format)
        log.info("%s", dataset.describe())
        trainer = build_trainer(run, dataset, clock, is_new=state is None)
        if state is not None:
            trainer.load_state_dict(state)
            within = f", batch {trainer.batches_done}" if trainer.batches_done else ""
            log.info("resuming after epoch %d%s", trainer.epoch, within)
        resumed_at = None if state is None else trainer.clips_seen
        clock.mark_startup("start")
        try:
            names = trainer.plan.metric, run.task.fraction_correct
            with NullLogger() if distributed.rank() else RunLogger(run.loggers, *names) as logger:
                run_folder = RunFolder(folder, run.config, trainer, logger)
                run_folder.start(choices, resumed_at)
                trainer.fit(logger, run_folder.save, on_epoch)
                return run_folder.finish(splits)
        except OSError as error:
            place, reason = error.filename or folder, error.strerror or error
            raise StorageError(f"{place}: {reason}; resume={folder} continues from {CHECKPOINT}") from error


def build_trainer(run: RunComponents, dataset: Dataset, clock: Stopwatch, is_new: bool) -> Trainer:
    """Builds the classifier, its optimizer and schedule, and the trainer.

    Args:
        run: Components that `preflight` returned.
        dataset: Dataset of the run.
        clock: Stopwatch of the run.
        is_new: Whether to fit the normalization to the training split; a resumed run restores it.

    Raises:
        UserError: A training clip that is too long, or settings that do not fit the dataset.
    """
    config, plan = run.config, plan_training(run, dataset)
    seed, shard = config["seed"], (distributed.rank(), distributed.world_size())
    seed_generators(run.device, seed, 0)
    stages = build_stages(config, len(dataset.labels))
    classifier = Classifier(stages, dataset.labels, run.augment).to(run.device)
    classifier.features.use_cache(cache_folder(run.source.cache))
    is_fitted = is_new and config["init"] is not None and _start_from(Path(config["init"]), classifier, run, dataset)
    if is_new and not is_fitted:
        batches = dataset.batches("train", plan.batch_size, run.device, shard=shard).epoch()
        counted = (x for x in batches if x.rows[0] >= 0)
        classifier.eval()
        with torch.no_grad():
            classifier.normalization.fit(classifier.features(x.waveform, x.lengths) for x in counted)
        classifier.train()
    distributed.broadcast_tensors(classifier.buffers())  # DistributedDataParallel broadcasts the parameters

    train = dataset.batches("train", plan.batch_size, run.device, seed, shard)
    max_samples = int(train.lengths.max())
    if max_samples > MAX_CLIP_SECONDS * classifier.sample_rate:
        seconds = max_samples / classifier.sample_rate
        raise UserError(f"data.max_seconds: a clip of {seconds:.0f} s is too long; at most {MAX_CLIP_SECONDS}")
    classifier.max_train_samples.fill_(max_samples)
    classifier.task.fit(torch.from_numpy(train.targets), torch.from_numpy(train.draws))
    classifier.task.to(run.device)
    has_val = len(dataset.rows("val")) > 0
    val = dataset.batches("val", plan.batch_size, run.device, shard=shard, cover=True) if has_val else None

    settings, freezing = config["optimizer"], Freezing(config["freeze"], config["freeze_epochs"])
    parameters = parameter_groups(classifier, config["init_lr_factor"], settings.get("lr"), freezing)
    if "weight_decay" in settings:
        parameters = without_decay_of_vectors(parameters)
    optimizer = instantiate(settings, "optimizer", params=parameters)
    steps = plan.epochs * -(-len(train) // run.trainer.grad_accum_steps)
    schedule = instantiate(config["scheduler"], "scheduler", optimizer=optimizer, steps=steps)
    return Trainer(
        run.trainer,
        plan,
        classifier,
        optimizer,
        schedule,
        train,
        val,
        dataset,
        run.metrics,
        run.precision,
        seed,
        clock,
        freezing,
    )


def _start_from(model: Path, classifier: Classifier, run: RunComponents, dataset: Dataset) -> bool:
    """`load_initial_weights`, with a warning if the model may have been trained on clips that are tested now."""
    trained = with_run_paths(read_header(model)["config"].get("data"), model.parent)
    if is_same_dataset(run.config["data"], trained):
        warn_about_train_overlap(run.config["data"], trained, model, dataset, "test", f"init={model}")
    return load_initial_weights(classifier, model)
