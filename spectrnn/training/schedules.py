"""How weights move: learning-rate schedules and the running average of weights."""

import copy
import math
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from spectrnn.config.types import Fraction, NonNegativeFloat, PositiveInt


class LRSchedule:
    """A learning rate that moves at every optimizer step; the interface of all.

    Args:
        scheduler: torch's.
    """

    def __init__(self, scheduler: LRScheduler) -> None:
        self.scheduler = scheduler

    def after_step(self) -> None:
        """Called after each optimizer step."""
        self.scheduler.step()

    def after_epoch(self, score: float) -> None:
        """Called after each epoch, with the chosen metric, higher being better."""

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs."""
        return self.scheduler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state_dict` was taken."""
        self.scheduler.load_state_dict(state)


class ConstantSchedule(LRSchedule):
    """A linear warm-up, then the optimizer's rate.

    A curve is a function of the step alone, so that a run resumed with more epochs follows the longer curve.

    Args:
        optimizer: holds the highest rate.
        steps: optimizer steps of the whole run.
        warmup_fraction: share of the steps.
    """

    def __init__(self, optimizer: Optimizer, steps: PositiveInt, warmup_fraction: Fraction) -> None:
        self.steps, self.rising = steps, round(warmup_fraction * steps)
        super().__init__(LambdaLR(optimizer, self._factor))

    def _factor(self, step: int) -> float:
        if step < self.rising:
            return (step + 1) / (self.rising + 1)
        return self._after((step - self.rising) / max(1, self.steps - self.rising))

    def _after(self, progress: float) -> float:
        """The rate's factor when a share of the steps after the warm-up is done."""
        return 1.0


class CosineSchedule(ConstantSchedule):
    """A linear warm-up, then half a cosine down to zero (Loshchilov & Hutter, 2017)."""

    def _after(self, progress: float) -> float:
        return (1 + math.cos(math.pi * min(1.0, progress))) / 2


class OneCycleSchedule(ConstantSchedule):
    """Up along half a cosine from a 25th of the rate, then down to nearly zero (Smith & Topin, 2018)."""

    _FIRST, _LAST = 1 / 25, 1e-4

    def _factor(self, step: int) -> float:
        if step < self.rising:
            return 1 - (1 - self._FIRST) * (1 + math.cos(math.pi * step / self.rising)) / 2
        return super()._factor(step)

    def _after(self, progress: float) -> float:
        return self._LAST + (1 - self._LAST) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


class PlateauSchedule(LRSchedule):
    """Lowers the rate when the chosen metric stands still.

    Args:
        optimizer: holds the first rate.
        factor: what the rate is multiplied with.
        patience: epochs without a better metric.
        min_lr: where it stops.
    """

    def __init__(self, optimizer: Optimizer, factor: Fraction, patience: PositiveInt, min_lr: NonNegativeFloat) -> None:
        self.plateau = ReduceLROnPlateau(
            optimizer, mode="max", factor=factor, patience=patience, min_lr=min_lr, threshold=0, threshold_mode="abs"
        )
        super().__init__(self.plateau)

    def after_step(self) -> None:
        """The rate stays within an epoch."""

    def after_epoch(self, score: float) -> None:
        """Counts an epoch with or without a better score."""
        self.plateau.step(score)


class ExponentialMovingAverage:
    """An exponential moving average of a module's weights; buffers are copied.

    Args:
        module: whose weights to follow.
        decay: share of the old average that a step keeps; early steps keep less, so that the first weights fade soon.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        saved = module.state_dict().keys()
        # What is not saved with the weights, such as a bank of noise, never changes: both modules share it.
        shared = {id(buffer): buffer for name, buffer in module.named_buffers() if name not in saved}
        self.module = copy.deepcopy(module, shared).requires_grad_(False)
        for part in self.module.modules():
            if isinstance(part, nn.RNNBase):
                part.flatten_parameters()  # copying took cuDNN's one block of weights apart
        self.buffers = saved - dict(module.named_parameters()).keys()
        self.decay, self.steps = decay, 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Called after each optimizer step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(list(self.module.parameters()), list(module.parameters()), 1 - decay)
        ours, theirs = self.module.state_dict(), module.state_dict()
        for name in self.buffers:
            ours[name].copy_(theirs[name])

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs."""
        return {"steps": self.steps, "module": self.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state_dict` was taken."""
        self.steps = state["steps"]
        self.module.load_state_dict(state["module"])
