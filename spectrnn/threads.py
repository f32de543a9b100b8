"""Threads and memory of this process on the CPU: how many threads PyTorch uses, how they wait, what is kept."""

import ctypes
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from threading import Barrier
from typing import TypeVar

T = TypeVar("T")

_MMAP_THRESHOLD, _TRIM_THRESHOLD = (-3, 1 << 30), (-1, (1 << 31) - 1)  # options of mallopt in malloc.h, bytes


def set_wait_policy() -> None:
    """Lets threads without work sleep soon, if called before PyTorch is imported; a setting of the user wins.

    By default OpenMP's threads wait actively for milliseconds, and take the time of the threads that compute if another
    program uses the same cores.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # of GNU's OpenMP: some microseconds
        os.environ.setdefault("KMP_BLOCKTIME", "0")  # of LLVM's and Intel's: milliseconds


def configure_cpu() -> None:
    """Limits PyTorch to the cores that this process may use, and keeps freed memory.

    Affinity and the quota of a container count, as do the limits of joblib's parallel jobs; ``OMP_NUM_THREADS`` wins.
    """
    import joblib
    import torch

    if not {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & os.environ.keys():
        torch.set_num_threads(joblib.cpu_count())
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Keeps freed memory: by default, large arrays are returned, and zeroed by the system when they are next needed."""
    _call_c_library("mallopt", *_MMAP_THRESHOLD)
    _call_c_library("mallopt", *_TRIM_THRESHOLD)


def release_memory() -> None:
    """Returns the freed memory that is kept to the system."""
    _call_c_library("malloc_trim", 0)


def _call_c_library(name: str, *arguments: int) -> None:
    """Calls a function that only GNU's C library has."""
    if function := getattr(ctypes.CDLL(None) if os.name == "posix" else None, name, None):
        function(*arguments)


def divide(count: int, tasks_per_part: int = 1, min_size: int = 1) -> list[slice]:
    """Divides a batch into parts of nearly equal size, for two tasks per thread.

    A thread that shares its core with another program then delays the others less.

    Args:
        count: Size of the batch.
        tasks_per_part: Number of tasks for each part.
        min_size: Minimum size of a part.
    """
    import torch

    threads = torch.get_num_threads()
    parts = 1 if threads == 1 else max(1, min(2 * threads // tasks_per_part, count // min_size))
    return [slice(*pair) for pair in pairwise([count * index // parts for index in range(parts + 1)])]


def run_parallel(tasks: Sequence[Callable[[], T]]) -> list[T]:
    """Runs tasks without gradients on the threads that PyTorch may use, one thread each; returns results in order."""
    import torch

    threads = torch.get_num_threads()
    # A setting of each thread; tensors of inference mode can only be changed within it.
    mode = torch.inference_mode if torch.is_inference_mode_enabled() else torch.no_grad

    def run(task: Callable[[], T]) -> T:
        with mode():
            return task()

    return list(map(run, tasks) if threads == 1 or len(tasks) == 1 else _pool(threads).map(run, tasks))


@lru_cache
def _pool(threads: int) -> ThreadPoolExecutor:
    import torch

    pool = ThreadPoolExecutor(threads, "compute", torch.set_num_threads, (1,))
    all_started = Barrier(threads)
    list(pool.map(lambda _: all_started.wait(), range(threads)))
    torch.set_num_threads(threads)  # PyTorch applies the last setting of any thread to new threads
    return pool


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a fork has none of its threads
