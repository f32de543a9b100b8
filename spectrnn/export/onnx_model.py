"""An ONNX file of ours, opened for use. Needs no torch: it runs on the machine that the model was made for."""

import json
from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spectrnn.errors import UserError

KEY = "spectrnn"  # in the metadata of the ONNX file
NEXT = "next_"  # before the names of the state, as an output

Array = npt.NDArray[Any]


def import_optional(name: str) -> Any:
    """The module ``onnx`` or ``onnxruntime``, which come with an extra.

    Raises:
        UserError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(f"export: needs {name} ({error}): pip install 'spectrnn[export]'") from error


class OnnxModel:
    """An exported classifier in onnxruntime, on the CPU. See `opened`.

    Args:
        path: of the ONNX file.
        threads: that compute; 0 for one a core.

    Attributes:
        metadata: what the file says of itself: labels, sample_rate (Hz), longest (samples) and more; see `graph.facts`.

    Raises:
        UserError: no such file, none that onnxruntime can run, or not one of ours.
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
            raise UserError(f"{path}: is an ONNX file, but no export of spectrnn") from error
        except Exception as error:  # onnxruntime's have no common class of their own
            raise UserError(f"{path}: onnxruntime cannot run it ({_line(error)})") from error
        self.path = path
        if not isinstance(self.metadata, dict) or type(self.metadata.get("sample_rate")) is not int:
            raise UserError(f"{path}: is an ONNX file, but what it says of itself is damaged")

    def __call__(self, waveforms: Sequence[Array]) -> Array:
        """Classifies clips: float32 arrays (samples,) at the classifier's rate -> probabilities (clips, classes)."""
        lengths = np.array([len(waveform) for waveform in waveforms], dtype=np.int64)
        batch = np.zeros((len(waveforms), lengths.max()), np.float32)
        for row, waveform in zip(batch, waveforms, strict=True):
            row[: len(waveform)] = waveform
        return self.run(batch, lengths)

    def run(self, waveform: Array, lengths: Array) -> Array:
        """float32 (batch, samples), zero beyond each clip's length, int64 (batch,) -> float32 (batch, classes)."""
        return self._run(["probabilities"], {"waveform": waveform, "lengths": lengths})[0]

    def _run(self, outputs: list[str], inputs: dict[str, Array]) -> list[Array]:
        try:
            return self.session.run(outputs, inputs)
        except Exception as error:  # as above
            raise UserError(f"{self.path}: onnxruntime cannot run it ({_line(error)})") from error


class StreamingOnnxModel(OnnxModel):
    """A classifier that was exported for streams: the same, and packet by packet."""

    def run(self, waveform: Array, lengths: Array) -> Array:
        """As `OnnxModel.run`: each clip as a stream of two packets, a window and the rest."""
        answers = []
        for row, length in zip(waveform, lengths, strict=True):
            *_, (_, last) = self.packets(row[None, :length], length)
            answers.append(last)
        return np.concatenate(answers)

    def packets(self, streams: Array, hops: int) -> Iterator[tuple[int, Array]]:
        """Hears streams side by side.

        Args:
            streams: float32 (batch, samples).
            hops: of a packet, but for the first, which is a window.

        Yields:
            Samples that were heard, and probabilities (batch, classes) for all of them. What is no whole hop at the end
            is left out, as it is in a clip.
        """
        try:
            window, hop = int(self.metadata["window"]), int(self.metadata["hop"])
            state = {
                each["name"]: np.full((len(streams), *each["shape"]), each["fill"], np.float32)
                for each in self.metadata["state"]
            }
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self.path}: is an ONNX file, but what it says of its state is damaged") from error
        streams = np.pad(streams, ((0, 0), (0, max(0, window - streams.shape[1]))))
        whole = window + (streams.shape[1] - window) // hop * hop
        ends = [0, *range(window, whole, hops * hop), whole]
        for start, end in pairwise(ends):
            outputs = ["probabilities", *(NEXT + name for name in state)]
            probabilities, *after = self._run(outputs, {"waveform": streams[:, start:end], **state})
            state = dict(zip(state, after, strict=True))
            yield end, probabilities


def load_onnx(path: Path, threads: int = 0) -> OnnxModel:
    """An exported file, ready to run; arguments and errors are those of `OnnxModel`."""
    exported = OnnxModel(path, threads)
    return StreamingOnnxModel(path, threads) if "state" in exported.metadata else exported


def _line(error: Exception) -> str:
    return f"{str(error).splitlines()[0]:.300}" if str(error) else type(error).__name__
