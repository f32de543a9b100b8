"""Which device computes, and in which precision."""

import os

import torch

from spectrnn.errors import UserError, reject_settings


def pick_device(name: str, key: str = "device") -> torch.device:
    """The device that a config names.

    Args:
        name: ``auto``, or what torch calls it: ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        key: of the config, for messages.

    Raises:
        UserError: there is no such device on this machine.
    """
    # The same run from the same seed, and 1e-5 between a clip alone and in a batch: cuDNN's defaults promise neither.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # oneDNN keeps what it builds for a shape of batch, a thousand by default: 200 MB, and hardly any shape comes again.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "48")
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":  # torchrun gives each of its processes on a machine a GPU of its own
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{key}={name}: not to be had on this machine ({reason}); auto takes what there is") from error
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def autocast_dtype(name: str, device: torch.device) -> torch.dtype | None:
    """The type that autocast computes in: ``auto``, ``fp32``, ``bf16`` or ``fp16``; None for float32 throughout.

    Raises:
        SettingError: a precision that the device does not have.
    """
    if name == "auto":
        has_it = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_it else None
    has_none = name != "fp32" and device.type != "cuda"
    reject_settings(precision=has_none and f"needs a GPU, and this run is on {device.type}; fp32 or auto")
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
