"""Features of a frozen ONNX network: windows, cache, and networks that are refused."""

import copy
import hashlib
import sys
import zipfile

import numpy as np
import pytest
import torch

from spectrnn.errors import UserError
from spectrnn.frontend.onnx_network import Link, WindowNetwork, load_network

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
WINDOW, HOP = 1600, 800  # samples at 16 kHz


def digest(*paths):
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


@pytest.fixture
def embedding(stage, tiny_network, tmp_path):
    """Builds the stage: `embedding(cache_gb=0)`."""

    def build(path=None, **settings):
        path = path or tiny_network(tmp_path / "tiny.onnx")
        settings = {
            "path": str(path),
            "sha256": digest(path) if path.is_file() else None,
            "window_ms": 100,
            "hop_ms": 50,
            **settings,
        }
        return stage("features", "onnx_embedding", {"contents": False}, **settings)

    return build


def clips():
    lengths = torch.tensor([WINDOW + 2 * HOP + 799, 300, WINDOW, WINDOW + HOP, 1])
    waveform = torch.randn(len(lengths), int(lengths.max())) * 0.1
    return waveform * (torch.arange(waveform.shape[1]) < lengths[:, None]), lengths


def expected(window):
    """The tiny network in PyTorch, for one window."""
    kernel = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 1, 20)).astype(np.float32))
    filtered = torch.nn.functional.conv1d(window[None, None], kernel, stride=10)
    return filtered.relu().mean(2)[0] - window.max()


def test_zeros_before_and_after_a_clip_give_it_more_windows(embedding):
    (waveform, lengths), padding = clips(), 640
    x, frames = embedding(padding_ms=40)(waveform, lengths)
    padded = torch.nn.functional.pad(waveform, (padding, padding))
    y, expected_frames = embedding()(padded, lengths + 2 * padding)
    assert frames.tolist() == expected_frames.tolist() == [5, 1, 2, 3, 1]
    assert torch.equal(x, y)
    with pytest.raises(UserError, match=r"features\.padding_ms=100\.0: not below features\.window_ms=100; less"):
        embedding(padding_ms=100.0)


def test_frames_are_the_network_of_the_windows_within_a_clip(embedding):
    features, (waveform, lengths) = embedding(), clips()
    x, frames = features(waveform, lengths)
    assert frames.tolist() == [3, 1, 1, 2, 1]
    assert x.shape == (5, 3, features.output_size)
    for clip, count in enumerate(frames.tolist()):
        for frame in range(count):
            window = waveform[clip, frame * HOP : frame * HOP + WINDOW]
            torch.testing.assert_close(x[clip, frame], expected(window), rtol=0, atol=1e-6)


def test_clips_are_independent_of_their_batch_and_of_the_cache(embedding, tmp_path):
    (waveform, lengths), cached = clips(), embedding()
    cached.use_cache(tmp_path)
    together, frames = cached(waveform, lengths)
    assert torch.equal(cached(waveform, lengths)[0], together)
    load_network.cache_clear()  # stages with the same network share its cache
    uncached = embedding()
    for clip, count in enumerate(frames.tolist()):
        alone, _ = uncached(waveform[clip : clip + 1, : lengths[clip]], lengths[clip : clip + 1])
        assert torch.equal(alone[0], together[clip, :count])


def test_unchanged_clips_are_computed_once_until_the_cache_is_full(tiny_network, tmp_path, monkeypatch):
    content = tiny_network(tmp_path / "tiny.onnx").read_bytes()
    network, computed = WindowNetwork((Link(content, 1.0, 0.0, None),), WINDOW), []
    run = network._run
    monkeypatch.setattr(network, "_run", lambda windows: computed.append(len(windows)) or run(windows))
    first, second, third = (np.full(WINDOW, value, np.float32) for value in (0.1, 0.2, 0.3))
    network.cache.enable(tmp_path / "vectors.sqlite", 2 * 4 * 4)  # two vectors
    for clip in (first, second, first, third, first, second):
        network([clip], WINDOW, HOP, will_be_used_again=False)
    assert len(computed) == 4  # the second one was the least recently used when the third came
    assert copy.deepcopy(network) is network


