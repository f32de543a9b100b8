"""Averages of weights over a training: exponential over its steps, or of its last epochs."""

import copy
from collections import deque
from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage:
    """Base class of averages of a module's weights.

    Args:
        module: Module to follow.

    Attributes:
        module: Copy of the module with averaged weights.
        needs_statistics: Whether the statistics of its batch normalization have to be estimated after an epoch.
    """

    needs_statistics = False

    def __init__(self, module: nn.Module) -> None:
        saved = module.state_dict().keys()
        # Buffers that are not saved with the weights, such as a noise bank, are constant: both modules share them.
        shared = {id(buffer): buffer for name, buffer in module.named_buffers() if name not in saved}
        self.module = copy.deepcopy(module, shared).requires_grad_(False)
        for part in self.module.modules():
            if isinstance(part, nn.RNNBase):
                part.flatten_parameters()  # copying split the contiguous weights that cuDNN needs

    def step_end(self, module: nn.Module) -> None:
        """Updates the average after an optimizer step."""

    def epoch_end(self, module: nn.Module) -> None:
        """Updates the average after an epoch."""

    def state_dict(self) -> dict[str, Any]:
        """Returns the state for `load_state_dict`."""
        return {"module": self.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state."""
        self.module.load_state_dict(state["module"])


class ExponentialMovingAverage(WeightAverage):
    """An exponential moving average of a module's weights; buffers are copied.

    Args:
        module: Module to follow.
        decay: Fraction of the average that an update keeps; the first updates keep less, so that the initial weights
            fade quickly.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__(module)
        self.buffers = module.state_dict().keys() - dict(module.named_parameters()).keys()
        self.decay, self.steps = decay, 0

    @torch.no_grad()
    def step_end(self, module: nn.Module) -> None:
        """Updates the average after an optimizer step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(list(self.module.parameters()), list(module.parameters()), 1 - decay)
        averaged, current = self.module.state_dict(), module.state_dict()
        for name in self.buffers:
            averaged[name].copy_(current[name])

    def state_dict(self) -> dict[str, Any]:
        """Returns the state for `load_state_dict`."""
        return {**super().state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state."""
        super().load_state_dict(state)
        self.steps = state["steps"]


class LastEpochsAverage(WeightAverage):
    """The mean of a module's weights at the end of its last epochs.

    Means and variances of batch normalization are not linear in the weights, so their averages would be wrong: they
    have to be estimated for the averaged weights (`needs_statistics`). Other buffers are constant during a training.

    Source: Izmailov et al., "Averaging weights leads to wider optima and better generalization", 2018.

    Args:
        module: Module to follow.
        epochs: Number of epochs; the first averages are of fewer.
    """

    needs_statistics = True

    def __init__(self, module: nn.Module, epochs: int) -> None:
        super().__init__(module)
        self.snapshots: deque[list[Tensor]] = deque(maxlen=epochs)

    @torch.no_grad()
    def epoch_end(self, module: nn.Module) -> None:
        """Adds the weights at the end of an epoch, and drops the oldest ones."""
        self.snapshots.append([parameter.clone() for parameter in module.parameters()])
        for average, *weights in zip(self.module.parameters(), *self.snapshots, strict=True):
            average.copy_(torch.stack(weights).mean(0))

    def state_dict(self) -> dict[str, Any]:
        """Returns the state for `load_state_dict`."""
        return {**super().state_dict(), "snapshots": list(self.snapshots)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state."""
        super().load_state_dict(state)
        devices = [parameter.device for parameter in self.module.parameters()]
        for snapshot in state["snapshots"]:
            self.snapshots.append([weight.to(device) for weight, device in zip(snapshot, devices, strict=True)])
