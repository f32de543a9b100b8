"""Threads and memory of this process on the CPU: how many threads PyTorch uses, how they wait, what is kept."""

import ctypes
import os

_MMAP_THRESHOLD, _TRIM_THRESHOLD = (-3, 1 << 26), (-1, 1 << 28)  # options of mallopt in malloc.h, bytes


def set_wait_policy() -> None:
    """Lets threads without work sleep soon, if called before PyTorch is imported; a setting of the user wins.

    By default OpenMP's threads wait actively for milliseconds, and take the time of the threads that compute if another
    program uses the same cores.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # of GNU's OpenMP: some microseconds
        os.environ.setdefault("KMP_BLOCKTIME", "0")  # of LLVM's and Intel's: milliseconds


def configure_threads() -> None:
    """Limits PyTorch to the cores that this process may use, and keeps freed memory.

    Affinity and the quota of a container count, as do the limits of joblib's parallel jobs; ``OMP_NUM_THREADS`` wins.
    """
    import joblib
    import torch

    if not {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & os.environ.keys():
        torch.set_num_threads(joblib.cpu_count())
    # By default, memory of more than some megabytes is returned and then zeroed by the system in each step.
    if mallopt := getattr(ctypes.CDLL(None) if os.name == "posix" else None, "mallopt", None):
        mallopt(*_MMAP_THRESHOLD)
        mallopt(*_TRIM_THRESHOLD)
