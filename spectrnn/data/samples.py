"""Storage of the samples of a dataset: on the GPU, or in RAM or on disk with prefetching."""

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from spectrnn.data.sample_files import SampleFiles, read_at
from spectrnn.errors import UserError

T = TypeVar("T")

_END: Any = object()
_GPU_TYPES = ("cuda",)  # copy from pinned memory without waiting; another device may read memory that has been freed
_PREFETCH = 2  # batches that are read while another one is computed
_BLOCK = 1 << 25  # samples that are loaded to a GPU at once
_MAX_MEMORY_FRACTION = 0.5  # of the GPU's free memory, or of the machine's, for the dataset

Request = tuple[np.ndarray, int]  # first sample of each clip, int64 (clips,), and number of samples per clip


class SampleStorage(Protocol):
    """All clips concatenated. What a row contains after the end of its clip is undefined."""

    def gather(self, requests: Iterable[Request]) -> Iterator[Tensor]:
        """Yields an int16 tensor (clips, samples) on the batch's device per request."""


class GPUSamples:
    """Samples on a GPU, where the batches are.

    Args:
        samples: Samples, int16 (samples,).
    """

    def __init__(self, samples: Tensor) -> None:
        self.samples = samples

    def gather(self, requests: Iterable[Request]) -> Iterator[Tensor]:
        """Indexes rows of a view with a row starting at each sample, which copies each row at once."""
        for starts, samples in requests:
            yield self.samples.unfold(0, samples, 1)[to_device(torch.from_numpy(starts), self.samples.device)]


class HostSamples(ABC):
    """Samples in RAM or on disk: a thread copies the rows of the next batches, and sends them to the device.

    Args:
        device: Device of the batches.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def gather(self, requests: Iterable[Request]) -> Iterator[Tensor]:
        """Copies the next batches while the caller computes."""
        return prefetch((self._load(*request) for request in requests), _PREFETCH)

    @abstractmethod
    def read(self, starts: np.ndarray, rows: Tensor) -> None:
        """Fills rows, int16 (clips, samples) on the CPU, from their first samples, int64 (clips,)."""

    def _load(self, starts: np.ndarray, samples: int) -> Tensor:
        is_gpu = self.device.type in _GPU_TYPES
        rows = torch.empty(len(starts), samples, dtype=torch.int16, pin_memory=is_gpu)
        self.read(starts, rows)
        return rows.to(self.device, non_blocking=is_gpu)


class InMemorySamples(HostSamples):
    """Samples in RAM: the page cache, which all processes of a machine share.

    Args:
        samples: Files, which are mapped to memory.
        device: Device of the batches.
    """

    def __init__(self, samples: SampleFiles, device: torch.device) -> None:
        super().__init__(device)
        self.layout = samples.layout
        sizes = [os.fstat(file.fileno()).st_size // 2 for file in samples.files]
        # Not `shared`, which would need permission to write; unmodified pages are those of the page cache anyway.
        self.contents = [
            torch.from_file(str(file.name), shared=False, size=size, dtype=torch.int16) if size else torch.empty(0)
            for file, size in zip(samples.files, sizes, strict=True)
        ]

    def read(self, starts: np.ndarray, rows: Tensor) -> None:
        """Copies all rows at once if they are in one file, else row by row; zero after the end of a file."""
        files, positions = self.layout.locate(starts)
        content, size = self.contents[files[0]], rows.shape[1]
        if (files == files[0]).all() and positions.max() + size <= len(content):
            torch.index_select(content.unfold(0, size, 1), 0, torch.from_numpy(positions), out=rows)
            return
        arrays = [content.numpy() for content in self.contents]  # whose slices take less time
        for row, file, position in zip(rows.numpy(), files.tolist(), positions.tolist(), strict=True):
            samples = arrays[file][position : position + size]
            row[: len(samples)] = samples
            row[len(samples) :] = 0


class OnDiskSamples(HostSamples):
    """Samples in files: memory stays constant, however large the dataset.

    A memory-mapped file would count as resident memory as far as it has been read. Frequently read parts are in the
    page cache in either case.

    Args:
        samples: Files.
        device: Device of the batches.
    """

    def __init__(self, samples: SampleFiles, device: torch.device) -> None:
        super().__init__(device)
        self.files, self.layout = samples.files, samples.layout
        self.sizes = [os.fstat(file.fileno()).st_size for file in samples.files]

    def read(self, starts: np.ndarray, rows: Tensor) -> None:
        """Reads row by row, after all have been requested from the disk; zero after the end of a file."""
        size = rows[0].nbytes
        files, positions = (places.tolist() for places in self.layout.locate(starts))
        if hasattr(os, "posix_fadvise"):  # the disk then reads several rows at once
            for file, position in zip(files, positions, strict=True):
                os.posix_fadvise(self.files[file].fileno(), 2 * position, size, os.POSIX_FADV_WILLNEED)
        for row, file, position in zip(rows.numpy(), files, positions, strict=True):
            read = read_at(self.files[file], row, 2 * position)
            if read != size:
                if 2 * position + read != self.sizes[file]:
                    raise OSError(f"{self.files[file].name}: is shorter than when it was opened")
                row[read // 2 :] = 0


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
    """Moves a tensor of any shape from the CPU to a device, without waiting for a GPU."""
    is_gpu = device.type in _GPU_TYPES
    return (tensor.pin_memory() if is_gpu else tensor).to(device, non_blocking=is_gpu)


def open_samples(samples: SampleFiles, storage: str, device: torch.device) -> SampleStorage:
    """Opens the samples of a cached dataset.

    Args:
        samples: Files of the samples.
        storage: ``gpu``; ``ram``, the page cache, which all processes of a machine share, mapped to memory; ``disk``;
            or ``auto``: the GPU if the dataset takes at most half of its free memory, else RAM if it takes at most half
            of it, else disk. Without a GPU it is disk, which is never slower than the model.
        device: Device of the batches.

    Raises:
        UserError: ``gpu`` without a GPU.
    """
    if storage == "gpu" and device.type != "cuda":
        raise UserError("data.storage=gpu: the run has no GPU; use auto, ram or disk")
    if storage == "auto":
        storage = fastest_storage(2 * samples.size, device)
    if storage == "gpu":
        return GPUSamples(load_samples(samples, device))
    return OnDiskSamples(samples, device) if storage == "disk" else InMemorySamples(samples, device)


def load_samples(samples: SampleFiles, device: torch.device) -> Tensor:
    """Loads all samples to a device, block by block, int16 (samples,).

    Silence of the longest clip's length follows, so that a gather that is longer than its clip stays in bounds.
    """
    loaded = torch.zeros(samples.size + samples.longest, dtype=torch.int16, device=device)
    for start in range(0, samples.size, _BLOCK):
        block = samples.read(start, min(_BLOCK, samples.size - start))
        loaded[start : start + len(block)] = torch.from_numpy(block)
    return loaded


def fastest_storage(size: int, device: torch.device) -> str:
    """Returns the storage that ``auto`` is for `open_samples`, given the size of the samples in bytes."""
    if device.type != "cuda":
        return "disk"
    torch.cuda.empty_cache()  # what an earlier run of a sweep has freed would count as used
    if size <= _MAX_MEMORY_FRACTION * torch.cuda.mem_get_info(device)[0]:
        return "gpu"
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    return "ram" if size <= _MAX_MEMORY_FRACTION * memory else "disk"
