"""Where the samples of a dataset lie, and how a batch is gathered from there."""

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

_PREFETCH = 2  # batches that are read while another is computed
_MAX_MEMORY_FRACTION = 0.5  # of the free memory that a dataset may take
Request = tuple[np.ndarray, int]  # int64 (clips,) of first samples, and how many samples each
T = TypeVar("T")
_END: Any = object()


def prefetch(items: Iterable[T], count: int) -> Iterator[T]:
    """Passes items on in their order; an error comes where its item would have come.

    Args:
        items: drawn on a thread of their own.
        count: how many of them wait for the caller, at most.
    """
    iterator = iter(items)
    pool = ThreadPoolExecutor(1, "ahead")
    try:
        waiting: deque[Future[T]] = deque(pool.submit(next, iterator, _END) for _ in range(count))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(pool.submit(next, iterator, _END))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)


class SampleStorage(Protocol):
    """The samples of all clips, end to end, and a silence as long as the longest clip, so that no reading runs over."""

    def gather(self, requests: Iterable[Request]) -> Iterator[Tensor]:
        """Answers each request with an int16 tensor (clips, samples) on the batch's device."""
        ...


class InMemorySamples:
    """The samples as one tensor, on the GPU or in RAM.

    Args:
        samples: int16 (samples,).
        device: of the batches.
    """

    def __init__(self, samples: Tensor, device: torch.device) -> None:
        self.samples, self.device = samples, device

    def gather(self, requests: Iterable[Request]) -> Iterator[Tensor]:
        """Picks rows of a view in which a row begins at every sample: each is copied in one go."""
        for starts, samples in requests:
            rows = self.samples.unfold(0, samples, 1)[to_device(torch.from_numpy(starts), self.samples.device)]
            yield to_device(rows, self.device)


class OnDiskSamples:
    """The samples in a file, read ahead on a thread: the storage memory stays flat, however large the dataset.

    A memory-mapped file would count as storage as far as it has been read. What is read again and again lies in the
    system's cache either way.

    Args:
        path: of the int16 samples.
        device: of the batches.
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


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of any shape on a device, without making either side wait for the other."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def open_samples(path: Path, storage: str, device: torch.device) -> SampleStorage:
    """Lays the samples of a store where batches are gathered from.

    Args:
        path: of the int16 samples.
        storage: ``gpu``, ``ram``, ``disk``, or ``auto``: the GPU where the dataset takes up to half of its free memory,
            else the memory likewise, else the disk. Without a GPU it is the disk: the system's cache holds it.
        device: of the batches.

    Raises:
        UserError: ``gpu`` without one.
    """
    if storage == "gpu" and device.type != "cuda":
        raise UserError("data.storage=gpu: the run has no GPU; use auto, ram or disk")
    size = path.stat().st_size
    if storage == "auto":
        storage = _choose_storage(size, device)
    if storage == "disk":
        return OnDiskSamples(path, device)
    samples = torch.from_file(str(path), shared=False, size=size // 2, dtype=torch.int16)
    return InMemorySamples(samples.to(device) if storage == "gpu" else samples.clone(), device)


def _choose_storage(size: int, device: torch.device) -> str:
    if device.type != "cuda":
        return "disk"
    if size < _MAX_MEMORY_FRACTION * torch.cuda.mem_get_info(device)[0]:
        return "gpu"
    return "ram" if size < _MAX_MEMORY_FRACTION * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") else "disk"