def test_networks_of_an_archive_run_in_a_chain(embedding, tiny_network, tmp_path):
    first, archive = tiny_network(tmp_path / "a.onnx"), tmp_path / "networks.whl"

    def square(model):
        del model.graph.node[:], model.graph.initializer[:]
        model.graph.node.append(onnx.helper.make_node("Mul", ["x", "x"], ["y"]))
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[1].dim_value = 2
            value.type.tensor_type.shape.dim[0].dim_value = 2  # two rows of two values: the vector of four, reshaped

    second = tiny_network(tmp_path / "b.onnx", square)
    with zipfile.ZipFile(archive, "w") as file:
        file.write(first, "a.onnx")
        file.write(second, "sub/b.onnx")
    chain = {"networks": ["a.onnx", "sub/b.onnx"], "scales": [2.0, 3.0], "offsets": [0.0, 0.5]}
    features = embedding(archive, sha256=digest(first, second), **chain)
    waveform = torch.randn(1, WINDOW) * 0.1
    x, _ = features(waveform, torch.tensor([WINDOW]))
    torch.testing.assert_close(x[0, 0], (3 * expected(2 * waveform[0]) + 0.5).square())
    with pytest.raises(UserError, match=r"features\.networks=\[c\.onnx\]: .* contains no c\.onnx$"):
        embedding(archive, networks=["c.onnx"])
    with pytest.raises(UserError, match=r"features\.path=.*: is an archive; features\.networks names .*"):
        embedding(archive)


def custom_operator(model):
    model.graph.node[2].domain, model.graph.node[2].op_type = "evil.ops", "Run"


def control_flow(model):
    body = onnx.helper.make_graph([], "body", [], [])
    model.graph.node.append(onnx.helper.make_node("If", ["x"], ["z"], then_branch=body, else_branch=body))


def external_data(model):
    tensor = model.graph.initializer[1]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def huge_shape(model):
    shape = onnx.numpy_helper.from_array(np.array([1 << 20, 1 << 20]), "shape")
    model.graph.initializer.append(shape)
    model.graph.node.append(onnx.helper.make_node("ConstantOfShape", ["shape"], ["huge"]))


def second_input(model):
    model.graph.input.append(onnx.helper.make_tensor_value_info("state", onnx.TensorProto.FLOAT, [1, 4]))


def second_output(model):
    model.graph.output.append(onnx.helper.make_tensor_value_info("mean", onnx.TensorProto.FLOAT, ["batch", 4]))


def integers(model):
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64


def random(model):
    model.graph.node.append(onnx.helper.make_node("RandomNormalLike", ["x"], ["z"]))


def other_window(model):
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 999


def missing_tensor(model):
    model.graph.node[3].input[0] = "nowhere"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (custom_operator, r"contains the operator evil\.ops\.Run; only standard ones are accepted"),
        (control_flow, r"contains control flow \(If\), which is not accepted"),
        (external_data, "keeps weights in another file, which is not read; save it as a single file"),
        (huge_shape, r"computes 1,099,5\d\d,\d\d\d,\d\d\d values for a window; at most 268,435,456 are accepted"),
        (second_input, r"should have one input, not 2 \(x, state\)"),
        (second_output, r"has several outputs; name one with features\.output: y, mean"),
        (integers, "its input x is not float32"),
        (random, "contains the operator RandomNormalLike, whose result is random"),
        (other_window, r"onnxruntime cannot run it for a window of 1600 samples \(.*\)"),
        (missing_tensor, "is not a valid ONNX file .*"),
        (lambda model: model.Clear(), "is not an ONNX file, or an empty one"),
    ],
)
def test_network_that_is_not_accepted_is_refused_in_a_sentence(embedding, tiny_network, tmp_path, change, message):
    path = tiny_network(tmp_path / "bad.onnx", change)
    with pytest.raises(UserError, match=rf"^features\.path={path}: {message}$"):
        embedding(path)


def test_wrong_files_are_refused_in_a_sentence(embedding, tiny_network, tmp_path):
    path = tiny_network(tmp_path / "tiny.onnx")
    with pytest.raises(UserError, match=rf"^features\.sha256=0000: the networks have the SHA-256 {digest(path)}; set"):
        embedding(path, sha256="0000")
    with pytest.raises(UserError, match=r"^features\.path=\S+: cannot be read \(No such file or directory\)$"):
        embedding(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(UserError, match=r"^features\.path=\S+: is not an ONNX file"):
        embedding(tmp_path / "text.onnx")
    with pytest.raises(UserError, match=r"^features\.path=\S+: has no output z; its outputs are y$"):
        embedding(path, output="z")
    with pytest.raises(UserError, match=r"^features\.path=\S+: is not a ZIP archive"):
        embedding(path, networks=["tiny.onnx"])
    with pytest.raises(
        UserError, match=r"^features\.window_ms=60000: over 2097152 samples at 1000000 Hz; shorter ones$"
    ):
        embedding(path, window_ms=60000, sample_rate=1_000_000)
    with pytest.raises(UserError, match=r"^features\.hop_ms=200: longer than features\.window_ms=100; at most 100 ms$"):
        embedding(path, hop_ms=200)


def test_missing_package_is_named(embedding, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"^features: needs onnxruntime .*: pip install 'spectrnn\[export\]'$"):
        embedding(window_ms=101)
