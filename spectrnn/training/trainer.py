"""The training loop: epochs, validation, and the moments at which a run is saved."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from spectrnn import distributed
from spectrnn.config.types import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt
from spectrnn.data.batches import Batch, BucketedBatches
from spectrnn.data.dataset import Dataset
from spectrnn.devices import autocast_dtype
from spectrnn.errors import TrainingInterrupted, UserError
from spectrnn.evaluation.evaluate import predict_batches
from spectrnn.evaluation.metrics import classification_metrics
from spectrnn.evaluation.report.html import ReportMegabytes
from spectrnn.model.classifier import Classifier
from spectrnn.progress import Stopwatch
from spectrnn.runs import CHECKPOINT
from spectrnn.training.interrupts import GracefulInterrupt
from spectrnn.training.logger import RunLogger
from spectrnn.training.schedules import ExponentialMovingAverage, LRSchedule

log = logging.getLogger(__name__)
_PROGRESS = ("epoch", "done", "best", "stale", "history")  # of a trainer, apart from what it trains


@dataclass(kw_only=True)
class TrainerConfig:
    """The config group ``trainer``; configs/trainer/default.yaml says what each means."""

    epochs: PositiveInt
    batch_size: PositiveInt
    device: str
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    grad_accum_steps: PositiveInt
    max_grad_norm: PositiveFloat | None
    ema_decay: Fraction | None
    on_nan: Literal["stop", "skip"]
    metric: Literal["accuracy", "balanced_accuracy", "macro_f1", "loss"]
    patience: PositiveInt | None
    log_every_n_steps: PositiveInt
    checkpoint_every_minutes: NonNegativeFloat
    report: bool
    report_max_mb: ReportMegabytes


class Meter:
    """Loss and accuracy so far, the last gradient's norm, and the first batch in which one of them was not finite.

    All is counted on the device, which is waited for when it is read.

    Args:
        device: of the batches.

    Attributes:
        seen: clips so far, of this process.
        totals: loss, right clips, clips, and broken batches, of all processes, when last read.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(2, device=device)  # of losses, and of clips that are right
        self.norm, self.broken = torch.zeros(2, device=device).unbind()
        self.seen, self.totals = 0, [0.0, 0.0, 0.0, 0.0]
        self._begun, self._earlier = time.perf_counter(), 0.0

    @property
    def seconds(self) -> float:
        """Since the epoch began, without the time in which the run lay still."""
        return self._earlier + time.perf_counter() - self._begun

    def begin(self) -> None:
        """The epoch begins, or goes on."""
        self._begun = time.perf_counter()

    def add(self, number: int, correct: Tensor, loss: Tensor, clips: int) -> None:
        """Counts a batch.

        Args:
            number: of the batch, from 1.
            correct: whether each clip is classified correctly, bool (batch,).
            loss: its mean, ().
            clips: in it; 0 where this process only keeps the others company.
        """
        loss = loss.detach()
        if clips:
            self.sums += torch.stack([loss * clips, correct.sum()])
        self.seen += clips
        self._check(number, loss)

    def stepped(self, number: int, norm: Tensor, check: bool) -> None:
        """Counts the optimizer's step after a batch.

        Args:
            number: of the batch, from 1.
            norm: of the gradient, ().
            check: whether it must be finite.
        """
        self.norm = norm
        if check:
            self._check(number, norm)

    def read(self) -> dict[str, float]:
        """Mean loss and accuracy of all processes, and the norm of the last gradient; all processes must ask."""
        seen = torch.tensor(float(self.seen)).to(self.sums.device, non_blocking=True)
        sums = distributed.all_reduce_sum(torch.stack([*self.sums, seen, self.broken]))
        *self.totals, norm = torch.stack([*sums, self.norm]).tolist()  # waits, once
        loss, right, clips, _ = self.totals
        return {"loss": loss / max(1, clips), "accuracy": right / max(1, clips), "gradient_norm": norm}

    def first_broken(self) -> int:
        """The first batch, from 1, in which any process met what is not finite, or 0; all processes must ask."""
        found = [number for number in distributed.all_gather(int(self.broken)) if number]
        return min(found, default=0)

    def state_dict(self) -> dict[str, Any]:
        """What was last read, and how long the epoch has taken."""
        return {"totals": self.totals, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what was read then: it is the first process's now, as the others may be more or fewer."""
        self._earlier, self.totals = state["seconds"], state["totals"]
        if distributed.rank() == 0:
            self.sums += torch.tensor(self.totals[:2], device=self.sums.device)
            self.seen = int(self.totals[2])

    def _check(self, number: int, value: Tensor) -> None:
        self.broken = torch.where((self.broken == 0) & ~value.isfinite(), float(number), self.broken)


class Learner:
    """Learns from batches, the same from the same batch of the same epoch, whatever was drawn before.

    Where several processes train, each computes its share of a batch, and all take the same step.

    Args:
        settings: of the loop.
        classifier: on its device.
        optimizer, schedule: of its weights.
        batches: of the training split.
        seed: with the epoch and the batch it determines what dropout and augmentation draw.

    Raises:
        SettingError: a precision that the device does not have.
    """

    def __init__(
        self,
        settings: TrainerConfig,
        classifier: Classifier,
        optimizer: Optimizer,
        schedule: LRSchedule,
        batches: BucketedBatches,
        seed: int,
    ) -> None:
        self.settings, self.classifier, self.optimizer, self.schedule = settings, classifier, optimizer, schedule
        self.batches, self.seed, self.device = batches, seed, batches.device
        self.precision = autocast_dtype(settings.precision, self.device)
        # With bf16 too: autocast runs cuDNN's recurrent layers in fp16, whatever it is asked for.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision is not None)
        self.average = (
            ExponentialMovingAverage(classifier, settings.ema_decay) if settings.ema_decay is not None else None
        )
        counts = torch.bincount(torch.from_numpy(batches.targets), minlength=batches.classes)
        classifier.task.fit(counts.to(self.device))
        alone = distributed.world_size() == 1
        self.model = classifier if alone else DistributedDataParallel(classifier, broadcast_buffers=False)

    @property
    def candidate(self) -> Classifier:
        """The classifier that is evaluated and saved: the running average where there is one."""
        return self.average.module if self.average else self.classifier  # type: ignore[return-value]

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def learn(self, epoch: int, number: int, batch: Batch, meter: Meter) -> bool:
        """Learns from a batch.

        Args:
            epoch: from 0.
            number: of the batch, from 1.
            batch: this process's share of it.
            meter: counts it.

        Returns:
            Whether it was used: with ``on_nan=skip`` a batch is left out whose loss or gradient is not finite.
        """
        seed_everything(self.seed, epoch, number, distributed.rank())
        clips = int((batch.rows >= 0).sum())
        with self._together(number):
            logits, targets, loss = self._forward(batch)
            used = self._usable(loss)
            if used:
                # Every clip weighs the same, though batches of outliers are small.
                share = clips * distributed.world_size() * len(self.batches) / len(self.batches.rows)
                self.scaler.scale(loss * share / self._group_size(number)).backward()
                meter.add(number, self.classifier.task.correct(logits, targets), loss, clips)
            elif self.steps_after(number) and distributed.world_size() > 1:
                self.optimizer.zero_grad()  # the group's other gradients would have been sent around with this one's
        return (not self.steps_after(number) or self._step(number, meter)) and used

    def steps_after(self, number: int) -> bool:
        """Whether the optimizer moves the weights after a batch, counted from 1."""
        return number % self.settings.grad_accum_steps == 0 or number == len(self.batches)

    def _group_size(self, number: int) -> int:
        """How many batches share the optimizer step of a batch, counted from 1: fewer in the epoch's last group."""
        first = (number - 1) // self.settings.grad_accum_steps * self.settings.grad_accum_steps
        return min(self.settings.grad_accum_steps, len(self.batches) - first)

    def _together(self, number: int) -> AbstractContextManager[None]:
        """Where processes share the work, gradients are sent around once a step, and not with each of its batches."""
        if isinstance(self.model, DistributedDataParallel) and not self.steps_after(number):
            return self.model.no_sync()
        return nullcontext()

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (batch, classes), targets (batch, classes) as augmentation left them, and the loss."""
        batch = self.classifier.augment.waveform(batch)
        autocast = torch.autocast(self.device.type, self.precision) if self.precision else nullcontext()
        with autocast:
            logits = self.model(batch.waveform, batch.lengths)
        return logits, batch.targets, self.classifier.task.loss(logits, batch.targets)

    def _usable(self, loss: Tensor) -> bool:
        # Only skipping asks, and makes a GPU wait; all processes skip together.
        return self.settings.on_nan == "stop" or bool(distributed.all_reduce_sum(loss.detach()).isfinite())

    def _step(self, number: int, meter: Meter) -> bool:
        """Moves the weights after a batch, counted from 1, unless the gradient is to be skipped."""
        if all(parameter.grad is None for parameter in self.classifier.parameters()):
            return False  # every batch of the group was left out
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(
            self.classifier.parameters(), self.settings.max_grad_norm or math.inf, foreach=True
        )
        used = self.settings.on_nan == "stop" or bool(norm.isfinite())
        if used:
            self.scaler.step(self.optimizer)
            # A scaler looks for its scale, and leaves such gradients out itself.
            meter.stepped(number, norm, check=not self.scaler.is_enabled())
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.after_step()
        if self.average and used:
            self.average.update(self.classifier)
        return used

    def state_dict(self) -> dict[str, Any]:
        """All that the next batches depend on, in plain containers and tensors."""
        return {
            "classifier": self.classifier.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state_dict` was taken."""
        self.classifier.load_state_dict(state["classifier"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if state["scaler"]:  # empty where the run began on a device without half precision
            self.scaler.load_state_dict(state["scaler"])


class Trainer:
    """Trains a classifier, epoch after epoch.

    Args:
        learner: learns from the batches of the training split.
        val: batches; ``val=None`` takes each epoch's classifier for the best.
        dataset: that they are of.
        clock: counts where the time goes.
    """

    def __init__(self, learner: Learner, val: BucketedBatches | None, dataset: Dataset, clock: Stopwatch) -> None:
        self.learner, self.settings, self.batches = learner, learner.settings, learner.batches
        self.val, self.dataset, self.clock = val, dataset, clock
        self.epoch, self.done = 0, 0  # finished epochs, and finished batches of the next one
        self.meter = Meter(learner.device)
        self.best, self.stale, self.saved = [-math.inf, -math.inf], 0, time.monotonic()
        self.history: list[dict[str, Any]] = []

    @property
    def clips_seen(self) -> int:
        """Since the run began, up to what is saved: the steps of TensorBoard's curves."""
        return self.epoch * len(self.batches.rows) + int(self.meter.totals[2])

    def fit(self, run_log: RunLogger, save: Callable[[bool], None]) -> None:
        """Trains up to the last epoch, or until the metric has stood still for `patience` epochs.

        Args:
            run_log: where progress goes.
            save: called when the run is to be saved, with whether the classifier is the best so far.

        Raises:
            UserError: a loss or a gradient that is not finite.
            Stopped: a signal came; the run is saved.
        """
        with GracefulInterrupt() as interruption:
            while self.epoch < self.settings.epochs and not self.exhausted:
                train = self._train_epoch(run_log, save, interruption)
                with self.clock.measure("evaluation"):
                    val = (
                        classification_metrics(*predict_batches(self.learner.candidate, self.val))
                        if self.val is not None
                        else None
                    )
                better = self._judge({"epoch": self.epoch + 1, "train": train, "val": val})
                self.epoch, self.done, self.meter = self.epoch + 1, 0, Meter(self.learner.device)
                run_log.epoch(self.clips_seen, self.history[-1], better)
                self._save(save, better)
                self._stop_at(interruption.told(all_ask=True))

    @property
    def exhausted(self) -> bool:
        """Whether the metric has stood still for too long."""
        return self.settings.patience is not None and self.stale >= self.settings.patience

    def _train_epoch(
        self, run_log: RunLogger, save: Callable[[bool], None], interruption: GracefulInterrupt
    ) -> dict[str, float]:
        self.learner.classifier.train()
        self.meter.begin()
        with run_log.progress(self.epoch, self.settings.epochs, len(self.batches.rows), self.meter.seen) as progress:
            for batch in self.clock.each("data", self.batches.epoch(self.epoch, self.done)):
                self.done += 1
                reading = self.done % self.settings.log_every_n_steps == 0 or self.done == len(self.batches)
                with self.clock.measure("step"):
                    if not self.learner.learn(self.epoch, self.done, batch, self.meter):
                        log.warning("left out: %s", self._named(self.done))
                    progress.update(len(batch.rows))
                    if reading:
                        figures = {**self._read(), "learning_rate": self.learner.lr}
                        run_log.step(self.clips_seen, figures)
                        progress.set_postfix_str(self._state(figures), refresh=False)
                if self.learner.steps_after(self.done) and self.done < len(self.batches):
                    self._pause(reading, save, interruption)
        speed = self.meter.totals[2] / self.meter.seconds
        return {"loss": figures["loss"], "accuracy": figures["accuracy"], "clips_per_second": speed}

    def _pause(self, reading: bool, save: Callable[[bool], None], interruption: GracefulInterrupt) -> None:
        """Between two steps of an epoch: saves the run where that is due, and ends it where a signal came."""
        signal = interruption.told(all_ask=reading)
        if signal or (reading and time.monotonic() - self.saved > 60 * self.settings.checkpoint_every_minutes):
            self._read()
            self._save(save, better=False)
        self._stop_at(signal)

    def _save(self, save: Callable[[bool], None], better: bool) -> None:
        with self.clock.measure("saving"):
            save(better)
        self.saved = time.monotonic()

    def _stop_at(self, signal: int | None) -> None:
        if signal:
            within = f", {self.done} of {len(self.batches)} batches into the next" if self.done else ""
            raise TrainingInterrupted(f"stopped after epoch {self.epoch}{within}", 128 + signal)

    def _read(self) -> dict[str, float]:
        figures = self.meter.read()
        if self.meter.totals[3]:
            number = self.meter.first_broken()
            raise UserError(
                f"the loss or its gradient is not finite; {CHECKPOINT} is from before. Try a lower optimizer.lr, or "
                f"trainer.on_nan=skip. It is {self._named(number)}"
            )
        return figures

    def _named(self, number: int) -> str:
        """A batch of this epoch, counted from 1, and its clips."""
        names = "".join(f"\n  {self.dataset.clips[row].path}" for row in self.batches.clips_of(self.epoch, number))
        return f"batch {number} of epoch {self.epoch + 1}, whose loss or gradient is not finite:{names}"

    def _state(self, figures: Mapping[str, float]) -> str:
        shares, lr = self.clock.shares("data", "step"), figures["learning_rate"]
        return f"{shares}, loss {figures['loss']:.3f}, acc {figures['accuracy']:.3f}, lr {lr:.1e}"

    def _judge(self, figures: dict[str, Any]) -> bool:
        """Enters an epoch's figures into the history; whether it is the best so far."""
        value = self._value(figures)
        # On small validation splits many epochs tie: then the surer one is the better, though it is no progress.
        rank = [value, -figures["val"]["loss"]] if figures["val"] else [float(self.epoch), 0.0]
        better = rank > self.best
        self.stale = 0 if rank[0] > self.best[0] else self.stale + 1
        self.best = rank if better else self.best
        self.learner.schedule.after_epoch(value)
        self.history.append(figures)
        return better

    def _value(self, figures: dict[str, Any]) -> float:
        """The chosen metric of the validation split (of the training split without one), higher being better."""
        part = figures["val"] or {"loss": figures["train"]["loss"]}
        metric = self.settings.metric if self.settings.metric in part else "loss"
        return -part["loss"] if metric == "loss" else part[metric]

    def state_dict(self) -> dict[str, Any]:
        """All that the future of the run depends on, in plain containers and tensors."""
        return {
            "dataset": self._identity(),
            "learner": self.learner.state_dict(),
            "meter": self.meter.state_dict(),
            "progress": {name: getattr(self, name) for name in _PROGRESS},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state_dict` was taken.

        Raises:
            UserError: it was taken with another dataset, or is no such state.
        """
        if state.get("dataset") != self._identity():
            raise UserError("resume: the dataset has other labels or clips than when the run was started")
        try:
            self.learner.load_state_dict(state["learner"])
            self.meter.load_state_dict(state["meter"])
            for name in _PROGRESS:
                setattr(self, name, state["progress"][name])
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UserError(f"resume: {CHECKPOINT} does not fit the run ({str(error).splitlines()[0]})") from error

    def _identity(self) -> dict[str, Any]:
        return {"labels": self.dataset.labels, "splits": self.dataset.fingerprints}


def seed_everything(*position: int) -> None:
    """Seeds the generators of all devices: from a run's seed, and where in the run it is."""
    torch.manual_seed(int(np.random.SeedSequence(position).generate_state(1, np.uint64)[0] >> np.uint64(1)))
