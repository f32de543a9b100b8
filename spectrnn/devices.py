"""Selection of device and precision."""

import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from spectrnn.errors import UserError
from spectrnn.threads import configure_cpu

log = logging.getLogger(__name__)

JOB = "SPECTRNN_JOB"  # environment variable: number of this process's job among the parallel ones of a sweep

_PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_NVIDIA_FILES = ("/proc/driver/nvidia", "/dev/nvidia0")


def pick_device(name: str, key: str = "device") -> torch.device:
    """Returns the device that a config names, and configures PyTorch for it.

    Args:
        name: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        key: Config key, for error messages.

    Raises:
        UserError: A device that is not supported, or that this machine does not have.
    """
    # Unlike cuDNN's defaults: reproducible, and a clip alone differs by at most 1e-5 from the clip in a batch.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # oneDNN caches a thousand kernels by default, one set per batch shape: 200 MB, although few shapes recur.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "48")
    configure_cpu()
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    remedy = "cpu" if name == "auto" else "auto"
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu":
            _warn_about_unusable_gpu()
    if name == "cuda":  # torchrun's processes on a machine use one GPU each, and so do the parallel jobs of a sweep
        job = int(os.environ.get(JOB, "0")) % max(torch.cuda.device_count(), 1)
        name = f"cuda:{os.environ.get('LOCAL_RANK', job)}"
    if not re.fullmatch(r"cpu|cuda:\d+", name):
        raise UserError(f"{key}={name}: not a supported device; use auto, cpu, cuda or cuda:N")
    try:
        device = torch.device(name)
        # Computed and read, as PyTorch allocates memory also on a GPU that it has no kernels for.
        torch.ones(1, device=device).add(1).item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{key}={name}: not available on this machine ({reason}); use {remedy}") from error
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def autocast_dtype(name: str, device: torch.device, key: str) -> torch.dtype | None:
    """Returns the type for autocast, given ``auto``, ``fp32``, ``bf16`` or ``fp16``; None for float32 throughout.

    Args:
        name: Name of the precision.
        device: Device of the run.
        key: Config key, for error messages.

    Raises:
        UserError: A precision that the device does not support.
    """
    if name == "auto":
        if device.type != "cuda":
            return None
        # The tensor cores of a GPU without bf16, such as a T4, compute in fp16.
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and name == "fp16":
        raise UserError(f"{key}=fp16: needs a GPU, but this run is on the CPU; use fp32 or auto")
    if device.type == "cpu" and name == "bf16" and not _has_bf16_products():
        raise UserError(f"{key}=bf16: this CPU has no bf16 products (AVX512_BF16 or AMX); use fp32 or auto")
    return _PRECISIONS[name]


def describe_device(device: torch.device, dtype: torch.dtype | None = None) -> str:
    """Describes what a command computes on, and in which precision: ``cpu (2 threads), fp32``.

    Args:
        device: Device of the command.
        dtype: Type for autocast; None for float32 throughout.
    """
    threads = torch.get_num_threads()
    cpu = f"{threads} thread{'s' * (threads > 1)}"
    details = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
    precision = next(name for name, value in _PRECISIONS.items() if value == dtype)
    return f"{device} ({details}), {precision}"


def log_device(device: torch.device, dtype: torch.dtype | None = None) -> None:
    """Logs what a command computes on; arguments as for `describe_device`."""
    log.info("computing on %s", describe_device(device, dtype))


@contextmanager
def reporting_out_of_memory(*keys: str) -> Iterator[None]:
    """Converts PyTorch's error for a GPU whose memory is full, raised within the block, to one of the user.

    Args:
        keys: Config keys that determine the size of a batch, the most effective one first.

    Raises:
        UserError: A batch that does not fit in the memory of the GPU.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        others = "".join(f", or set a lower {key}" for key in keys[1:])
        raise UserError(f"{keys[0]}: a batch does not fit in the memory of the GPU; lower it{others}") from error


def _has_bf16_products() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _warn_about_unusable_gpu() -> None:
    """Warns that the CPU is used although there is an NVIDIA GPU, such as with a driver that is too old."""
    is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    has_gpu = any(map(os.path.exists, _NVIDIA_FILES)) or shutil.which("nvidia-smi")
    if torch.version.cuda and has_gpu and not is_hidden:
        try:
            torch.cuda.init()
            reason = "no CUDA device is visible"
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
        log.warning("computing on the CPU, as PyTorch cannot use this machine's NVIDIA GPU: %s", reason)
