"""The graph of a live stream: a packet and the state in, probabilities and the next state out."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spectrnn.export.graph import ConvolutionalSTFT, export_onnx, write_metadata
from spectrnn.export.onnx_model import NEXT, Array, StreamingOnnxModel, import_optional
from spectrnn.model.classifier import Classifier
from spectrnn.streaming.classifier import StreamingClassifier

_COMPARED = 6  # answers to a stream, each with an offline one


class StreamingGraph(nn.Module):
    """What the ONNX file of a stream computes: the streaming classifier, whose Fourier transform is a convolution.

    Args:
        stream: in evaluation mode, on the CPU; it stays as it is.
    """

    def __init__(self, stream: StreamingClassifier) -> None:
        super().__init__()
        self.stream = deepcopy(stream)
        self.stream.classifier.features.stft = ConvolutionalSTFT(self.stream.classifier.features)

    def forward(self, waveform: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Hears a packet (batch, samples), which with the unread samples makes a frame or more, after a state.

        Returns:
            Probabilities (batch, classes) for all that was heard, and the next state.
        """
        x, unread = self.stream.features(waveform, state[:1])
        states = self.stream.step(x, state[1:])
        return self.stream.probabilities(states), *unread, *states


def write_streaming_onnx(stream: StreamingClassifier, path: Path, metadata: dict[str, Any]) -> None:
    """Writes a streaming classifier as an ONNX file.

    Inputs are ``waveform`` (batch, samples) and the state; outputs ``probabilities`` (batch, classes) and the next
    state, whose names begin with ``next_``. How a state begins is in the metadata, under ``state``.

    Args:
        stream: in evaluation mode, on the CPU.
        path: the file.
        metadata: what the file says of itself, as `graph.facts` gives it.

    Raises:
        UserError: the package onnx is not installed.
    """
    features = stream.classifier.features
    first = stream.initial(2)
    names = ["unread", "frames", *(f"state_{number}" for number in range(1, len(first) - 1))]
    state = (torch.zeros(2, features.window_size - features.hop_size), *first[1:])
    dynamic = {name: {0: "batch"} for name in names} | {"unread": {0: "batch", 1: "unread"}}
    outputs = {"probabilities": {0: "batch"}, **{NEXT + name: dict(axes) for name, axes in dynamic.items()}}
    outputs[NEXT + "unread"][1] = "next_unread"
    inputs = {"waveform": {0: "batch", 1: "samples"}, **dynamic}
    export_onnx(StreamingGraph(stream).eval(), (torch.zeros(2, 3 * features.hop_size), *state), inputs, outputs, path)
    # What the answer does not depend on, such as the state that a new one replaces, is no input of the graph.
    needed = {entry.name for entry in import_optional("onnx").load(path).graph.input}
    starts = [_start(name, tensor) for name, tensor in zip(names, first, strict=True) if name in needed]
    write_metadata(path, {**metadata, "state": starts})


def _start(name: str, tensor: Tensor) -> dict[str, Any]:
    """A tensor of the state, (batch, ...), as JSON: it begins with one number everywhere."""
    values = tensor.unique() if tensor.numel() else torch.zeros(1)
    assert len(values) == 1, name
    # JSON has no infinity, and the least number of all does as well.
    fill = float(values.clamp(min=torch.finfo(torch.float32).min))
    return {"name": name, "shape": list(tensor.shape[1:]), "fill": fill}


def streaming_differences(
    classifier: Classifier, exported: StreamingOnnxModel, clips: Sequence[Array]
) -> dict[str, float]:
    """How far answers along the way are from the classifier's to all that was heard, as a clip.

    Args:
        classifier: on the CPU, in evaluation mode.
        exported: the file.
        clips: of the dataset, float32 (samples,).

    Returns:
        The largest difference of a probability for each way to cut a stream into packets.
    """
    sound = np.concatenate(clips)
    longest = max(int(classifier.max_train_samples), classifier.features.window_size)
    streams = np.resize(sound, (3, longest))
    ways = {
        "a stream in packets of a hop": (streams[:1], 1),
        "a stream in packets of 7 hops": (streams[:1], 7),
        "3 streams side by side": (streams, 4),
    }
    return {name: _along(classifier, exported, *way) for name, way in ways.items()}


@torch.inference_mode()
def _along(classifier: Classifier, exported: StreamingOnnxModel, streams: Array, hops: int) -> float:
    answers = list(exported.packets(streams, hops))
    distances = []
    for heard, found in answers[:: max(1, len(answers) // _COMPARED)] + answers[-1:]:
        prefix = torch.from_numpy(np.ascontiguousarray(streams[:, :heard]))
        expected = classifier.probabilities(prefix, torch.full((len(prefix),), heard))
        distances.append(abs(found - expected.numpy()).max())
    return float(np.max(distances))
