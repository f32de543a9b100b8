"""From a classifier to an ONNX graph: waveform and length in, probabilities out, any length, any batch."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spectrnn.detection.thresholds import TunedThresholds
from spectrnn.export.onnx_model import KEY, import_optional
from spectrnn.frontend.features import LogMelSpectrogram
from spectrnn.model.classifier import Classifier
from spectrnn.model.rnn import RNNLayer
from spectrnn.version import __version__

OPSET = 17  # of ONNX, from 2022: what runtimes on small and old machines know
_OUTPUTS = {
    "probabilities": {0: "batch"},
    "features": {0: "batch", 1: "frames"},
    "attention": {0: "batch", 2: "states"},
}


class OnnxClassifier(nn.Module):
    """What the ONNX file computes: the classifier itself, but for what no exporter can trace.

    The Fourier transform becomes a convolution, and the GRU by hand the library's. Nothing else is written anew.

    Args:
        classifier: in evaluation mode; it stays as it is.
        inside: also give out features, and where the pooling looks.
    """

    def __init__(self, classifier: Classifier, inside: bool) -> None:
        super().__init__()
        self.classifier, self.inside = deepcopy(classifier).cpu().eval(), inside
        self.classifier.features.stft = ConvolutionalSTFT(self.classifier.features)
        for layer in self.classifier.modules():
            if isinstance(layer, RNNLayer):
                layer.by_hand = False

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Runs the classifier.

        Args:
            waveform: float32 (batch, samples) in [-1, 1), zero beyond each clip's length.
            lengths: int64 (batch,), in samples.

        Returns:
            Probabilities (batch, classes); and if asked for, normalized features (batch, frames, bins), and where the
            pooling has weights, those: (batch, heads, frames'). Beyond a clip's length both mean nothing.
        """
        model = self.classifier
        window = model.features.window_size
        # No longer than the longest clip, and a window at least: both without a branch, which a trace would freeze.
        waveform = nn.functional.pad(waveform, (0, window - 1))[:, : lengths.max().clamp(min=window)]
        x = model.trace(waveform, lengths)
        probabilities = model.task.probabilities(x.logits, model.temperature)
        if not self.inside:
            return (probabilities,)
        return (probabilities, x.features) if x.attention is None else (probabilities, x.features, x.attention)


class ConvolutionalSTFT(nn.Module):
    """Framing, window and Fourier transform as one convolution over time: an exportable `LogMelSpectrogram.stft`.

    Args:
        features: Features whose window, hop and FFT size are used.
    """

    kernel: Tensor

    def __init__(self, features: LogMelSpectrogram) -> None:
        super().__init__()
        time = torch.arange(features.window_size, dtype=torch.float64)
        bins = torch.arange(features.n_fft // 2 + 1, dtype=torch.float64)
        angle = 2 * torch.pi / features.n_fft * (bins[:, None] * time % features.n_fft)
        waves = torch.stack([angle.cos(), -angle.sin()], dim=1).flatten(0, 1)
        window = torch.hann_window(features.window_size).double()
        self.hop_size = features.hop_size
        self.register_buffer("kernel", (waves * window).float()[:, None], persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, samples), at least one window -> interleaved real and imaginary parts (batch, frames, 2 * bins)."""
        return nn.functional.conv1d(waveform[:, None], self.kernel, stride=self.hop_size).transpose(1, 2)


def model_metadata(classifier: Classifier, tuned_thresholds: TunedThresholds | None) -> dict[str, Any]:
    """What an ONNX file says of itself, so that it alone is enough.

    Args:
        classifier: that it computes.
        tuned_thresholds: the thresholds that were chosen for it; None where none were.

    Returns:
        ``labels`` in the order of the probabilities, ``sample_rate`` (Hz), ``longest`` (samples of the longest clip
        that it was trained on: longer recordings are to be classified in pieces), ``window`` and ``hop`` (samples of
        a frame), ``temperature``, ``tuned_thresholds``, and the version of ``spectrnn``. Ready for JSON.
    """
    features = classifier.features
    return {
        "labels": classifier.labels,
        "sample_rate": classifier.sample_rate,
        "longest": int(classifier.max_train_samples),
        "window": features.window_size,
        "hop": features.hop_size,
        "temperature": float(classifier.temperature),
        "tuned_thresholds": None if tuned_thresholds is None else asdict(tuned_thresholds),
        "spectrnn": __version__,
    }


def write_onnx(classifier: Classifier, path: Path, metadata: dict[str, Any], inside: bool = False) -> None:
    """Writes a classifier as an ONNX file; see `OnnxClassifier` for its inputs and outputs.

    Args:
        classifier: in evaluation mode, on any device.
        path: the file.
        metadata: what the file says of itself, as `model_metadata` gives it.
        inside: give the graph the outputs ``features`` and, where the pooling has weights, ``attention``, too.

    Raises:
        UserError: the package onnx is not installed.
    """
    graph = OnnxClassifier(classifier, inside)
    samples = classifier.features.window_size + 9 * classifier.features.hop_size
    example = (torch.zeros(2, samples), torch.tensor([samples, samples - classifier.features.hop_size]))
    inputs = {"waveform": {0: "batch", 1: "samples"}, "lengths": {0: "batch"}}
    outputs = dict(list(_OUTPUTS.items())[: len(graph(*example))])
    export_onnx(graph, example, inputs, outputs, path)
    write_metadata(path, metadata)


@torch.inference_mode()
def export_onnx(
    module: nn.Module,
    example: tuple[Any, ...],
    inputs: dict[str, dict[int, str]],
    outputs: dict[str, dict[int, str]],
    path: Path,
) -> None:
    """Records what a module does to an example as an ONNX file.

    Args:
        module: whose forward takes and gives tensors alone.
        example: of its arguments.
        inputs, outputs: names, each with its dimensions that may have any size.
        path: the file.

    Raises:
        UserError: the package onnx is not installed.
    """
    import_optional("onnx")
    with _quiet():
        # The newer exporter (dynamo) freezes the time axis of bidirectional layers.
        torch.onnx.export(
            module,
            example,
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=inputs | outputs,
            opset_version=OPSET,
            dynamo=False,
        )


def write_metadata(path: Path, metadata: dict[str, Any]) -> None:
    """Puts metadata into an ONNX file, in the place of what was there."""
    onnx = import_optional("onnx")
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {KEY: json.dumps(metadata, ensure_ascii=False)})
    onnx.save(model, path)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of every shape that a trace could freeze; the certification looks whether one did."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
