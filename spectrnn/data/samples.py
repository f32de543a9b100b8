"""Storage of the samples of a dataset: on the GPU, in RAM, or on disk with prefetching."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from spectrnn.errors import UserError

T = TypeVar("T")

_END: Any = object()
_PREFETCH = 2  # batches that are read while another one is computed
_MAX_MEMORY_FRACTION = 0.5  # of the free memory, for the dataset

Request = tuple[np.ndarray, int]  # first sample of each clip, int64 (clips,), and number of samples per clip


class SampleStorage(Protocol):
    """All clips concatenated, followed by silence of the longest clip's length so that any gather stays in bounds."""

    def gather(self, requests: Iterable[Request]) -> Iterator[Tensor]:
        """Yields an int16 tensor (clips, samples) on the batch's device per request."""


class InMemorySamples:
    """Samples as one tensor, on the GPU or in RAM.

    Args:
        samples: Samples, int16 (samples,).
        device: Device of the batches.
    """

    def __init__(self, samples: Tensor, device: torch.device) -> None:
        self.samples, self.device = samples, device

    def gather(self, requests: Iterable[Request]) -> Iterator[Tensor]:
        """Indexes rows of a view with a row starting at each sample, which copies each row at once."""
        for starts, samples in requests:
            rows = self.samples.unfold(0, samples, 1)[to_device(torch.from_numpy(starts), self.samples.device)]
            yield to_device(rows, self.device)


class OnDiskSamples:
    """Samples in a file, prefetched by a thread: memory stays constant, however large the dataset.

    A memory-mapped file would count as resident memory as far as it has been read. Frequently read parts are in the
    page cache in either case.

    Args:
        path: File of int16 samples.
        device: Device of the batches.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        self.path, self.device = path, device

    def gather(self, requests: Iterable[Request]) -> Iterator[Tensor]:
        """Reads the next batches while the caller computes."""
        return prefetch((self._read(*request) for request in requests), _PREFETCH)

    def _read(self, starts: np.ndarray, samples: int) -> Tensor:
        rows = np.empty((len(starts), samples), np.int16)
        with self.path.open("rb") as file:
            for row, start in zip(rows, starts.tolist(), strict=True):
                file.seek(start * row.itemsize)
                if file.readinto(row.data.cast("B")) != row.nbytes:
                    raise OSError(f"{self.path}: is shorter than when it was opened")
        return to_device(torch.from_numpy(rows), self.device)


def prefetch(items: Iterable[T], count: int) -> Iterator[T]:
    """Computes the next items in a thread while the caller processes the current one; errors are raised in order.

    Args:
        items: Items, iterated in a separate thread.
        count: Maximum number of pending items.
    """
    iterator = iter(items)
    pool = ThreadPoolExecutor(1, "prefetch")
    try:
        pending: deque[Future[T]] = deque(pool.submit(next, iterator, _END) for _ in range(count))
        while (item := pending.popleft().result()) is not _END:
            pending.append(pool.submit(next, iterator, _END))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Moves a tensor of any shape to a device, without synchronization."""
    is_gpu = device.type == "cuda"  # other devices may read memory that is freed meanwhile
    if is_gpu and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=is_gpu)


def open_samples(path: Path, storage: str, device: torch.device) -> SampleStorage:
    """Opens the samples of a cached dataset.

    Args:
        path: File of int16 samples.
        storage: ``gpu``, ``ram``, ``disk``, or ``auto``: the GPU if the dataset takes at most half of its free memory,
            else RAM likewise, else disk. Without a GPU it is disk, as the page cache holds it in memory.
        device: Device of the batches.

    Raises:
        UserError: ``gpu`` without a GPU.
    """
    if storage == "gpu" and device.type != "cuda":
        raise UserError("data.storage=gpu: the run has no GPU; use auto, ram or disk")
    size = path.stat().st_size
    if storage == "auto":
        if device.type != "cuda":
            storage = "disk"
        elif size < _MAX_MEMORY_FRACTION * torch.cuda.mem_get_info(device)[0]:
            storage = "gpu"
        else:
            free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
            storage = "ram" if size < _MAX_MEMORY_FRACTION * free else "disk"
    if storage == "disk":
        return OnDiskSamples(path, device)
    samples = torch.from_file(str(path), shared=False, size=size // 2, dtype=torch.int16)
    return InMemorySamples(samples.to(device) if storage == "gpu" else samples.clone(), device)
