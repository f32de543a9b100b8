"""C kernels, compiled on first use if there is a C compiler, and kept in the cache folder."""

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from spectrnn.files import atomic_write

log = logging.getLogger(__name__)

# No fast-math: results are reproducible, and NaN stays NaN.
_FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"]
# By PyTorch's name for the capability of the processor. Not -march=native, as machines may share a cache.
_ARCHITECTURES = {"AVX2": ["-march=x86-64-v3"], "AVX512": ["-march=x86-64-v4", "-mprefer-vector-width=512"]}


@lru_cache
def load_kernels(source: Path) -> ctypes.CDLL | None:
    """Loads the kernels of a C file, compiled for this processor.

    The compiler is the environment variable ``CC``, else ``cc``; with ``SPECTRNN_NATIVE=0`` nothing is compiled.

    Args:
        source: C file.

    Returns:
        The library, whose functions run without Python's lock; None if there is no compiler, or if it fails.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if os.name == "nt" or compiler is None or os.environ.get("SPECTRNN_NATIVE") == "0":
        return None
    command = [compiler, *_FLAGS, *_ARCHITECTURES.get(torch.backends.cpu.get_cpu_capability(), [])]
    key = hashlib.sha256("\0".join(command).encode() + source.read_bytes()).hexdigest()[:32]
    folder = Path(os.environ.get("SPECTRNN_CACHE", "~/.cache/spectrnn")).expanduser() / "kernels"
    try:
        return _load(folder / f"{key}.so", source, command)
    except OSError:  # a folder that cannot be written
        try:
            with tempfile.TemporaryDirectory() as scratch:
                return _load(Path(scratch) / f"{key}.so", source, command)
        except OSError as error:
            log.warning("%s: cannot be compiled (%s); PyTorch's slower operations are used", source.name, error)
            return None


def _load(library: Path, source: Path, command: list[str]) -> ctypes.CDLL:
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(library) as temporary:
            done = subprocess.run([*command, "-o", temporary, source], capture_output=True, text=True, check=False)
            if done.returncode:
                reason = next((line for line in done.stderr.splitlines() if "error" in line), "unknown error")
                raise OSError(f"{command[0]}: {reason}")
    return ctypes.CDLL(str(library))


def call(library: ctypes.CDLL, name: str, *arguments: int | Tensor | None) -> None:
    """Calls a function of a library.

    Args:
        library: Library from `load_kernels`.
        name: Name of the function.
        arguments: Integers, passed as ``long``, and tensors of any shape or None, passed as pointers.
    """
    function = getattr(library, name)
    function(
        *(
            ctypes.c_long(x) if isinstance(x, int) else ctypes.c_void_p(x if x is None else x.data_ptr())
            for x in arguments
        )
    )
