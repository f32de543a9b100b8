"""Frozen ONNX networks, joined to one that maps a window of samples to a vector, and checked before it runs.

Files are not trusted: only standard operators without control flow run, on tensors whose sizes are known to be small.
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from spectrnn.errors import UserError, import_optional
from spectrnn.frontend.vector_cache import VectorCache
from spectrnn.threads import run_parallel

OPSET = 17  # of ONNX, from 2022, which runtimes on small and old machines support
MAX_BYTES = 100 << 20  # of all networks, as they are stored in each model file

_MAX_VALUES = 1 << 28  # in all tensors of a network, for one window
_CHUNK = 64  # windows per task
_RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}

Array = npt.NDArray[np.float32]


class Link(NamedTuple):
    """A network of a chain.

    Attributes:
        content: ONNX file.
        scale, offset: Factor of its input, and what is added then.
        output: Name of its output; None for the only one.
    """

    content: bytes
    scale: float
    offset: float
    output: str | None


class WindowNetwork:
    """Networks in a chain, in onnxruntime: each output is scaled and reshaped to be the input of the next network.

    Windows run one by one, so that a vector depends on its window only. Vectors of clips are kept in a cache. Copies
    share it.

    Args:
        links: Networks, at least one.
        window_size: Number of samples of a window.

    Attributes:
        model: The chain as an ONNX model, from ``window`` (window_size,) to ``vector`` (size,).
        size: Size of a vector.
        cache: Vectors of clips.
        version: Identity of the chain and of what runs it, hexadecimal digits.

    Raises:
        UserError: A network that is not accepted, or that does not map a window to a vector.
    """

    def __init__(self, links: Sequence[Link], window_size: int) -> None:
        runtime = import_optional("onnxruntime", "features")
        self.model = _chain(links, window_size)
        options = runtime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # windows are computed in parallel instead
        try:
            content = self.model.SerializeToString()
            self._session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise UserError(f"onnxruntime cannot load it ({_line(error)})") from error
        probe = self._run(np.linspace(-0.1, 0.1, window_size, dtype=np.float32)[None])
        self.size = probe.shape[1]
        self.version = blake2b(content, digest_size=16, salt=runtime.__version__.encode()[:16]).hexdigest()
        self.cache = VectorCache(self.size)

    def __deepcopy__(self, memo: dict[int, Any]) -> "WindowNetwork":
        return self

    def __call__(
        self, clips: Sequence[Array], window_size: int, hop_size: int, will_be_used_again: bool
    ) -> list[Array]:
        """Computes the vectors of clips.

        Args:
            clips: Samples, float32 (samples,) each, at least a window.
            window_size: Number of samples of a window.
            hop_size: Hop between windows in samples.
            will_be_used_again: As for `VectorCache.add`.

        Returns:
            Vectors per clip, float32 (frames, size); do not change them.
        """
        keys = [blake2b(clip.data, digest_size=16, salt=hop_size.to_bytes(8, "little")).digest() for clip in clips]
        found = self.cache.get(keys)
        windows = {
            key: np.lib.stride_tricks.sliding_window_view(clip, window_size)[::hop_size]
            for key, clip in zip(keys, clips, strict=True)
            if key not in found
        }
        chunks = [(key, x[start : start + _CHUNK]) for key, x in windows.items() for start in range(0, len(x), _CHUNK)]
        results = run_parallel([partial(self._run, chunk) for _, chunk in chunks])
        computed = {
            key: np.concatenate([y for (other, _), y in zip(chunks, results, strict=True) if other == key])
            for key in windows
        }
        self.cache.add(computed, will_be_used_again)
        found |= computed
        return [found[key] for key in keys]

    def _run(self, windows: Array) -> Array:
        """Windows (windows, samples) -> vectors (windows, size)."""
        try:
            return np.stack([self._session.run(["vector"], {"window": window})[0] for window in windows])
        except Exception as error:  # as above
            size = windows.shape[1]
            raise UserError(f"onnxruntime cannot run it for a window of {size} samples ({_line(error)})") from error


# A run builds its stages several times, and the folds of a cross-validation build the same ones.
load_network = lru_cache(maxsize=4)(WindowNetwork)


def _chain(links: Sequence[Link], window_size: int) -> Any:
    """Joins networks to a checked ONNX model from ``window`` (window_size,) to ``vector`` (size,)."""
    onnx = import_optional("onnx", "features")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    models = [_parse(link.content) for link in links]
    opset = max(OPSET, *(_opset(model) for model in models))
    nodes, tensors, x = [], [], "window"
    for number, (link, model) in enumerate(zip(links, models, strict=True)):
        graph = onnx.compose.add_prefix(_at_opset(model, opset), prefix=f"network{number}/").graph
        initializers = {tensor.name for tensor in graph.initializer}
        (entry,) = (value for value in graph.input if value.name not in initializers)
        names = {"scale": np.float32(link.scale), "offset": np.float32(link.offset), "shape": _input_shape(entry)}
        tensors += [numpy_helper.from_array(np.asarray(v), f"{k}{number}") for k, v in names.items()]
        nodes.append(helper.make_node("Mul", [x, f"scale{number}"], [f"scaled{number}"]))
        nodes.append(helper.make_node("Add", [f"scaled{number}", f"offset{number}"], [f"shifted{number}"]))
        nodes.append(helper.make_node("Reshape", [f"shifted{number}", f"shape{number}"], [entry.name]))
        nodes += graph.node
        tensors += graph.initializer
        x = _output(graph, link.output, f"network{number}/")
    tensors.append(numpy_helper.from_array(np.array([-1]), "flat"))
    nodes.append(helper.make_node("Reshape", [x, "flat"], ["vector"]))
    inputs, outputs = (
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)]
        for name, shape in (("window", [window_size]), ("vector", [None]))
    )
    graph = helper.make_graph(nodes, "window_network", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    _require_small(model)
    return model


def _parse(content: bytes) -> Any:
    """Parses an ONNX file, and rejects what could run other code, read other files, or compute without end."""
    onnx = import_optional("onnx", "features")
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's exceptions have no common base class
        raise UserError(f"is not an ONNX file ({_line(error)})") from error
    graph = model.graph
    if not graph.node:
        raise UserError("is not an ONNX file, or an empty one")
    if model.functions or model.training_info:
        raise UserError("contains functions or training information; only plain networks are accepted")
    for node in graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise UserError(f"contains the operator {node.domain}.{node.op_type}; only standard ones are accepted")
        if node.op_type in _RANDOM:
            raise UserError(f"contains the operator {node.op_type}, whose result is random")
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise UserError(f"contains control flow ({node.op_type}), which is not accepted")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data for tensor in _constants(graph)):
        raise UserError("keeps weights in another file, which is not read; save it as a single file")
    initializers = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in initializers]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise UserError(f"should have one input, not {len(inputs)} ({names:.200})")
    if inputs[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise UserError(f"its input {inputs[0].name:.100} is not float32")
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # as above
        raise UserError(f"is not a valid ONNX file ({_line(error)})") from error
    return model


def _constants(graph: Any) -> Iterator[Any]:
    """The constant tensors of a graph without control flow."""
    yield from graph.initializer
    sparse = list(graph.sparse_initializer)
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        yield from ([attribute.t] if attribute.HasField("t") else [])
        yield from attribute.tensors
        sparse += [
            *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
            *attribute.sparse_tensors,
        ]
    for tensor in sparse:
        yield from (tensor.values, tensor.indices)


def _opset(model: Any) -> int:
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)


def _at_opset(model: Any, opset: int) -> Any:
    """Converts a network to an opset; only standard operators are used, whatever else is imported."""
    onnx = import_optional("onnx", "features")
    version = onnx.helper.make_opsetid("", _opset(model))
    del model.opset_import[:]
    model.opset_import.append(version)
    if version.version == opset:
        return model
    try:
        return onnx.version_converter.convert_version(model, opset)
    except Exception as error:  # as above
        raise UserError(f"cannot be converted to opset {opset} ({_line(error)})") from error


def _input_shape(entry: Any) -> npt.NDArray[np.int64]:
    """The shape of a network's input for one window; an unknown first dimension of several is the batch."""
    shape = [dim.dim_value if dim.dim_value > 0 else -1 for dim in entry.type.tensor_type.shape.dim]
    if len(shape) > 1 and shape[0] == -1:
        shape[0] = 1
    if shape.count(-1) > 1:
        raise UserError(f"its input {entry.name.partition('/')[2]:.100} has several dimensions of unknown size")
    return np.array(shape, np.int64)


def _output(graph: Any, name: str | None, prefix: str) -> str:
    """The output of a network with a name, or its only one."""
    names = [value.name.removeprefix(prefix) for value in graph.output]
    if name is None and len(names) != 1:
        raise UserError(f"has several outputs; name one with features.output: {', '.join(names):.300}")
    if name is not None and name not in names:
        raise UserError(f"has no output {name:.100}; its outputs are {', '.join(names):.300}")
    return f"{prefix}{name or names[0]}"


def _require_small(model: Any) -> None:
    """Rejects a network whose shapes contradict each other, or whose tensors are too large for one window."""
    onnx = import_optional("onnx", "features")
    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    except Exception as error:  # as above
        raise UserError(f"its shapes do not fit a window, or each other ({_line(error)})") from error
    shapes = [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in inferred.value_info]
    shapes += [tensor.dims for tensor in _constants(model.graph)]
    values = sum(math.prod(max(1, size) for size in shape) for shape in shapes)
    if values > _MAX_VALUES:
        raise UserError(f"computes {values:,} values for a window; at most {_MAX_VALUES:,} are accepted")


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{lines[0]:.200}" if lines else type(error).__name__
