"""PyTorch's optimizers: without PyTorch's compiler, and with weight decay of matrices only."""

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.optim import Optimizer


def avoid_compiler_import() -> None:
    """Lets PyTorch's optimizers run without importing its compiler, which takes seconds and 150 MB.

    They import it on first use, only to exclude themselves from what it compiles, and a training compiles nothing. They
    remain as they are if it is imported already, or if a version of PyTorch excludes them differently.
    """
    if "torch._dynamo" in sys.modules:
        return
    for method in (Optimizer.add_param_group, Optimizer.zero_grad, Optimizer.state_dict, Optimizer.load_state_dict):
        function = inspect.unwrap(method)
        vars(function).setdefault("__dynamo_disable", function)  # which torch/_compile.py calls then
    for kind in vars(torch.optim).values():
        step = getattr(kind, "step", None)
        if inspect.isfunction(step) and step.__code__.co_name == "_use_grad":  # see torch/optim/optimizer.py
            kind.step = _with_grad_mode(inspect.unwrap(step))


def _with_grad_mode(step: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(step)
    def wrapper(self: Optimizer, *arguments: Any, **keywords: Any) -> Any:
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return step(self, *arguments, **keywords)

    return wrapper


def without_decay_of_vectors(groups: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Divides groups of parameters for an optimizer with weight decay, which applies to weight matrices only.

    Biases and the parameters of normalizations, with fewer than two dimensions, are not decayed (as in He et al., 2019,
    "Bag of tricks for image classification with convolutional neural networks").
    """
    divided = []
    for group in groups:
        vectors = [parameter for parameter in group["params"] if parameter.ndim < 2]
        matrices = [parameter for parameter in group["params"] if parameter.ndim >= 2]
        divided += [{**group, "params": matrices}, {**group, "params": vectors, "weight_decay": 0.0}]
    return divided
