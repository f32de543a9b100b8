"""Weights as whole numbers of 8 bits: a file of a quarter of the size."""

from pathlib import Path
from typing import Any

import numpy as np

from spectrnn.export.onnx_model import Array, import_optional

# Where an operator has its weights, and the axis of its outputs, each of which gets a scale of its own.
_WEIGHTS = {"GRU": ((1, 2), 1), "LSTM": ((1, 2), 1), "MatMul": ((1,), 1), "Gemm": ((1,), 0), "Conv": ((1,), 0)}


def quantize_weights(path: Path, smaller: Path) -> None:
    """Stores what was learned as int8, and lets the graph turn it into floats again, a scale for each output.

    Computing stays in float: onnxruntime's own dynamic quantization knows no GRU, and would round the sound itself in
    front of the Fourier transform. Fourier transform and filters are no weights, and stay as they are.

    Args:
        path: of an ONNX file from `graph.write_onnx`.
        smaller: the file to write.

    Raises:
        UserError: the package onnx is not installed.
    """
    onnx = import_optional("onnx")
    model = onnx.load(path)
    learned = {initializer.name: initializer for initializer in model.graph.initializer}
    nodes: list[Any] = []
    for node in model.graph.node:
        places, axis = _WEIGHTS.get(node.op_type, ((), 0))
        for name in (node.input[place] for place in places if node.input[place] in learned):
            rounded, scale = symmetric_int8(onnx.numpy_helper.to_array(learned[name]), axis)
            model.graph.initializer.remove(learned.pop(name))
            parts = {f"{name}_int8": rounded, f"{name}_scale": scale}
            model.graph.initializer.extend(onnx.numpy_helper.from_array(part, key) for key, part in parts.items())
            # Not DequantizeLinear, which onnxruntime runs at every call: a product of constants it folds on loading.
            nodes.append(onnx.helper.make_node("Cast", [f"{name}_int8"], [f"{name}_wide"], to=onnx.TensorProto.FLOAT))
            nodes.append(onnx.helper.make_node("Mul", [f"{name}_wide", f"{name}_scale"], [name]))
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, smaller)


def symmetric_int8(weight: Array, axis: int) -> tuple[Array, Array]:
    """Rounds weights to int8, symmetrically about 0.

    Args:
        weight: float32, of any shape.
        axis: along which each slice has a scale of its own.

    Returns:
        int8 of the same shape, and the scales by which it is to be multiplied: float32, 1 along all other axes.
    """
    others = tuple(other for other in range(weight.ndim) if other != axis)
    largest = abs(weight).max(others, keepdims=True)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.rint(weight / scale).astype(np.int8), scale
