"""Exponential moving average of weights."""

import copy
from typing import Any

import torch
from torch import nn


class ExponentialMovingAverage:
    """An exponential moving average of a module's weights; buffers are copied.

    Args:
        module: Module to follow.
        decay: Fraction of the average that an update keeps; the first updates keep less, so that the initial weights
            fade quickly.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        saved = module.state_dict().keys()
        # Buffers that are not saved with the weights, such as a noise bank, are constant: both modules share them.
        shared = {id(buffer): buffer for name, buffer in module.named_buffers() if name not in saved}
        self.module = copy.deepcopy(module, shared).requires_grad_(False)
        for part in self.module.modules():
            if isinstance(part, nn.RNNBase):
                part.flatten_parameters()  # copying split the contiguous weights that cuDNN needs
        self.buffers = saved - dict(module.named_parameters()).keys()
        self.decay, self.steps = decay, 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Updates the average after an optimizer step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(list(self.module.parameters()), list(module.parameters()), 1 - decay)
        averaged, current = self.module.state_dict(), module.state_dict()
        for name in self.buffers:
            averaged[name].copy_(current[name])

    def state_dict(self) -> dict[str, Any]:
        """Returns the state for `load_state_dict`."""
        return {"steps": self.steps, "module": self.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state."""
        self.steps = state["steps"]
        self.module.load_state_dict(state["module"])
