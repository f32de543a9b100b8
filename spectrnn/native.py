"""C kernels, compiled on first use if there is a C compiler, and kept in the cache folder."""

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from spectrnn.files import atomic_write, cache_folder

log = logging.getLogger(__name__)

# No fast-math: results are reproducible, and NaN stays NaN.
_FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"]
# By PyTorch's name for the capability of the processor. Not -march=native, as machines may share a cache.
_ARCHITECTURES = {"AVX2": ["-march=x86-64-v3"], "AVX512": ["-march=x86-64-v4", "-mprefer-vector-width=512"]}
_HEADER = Path(__file__).with_suffix(".h")  # which the C files include


class Kernels:
    """The functions of a C file. They run without Python's lock, so that threads compute in parallel.

    The compiler is the environment variable ``CC``, else ``cc``; with ``SPECTRNN_NATIVE=0`` nothing is compiled.

    Args:
        source: C file.
    """

    def __init__(self, source: Path) -> None:
        self.source = source

    @cached_property
    def library(self) -> ctypes.CDLL | None:
        """The compiled file; None without a compiler, or if it fails."""
        if os.name == "nt" or os.environ.get("SPECTRNN_NATIVE") == "0":
            return None
        compiler = shutil.which(os.environ.get("CC", "cc"))
        if compiler is None:
            log.info("%s: no C compiler (cc); PyTorch's slower operations are used", self.source.name)
            return None
        command = [compiler, *_FLAGS, *_ARCHITECTURES.get(torch.backends.cpu.get_cpu_capability(), [])]
        contents = "\0".join(command).encode() + _HEADER.read_bytes() + self.source.read_bytes()
        key = hashlib.sha256(contents).hexdigest()[:32]
        folder = cache_folder(os.environ.get("SPECTRNN_CACHE", "~/.cache/spectrnn")) / "kernels"
        try:
            return _load(folder / f"{key}.so", self.source, command)
        except OSError:  # a folder that cannot be written, or is not to be trusted
            try:
                with tempfile.TemporaryDirectory() as scratch:
                    return _load(Path(scratch) / f"{key}.so", self.source, command)
            except OSError as error:
                log.warning("%s: not compiled (%s); PyTorch's slower operations are used", self.source.name, error)
                return None

    def support(self, *tensors: Tensor) -> bool:
        """Whether there is a library, and tensors of any shape are float32, or cast by autocast, on the CPU."""
        casts = torch.is_autocast_enabled("cpu")
        are_supported = all(x.device.type == "cpu" and (casts or x.dtype == torch.float32) for x in tensors)
        return are_supported and self.library is not None

    def call(self, name: str, *arguments: int | Tensor | None) -> int:
        """Calls a function.

        Args:
            name: Name of the function.
            arguments: Integers, passed as ``long``, and tensors of any shape or None, passed as pointers.
        """
        values = [ctypes.c_long(x) if isinstance(x, int) else ctypes.c_void_p(_address(x)) for x in arguments]
        return getattr(self.library, name)(*values)


def _address(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _load(library: Path, source: Path, command: list[str]) -> ctypes.CDLL:
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(library) as temporary:
            done = subprocess.run([*command, "-o", temporary, source], capture_output=True, text=True, check=False)
            if done.returncode:
                reason = next((line for line in done.stderr.splitlines() if "error" in line), "unknown error")
                raise OSError(f"{command[0]}: {reason}")
    if library.stat().st_uid not in (0, os.getuid()):
        raise OSError(f"{library}: belongs to another user")
    return ctypes.CDLL(str(library))
