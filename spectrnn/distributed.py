"""Distributed training with torchrun. A single process is rank 0 of 1, and does not communicate."""

import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from spectrnn.errors import UserError

T = TypeVar("T")

_TIMEOUT = timedelta(hours=24)  # of a wait for rank 0, which writes and evaluates alone; NCCL's is 10 minutes
_LOST_PEER = ("gloo", "NCCL", "Connection closed", "Connection reset", "Broken pipe")  # in PyTorch's messages


_groups = itertools.count()


def rank() -> int:
    """Returns the rank of this process, from 0; only rank 0 writes files."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Returns the number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Connects the processes within the block, with gloo on CPUs and NCCL on GPUs.

    Args:
        device: Device of this process.

    Raises:
        UserError: Another process was lost.
    """
    if world_size() == 1:
        yield
        return
    # Each run of a sweep connects again: its own prefix keeps a process from reading an address of the previous run.
    store = PrefixStore(f"group {next(_groups)}", _connect_store())
    backend, timeout = ("nccl", _TIMEOUT) if device.type == "cuda" else ("gloo", None)
    torch.distributed.init_process_group(backend, timeout=timeout, rank=rank(), world_size=world_size(), store=store)
    # A process whose run fails at once would otherwise close connections that others are still making.
    store.set(f"connected {rank()}", "")
    store.wait([f"connected {other}" for other in range(world_size())])
    try:
        yield
    except RuntimeError as error:
        if any(word in str(error) for word in _LOST_PEER):
            raise UserError(f"process {rank()} of {world_size()} lost the connection to another process") from error
        raise
    finally:
        torch.distributed.destroy_process_group()  # the next run of a sweep connects again


@cache
def _connect_store() -> Store:
    """Returns the store that torchrun's processes find each other with; rank 0 must keep it alive if it serves it."""
    store, _, _ = next(rendezvous("env://", rank(), world_size()))
    return store


def broadcast_object(value: T) -> T:
    """Returns the object of rank 0 (collective)."""
    if world_size() == 1:
        return value
    objects = [value]
    torch.distributed.broadcast_object_list(objects)
    return objects[0]


def broadcast_tensors(tensors: Iterable[Tensor]) -> None:
    """Copies tensors of any shape from rank 0, in place (collective)."""
    if world_size() > 1:
        for tensor in tensors:
            torch.distributed.broadcast(tensor, 0)


def all_gather(value: T) -> list[T]:
    """Returns the objects of all processes, by rank (collective)."""
    objects = [value] * world_size()
    if world_size() > 1:
        torch.distributed.all_gather_object(objects, value)
    return objects


def all_reduce_sum(x: Tensor) -> Tensor:
    """Returns the sum of a tensor of any shape over all processes, with gradients (collective)."""
    return x if world_size() == 1 else _AllReduceSum.apply(x)


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        torch.distributed.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _AllReduceSum.forward(ctx, grad)  # each process's result depends on each process's x
