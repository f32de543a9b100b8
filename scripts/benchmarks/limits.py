"""The machine, and its limits that no program can exceed."""

import os
import platform
import statistics
import time
from collections.abc import Callable

import joblib
import torch

from benchmarks import ENVIRONMENT
from spectrnn.model import rnn_kernels

_THREAD_SETTINGS = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_")  # of environment variables


def limits(device: torch.device) -> dict[str, float]:
    """Measures the median rate of matrix products in GFLOP/s, and the copy bandwidth (read and written) in GB/s."""
    found = {"float32 matrix product, GFLOP/s": product_rate(device)}
    if device.type == "cuda":
        found["bfloat16 matrix product, GFLOP/s"] = product_rate(device, torch.bfloat16)
    a = torch.ones(1 << 26, device=device)
    b = torch.empty_like(a)
    found["copy, GB/s"] = 2 * a.nbytes / 1e9 / _median_seconds(lambda: b.copy_(a), device)
    return found


def machine(device: torch.device, precision: torch.dtype | None) -> dict[str, str]:
    """Describes the machine, and what the speed of a training depends on.

    Args:
        device: Device of the trainings.
        precision: Type for autocast; None for float32 throughout.
    """
    processor = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            processor = next(line.split(": ")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    cores = f"{joblib.cpu_count()} of {os.cpu_count()} may be used, {torch.get_num_threads()} threads"
    settings = [f"{name}={value}" for name, value in sorted(ENVIRONMENT.items()) if name.startswith(_THREAD_SETTINGS)]
    kernels = device.type == "cpu" and rnn_kernels.KERNELS.support(torch.zeros(1))
    return {
        "processor": processor,
        "cores": cores,
        "load average": "unknown" if os.name == "nt" else " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "GPU": torch.cuda.get_device_name(device) if device.type == "cuda" else "none used",
        "PyTorch": torch.__version__,
        "precision": str(precision or torch.float32).removeprefix("torch."),
        "recurrent layers": "C kernels" if kernels else "PyTorch",
        "thread settings": " ".join(settings) or "none",
    }


def product_rate(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Measures the rate of a large matrix product in GFLOP/s."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    return 2 * size**3 / 1e9 / _median_seconds(lambda: a @ b, device)


def synchronize(device: torch.device) -> None:
    """Waits until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _median_seconds(work: Callable[[], object], device: torch.device, rounds: int = 10) -> float:
    times = []
    for _ in range(rounds + 2):
        start = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])
