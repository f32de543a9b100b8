"""The processes that train together, as torchrun starts them. One on its own is the first of one, and sends nothing."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor

from spectrnn.errors import UserError

T = TypeVar("T")

_LOST = ("gloo", "NCCL", "Connection closed", "Connection reset", "Broken pipe")  # in what torch says of a dead peer


def rank() -> int:
    """The number of this process, from 0; the first one alone writes."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Within the block the processes can talk: over gloo on the CPU, over NCCL between GPUs.

    Args:
        device: of this process.

    Raises:
        UserError: another process died, so that this one cannot go on.
    """
    if world_size() == 1:
        yield
        return
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    except RuntimeError as error:
        if any(word in str(error) for word in _LOST):
            raise UserError(
                f"process {rank()} of {world_size()} lost another one, and cannot go on without it"
            ) from error
        raise
    torch.distributed.destroy_process_group()


def broadcast_object(value: T) -> T:
    """What the first process has; all of them must ask."""
    if world_size() == 1:
        return value
    held = [value]
    torch.distributed.broadcast_object_list(held)
    return held[0]


def broadcast_tensors(tensors: Iterable[Tensor]) -> None:
    """Makes tensors of any shape, in place, what they are in the first process; all of them must ask."""
    if world_size() > 1:
        for tensor in tensors:
            torch.distributed.broadcast(tensor, 0)


def all_gather(value: T) -> list[T]:
    """What each process has, in their order; all of them must ask."""
    found = [value] * world_size()
    if world_size() > 1:
        torch.distributed.all_gather_object(found, value)
    return found


def all_reduce_sum(x: Tensor) -> Tensor:
    """The sum over all processes of a tensor of any shape, through which gradients flow; all of them must ask."""
    return x if world_size() == 1 else _AllReduceSum.apply(x)


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        torch.distributed.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _AllReduceSum.forward(ctx, gradient)  # every process's result depends on every process's x
