"""A pretrained network of the features in the ONNX graph of a classifier."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spectrnn.errors import UserError, import_optional
from spectrnn.frontend.embedding import OnnxEmbedding

_DOMAIN, _NAME = "spectrnn", "WindowNetwork"  # of the operator that stands for the network until it is fused


class ExportableEmbedding(nn.Module):
    """Windows of an `OnnxEmbedding` as tensor operations, and a placeholder for its network; see `fuse_network`.

    Args:
        features: Features that it stands for.
    """

    def __init__(self, features: OnnxEmbedding) -> None:
        super().__init__()
        self.window_size, self.hop_size, self.output_size = features.window_size, features.hop_size, features.num_bins
        self.padding, self.num_frames = features.padding, features.num_frames

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Waveform (batch, samples), at least a window, lengths (batch,) -> (batch, frames, size), lengths (batch,)."""
        waveform = nn.functional.pad(waveform, (self.padding, self.padding))
        starts = torch.arange(0, waveform.shape[1] - self.window_size + 1, self.hop_size)
        windows = waveform[:, starts[:, None] + torch.arange(self.window_size)]
        vectors = _Placeholder.apply(windows.flatten(0, 1), self.output_size)
        return vectors.reshape(-1, windows.shape[1], self.output_size), self.num_frames(lengths)


class _Placeholder(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, windows: Tensor, size: int) -> Tensor:
        """Windows (windows, samples) -> zeros (windows, size)."""
        return windows[:, :1].expand(-1, size) * 0

    @staticmethod
    def symbolic(graph: Any, windows: Any, size: int) -> Any:
        """The operator in the exported graph."""
        vectors = graph.op(f"{_DOMAIN}::{_NAME}", windows)
        return vectors.setType(windows.type().with_sizes([None, size]))


def fuse_network(path: Path, network: Any) -> None:
    """Replaces the placeholder in an ONNX file by a network, which scans the windows one by one.

    Args:
        path: ONNX file of a classifier with an `ExportableEmbedding`.
        network: ONNX model from ``window`` to ``vector``, `WindowNetwork.model`.

    Raises:
        UserError: A network of a later version of ONNX that the rest cannot be converted to.
    """
    onnx = import_optional("onnx")
    model = onnx.load(path)
    opset = network.opset_import[0].version
    node = next(node for node in model.graph.node if node.domain == _DOMAIN)
    scan = onnx.helper.make_node("Scan", node.input, node.output, "embedding", num_scan_inputs=1, body=network.graph)
    node.CopyFrom(scan)
    kept = [entry for entry in model.opset_import if entry.domain != _DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    if opset > max(entry.version for entry in kept):
        try:
            model = onnx.version_converter.convert_version(model, opset)
        except Exception as error:  # its exceptions have no common base class
            raise UserError(f"features.path: the classifier cannot be converted to its opset {opset}") from error
    onnx.save(model, path)
