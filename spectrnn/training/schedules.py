"""Learning-rate schedules."""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from spectrnn.config.types import Fraction, NonNegativeFloat, PositiveInt
from spectrnn.errors import reject_settings


class LRSchedule:
    """Interface of all learning-rate schedules.

    Args:
        scheduler: PyTorch scheduler, stepped after each optimizer step.
    """

    def __init__(self, scheduler: LRScheduler) -> None:
        self.scheduler = scheduler

    def step(self) -> None:
        """Updates the learning rate after an optimizer step."""
        self.scheduler.step()

    def epoch_end(self, value: float) -> None:
        """Updates the learning rate after an epoch, given the validation metric; higher is better."""

    def start_decay(self, epoch_steps: int) -> int:
        """Starts the final decay of the learning rate, as the metric does not improve, unless it has started already.

        Args:
            epoch_steps: Number of optimizer steps of an epoch.

        Returns:
            Number of steps until the end of the decay; 0 if the schedule has none: then training ends at once.
        """
        return 0

    def state_dict(self) -> dict[str, Any]:
        """Returns the state for `load_state_dict`."""
        return self.scheduler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state."""
        self.scheduler.load_state_dict(state)


class ConstantSchedule(LRSchedule):
    """Linear warm-up, then the optimizer's learning rate.

    The rate depends on the step only, so a run that is resumed with more epochs follows the longer curve.

    Args:
        optimizer: Optimizer with the maximum learning rate.
        steps: Number of optimizer steps of the run.
        warmup_fraction: Fraction of the steps during which the rate rises.
    """

    def __init__(self, optimizer: Optimizer, steps: PositiveInt, warmup_fraction: Fraction) -> None:
        self.steps, self.warmup_steps = steps, round(warmup_fraction * steps)
        super().__init__(LambdaLR(optimizer, self._factor))

    def _factor(self, step: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        return self._decay((step - self.warmup_steps) / max(1, self.steps - self.warmup_steps))

    def _decay(self, progress: float) -> float:
        """Factor of the maximum rate, given the finished fraction of the steps after the warm-up."""
        return 1.0


class CosineSchedule(ConstantSchedule):
    """Linear warm-up, then cosine decay to zero (Loshchilov & Hutter, 2017)."""

    def _decay(self, progress: float) -> float:
        return (1 + math.cos(math.pi * min(1.0, progress))) / 2


class OneCycleSchedule(ConstantSchedule):
    """Cosine rise from 1/25 of the maximum rate, then cosine decay to nearly zero (Smith & Topin, 2018)."""

    _INITIAL, _FINAL = 1 / 25, 1e-4

    def _factor(self, step: int) -> float:
        if step < self.warmup_steps:
            return 1 - (1 - self._INITIAL) * (1 + math.cos(math.pi * step / self.warmup_steps)) / 2
        return super()._factor(step)

    def _decay(self, progress: float) -> float:
        return self._FINAL + (1 - self._FINAL) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


class TrapezoidalSchedule(ConstantSchedule):
    """Linear warm-up, a constant rate, then linear decay to zero, which a plateau of the metric starts earlier.

    An earlier decay takes the same fraction of all steps as the planned one. Source: Hägele et al., 2024, "Scaling laws
    and compute-optimal training beyond fixed training durations".

    Args:
        optimizer: Optimizer with the maximum learning rate.
        steps: Number of optimizer steps of the run.
        warmup_fraction: Fraction of the steps during which the rate rises.
        decay_fraction: Fraction of the steps during which the rate decays.
    """

    def __init__(
        self, optimizer: Optimizer, steps: PositiveInt, warmup_fraction: Fraction, decay_fraction: Fraction
    ) -> None:
        reject_settings(
            ("decay_fraction", warmup_fraction + decay_fraction > 1, f"above 1 with warmup_fraction={warmup_fraction}")
        )
        self.decay_fraction, self.is_early = decay_fraction, False
        self.decay_start, self.decay_end = steps - round(decay_fraction * steps), steps
        super().__init__(optimizer, steps, warmup_fraction)

    def _factor(self, step: int) -> float:
        if step < self.decay_start:
            return super()._factor(step)
        progress = (step - self.decay_start) / max(1, self.decay_end - self.decay_start)
        return super()._factor(self.decay_start) * (1 - min(1.0, progress))

    def start_decay(self, epoch_steps: int) -> int:
        """Starts the decay, which is rounded up to full epochs."""
        step = self.scheduler.last_epoch
        remaining = -(-(round(step / (1 - self.decay_fraction)) - step) // epoch_steps) * epoch_steps
        if step < self.decay_start and step + remaining < self.decay_end:
            self.decay_start, self.decay_end, self.is_early = step, step + remaining, True
        return self.decay_end - step

    def state_dict(self) -> dict[str, Any]:
        """Returns the state for `load_state_dict`, with first and last step of a decay that a plateau has started."""
        decay = [self.decay_start, self.decay_end] if self.is_early else None
        return {**super().state_dict(), "decay": decay}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state."""
        if state["decay"]:
            (self.decay_start, self.decay_end), self.is_early = state["decay"], True
        super().load_state_dict({name: value for name, value in state.items() if name != "decay"})


class PlateauSchedule(LRSchedule):
    """Reduces the learning rate when the validation metric stops improving.

    Args:
        optimizer: Optimizer with the initial learning rate.
        factor: Factor by which the rate is reduced.
        patience: Number of epochs without improvement before a reduction.
        min_lr: Minimum learning rate.
    """

    def __init__(self, optimizer: Optimizer, factor: Fraction, patience: PositiveInt, min_lr: NonNegativeFloat) -> None:
        self.plateau = ReduceLROnPlateau(
            optimizer, mode="max", factor=factor, patience=patience, min_lr=min_lr, threshold=0, threshold_mode="abs"
        )
        super().__init__(self.plateau)

    def step(self) -> None:
        """Does nothing: the rate is constant within an epoch."""

    def epoch_end(self, value: float) -> None:
        """Counts an epoch with or without improvement of the metric; higher is better."""
        self.plateau.step(value)
