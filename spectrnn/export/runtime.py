"""An ONNX file of ours, opened for use. Needs no torch: it runs on the machine that the model was made for."""

import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spectrnn.errors import UserError

KEY = "spectrnn"  # in the metadata of the ONNX file

Array = npt.NDArray[Any]


def library(name: str) -> Any:
    """The module ``onnx`` or ``onnxruntime``, which come with an extra.

    Raises:
        UserError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(f"export: needs {name} ({error}): pip install 'spectrnn[export]'") from error


class Exported:
    """An exported classifier in onnxruntime, on the CPU.

    Args:
        path: of the ONNX file.
        threads: that compute; 0 for one a core.

    Attributes:
        metadata: what the file says of itself: labels, sample_rate (Hz), longest (samples) and more; see `graph.facts`.

    Raises:
        UserError: no such file, none that onnxruntime can run, or not one of ours.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        runtime = library("onnxruntime")
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        options = runtime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, threads
        try:
            self.session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            self.metadata = json.loads(self.session.get_modelmeta().custom_metadata_map[KEY])
        except KeyError as error:
            raise UserError(f"{path}: is an ONNX file, but no export of spectrnn") from error
        except Exception as error:  # onnxruntime's have no common class of their own
            raise UserError(f"{path}: onnxruntime cannot run it ({str(error).splitlines()[0]:.300})") from error

    def __call__(self, waveforms: Sequence[Array]) -> Array:
        """Classifies clips: float32 arrays (samples,) at the classifier's rate -> probabilities (clips, classes)."""
        lengths = np.array([len(waveform) for waveform in waveforms], dtype=np.int64)
        batch = np.zeros((len(waveforms), lengths.max()), np.float32)
        for row, waveform in zip(batch, waveforms, strict=True):
            row[: len(waveform)] = waveform
        return self.run(batch, lengths)

    def run(self, waveform: Array, lengths: Array) -> Array:
        """float32 (batch, samples), zero beyond each clip's length, int64 (batch,) -> float32 (batch, classes)."""
        return self.session.run(["probabilities"], {"waveform": waveform, "lengths": lengths})[0]
