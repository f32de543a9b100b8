"""The training loop."""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from spectrnn.config import Count, Fraction, Positive
from spectrnn.data.batches import Batch, Batches
from spectrnn.devices import pick_precision
from spectrnn.errors import UserError
from spectrnn.inference.evaluate import classify
from spectrnn.inference.metrics import score
from spectrnn.model.classifier import Classifier
from spectrnn.progress import Stopwatch
from spectrnn.training.logs import RunLog
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
    metric: Literal["accuracy", "balanced_accuracy", "macro_f1", "loss"]
    patience: Count | None
    log_every: Count


class Meter:
    """Loss and accuracy so far, and the last gradient's norm, on the device, which is waited for when they are read.

    Args:
        device: of the batches.
    """

    def __init__(self, device: torch.device) -> None:
        self.loss, self.right, self.norm = torch.zeros(3, device=device).unbind()
        self.seen = 0

    def add(self, logits: Tensor, targets: Tensor, loss: Tensor) -> None:
        """Counts a batch: logits and targets (batch, classes), and its mean loss."""
        self.loss += loss.detach() * len(targets)
        self.right += (logits.detach().argmax(1) == targets.argmax(1)).sum()
        self.seen += len(targets)

    def read(self) -> dict[str, float]:
        """Mean loss and accuracy, and the norm of the last gradient."""
        loss, right, norm = torch.stack([self.loss, self.right, self.norm]).tolist()  # waits once, and not thrice
        return {"loss": loss / self.seen, "accuracy": right / self.seen, "gradient_norm": norm}


