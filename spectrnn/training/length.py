"""The length of a training: what ``auto`` is for `trainer.epochs`, `trainer.batch_size` and `trainer.patience`."""

from pathlib import Path

from spectrnn.config.instantiate import instantiate
from spectrnn.data.dataset import Dataset
from spectrnn.runs import read_config
from spectrnn.training.preflight import RunComponents
from spectrnn.training.trainer import Length, TrainerConfig

# Batch size by the minimum number of training clips: a small corpus needs many steps more than it needs fast epochs.
_BATCH_SIZES = {0: 16, 1_000: 32, 2_000: 64}
_GPU_BATCH_SIZES = {**_BATCH_SIZES, 20_000: 256}  # as a GPU is not busy with small batches
# Epochs of this number of clips; for other numbers they change with its inverse square root: a small corpus is seen
# more often, though in fewer steps altogether, as it is overfitted sooner.
_EPOCHS, _CLIPS = 25, 2_500
_MIN_EPOCHS, _MAX_EPOCHS = 10, 120
_PATIENCE, _MIN_PATIENCE = 1 / 5, 5  # fraction of the epochs; epochs
_MIN_VAL_CLIPS = 200  # with fewer, the metrics of the validation split are too noisy to stop by


def automatic_batch_size(clips: int, on_gpu: bool) -> int:
    """Returns the batch size for a number of training clips."""
    sizes = _GPU_BATCH_SIZES if on_gpu else _BATCH_SIZES
    return max(size for minimum, size in sizes.items() if clips >= minimum)


def automatic_epochs(clips: int) -> int:
    """Returns the number of epochs for a number of training clips."""
    return min(max(round(_EPOCHS * (_CLIPS / clips) ** 0.5), _MIN_EPOCHS), _MAX_EPOCHS)


def automatic_patience(epochs: int, val_clips: int) -> int | None:
    """Returns the patience for a number of epochs and of validation clips; None if these are too few to stop by."""
    return max(round(_PATIENCE * epochs), _MIN_PATIENCE) if val_clips >= _MIN_VAL_CLIPS else None


def choose_length(run: RunComponents, dataset: Dataset) -> Length:
    """Returns the length of a run: as its config gives it, and by the size of the corpus where that is ``auto``."""
    config, clips = run.trainer, len(dataset.rows("train"))
    epochs, batch_size, patience = config.epochs, config.batch_size, config.patience
    if batch_size == "auto":
        batch_size = automatic_batch_size(clips, run.device.type == "cuda")
    if epochs == "auto":
        if config.steps is None:
            epochs = automatic_epochs(clips)
        else:
            num_batches = len(dataset.batches("train", batch_size, run.device))
            epochs = -(-config.steps // -(-num_batches // config.grad_accum_steps))
    if patience == "auto":
        patience = automatic_patience(epochs, len(dataset.rows("val")))
    return Length(epochs, batch_size, patience)


def continued(run: RunComponents, folder: Path) -> RunComponents:
    """Replaces ``auto`` by what the run in a folder was started with, if there is one, so that it continues unchanged.

    The number of epochs is chosen again if `trainer.steps` is another.

    Raises:
        UserError: A damaged config of the run.
    """
    before, now = read_config(folder).get("trainer") or {}, run.config["trainer"]
    names = [name for name in Length._fields if now[name] == "auto" and name in before]
    values = {name: before[name] for name in names if name != "epochs" or before.get("steps") == now["steps"]}
    node = {**now, **values}
    return run._replace(config={**run.config, "trainer": node}, trainer=instantiate(node, "trainer", TrainerConfig))
