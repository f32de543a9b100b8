"""ONNX graph of a streaming classifier: block and state in, probabilities and next state out."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spectrnn.errors import import_optional
from spectrnn.export.graph import export_onnx, exportable, write_metadata
from spectrnn.export.onnx_model import NEXT, Array, StreamingOnnxModel
from spectrnn.model.classifier import Classifier
from spectrnn.streaming.classifier import StreamingClassifier

_NUM_COMPARED = 6  # blocks per stream that are compared with offline results


class StreamingGraph(nn.Module):
    """Streaming classifier whose Fourier transform is a convolution.

    Args:
        stream: Streaming classifier on the CPU, in evaluation mode; it is copied.
        intermediates: Whether to also return features.
    """

    def __init__(self, stream: StreamingClassifier, intermediates: bool) -> None:
        super().__init__()
        self.stream, self.intermediates = deepcopy(stream), intermediates
        self.stream.classifier.features = exportable(stream.classifier.features)

    def forward(self, waveform: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Processes the next block.

        Args:
            waveform: Samples (batch, samples) that, with the pending ones, form one or more frames.
            state: State after the previous block.

        Returns:
            Probabilities (batch, classes) of the stream so far; with `intermediates`, normalized features of the block
            (batch, frames, bins); and the next state.
        """
        x, pending = self.stream.classifier.features.mel_step(waveform, state[0])
        x, states = self.stream.step(x, state[1:])
        features = (x,) if self.intermediates else ()
        return self.stream.probabilities(states), *features, pending, *states


def write_streaming_onnx(
    stream: StreamingClassifier, path: Path, metadata: dict[str, Any], intermediates: bool = False
) -> None:
    """Writes a streaming classifier as an ONNX file.

    Inputs are ``waveform`` (batch, samples) and the state; outputs ``probabilities`` (batch, classes), with
    `intermediates` ``features`` (batch, frames, bins), and the next state, with the prefix ``next_``. The metadata
    contain the initial state under ``state``.

    Args:
        stream: Streaming classifier on the CPU, in evaluation mode.
        path: ONNX file.
        metadata: Metadata from `graph.model_metadata`.
        intermediates: Whether the model also returns features.

    Raises:
        UserError: The package onnx is not installed.
    """
    features = stream.classifier.features
    initial = stream.initial_state(2)
    names = ["pending", "frames", *(f"state_{number}" for number in range(1, len(initial) - 1))]
    # Traced as after the first block: with pending samples, of which the initial state has none.
    state = (torch.zeros(2, features.window_size - features.hop_size), *initial[1:])
    dynamic = {name: {0: "batch"} for name in names} | {"pending": {0: "batch", 1: "pending"}}
    outputs = {"probabilities": {0: "batch"}} | ({"features": {0: "batch", 1: "frames"}} if intermediates else {})
    outputs |= {NEXT + name: dict(axes) for name, axes in dynamic.items()}
    outputs[NEXT + "pending"][1] = "next_pending"
    inputs = {"waveform": {0: "batch", 1: "samples"}, **dynamic}
    export_onnx(
        StreamingGraph(stream, intermediates).eval(),
        (torch.zeros(2, 3 * features.hop_size), *state),
        inputs,
        outputs,
        path,
    )
    # The exporter drops inputs that no output depends on, such as a state that is always replaced.
    used = {entry.name for entry in import_optional("onnx").load(path).graph.input}
    entries = [_state_entry(name, tensor) for name, tensor in zip(names, initial, strict=True) if name in used]
    write_metadata(path, {**metadata, "state": entries})


def _state_entry(name: str, tensor: Tensor) -> dict[str, Any]:
    """Describes a tensor of the initial state (batch, ...), whose elements are all equal, for JSON."""
    values = tensor.unique() if tensor.numel() else torch.zeros(1)
    assert len(values) == 1, name
    # JSON has no infinity; the smallest finite number is equivalent here.
    fill = float(values.clamp(min=torch.finfo(torch.float32).min))
    return {"name": name, "shape": list(tensor.shape[1:]), "fill": fill}


@torch.inference_mode()
def streaming_differences(
    classifier: Classifier, exported: StreamingOnnxModel, clips: Sequence[Array]
) -> dict[str, float]:
    """Compares results along a stream with those of the classifier for the audio up to there, as one clip.

    Args:
        classifier: Classifier on the CPU, in evaluation mode.
        exported: Exported model.
        clips: Waveforms of the dataset, float32 (samples,).

    Returns:
        Largest difference of a probability by way of splitting a stream into blocks.
    """
    longest = max(int(classifier.max_train_samples), classifier.features.window_size)
    streams = np.resize(np.concatenate(clips), (3, longest))
    cases = {
        "stream in blocks of 1 hop": (streams[:1], 1),
        "stream in blocks of 7 hops": (streams[:1], 7),
        "batch of 3 streams": (streams, 4),
    }
    largest = {}
    for name, (batch, hops) in cases.items():
        results = list(exported.stream(batch, hops))
        differences = []
        for samples, actual in results[:: max(1, len(results) // _NUM_COMPARED)] + results[-1:]:
            prefix = torch.from_numpy(np.ascontiguousarray(batch[:, :samples]))
            expected = classifier.probabilities(prefix, torch.full((len(prefix),), samples))
            differences.append(abs(actual - expected.numpy()).max())
        largest[name] = float(np.max(differences))
    return largest
