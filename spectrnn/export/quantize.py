"""Quantization of the weights of an ONNX file to 8 bits."""

from pathlib import Path
from typing import Any

import numpy as np

from spectrnn.errors import import_optional
from spectrnn.export.onnx_model import Array

# Positions of the weights among the inputs of an operator, and the axis of its outputs, which have a scale each.
_WEIGHTS = {"GRU": ((1, 2), 1), "LSTM": ((1, 2), 1), "MatMul": ((1,), 1), "Gemm": ((1,), 0), "Conv": ((1,), 0)}


def quantize_weights(path: Path, quantized: Path) -> None:
    """Stores trained weights as int8 with a scale per output; the graph converts them to float32 on loading.

    Computation remains in float32: the dynamic quantization of onnxruntime does not support GRUs, and would quantize
    the waveform before the Fourier transform. Fourier transform and filters are not trained, and remain float32.

    Args:
        path: ONNX file from `graph.write_onnx`.
        quantized: ONNX file to write.

    Raises:
        UserError: The package onnx is not installed.
    """
    onnx = import_optional("onnx")
    model = onnx.load(path)
    weights = {initializer.name: initializer for initializer in model.graph.initializer}
    nodes: list[Any] = []
    for node in model.graph.node:
        positions, axis = _WEIGHTS.get(node.op_type, ((), 0))
        for name in (node.input[position] for position in positions if node.input[position] in weights):
            rounded, scale = symmetric_int8(onnx.numpy_helper.to_array(weights[name]), axis)
            model.graph.initializer.remove(weights.pop(name))
            parts = {f"{name}_int8": rounded, f"{name}_scale": scale}
            model.graph.initializer.extend(onnx.numpy_helper.from_array(part, key) for key, part in parts.items())
            # Not DequantizeLinear, which onnxruntime runs in every call; it folds a product of constants on loading.
            nodes.append(onnx.helper.make_node("Cast", [f"{name}_int8"], [f"{name}_float"], to=onnx.TensorProto.FLOAT))
            nodes.append(onnx.helper.make_node("Mul", [f"{name}_float", f"{name}_scale"], [name]))
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, quantized)


def symmetric_int8(weight: Array, axis: int) -> tuple[Array, Array]:
    """Rounds weights to int8, symmetrically about 0.

    Args:
        weight: Weights, float32, of any shape.
        axis: Axis whose slices have a scale each.

    Returns:
        Weights, int8, of the same shape, and their scales, float32, of size 1 along all other axes.
    """
    others = tuple(other for other in range(weight.ndim) if other != axis)
    largest = abs(weight).max(others, keepdims=True)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.rint(weight / scale).astype(np.int8), scale
