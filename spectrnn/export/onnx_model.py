"""Exported models in onnxruntime. Does not need torch."""

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spectrnn.errors import UserError, import_optional

KEY = "spectrnn"  # in the metadata of the ONNX file
NEXT = "next_"  # prefix of the outputs that are the next state

Array = npt.NDArray[Any]


class OnnxModel:
    """Exported classifier in onnxruntime, on the CPU. See `load_onnx`.

    Args:
        path: ONNX file.
        threads: Number of threads; 0 for one per core.

    Attributes:
        metadata: Metadata of the file, from `graph.model_metadata`.

    Raises:
        UserError: No such file, one that onnxruntime cannot run, or one that spectrnn did not export.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        runtime = import_optional("onnxruntime")
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        options = runtime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, threads
        try:
            self.session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            self.metadata = json.loads(self.session.get_modelmeta().custom_metadata_map[KEY])
        except KeyError as error:
            raise UserError(f"{path}: is an ONNX file, but not an export of spectrnn") from error
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise UserError(f"{path}: onnxruntime cannot run it ({_line(error)})") from error
        self.path = path
        if not isinstance(self.metadata, dict) or type(self.metadata.get("sample_rate")) is not int:
            raise UserError(f"{path}: is an ONNX file, but its metadata are damaged")

    def __call__(self, waveforms: Sequence[Array]) -> Array:
        """Classifies clips at the classifier's sample rate: float32 (samples,) each -> float32 (clips, classes)."""
        lengths = np.array([len(waveform) for waveform in waveforms], dtype=np.int64)
        batch = np.zeros((len(waveforms), lengths.max()), np.float32)
        for row, waveform in zip(batch, waveforms, strict=True):
            row[: len(waveform)] = waveform
        return self.run(batch, lengths)

    def run(self, waveform: Array, lengths: Array) -> Array:
        """Classifies a batch, zero after the end of each clip.

        Args:
            waveform: Samples in [-1, 1), float32 (batch, samples).
            lengths: Number of valid samples per clip, int64 (batch,).

        Returns:
            Probabilities, float32 (batch, classes).
        """
        return self._run(["probabilities"], {"waveform": waveform, "lengths": lengths})[0]

    def _run(self, outputs: list[str], inputs: dict[str, Array]) -> list[Array]:
        try:
            return self.session.run(outputs, inputs)
        except Exception as error:  # as above
            raise UserError(f"{self.path}: onnxruntime cannot run it ({_line(error)})") from error


class StreamingOnnxModel(OnnxModel):
    """Exported streaming classifier, for clips and for streams."""

    def run(self, waveform: Array, lengths: Array) -> Array:
        """Classifies a batch as `OnnxModel.run` does: each clip is a stream of two blocks, a window and the rest."""
        results = []
        for row, length in zip(waveform, lengths, strict=True):
            *_, (_, last) = self.stream(row[None, :length], length)
            results.append(last)
        return np.concatenate(results)

    def stream(self, streams: Array, hops: int) -> Iterator[tuple[int, Array]]:
        """Classifies a batch of streams block by block.

        Args:
            streams: Samples in [-1, 1), float32 (batch, samples).
            hops: Number of hops per block; the first block is a window.

        Yields:
            Number of samples so far, and their probabilities (batch, classes). An incomplete hop at the end is ignored,
            as in a clip.
        """
        try:
            window, hop = int(self.metadata["window"]), int(self.metadata["hop"])
            state = {
                each["name"]: np.full((len(streams), *each["shape"]), each["fill"], np.float32)
                for each in self.metadata["state"]
            }
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self.path}: is an ONNX file, but the metadata of its state are damaged") from error
        streams = np.pad(streams, ((0, 0), (0, max(0, window - streams.shape[1]))))
        total = window + (streams.shape[1] - window) // hop * hop
        for start, end in pairwise([0, *range(window, total, hops * hop), total]):
            outputs = ["probabilities", *(NEXT + name for name in state)]
            probabilities, *next_state = self._run(outputs, {"waveform": streams[:, start:end], **state})
            state = dict(zip(state, next_state, strict=True))
            yield end, probabilities


def load_onnx(path: Path, threads: int = 0) -> OnnxModel:
    """Loads an exported model; arguments and errors are those of `OnnxModel`."""
    exported = OnnxModel(path, threads)
    return StreamingOnnxModel(path, threads) if "state" in exported.metadata else exported


def _line(error: Exception) -> str:
    return f"{str(error).splitlines()[0]:.300}" if str(error) else type(error).__name__