class Trainer:
    """Trains a classifier, epoch after epoch.

    Args:
        settings: of the loop.
        classifier: on its device.
        optimizer, schedule: of its weights.
        train, val: batches; ``val=None`` takes each epoch's classifier for the best.
        seed: every epoch draws from generators seeded by it and the epoch's number.
        clock: counts where the time goes.

    Raises:
        SettingError: a precision that the device does not have.
    """

    def __init__(
        self,
        settings: Settings,
        classifier: Classifier,
        optimizer: Optimizer,
        schedule: Schedule,
        train: Batches,
        val: Batches | None,
        seed: int,
        clock: Stopwatch,
    ) -> None:
        self.settings, self.classifier, self.optimizer, self.schedule = settings, classifier, optimizer, schedule
        self.train_batches, self.val_batches, self.seed, self.clock = train, val, seed, clock
        self.device = train.device
        self.precision = pick_precision(settings.precision, self.device)
        # With bf16 too: autocast runs cuDNN's recurrent layers in fp16, whatever it is asked for.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision is not None)
        self.average = Average(classifier, settings.ema) if settings.ema is not None else None
        weight = _class_weights(train) if settings.class_weights == "balanced" else None
        self.criterion = nn.CrossEntropyLoss(weight=weight, label_smoothing=settings.label_smoothing)
        self.epoch, self.best, self.stale = 0, [-math.inf, -math.inf], 0
        self.history: list[dict[str, Any]] = []

    @property
    def candidate(self) -> Classifier:
        """The classifier that is evaluated and saved: the running average where there is one."""
        return self.average.module if self.average else self.classifier  # type: ignore[return-value]

    @property
    def clips_seen(self) -> int:
        """In all finished epochs: the steps of TensorBoard's curves."""
        return self.epoch * len(self.train_batches.rows)

    def fit(self, run_log: RunLog, after_epoch: Callable[[bool], None]) -> None:
        """Trains up to the last epoch, or until the metric has stood still for `patience` epochs.

        Args:
            run_log: where progress goes.
            after_epoch: called with whether the epoch's classifier is the best so far, to save what is worth saving.
        """
        while self.epoch < self.settings.epochs and not self.exhausted:
            figures: dict[str, Any] = {"train": self._train_epoch(run_log)}
            with self.clock.measure("evaluation"):
                figures["val"] = self._validate()
            value = self._value(figures)
            # On small validation splits many epochs tie: then the surer one is the better, though it is no progress.
            rank = [value, -figures["val"]["loss"]] if figures["val"] else [float(self.epoch), 0.0]
            better = rank > self.best
            self.stale = 0 if rank[0] > self.best[0] else self.stale + 1
            self.best = rank if better else self.best
            self.schedule.after_epoch(value)
            self.epoch += 1
            self.history.append({"epoch": self.epoch, **figures})
            with self.clock.measure("saving"):
                run_log.epoch(self.clips_seen, self.history[-1], better)
                after_epoch(better)

    @property
    def exhausted(self) -> bool:
        """Whether the metric has stood still for too long."""
        return self.settings.patience is not None and self.stale >= self.settings.patience

    def _train_epoch(self, run_log: RunLog) -> dict[str, float]:
        seed_everything(self.seed, self.epoch)
        self.classifier.train()
        batches, meter, start = self.train_batches, Meter(self.device), time.perf_counter()
        with run_log.progress(self.epoch, self.settings.epochs, len(batches.rows)) as progress:
            for number, batch in enumerate(self.clock.each("data", batches.epoch(self.epoch)), 1):
                with self.clock.measure("step"):
                    self._train_batch(number, batch, meter)
                    progress.update(len(batch.rows))
                    if number % self.settings.log_every == 0 or number == len(batches):
                        figures = meter.read()
                        run_log.step(self.clips_seen + meter.seen, {**figures, "learning_rate": self.lr})
                        progress.set_postfix_str(self._state(figures), refresh=False)
        if not math.isfinite(figures["loss"]):
            raise UserError(f"the loss became {figures['loss']} in epoch {self.epoch + 1}; try a lower optimizer.lr")
        speed = meter.seen / (time.perf_counter() - start)
        return {"loss": figures["loss"], "accuracy": figures["accuracy"], "clips_per_second": speed}

    def _state(self, figures: Mapping[str, float]) -> str:
        shares = self.clock.shares("data", "step")
        return f"{shares}, loss {figures['loss']:.3f}, acc {figures['accuracy']:.3f}, lr {self.lr:.1e}"

    def _train_batch(self, number: int, batch: Batch, meter: Meter) -> None:
        """A batch, counted from 1, forward and backward; and the optimizer's step where one is due."""
        logits, targets, loss = self._forward(batch)
        # Every clip weighs the same, though batches of outliers are small.
        share = len(targets) * len(self.train_batches) / len(self.train_batches.rows)
        self.scaler.scale(loss * share / self._group_size(number)).backward()
        meter.add(logits, targets, loss)
        if number % self.settings.accumulate == 0 or number == len(self.train_batches):
            meter.norm = self._step()

    def _group_size(self, number: int) -> int:
        """How many batches share the optimizer step of a batch, counted from 1: fewer in the epoch's last group."""
        first = (number - 1) // self.settings.accumulate * self.settings.accumulate
        return min(self.settings.accumulate, len(self.train_batches) - first)

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (batch, classes), targets (batch, classes) as augmentation left them, and the loss."""
        batch = self.classifier.augment.waveform(batch)
        autocast = torch.autocast(self.device.type, self.precision) if self.precision else nullcontext()
        with autocast:
            logits = self.classifier(batch.waveform, batch.lengths)
        return logits, batch.targets, self.criterion(logits.float(), batch.targets)

    def _step(self) -> Tensor:
        """Moves the weights; returns the norm of their gradient before it was clipped."""
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.classifier.parameters(), self.settings.clip_norm or math.inf, foreach=True)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.after_step()
        if self.average:
            self.average.update(self.classifier)
        return norm

    def _validate(self) -> dict[str, float] | None:
        return score(*classify(self.candidate, self.val_batches)) if self.val_batches is not None else None

    def _value(self, figures: dict[str, Any]) -> float:
        """The chosen metric of the validation split (of the training split without one), higher being better."""
        part = figures["val"] or {"loss": figures["train"]["loss"]}
        metric = self.settings.metric if self.settings.metric in part else "loss"
        return -part["loss"] if metric == "loss" else part[metric]

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        """All that the future of the run depends on, in plain containers and tensors."""
        return {
            "corpus": {"labels": self.classifier.labels, "clips": len(self.train_batches.rows)},
            "classifier": self.classifier.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": {"epoch": self.epoch, "best": self.best, "stale": self.stale, "history": self.history},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state_dict` was taken."""
        if state["corpus"] != {"labels": self.classifier.labels, "clips": len(self.train_batches.rows)}:
            raise UserError("resume: the corpus has other labels or training clips than when the run was started")
        self.classifier.load_state_dict(state["classifier"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if state["scaler"]:  # empty where the run began on a device without half precision
            self.scaler.load_state_dict(state["scaler"])
        for name, value in state["progress"].items():
            setattr(self, name, value)


def seed_everything(seed: int, epoch: int) -> None:
    """Seeds the generators of all devices (dropout and augmentation draw from them) for an epoch."""
    torch.manual_seed(int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0] >> np.uint64(1)))


def _class_weights(train: Batches) -> Tensor:
    """Inverse class frequency, whose mean over the training clips is 1: (classes,)."""
    counts = torch.bincount(torch.from_numpy(train.targets), minlength=train.classes)
    return (len(train.targets) / (train.classes * counts.clamp(min=1))).float().to(train.device)
