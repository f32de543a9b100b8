"""The machine's limits: what no program on it can exceed."""

import platform
import statistics
import time
from collections.abc import Callable

import torch


def limits(device: torch.device) -> dict[str, float]:
    """Matrix product rate in GFLOP/s and copy bandwidth in GB/s (read and written), medians."""
    found = {"float32 matrix product, GFLOP/s": product_rate(device)}
    if device.type == "cuda":
        found["bfloat16 matrix product, GFLOP/s"] = product_rate(device, torch.bfloat16)
    a = torch.ones(1 << 26, device=device)
    b = torch.empty_like(a)
    found["copy, GB/s"] = 2 * a.nbytes / 1e9 / seconds(lambda: b.copy_(a), device)
    return found


def machine(device: torch.device) -> str:
    """The machine, in a line."""
    processor = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            processor = next(line.split(": ")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    gpu = f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    return f"{processor}, {torch.get_num_threads()} threads{gpu}, torch {torch.__version__}"


def seconds(work: Callable[[], object], device: torch.device, rounds: int = 10) -> float:
    """Median time of a piece of work, on a GPU to its end."""
    times = []
    for _ in range(rounds + 2):
        start = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def wait(device: torch.device) -> None:
    """Until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def product_rate(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Of a large matrix product, GFLOP/s."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    return 2 * size**3 / 1e9 / seconds(lambda: a @ b, device)
