"""Shared fixtures: audio files, data sources as the command line builds them, and a separate cache."""

import copy
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from spectrnn.config.instantiate import instantiate
from spectrnn.config.paths import CONFIG_DIR
from spectrnn.data.clips import DataSource

# Several processes run the tests, and start others: with one thread each they do not wait for each other, and most
# tensors are too small for more. Read by torch when it is first imported, and inherited by the other processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_FSDD = Path(os.environ.get("SPECTRNN_TEST_FSDD", Path(__file__).resolve().parents[2] / "shared" / "data" / "fsdd"))


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Cache folder of the session, also for sub-processes: SPECTRNN_CACHE."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = tmp_path_factory.mktemp("cache")
        monkeypatch.setenv("SPECTRNN_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def tone() -> Callable[..., Path]:
    """Writes a sine: `tone(path, seconds, rate, channels, frequency, amplitude, **of soundfile.write)` -> path."""
    return _write_tone


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only folder of class folders: low, middle and high, with 12 clips of 0.2 to 0.42 s at 8 kHz each."""
    root = tmp_path_factory.mktemp("tones")
    for label, frequency in {"low": 300, "middle": 900, "high": 2700}.items():
        for number in range(12):
            _write_tone(root / label / f"{number:02d}.wav", 0.2 + 0.02 * number, frequency=frequency * 1.01**number)
    return root


@pytest.fixture(scope="session")
def source() -> Callable[..., DataSource]:
    """Builds a source as the command line does: `source("folder", root=...)` for `data=folder data.root=...`."""
    return _source


@pytest.fixture(scope="session")
def tiny_network() -> Callable[..., Path]:
    """Writes an ONNX network from a waveform (1, samples) to a vector of four values: `tiny_network(path)` -> path."""
    return _write_network


@pytest.fixture(scope="session")
def variants() -> Callable[..., list[Any]]:
    """Copies a classifier, each with other weights, statistics, temperature and longest clip: `variants(model, 3)`."""
    return _variants


@pytest.fixture(scope="session")
def real_digits() -> Path:
    """Folder of the Free Spoken Digit Dataset: SPECTRNN_TEST_FSDD, else ../shared/data/fsdd."""
    if not _FSDD.is_dir():
        pytest.skip(f"needs the Free Spoken Digit Dataset in {_FSDD}; SPECTRNN_TEST_FSDD names another folder")
    return _FSDD


def _write_tone(
    path: Path,
    seconds: float = 0.2,
    rate: int = 8000,
    channels: int = 1,
    frequency: float = 440.0,
    amplitude: float = 0.5,
    **settings: Any,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = amplitude * np.sin(2 * np.pi * frequency / rate * np.arange(round(seconds * rate)))
    soundfile.write(path, np.repeat(wave[:, None], channels, axis=1), rate, **settings)
    return path


@functools.cache
def _defaults(name: str) -> DictConfig:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose(overrides=[f"+data={name}"])


def _source(name: str, **settings: Any) -> DataSource:
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
    source = instantiate(OmegaConf.merge(_defaults(name), {"data": plain}).data, "data")
    assert isinstance(source, DataSource)
    return source


def _variants(classifier: Any, count: int) -> list[Any]:
    import torch

    variants = [copy.deepcopy(classifier) for _ in range(count)]
    generator = torch.Generator().manual_seed(0)
    for number, variant in enumerate(variants):
        for name, tensor in variant.state_dict().items():
            if tensor.dim():
                scale = 0.5 * (tensor.std(correction=0) + 0.1)
                noise = torch.randn(tensor.shape, generator=generator) * scale
                tensor.add_(noise.abs() if name.endswith((".variance", ".std")) else noise)
        variant.temperature.fill_(0.5 + number)
        variant.max_train_samples.add_((0, 2000, 1000)[number % 3])
    return variants


def _write_network(path: Path, change: Callable[[Any], None] | None = None) -> Path:
    """Filters, rectifies and averages over time, less the maximum of the whole input; `change` edits the model."""
    import onnx
    from onnx import helper, numpy_helper

    kernel = np.random.default_rng(0).normal(size=(4, 1, 20)).astype(np.float32)
    constants = {"axis": np.array([1]), "kernel": kernel}
    nodes = [
        helper.make_node("Unsqueeze", ["x", "axis"], ["channel"]),
        helper.make_node("Conv", ["channel", "kernel"], ["filtered"], strides=[10]),
        helper.make_node("Relu", ["filtered"], ["rectified"]),
        helper.make_node("ReduceMean", ["rectified"], ["mean"], axes=[2], keepdims=0),
        helper.make_node("ReduceMax", ["x"], ["peak"], keepdims=0),
        helper.make_node("Sub", ["mean", "peak"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", "samples"])]
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 4])]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    if change:
        change(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path
