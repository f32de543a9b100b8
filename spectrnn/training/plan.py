"""The plan of a training: what ``auto`` is for the number of epochs, the batch size, the patience and the metric."""

import logging
from pathlib import Path

from spectrnn.config.instantiate import instantiate
from spectrnn.data.dataset import Dataset
from spectrnn.runs import read_config
from spectrnn.training.advice import MIN_CLIPS_FRACTION, missing_classes
from spectrnn.training.preflight import RunComponents
from spectrnn.training.trainer import TrainerConfig, TrainingPlan

log = logging.getLogger(__name__)

# Batch size by the minimum number of training clips: a small corpus needs many steps more than it needs fast epochs.
_BATCH_SIZES = {0: 16, 1_000: 32, 2_000: 64}
_GPU_BATCH_SIZES = {**_BATCH_SIZES, 20_000: 256}  # as a GPU is not busy with small batches
# Epochs of this number of clips. A smaller corpus is seen more often, as its steps are few; a larger one less often, as
# its clips repeat each other, but not so much less that its steps are fewer. The powers are of the relative size.
_EPOCHS, _CLIPS = 25, 2_500
_SMALL_POWER, _LARGE_POWER = -0.7, -0.35
_MIN_EPOCHS, _MAX_EPOCHS = 10, 150
_WARM_START = 0.25  # of these epochs, as the weights of a trained model need fewer
_PATIENCE, _MIN_PATIENCE = 1 / 5, 5  # fraction of the epochs; epochs
_MIN_VAL_CLIPS = 1_000  # with fewer, the metrics of the validation split are too noisy to stop by


def automatic_batch_size(clips: int, on_gpu: bool) -> int:
    """Returns the batch size for a number of training clips."""
    sizes = _GPU_BATCH_SIZES if on_gpu else _BATCH_SIZES
    return max(size for minimum, size in sizes.items() if clips >= minimum)


def automatic_epochs(clips: int, relative_epochs: float = 1.0, is_warm: bool = False) -> int:
    """Returns the number of epochs.

    Args:
        clips: Number of training clips.
        relative_epochs: That of the task, as of `spectrnn.model.task.Task`.
        is_warm: Whether there are weights to start from.
    """
    power = _SMALL_POWER if clips < _CLIPS else _LARGE_POWER
    epochs = min(relative_epochs * _EPOCHS * (clips / _CLIPS) ** power, _MAX_EPOCHS)
    return max(round(_WARM_START * epochs if is_warm else epochs), _MIN_EPOCHS)


def automatic_patience(epochs: int, val_clips: int) -> int | None:
    """Returns the patience for a number of epochs and of validation clips; None if these are too few to stop by."""
    return max(round(_PATIENCE * epochs), _MIN_PATIENCE) if val_clips >= _MIN_VAL_CLIPS else None


def choose_metric(name: str, main: str, dataset: Dataset, select: str) -> str:
    """Returns the metric that ranks epochs and runs: as given, or what ``auto`` stands for.

    That is the main metric of the task, such as accuracy, if the validation split has enough clips and all classes.
    Else it is loss, which depends less on single clips. Without a validation split no epoch is selected, and the main
    metric is what runs are compared by.
    """
    if name != "auto":
        return name
    clips, missing = len(dataset.rows("val")), missing_classes(dataset, "val")
    if clips >= MIN_CLIPS_FRACTION and missing:
        metric, reason = "loss", f"{len(missing)} of {len(dataset.labels)} classes have no validation clips"
    elif 0 < clips < MIN_CLIPS_FRACTION:
        metric, reason = "loss", f"{main} needs {MIN_CLIPS_FRACTION} validation clips, and there are {clips}"
    else:
        metric, reason = main, f"there are {clips} validation clips of all classes"
    if clips and select == "best":
        log.info("trainer.metric=auto: the best epoch is that of the best %s, as %s", metric, reason)
    return metric


def choose_epoch(name: str, dataset: Dataset, has_rehearsal: bool, max_false_alarms_per_hour: float | None) -> str:
    """Returns which epoch is kept: as given, or what ``auto`` stands for.

    That is the best one, unless validation shares groups with training: its scores then do not show how well other
    groups are classified, and are nearly perfect long before the learning rate has decayed. Nor is it the best one if
    classes are rehearsed, which would decide, and are classified well from the beginning, or if recall is measured at
    a rate that allows no false alarm in the validation split: a single window would then decide.

    Args:
        name: Setting ``trainer.select``.
        dataset: Dataset of the training.
        has_rehearsal: Whether clips of an initial model's dataset are added.
        max_false_alarms_per_hour: Rate at which recall selects the best epoch; None for other metrics.
    """
    if name != "auto":
        return name
    if has_rehearsal:
        log.info("trainer.select=auto: the last epoch is kept, as most validation clips are of rehearsed classes")
        return "last"
    if max_false_alarms_per_hour is not None:
        quiet = [row for row in dataset.rows("val") if not dataset.label_format.classes(dataset.clips[row].label)]
        hours = dataset.cache.lengths[quiet].sum() / dataset.cache.sample_rate / 3600
        if hours * max_false_alarms_per_hour < 1:
            reason = "h without events in the validation split are too few for recall at %g false alarms per hour"
            log.info(f"trainer.select=auto: the last epoch is kept, as %.2g {reason}", hours, max_false_alarms_per_hour)
            return "last"
    groups = {split: {dataset.clips[row].group for row in dataset.rows(split)} - {None} for split in ("train", "val")}
    if not groups["train"] & groups["val"]:
        return "best"
    log.info("trainer.select=auto: the last epoch is kept, as validation shares its groups with training")
    return "last"


def plan_training(run: RunComponents, dataset: Dataset) -> TrainingPlan:
    """Returns the plan of a run: as its config gives it, and by the size of the dataset if that is ``auto``."""
    config, clips = run.trainer, dataset.num_training_clips
    epochs, batch_size, patience = config.epochs, config.batch_size, config.patience
    if batch_size == "auto":
        batch_size = automatic_batch_size(clips, run.device.type == "cuda")
    if epochs == "auto":
        if config.steps is None:
            epochs = automatic_epochs(clips, run.task.relative_epochs, run.config["init"] is not None)
        else:
            num_batches = len(dataset.batches("train", batch_size, run.device, run.config["seed"]))
            epochs = -(-config.steps // -(-num_batches // config.grad_accum_steps))
    if patience == "auto":
        patience = automatic_patience(epochs, len(dataset.rows("val")))
    is_rate = config.metric == "recall_at_fah"
    rate = run.config["metrics"][config.metric]["false_alarms_per_hour"] if is_rate else None
    select = choose_epoch(config.select, dataset, run.source.rehearsal_clips > 0, rate)
    metric = choose_metric(config.metric, run.task.metrics[0], dataset, select)
    return TrainingPlan(epochs, batch_size, patience, metric, select)


def continued(run: RunComponents, folder: Path) -> RunComponents:
    """Replaces ``auto`` by what the run in a folder was started with, if there is one, so that it continues unchanged.

    The number of epochs is chosen again if `trainer.steps` is another.

    Raises:
        UserError: A damaged config of the run.
    """
    before, now = read_config(folder).get("trainer") or {}, run.config["trainer"]
    names = [name for name in TrainingPlan._fields if now[name] == "auto" and name in before]
    values = {name: before[name] for name in names if name != "epochs" or before.get("steps") == now["steps"]}
    node = {**now, **values}
    return run._replace(config={**run.config, "trainer": node}, trainer=instantiate(node, "trainer", TrainerConfig))
