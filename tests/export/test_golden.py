"""Verification of exports with their golden clips."""

import json
import shutil

import numpy as np
import onnx
import pytest
from omegaconf import OmegaConf

from spectrnn.errors import UserError
from spectrnn.export import golden
from spectrnn.export.golden import GoldenClip, write_golden
from spectrnn.export.graph import model_metadata, write_onnx
from spectrnn.export.onnx_model import KEY, OnnxModel


@pytest.fixture(scope="module")
def exported(make_classifier, waveforms, tmp_path_factory):
    """Read-only folder of an export."""
    folder = tmp_path_factory.mktemp("exported")
    classifier = make_classifier()
    write_onnx(classifier, folder / "model.onnx", model_metadata(classifier, None))
    clips = [
        GoldenClip("one/two: *", np.round(waveforms[0] * 32767) / 32768),
        GoldenClip(None, np.zeros(4000, np.float32)),
    ]
    expected = OnnxModel(folder / "model.onnx")([clip.waveform.astype(np.float32) for clip in clips])
    write_golden(clips, expected, 8000, folder)
    return folder


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "export")


def verify(folder):
    return golden.verify(OmegaConf.create({"file": str(folder / "model.onnx")}))


def write_foreign_model(path, metadata):
    """Writes an ONNX file that is not a classifier."""
    node = onnx.helper.make_node("Identity", ["a"], ["b"])
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "ab"]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", values[:1], values[1:]),
        ir_version=8,
        opset_imports=[onnx.helper.make_opsetid("", 17)],
    )
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)


def test_export_is_verified(folder):
    assert verify(folder) < 1e-5
    assert sorted(path.name for path in (folder / "golden").iterdir()) == [
        "0-one_two___.wav",
        "1-silence.wav",
        "golden.json",
    ]


def test_changed_model_is_rejected_with_the_clip(folder):
    model = onnx.load(folder / "model.onnx")
    bias = next(each for each in model.graph.initializer if each.name.endswith("head.1.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32([0.05, 0, 0]), bias.name))
    onnx.save(model, folder / "model.onnx")
    message = r"probabilities of .*0-one_two___.wav differ by 0.0\d+ from those at export; the tolerance is 0.0001$"
    with pytest.raises(UserError, match=message):
        verify(folder)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"clips": [], "tolerance": 1e-4}',
        '{"clips": 3, "tolerance": 1}',
        '{"clips": [{"file": "0-one_two___.wav", "probabilities": "many"}], "tolerance": 1}',
        '{"clips": [{"file": "", "probabilities": [1]}, {"file": "", "probabilities": [1, 2]}], "tolerance": 1}',
    ],
)
def test_damaged_index_is_reported(folder, content):
    (folder / "golden" / "golden.json").write_text(content)
    with pytest.raises(UserError, match=r"golden.json: is damaged \("):
        verify(folder)


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        ([0.25] * 4, r"computes 3 probabilities, but .*0-one_two___.wav has 4"),
        ([float("nan")] * 3, "differ by nan from those at export"),
    ],
    ids=["classes", "nan"],
)
def test_other_probabilities_are_reported(folder, probabilities, message):
    index = folder / "golden" / "golden.json"
    content = json.loads(index.read_text())
    for row in content["clips"]:
        row["probabilities"] = probabilities
    index.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        verify(folder)


def test_missing_and_damaged_clips_are_reported(folder):
    clip = folder / "golden" / "0-one_two___.wav"
    clip.write_bytes(b"RIFF")
    with pytest.raises(UserError, match=r"0-one_two___.wav: is missing or damaged"):
        verify(folder)
    clip.unlink()
    with pytest.raises(UserError, match=r"0-one_two___.wav: is missing or damaged"):
        verify(folder)
    shutil.rmtree(folder / "golden")
    with pytest.raises(UserError, match=r"golden.json: missing; verification needs the golden clips next to the"):
        verify(folder)


def test_clip_with_another_rate_is_rejected(folder, tone):
    tone(folder / "golden" / "0-one_two___.wav", rate=16000)
    with pytest.raises(UserError, match="is not a golden clip, which is mono and has 8000 Hz"):
        verify(folder)


def test_files_that_are_not_exports_are_rejected(folder, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        verify(tmp_path)
    (folder / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(UserError, match="onnxruntime cannot run it"):
        verify(folder)
    write_foreign_model(folder / "model.onnx", {})
    with pytest.raises(UserError, match="is an ONNX file, but not an export of spectrnn"):
        verify(folder)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("{}", "its metadata are damaged"),
        ("5", "its metadata are damaged"),
        ('{"sample_rate": 8000}', "onnxruntime cannot run it"),
        ('{"sample_rate": 8000, "state": 1}', "the metadata of its state are damaged"),
    ],
)
def test_untrusted_metadata_are_validated(folder, metadata, message):
    write_foreign_model(folder / "model.onnx", {KEY: metadata})
    with pytest.raises(UserError, match=message):
        verify(folder)
