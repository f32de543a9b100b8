"""Limits of the machine that no program can exceed."""

import platform
import statistics
import time
from collections.abc import Callable

import torch


def limits(device: torch.device) -> dict[str, float]:
    """Measures the median rate of matrix products in GFLOP/s, and the copy bandwidth (read and written) in GB/s."""
    found = {"float32 matrix product, GFLOP/s": product_rate(device)}
    if device.type == "cuda":
        found["bfloat16 matrix product, GFLOP/s"] = product_rate(device, torch.bfloat16)
    a = torch.ones(1 << 26, device=device)
    b = torch.empty_like(a)
    found["copy, GB/s"] = 2 * a.nbytes / 1e9 / _median_seconds(lambda: b.copy_(a), device)
    return found


def machine(device: torch.device) -> str:
    """Describes the machine in one line."""
    processor = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            processor = next(line.split(": ")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    gpu = f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    return f"{processor}, {torch.get_num_threads()} threads{gpu}, torch {torch.__version__}"


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
