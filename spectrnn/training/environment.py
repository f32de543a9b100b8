"""Environment of a run: versions, machine and device."""

import os
import platform
from importlib import metadata

import torch

from spectrnn import distributed
from spectrnn.devices import describe_device
from spectrnn.version import __version__

_PACKAGES = ("torch", "torchaudio", "numpy", "hydra-core", "soundfile", "soxr")


def describe_environment(device: torch.device, precision: torch.dtype | None) -> str:
    """Describes what a run is computed with as a table in Markdown.

    Args:
        device: Device of the run.
        precision: Type for autocast; None for float32 throughout.
    """
    rows = {
        "spectrnn": __version__,
        "Python": platform.python_version(),
        **{name: metadata.version(name) for name in _PACKAGES},
        "device": describe_device(device, precision),
        "processes": distributed.world_size(),
        "CUDA": torch.version.cuda if device.type == "cuda" else "not used",
        "system": platform.platform(),
        "CPU cores": os.cpu_count(),
    }
    return "\n".join(["| name | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])
