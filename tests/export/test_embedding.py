"""A classifier on a frozen ONNX network: its model file and its export."""

import hashlib
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from spectrnn.errors import UserError
from spectrnn.export.graph import model_metadata, write_onnx
from spectrnn.export.onnx_model import OnnxModel
from spectrnn.export.parity import max_abs_differences, parity_cases, require_parity
from spectrnn.export.quantize import quantize_weights
from spectrnn.model.header import read_header
from spectrnn.model.serialization import load, save
from spectrnn.streaming.classifier import StreamingClassifier

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def path(tiny_network, tmp_path_factory):
    return tiny_network(tmp_path_factory.mktemp("network") / "tiny.onnx")


@pytest.fixture(scope="module")
def overrides(path):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    windows = (
        "features.window_ms=100",
        "features.hop_ms=40",
        "features.padding_ms=30",
        "model=bigru",
        "normalize=global",
    )
    return ("features=onnx_embedding", f"features.path={path}", f"features.sha256={digest}", *windows)


@pytest.fixture
def classifier(make_classifier, overrides):
    return make_classifier(*overrides)


@pytest.fixture
def model(classifier, overrides, tmp_path):
    """Path of a model file, and its classifier."""
    nodes = make_config(overrides)
    save(classifier, nodes, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def make_config(overrides):
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from spectrnn.config.paths import CONFIG_DIR
    from spectrnn.model.classifier import STAGES

    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = compose("train", ["data.sample_rate=8000", "model.hidden_size=8", "pooling.num_heads=2", *overrides])
    config.pooling.hidden_size = 8
    return {name: OmegaConf.to_container(config[name], resolve=True) for name in STAGES}


@pytest.fixture
def exported(classifier, tmp_path):
    write_onnx(classifier, tmp_path / "model.onnx", model_metadata(classifier, None), intermediates=True)
    return OnnxModel(tmp_path / "model.onnx")


def test_exported_file_contains_the_network_and_equals_the_classifier(classifier, exported, waveforms, tmp_path):
    differences = max_abs_differences(classifier, exported, parity_cases(classifier, waveforms))
    require_parity(differences)
    assert max(differences.values()) < 1e-5
    quantize_weights(tmp_path / "model.onnx", tmp_path / "int8.onnx")
    int8 = OnnxModel(tmp_path / "int8.onnx")
    np.testing.assert_allclose(int8(waveforms), exported(waveforms), atol=0.1)


def test_model_file_contains_the_network(classifier, model, path, waveforms):
    header = read_header(model)
    header["config"]["features"]["path"] = "elsewhere.onnx"
    save_file(load_file(model), model, metadata={"spectrnn": json.dumps(header)})
    loaded, _ = load(model)
    assert loaded.features.network_0.numpy().tobytes() == path.read_bytes()
    clip = torch.from_numpy(waveforms[0])[None], torch.tensor([len(waveforms[0])])
    with torch.inference_mode():
        torch.testing.assert_close(loaded(*clip), classifier(*clip), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors["features.network_0"].add_(1), r"features\.sha256=.*: the networks have the SHA-256"),
        (
            lambda tensors: tensors.pop("features.network_0"),
            r"features\.networks=null: it holds 0 networks instead of 1",
        ),
    ],
    ids=["another network", "no network"],
)
def test_model_file_without_its_network_is_refused(model, change, message):
    tensors, header = load_file(model), read_header(model)
    change(tensors)
    save_file(tensors, model, metadata={"spectrnn": json.dumps(header)})
    with pytest.raises(UserError, match=f"^{model}: {message}"):
        load(model)


def test_streaming_is_refused(classifier, overrides):
    with pytest.raises(UserError, match=r"features=onnx_embedding: does not support streaming"):
        StreamingClassifier(classifier, make_config(overrides))
