"""`spectrnn train`: from a config to a trained classifier in a run's folder."""

import logging
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from omegaconf import DictConfig
from tqdm.contrib.logging import logging_redirect_tqdm

from spectrnn import distributed
from spectrnn.config.instantiate import instantiate, to_container
from spectrnn.config.types import MAX_CLIP_SECONDS
from spectrnn.data.dataset import Dataset, open_dataset
from spectrnn.errors import TrainingInterrupted, UserError
from spectrnn.files import remove_stale_temporaries
from spectrnn.model.classifier import Classifier, build_stages
from spectrnn.progress import Stopwatch
from spectrnn.runs import CHECKPOINT, MODEL
from spectrnn.training import checkpoint
from spectrnn.training.logger import NullLogger, RunLogger
from spectrnn.training.preflight import preflight
from spectrnn.training.run_folder import RunFolder
from spectrnn.training.trainer import Learner, Trainer, TrainerConfig, seed_everything

log = logging.getLogger(__name__)


def run_training(folder: Path, config: DictConfig, choices: Mapping[str, str]) -> dict[str, Any]:
    """`train`, leaving no folder behind where a mistake ended the run before it began."""
    if distributed.rank():  # another one holds the folder
        return train(config, folder, choices)
    try:
        if not config.resume and any((folder / name).exists() for name in (MODEL, CHECKPOINT)):
            raise UserError(f"hydra.run.dir={folder}: holds a run already; resume={folder} goes on with it")
        (folder / ".hydra").mkdir(exist_ok=True)
        with FileLock(folder / ".hydra" / "lock", blocking=False), logging_redirect_tqdm():
            remove_stale_temporaries(folder)
            return train(config, folder, choices)
    except Timeout as error:
        raise UserError(f"hydra.run.dir={folder}: another run is writing there; start again") from error
    except UserError:
        written = {path.name for path in folder.iterdir()}
        if written <= {".hydra", "train.log"} and not config.resume:
            logging.shutdown()
            shutil.rmtree(folder)
        raise


def train(config: DictConfig, folder: Path, choices: Mapping[str, str]) -> dict[str, Any]:
    """Trains a classifier.

    Args:
        config: as train.yaml composes it.
        folder: of the run; model.safetensors, last.ckpt, metrics.json and TensorBoard's events are written there. Where
            several processes train, it is the first one's.
        choices: the option chosen in each config group, for TensorBoard.

    Returns:
        What metrics.json holds; nothing in any process but the first.

    Raises:
        UserError: any mistake in the config, the dataset or the folder.
        Stopped: a signal came; the run is saved.
    """
    clock = Stopwatch()
    settings, source, device, augment = preflight(config)
    plain_config = to_container(config, "")
    with distributed.process_group(device):
        folder = distributed.broadcast_object(folder)
        state = checkpoint.load(folder, plain_config) if (folder / CHECKPOINT).exists() else None
        dataset = open_dataset(source, device)
        log.info("%s", dataset.describe())
        seed_everything(config.seed, 0)
        classifier = Classifier(build_stages(plain_config, len(dataset.labels)), dataset.labels, augment).to(device)
        if state is None and distributed.rank() == 0:
            _fit_normalization(classifier, dataset, settings.batch_size, device)
        distributed.broadcast_tensors(classifier.buffers())  # weights are aligned by what learns them
        trainer = _trainer(config, settings, classifier, dataset, clock)
        if state is not None:
            trainer.load_state_dict(state)
            log.info("going on after epoch %d%s", trainer.epoch, f", batch {trainer.done}" if trainer.done else "")
        run = RunFolder(folder, plain_config, trainer, dataset)
        run.begin(config, state is None)
        clock.begun("start")
        try:
            with (
                NullLogger()
                if distributed.rank()
                else RunLogger(folder, trainer.clips_seen if state else None) as run_log
            ):
                trainer.fit(run_log, partial(run.save, run_log))
                return run.finish(run_log, choices)
        except TrainingInterrupted as stopped:
            raise TrainingInterrupted(
                f"{stopped}; spectrnn train resume={folder} goes on from there", stopped.code
            ) from None
        except OSError as error:
            place = error.filename or folder
            raise UserError(f"{place}: {error.strerror or error}; resume={folder} goes on from {CHECKPOINT}") from error


def _trainer(
    config: DictConfig, settings: TrainerConfig, classifier: Classifier, dataset: Dataset, clock: Stopwatch
) -> Trainer:
    device, share = next(classifier.parameters()).device, (distributed.rank(), distributed.world_size())
    batches = dataset.batches("train", settings.batch_size, device, config.seed, share)
    longest = int(batches.lengths.max())
    if longest > MAX_CLIP_SECONDS * classifier.sample_rate:
        seconds = longest / classifier.sample_rate
        raise UserError(f"data.max_seconds: a clip of {seconds:.0f} s is too long; at most {MAX_CLIP_SECONDS}")
    classifier.max_train_samples.fill_(longest)
    val = dataset.batches("val", settings.batch_size, device, share=share) if len(dataset.rows("val")) else None
    optimizer = instantiate(config.optimizer, "optimizer", params=classifier.parameters())
    steps = settings.epochs * -(-len(batches) // settings.grad_accum_steps)
    schedule = instantiate(config.scheduler, "scheduler", optimizer=optimizer, steps=steps)
    learner = Learner(settings, classifier, optimizer, schedule, batches, config.seed)
    return Trainer(learner, val, dataset, clock)


def _fit_normalization(classifier: Classifier, dataset: Dataset, batch_size: int, device: torch.device) -> None:
    batches = dataset.batches("train", batch_size, device)
    with torch.no_grad():
        classifier.normalization.fit(classifier.features(batch.waveform, batch.lengths) for batch in batches.epoch())
