"""The trainer: the training step and the loop over epochs, with validation, checkpoints and exact resumption."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from spectrnn import distributed
from spectrnn.config.types import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, ReportMegabytes
from spectrnn.data.batches import Batch, BucketedBatches
from spectrnn.data.dataset import Dataset
from spectrnn.errors import TrainingInterrupted, UserError, reject_settings
from spectrnn.evaluation.evaluate import predict_batches
from spectrnn.evaluation.metrics import Metric, classification_metrics, metrics_of
from spectrnn.messages import counted
from spectrnn.model.classifier import Classifier
from spectrnn.model.crnn import MaskedBatchNormReLU
from spectrnn.progress import Stopwatch
from spectrnn.runs import CHECKPOINT
from spectrnn.training.averaging import ExponentialMovingAverage, LastEpochsAverage, WeightAverage
from spectrnn.training.interrupts import GracefulInterrupt
from spectrnn.training.logger import RunLogger
from spectrnn.training.meter import Meter
from spectrnn.training.schedules import LRSchedule
from spectrnn.training.warm_start import Freezing

log = logging.getLogger(__name__)

# Function of an epoch's metrics (``epoch``, ``train`` and ``val``, as in the history), and of whether it is the last.
EpochCallback = Callable[[Mapping[str, Any], bool], None]

_STATISTICS_BATCHES = 100  # from which statistics of batch normalization are estimated; in training, ten count
_PROGRESS = ("epoch", "batches_done", "best", "lowest_loss", "epochs_without_improvement", "stop_epoch", "history")


@dataclass(kw_only=True)
class TrainerConfig:
    """Config group ``trainer``; configs/trainer/default.yaml documents its keys."""

    epochs: PositiveInt | Literal["auto"]
    steps: PositiveInt | None
    batch_size: PositiveInt | Literal["auto"]
    device: str
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    grad_accum_steps: PositiveInt
    max_grad_norm: PositiveFloat | None
    augmented_versions: PositiveInt | None
    ema_decay: Fraction | None
    average_last: PositiveInt | None
    on_nan: Literal["stop", "skip"]
    metric: str
    select: Literal["auto", "best", "last"]
    patience: PositiveInt | Literal["auto"] | None
    log_every_n_steps: PositiveInt
    checkpoint_every_minutes: NonNegativeFloat
    report: bool
    report_max_mb: ReportMegabytes

    def __post_init__(self) -> None:
        has_two = self.average_last is not None and self.ema_decay is not None
        reject_settings(("average_last", has_two, f"ema_decay={self.ema_decay} is another average; set it to null"))


class TrainingPlan(NamedTuple):
    """The settings of a training that may be ``auto``, as chosen for the dataset.

    Attributes:
        epochs: Maximum number of epochs.
        batch_size: Maximum number of clips per batch.
        patience: Number of epochs without improvement before training stops; None for all epochs.
        metric: Name of the validation metric that selects the best epoch.
        select: Epoch that is kept: ``best``, or ``last``.
    """

    epochs: int
    batch_size: int
    patience: int | None
    metric: str
    select: str


class Trainer:
    """Trains a classifier, deterministically given the seed: a resumed run continues exactly where it stopped.

    If several processes train, each computes its shard of a batch, and all take the same optimizer steps.

    Args:
        config: Config group ``trainer``.
        plan: Plan of the training.
        classifier: Classifier on its device.
        optimizer: Optimizer of the classifier's parameters.
        schedule: Learning-rate schedule of the optimizer.
        train: Batches of the training split.
        val: Batches of the validation split; None if it is empty: then every epoch counts as the best one.
        dataset: Dataset that the batches come from.
        metrics: Metrics of the user, by name, in addition to those of the task.
        precision: Type for autocast; None for float32 throughout.
        seed: Seed of the run; together with epoch, batch and rank it seeds dropout and augmentation.
        clock: Stopwatch for data loading, steps, evaluation and saving.
        freezing: Stages that are not trained.

    Attributes:
        epoch: Number of finished epochs.
        batches_done: Number of finished batches of the current epoch.
        stop_epoch: Number of epochs with which training ends early; None if it does not.
        history: Metrics of the finished epochs, and whether each was the best so far.
        metrics: Metrics of the validation split, by name.
    """

    def __init__(
        self,
        config: TrainerConfig,
        plan: TrainingPlan,
        classifier: Classifier,
        optimizer: Optimizer,
        schedule: LRSchedule,
        train: BucketedBatches,
        val: BucketedBatches | None,
        dataset: Dataset,
        metrics: Mapping[str, Metric],
        precision: torch.dtype | None,
        seed: int,
        clock: Stopwatch,
        freezing: Freezing,
    ) -> None:
        self.config, self.plan, self.classifier = config, plan, classifier
        self.optimizer, self.schedule = optimizer, schedule
        self.train, self.val, self.dataset = train, val, dataset
        self.metrics = metrics_of(classifier.task, metrics)
        self.precision, self.seed, self.clock, self.device = precision, seed, clock, train.device
        # For bf16 too: autocast runs cuDNN's recurrent layers in fp16 in either case.
        uses_fp16 = self.precision is not None and self.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=uses_fp16)
        self.average: WeightAverage | None = None
        if config.ema_decay is not None:
            self.average = ExponentialMovingAverage(classifier, config.ema_decay)
        elif config.average_last is not None:
            self.average = LastEpochsAverage(classifier, config.average_last)
        self.freezing = freezing
        self.model: nn.Module = _Traced(classifier)
        if distributed.world_size() > 1:
            has_unused = bool(freezing.stages)  # as it awaits the gradients of all parameters, frozen ones too
            self.model = DistributedDataParallel(self.model, broadcast_buffers=False, find_unused_parameters=has_unused)
        self.epoch, self.batches_done, self.meter = 0, 0, Meter(self.device)
        self.best, self.lowest_loss, self.epochs_without_improvement = [-math.inf, -math.inf], math.inf, 0
        self.stop_epoch: int | None = None
        self.history: list[dict[str, Any]] = []
        self.last_checkpoint = time.monotonic()

    @property
    def clips_seen(self) -> int:
        """Number of training clips up to the last reading: the step of the logs."""
        return self.epoch * len(self.train.rows) + int(self.meter.totals[2])

    @property
    def eval_model(self) -> Classifier:
        """The classifier that is evaluated and saved: the average of the weights if there is one."""
        return self.average.module if self.average else self.classifier  # type: ignore[return-value]

    @property
    def num_epochs(self) -> int:
        """Number of epochs with which training ends; fewer than planned after `patience` epochs without improvement."""
        return self.plan.epochs if self.stop_epoch is None else min(self.stop_epoch, self.plan.epochs)

    @property
    def epoch_steps(self) -> int:
        """Number of optimizer steps of an epoch."""
        return -(-len(self.train) // self.config.grad_accum_steps)

    @property
    def best_epoch(self) -> int:
        """Number of the best epoch so far, from 1; 0 before the first one."""
        return max((epoch["epoch"] for epoch in self.history if epoch.get("is_best")), default=0)

    def fit(self, logger: RunLogger, save: Callable[[bool], None], on_epoch: EpochCallback | None = None) -> None:
        """Trains until the last epoch.

        After `patience` epochs in which neither the metric nor the loss of the validation split was the best so far,
        the learning rate decays at once if the schedule ends with a decay, and training ends after it.

        Args:
            logger: Logger of the run.
            save: Function that saves the run; its argument states whether the classifier is the best so far.
            on_epoch: Function of a finished epoch, called before it is saved; it may end the run by an exception.

        Raises:
            UserError: A non-finite loss or gradient.
            TrainingInterrupted: A signal; the run has been saved.
        """
        with GracefulInterrupt() as interrupt:
            while self.epoch < self.num_epochs:
                start = time.monotonic()
                train_metrics = self._train_epoch(logger, save, interrupt)
                with self.clock.measure("evaluation"):
                    if self.average:
                        self.average.epoch_end(self.classifier)
                        if self.average.needs_statistics:
                            self._estimate_statistics(self.eval_model)
                    val_metrics = self._validate()
                is_best = self._update_best(train_metrics, val_metrics)
                self.epoch, self.batches_done, self.meter = self.epoch + 1, 0, Meter(self.device)
                seconds_left = (self.num_epochs - self.epoch) * (time.monotonic() - start)
                is_marked = is_best and self.plan.select == "best"
                logger.log_epoch(self.clips_seen, self.history[-1], is_marked, seconds_left)
                self._mine_negatives()
                self._stop_after_patience()
                if on_epoch:
                    on_epoch(self.history[-1], self.epoch >= self.num_epochs)
                self._save(save, is_best)
                self._raise_if_interrupted(interrupt.received(collective=True))

    def _train_epoch(
        self, logger: RunLogger, save: Callable[[bool], None], interrupt: GracefulInterrupt
    ) -> dict[str, float]:
        config, num_batches = self.config, len(self.train)
        self.freezing.start_epoch(self.classifier, self.epoch)
        self.meter.start()
        with logger.progress(self.epoch, self.num_epochs, len(self.train.rows), self.meter.seen) as progress:
            for batch in self.clock.timed("data", self.train.epoch(self.version, self.batches_done)):
                self.batches_done += 1
                is_last = self.batches_done == num_batches
                is_reading = is_last or self.batches_done % config.log_every_n_steps == 0
                with self.clock.measure("step"):
                    if not self.train_step(batch):
                        log.warning(
                            "skipped, with a non-finite loss or gradient: %s", self._describe_batch(self.batches_done)
                        )
                    progress.update(len(batch.rows))
                    if is_reading:
                        metrics = {**self._read_meter(), "learning_rate": self.optimizer.param_groups[0]["lr"]}
                        logger.log_step(self.clips_seen, metrics)
                        progress.set_postfix_str(self._progress_text(metrics), refresh=False)
                if self.is_update_step(self.batches_done) and not is_last:
                    signal = interrupt.received(collective=is_reading)
                    minutes = (time.monotonic() - self.last_checkpoint) / 60
                    if signal or (is_reading and minutes > config.checkpoint_every_minutes):
                        self._read_meter()
                        self._save(save, is_best=False)
                    self._raise_if_interrupted(signal)
        speed = self.meter.totals[2] / self.meter.seconds
        return {"loss": metrics["loss"], "accuracy": metrics["accuracy"], "clips_per_second": speed}

    @property
    def version(self) -> int:
        """Epoch whose batches and augmented waveforms the current one has: itself, or an earlier one."""
        versions = self.config.augmented_versions
        return self.epoch if versions is None else self.epoch % versions

    def is_update_step(self, number: int) -> bool:
        """Whether the optimizer updates the weights after batch `number`, counted from 1."""
        return number % self.config.grad_accum_steps == 0 or number == len(self.train)

    def train_step(self, batch: Batch) -> bool:
        """Runs forward and backward pass of batch `batches_done`, and the optimizer update if its group is complete.

        Args:
            batch: This process's shard of the batch.

        Returns:
            Whether the batch was used: with ``on_nan=skip``, batches with a non-finite loss or gradient are skipped.
        """
        config, number, task = self.config, self.batches_done, self.classifier.task
        is_update, may_skip = self.is_update_step(number), config.on_nan == "skip"
        group_start = (number - 1) // config.grad_accum_steps * config.grad_accum_steps
        group_size = min(config.grad_accum_steps, len(self.train) - group_start)  # the last group may be smaller
        clips = int((batch.rows >= 0).sum())
        batch = self._augment(batch, number)

        # Processes exchange gradients once per update.
        parallel = isinstance(self.model, DistributedDataParallel)
        with self.model.no_sync() if parallel and not is_update else nullcontext():  # type: ignore[operator]
            with torch.autocast(self.device.type, self.precision) if self.precision else nullcontext():
                logits, frame_logits, frame_lengths = self.model(batch.waveform, batch.lengths)
            loss = task.loss(logits, batch.targets)
            if frame_logits is not None and batch.events is not None:
                loss = loss + self.classifier.frame_loss(frame_logits, frame_lengths, batch.events)
            # Testing for finite values synchronizes with a GPU, so only skipping does; all processes skip together.
            used = not may_skip or bool(distributed.all_reduce_sum(loss.detach()).isfinite())
            if used:
                # Each clip has the same weight, although batches of outliers are small.
                weight = clips * distributed.world_size() * len(self.train) / len(self.train.rows)
                self.scaler.scale(loss * (weight / group_size)).backward()
                self.meter.update(number, task.correct(logits.detach(), batch.targets), loss, clips)
            elif is_update and parallel:
                self.optimizer.zero_grad()  # the group's other gradients would have been exchanged with this one's
        if not is_update:
            return used

        parameters = list(self.classifier.parameters())
        if all(parameter.grad is None for parameter in parameters):
            return False  # every batch of the group was skipped
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(parameters, config.max_grad_norm or math.inf, foreach=True)
        is_finite = not may_skip or bool(norm.isfinite())
        if is_finite:
            self.scaler.step(self.optimizer)
            # An enabled scaler searches for its scale by skipping such gradients, which `_read_meter` limits.
            self.meter.record_grad_norm(norm, check=not self.scaler.is_enabled())
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        if self.average and is_finite:
            self.average.step_end(self.classifier)
        return used and is_finite

    def _augment(self, batch: Batch, number: int) -> Batch:
        """Encodes the targets of batch `number`, counted from 1, and augments its waveforms."""
        seed_generators(self.device, self.seed, self.version, number, distributed.rank())
        batch = batch._replace(targets=self.classifier.task.encode(batch.targets))
        batch = self.classifier.augment.waveform(batch)
        if self.version != self.epoch:  # dropout and augmentation of the spectrogram are not repeated
            seed_generators(self.device, self.seed, self.epoch, number, distributed.rank())
        return batch

    @torch.no_grad()
    def _estimate_statistics(self, model: Classifier) -> None:
        """Sets means and variances of batch normalization to those of the epoch's first batches, as in training."""
        self.freezing.set_mode(model, self.epoch)
        norms = [part for part in model.modules() if isinstance(part, MaskedBatchNormReLU | _BatchNorm)]
        norms = [norm for norm in norms if norm.training]  # frozen stages keep theirs
        if not norms:
            return
        momentum = [norm.momentum for norm in norms]
        for number, batch in enumerate(islice(self.train.epoch(self.version), _STATISTICS_BATCHES), 1):
            for norm in norms:
                norm.momentum = 1 / number  # the mean of all batches so far
            augmented = self._augment(batch, number)
            with torch.autocast(self.device.type, self.precision) if self.precision else nullcontext():
                model(augmented.waveform, augmented.lengths)
        for norm, before in zip(norms, momentum, strict=True):
            norm.momentum = before

    def _validate(self) -> dict[str, float] | None:
        if self.val is None:
            return None
        return classification_metrics(predict_batches(self.eval_model, self.val), self.metrics)

    @torch.inference_mode()
    def _mine_negatives(self) -> None:
        """Finds the windows of the negatives that the classifier takes for a class, of which the next epoch draws.

        They are chosen from those of the last epoch, and as many new ones.
        """
        negatives = self.dataset.negatives
        count = int((self.train.rows >= len(self.dataset.clips)).sum())
        if negatives is None or not negatives.hard_share or not count:
            return
        candidates = negatives.candidates(np.random.default_rng((self.seed, self.epoch, 2)), count)
        windows = negatives.windows(np.concatenate([negatives.hard, candidates.starts]))
        batches = self.dataset.windows(windows, self.plan.batch_size, self.device, self.train.shard)
        probabilities = predict_batches(self.eval_model, batches).probabilities.max(1)
        negatives.hard = np.sort(windows.starts[np.argsort(-probabilities, kind="stable")[:count]])

    def _update_best(self, train_metrics: dict[str, float], val_metrics: dict[str, float] | None) -> bool:
        """Appends an epoch to the history, and returns whether it is the best so far."""
        if val_metrics:
            if self.plan.metric not in val_metrics:
                problem = "cannot be measured on the validation split, in which all clips have a label"
                raise UserError(f"trainer.metric={self.plan.metric}: {problem}; see data.negatives")
            metric = self.metrics[self.plan.metric]
            value = val_metrics[self.plan.metric] * (1 if metric.higher_is_better else -1)
            # Many epochs tie on a small validation split; then the lower loss wins.
            rank = [value, -val_metrics["loss"]]
        else:
            value, rank = -train_metrics["loss"], [float(self.epoch), 0.0]
        is_best = rank > self.best or self.plan.select == "last"
        improves = rank[0] > self.best[0] or -rank[1] < self.lowest_loss
        self.epochs_without_improvement = 0 if improves else self.epochs_without_improvement + 1
        self.lowest_loss = min(self.lowest_loss, -rank[1])
        self.best = max(rank, self.best)
        self.schedule.epoch_end(value)
        self.history.append({"epoch": self.epoch + 1, "train": train_metrics, "val": val_metrics, "is_best": is_best})
        return is_best

    def _stop_after_patience(self) -> None:
        patience = self.plan.patience
        if patience is None or self.epochs_without_improvement < patience:
            return
        remaining = self.schedule.start_decay(self.epoch_steps)
        stop_epoch = self.epoch - (-remaining // self.epoch_steps)
        if stop_epoch < self.num_epochs:  # otherwise the rate decays already, or training ends now
            self.stop_epoch = stop_epoch
            decay = "the learning rate decays from now on, and " if remaining else ""
            log.info(
                "no improvement for %s: %straining ends with epoch %d", counted(patience, "epoch"), decay, stop_epoch
            )

    def _save(self, save: Callable[[bool], None], is_best: bool) -> None:
        with self.clock.measure("saving"):
            save(is_best)
        self.last_checkpoint = time.monotonic()

    def _raise_if_interrupted(self, signal: int | None) -> None:
        if signal:
            within = f", {self.batches_done} of {len(self.train)} batches into the next" if self.batches_done else ""
            raise TrainingInterrupted(f"stopped after epoch {self.epoch}{within}", 128 + signal)

    def _read_meter(self) -> dict[str, float]:
        metrics = self.meter.read()
        # After a non-finite gradient the scaler skips the update and halves its scale; below 1 it is not the cause.
        if not math.isfinite(metrics["loss"]) or self.scaler.get_scale() < 1:
            batch = self._describe_batch(self.meter.first_nonfinite_batch() or self.batches_done)
            raise UserError(
                f"non-finite loss or gradient; {CHECKPOINT} predates it. Try a lower optimizer.lr, or "
                f"trainer.on_nan=skip. It occurred in {batch}"
            )
        return metrics

    def _describe_batch(self, number: int) -> str:
        """Names a batch of this epoch, counted from 1, and its clips."""
        paths = "".join(f"\n  {self.dataset.clip(row).path}" for row in self.train.rows_of_batch(self.version, number))
        return f"batch {number} of epoch {self.epoch + 1}:{paths}"

    def _progress_text(self, metrics: Mapping[str, float]) -> str:
        times = self.clock.percentages("data", "step")
        loss, correct = (f"{metrics[name]:.3f}" for name in ("loss", "accuracy"))
        name = self.classifier.task.fraction_correct
        return f"{times}, loss {loss}, {name} {correct}, lr {metrics['learning_rate']:.1e}"

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that the rest of the run depends on, as plain containers and tensors."""
        return {
            "dataset": self._dataset_identity(),
            "classifier": self.classifier.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "meter": self.meter.state_dict(),
            "progress": {name: getattr(self, name) for name in _PROGRESS},
            "hard_negatives": torch.from_numpy(self.dataset.negatives.hard) if self.dataset.negatives else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state.

        Raises:
            UserError: A state of another dataset, or not a trainer's state.
        """
        if state.get("dataset") != self._dataset_identity():
            raise UserError("resume: the dataset has other labels or clips than when the run was started")
        try:
            self.classifier.load_state_dict(state["classifier"])
            if self.average:
                self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            if state["scaler"]:  # empty if the run was started on a device without half precision
                self.scaler.load_state_dict(state["scaler"])
            self.meter.load_state_dict(state["meter"])
            if self.dataset.negatives:
                self.dataset.negatives.hard = state["hard_negatives"].numpy()
            for name in _PROGRESS:
                setattr(self, name, state["progress"][name])
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UserError(f"resume: {CHECKPOINT} does not fit the run ({str(error).splitlines()[0]})") from error

    def _dataset_identity(self) -> dict[str, Any]:
        return {"labels": self.dataset.labels, "splits": self.dataset.split_checksums}


class _Traced(nn.Module):
    """What the loss is computed from, as the forward pass of one module, for several processes."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Returns logits of clips (batch, classes), of frames (batch, frames', classes), and numbers of frames."""
        x = self.classifier.trace(waveform, lengths)
        return x.logits, x.frame_logits, x.state_lengths


def seed_generators(device: torch.device, *position: int) -> None:
    """Seeds the generators of the CPU and the device from the run's seed and a position in the run."""
    seed = int(np.random.SeedSequence(position).generate_state(1, np.uint64)[0] >> np.uint64(1))
    # torch.manual_seed gives the same draws, but for every step also prepares to seed devices that are not in use.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(seed)
