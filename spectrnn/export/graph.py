"""ONNX graph of a classifier: waveforms and lengths in, probabilities out, for any batch size and length."""

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
from spectrnn.errors import import_optional
from spectrnn.export.embedding import ExportableEmbedding, fuse_network
from spectrnn.export.onnx_model import KEY
from spectrnn.frontend.embedding import OnnxEmbedding
from spectrnn.frontend.features import Features, LogMelSpectrogram
from spectrnn.frontend.onnx_network import OPSET
from spectrnn.model.classifier import Classifier
from spectrnn.model.crnn import MaskedBatchNormReLU
from spectrnn.model.rnn import RNNLayer
from spectrnn.version import __version__

_OUTPUTS = {
    "probabilities": {0: "batch"},
    "features": {0: "batch", 1: "frames"},
    "attention": {0: "batch", 2: "states"},
}


class OnnxClassifier(nn.Module):
    """Classifier without the operations that the exporter cannot trace.

    The Fourier transform is a convolution, and recurrent layers are PyTorch's.

    Args:
        classifier: Classifier in evaluation mode; it is copied.
        intermediates: Whether to also return features and attention weights.
    """

    def __init__(self, classifier: Classifier, intermediates: bool) -> None:
        super().__init__()
        self.classifier, self.intermediates = deepcopy(classifier).cpu().eval(), intermediates
        self.classifier.features = exportable(classifier.features)
        for layer in self.classifier.modules():
            if isinstance(layer, RNNLayer | MaskedBatchNormReLU):
                layer.use_kernels = False

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Computes probabilities.

        Args:
            waveform: Samples in [-1, 1), float32 (batch, samples), zero after the end of each clip.
            lengths: Number of valid samples per clip, int64 (batch,).

        Returns:
            Probabilities (batch, classes); with `intermediates` also normalized features (batch, frames, bins), and the
            weights (batch, heads, states) of an attention pooling. Both are undefined after the end of a clip.
        """
        model = self.classifier
        window = model.features.window_size
        # Cut to the longest clip, and pad to at least one window, without a branch, which tracing would freeze.
        waveform = nn.functional.pad(waveform, (0, window - 1))[:, : lengths.max().clamp(min=window)]
        x = model.trace(waveform, lengths)
        probabilities = model.task.probabilities(x.logits, model.temperature)
        if not self.intermediates:
            return (probabilities,)
        features = x.features[..., : model.features.output_size]  # of an ensemble, those of its first member
        return (probabilities, features) if x.attention is None else (probabilities, features, x.attention)


def exportable(features: Features) -> Any:
    """Returns a copy of features that consists of operations that the exporter can trace."""
    if isinstance(features, OnnxEmbedding):
        return ExportableEmbedding(features)
    features = deepcopy(features).cpu()
    if isinstance(features, LogMelSpectrogram):
        features.stft = ConvolutionalSTFT(features)
    return features


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
    """Returns the metadata that make an ONNX file self-contained.

    Args:
        classifier: Exported classifier.
        tuned_thresholds: Detection thresholds tuned for it; None if there are none.

    Returns:
        JSON-compatible values: ``labels`` in the order of the probabilities, ``sample_rate`` in Hz,
        ``max_train_samples`` (length of the longest training clip; split longer recordings into parts), ``window`` and
        ``hop`` of frames in samples, ``temperature``, ``thresholds`` (of the probabilities from which on classes are
        detected; None if the most probable class is the answer), ``tuned_thresholds``, and the version of ``spectrnn``.
    """
    features = classifier.features
    return {
        "labels": classifier.labels,
        "sample_rate": classifier.sample_rate,
        "max_train_samples": int(classifier.max_train_samples),
        "window": features.window_size,
        "hop": features.hop_size,
        "temperature": classifier.temperature.tolist(),
        "thresholds": None if classifier.task.thresholds is None else classifier.task.thresholds.tolist(),
        "tuned_thresholds": None if tuned_thresholds is None else asdict(tuned_thresholds),
        "spectrnn": __version__,
    }


def write_onnx(classifier: Classifier, path: Path, metadata: dict[str, Any], intermediates: bool = False) -> None:
    """Writes a classifier as an ONNX file; see `OnnxClassifier` for its inputs and outputs.

    The exported model classifies clips as a whole: its users crop longer ones.

    Args:
        classifier: Classifier in evaluation mode, on any device.
        path: ONNX file.
        metadata: Metadata from `model_metadata`.
        intermediates: Whether to add the outputs ``features`` and, for attention pooling, ``attention``.

    Raises:
        UserError: The package onnx is not installed.
    """
    graph = OnnxClassifier(classifier, intermediates)
    samples = classifier.features.window_size + 9 * classifier.features.hop_size
    example = (torch.zeros(2, samples), torch.tensor([samples, samples - classifier.features.hop_size]))
    inputs = {"waveform": {0: "batch", 1: "samples"}, "lengths": {0: "batch"}}
    outputs = dict(list(_OUTPUTS.items())[: len(graph(*example))])
    export_onnx(graph, example, inputs, outputs, path)
    if isinstance(classifier.features, OnnxEmbedding):
        fuse_network(path, classifier.features.network.model)
    write_metadata(path, metadata)


@torch.inference_mode()
def export_onnx(
    module: nn.Module,
    example: tuple[Any, ...],
    inputs: dict[str, dict[int, str]],
    outputs: dict[str, dict[int, str]],
    path: Path,
) -> None:
    """Traces a module and writes it as an ONNX file.

    Args:
        module: Module whose forward takes and returns tensors only.
        example: Example arguments.
        inputs: Dynamic dimensions by input name.
        outputs: Dynamic dimensions by output name.
        path: ONNX file.

    Raises:
        UserError: The package onnx is not installed.
    """
    import_optional("onnx")
    with _without_warnings():
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
    """Replaces the metadata of an ONNX file."""
    onnx = import_optional("onnx")
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {KEY: json.dumps(metadata, ensure_ascii=False)})
    onnx.save(model, path)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Suppresses the exporter's warnings about shapes that tracing may freeze; verification detects it if one is."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)
