"""What a batch does to the weights: forward, backward, and the optimizer's step where one is due."""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from spectrnn import processes
from spectrnn.config import Count, Fraction, NonNegative, Positive
from spectrnn.data.batches import Batch, Batches
from spectrnn.devices import pick_precision
from spectrnn.inference.report.page import Megabytes
from spectrnn.model.classifier import Classifier
from spectrnn.training.meter import Meter
from spectrnn.training.optimization import Average, Schedule


@dataclass(kw_only=True)
class Settings:
    """The config group ``trainer``; configs/trainer/default.yaml says what each means."""

    epochs: Count
    batch_size: Count
    device: str
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    accumulate: Count
    clip_norm: Positive | None
    label_smoothing: Fraction
    class_weights: Literal["none", "balanced"]
    ema: Fraction | None
    on_nan: Literal["stop", "skip"]
    metric: Literal["accuracy", "balanced_accuracy", "macro_f1", "loss"]
    patience: Count | None
    log_every: Count
    save_minutes: NonNegative
    report: bool
    report_megabytes: Megabytes


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
        settings: Settings,
        classifier: Classifier,
        optimizer: Optimizer,
        schedule: Schedule,
        batches: Batches,
        seed: int,
    ) -> None:
        self.settings, self.classifier, self.optimizer, self.schedule = settings, classifier, optimizer, schedule
        self.batches, self.seed, self.device = batches, seed, batches.device
        self.precision = pick_precision(settings.precision, self.device)
        # With bf16 too: autocast runs cuDNN's recurrent layers in fp16, whatever it is asked for.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision is not None)
        self.average = Average(classifier, settings.ema) if settings.ema is not None else None
        weight = _class_weights(batches) if settings.class_weights == "balanced" else None
        self.criterion = nn.CrossEntropyLoss(weight=weight, label_smoothing=settings.label_smoothing)
        alone = processes.count() == 1
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
        seed_everything(self.seed, epoch, number, processes.rank())
        clips = int((batch.rows >= 0).sum())
        with self._together(number):
            logits, targets, loss = self._forward(batch)
            used = self._usable(loss)
            if used:
                # Every clip weighs the same, though batches of outliers are small.
                share = clips * processes.count() * len(self.batches) / len(self.batches.rows)
                self.scaler.scale(loss * share / self._group_size(number)).backward()
                meter.add(number, logits, targets, loss, clips)
            elif self.steps_after(number) and processes.count() > 1:
                self.optimizer.zero_grad()  # the group's other gradients would have been sent around with this one's
        return (not self.steps_after(number) or self._step(number, meter)) and used

    def steps_after(self, number: int) -> bool:
        """Whether the optimizer moves the weights after a batch, counted from 1."""
        return number % self.settings.accumulate == 0 or number == len(self.batches)

    def _group_size(self, number: int) -> int:
        """How many batches share the optimizer step of a batch, counted from 1: fewer in the epoch's last group."""
        first = (number - 1) // self.settings.accumulate * self.settings.accumulate
        return min(self.settings.accumulate, len(self.batches) - first)

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
        return logits, batch.targets, self.criterion(logits.float(), batch.targets)

    def _usable(self, loss: Tensor) -> bool:
        # Only skipping asks, and makes a GPU wait; all processes skip together.
        return self.settings.on_nan == "stop" or bool(processes.total(loss.detach()).isfinite())

    def _step(self, number: int, meter: Meter) -> bool:
        """Moves the weights after a batch, counted from 1, unless the gradient is to be skipped."""
        if all(parameter.grad is None for parameter in self.classifier.parameters()):
            return False  # every batch of the group was left out
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.classifier.parameters(), self.settings.clip_norm or math.inf, foreach=True)
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


def seed_everything(*position: int) -> None:
    """Seeds the generators of all devices: from a run's seed, and where in the run it is."""
    torch.manual_seed(int(np.random.SeedSequence(position).generate_state(1, np.uint64)[0] >> np.uint64(1)))


def _class_weights(train: Batches) -> Tensor:
    """Inverse class frequency, whose mean over the training clips is 1: (classes,)."""
    counts = torch.bincount(torch.from_numpy(train.targets), minlength=train.classes)
    return (len(train.targets) / (train.classes * counts.clamp(min=1))).float().to(train.device)
