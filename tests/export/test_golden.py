"""Golden clips: what verifying an export finds, and what it says of files that are not as they should be."""

import json
import shutil

import numpy as np
import onnx
import pytest

from spectrnn.errors import UserError
from spectrnn.export.golden import GoldenClip, verify, write_golden
from spectrnn.export.graph import model_metadata, write_onnx
from spectrnn.export.onnx_model import OnnxModel


@pytest.fixture(scope="module")
def made(classifier, sounds, tmp_path_factory):
    """An export, not to be written to."""
    folder = tmp_path_factory.mktemp("made")
    write_onnx(classifier(), folder / "model.onnx", model_metadata(classifier(), None))
    clips = [
        GoldenClip("one/two: *", np.round(sounds[0] * 32767) / 32768),
        GoldenClip(None, np.zeros(4000, np.float32)),
    ]
    expected = OnnxModel(folder / "model.onnx")([clip.waveform.astype(np.float32) for clip in clips])
    write_golden(clips, expected, 8000, folder)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "export")


def test_an_export_verifies(folder):
    assert verify(str(folder / "model.onnx")) < 1e-5
    assert sorted(path.name for path in (folder / "golden").iterdir()) == [
        "0-one_two___.wav",
        "1-silence.wav",
        "golden.json",
    ]


def test_another_model_is_told_by_its_clip(folder):
    model = onnx.load(folder / "model.onnx")
    bias = next(each for each in model.graph.initializer if each.name.endswith("head.1.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32([0.05, 0, 0]), bias.name))
    onnx.save(model, folder / "model.onnx")
    with pytest.raises(UserError, match=r"says other than when it was exported; of .*0-one_two___.wav its"):
        verify(str(folder / "model.onnx"))


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
def test_a_damaged_list_is_a_sentence(folder, content):
    (folder / "golden" / "golden.json").write_text(content)
    with pytest.raises(UserError, match=r"golden.json: is damaged"):
        verify(str(folder / "model.onnx"))


def test_other_classes_and_no_tolerance_are_sentences(folder):
    listed = json.loads((folder / "golden" / "golden.json").read_text())
    for change, told in (
        (lambda row: row["probabilities"].append(0.0), "gives 3 probabilities, where .* expects 4"),
        (lambda row: row.update(probabilities=[float("nan")] * 3), "off by nan"),
    ):
        changed = json.loads(json.dumps(listed))
        for row in changed["clips"]:
            change(row)
        (folder / "golden" / "golden.json").write_text(json.dumps(changed))
        with pytest.raises(UserError, match=told):
            verify(str(folder / "model.onnx"))


def test_missing_and_damaged_clips_are_sentences(folder):
    clip = folder / "golden" / "0-one_two___.wav"
    clip.write_bytes(b"RIFF")
    with pytest.raises(UserError, match=r"0-one_two___.wav: is missing or damaged"):
        verify(str(folder / "model.onnx"))
    clip.unlink()
    with pytest.raises(UserError, match=r"0-one_two___.wav: is missing or damaged"):
        verify(str(folder / "model.onnx"))
    shutil.rmtree(folder / "golden")
    with pytest.raises(UserError, match=r"golden.json: missing; a model is verified against the golden clips"):
        verify(str(folder / "model.onnx"))


def test_other_files_are_no_exports(folder, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        verify(str(tmp_path / "none.onnx"))
    (folder / "model.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match="onnxruntime cannot run it"):
        verify(str(folder / "model.onnx"))
    node = onnx.helper.make_node("Identity", ["a"], ["b"])
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "ab"]
    foreign = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", ends[:1], ends[1:]),
        ir_version=8,
        opset_imports=[onnx.helper.make_opsetid("", 17)],
    )
    onnx.save(foreign, folder / "model.onnx")
    with pytest.raises(UserError, match="is an ONNX file, but no export of spectrnn"):
        verify(str(folder / "model.onnx"))


@pytest.mark.parametrize("said", ["{}", "5", '{"sample_rate": 8000}', '{"sample_rate": 8000, "state": 1}'])
def test_what_a_stranger_wrote_about_a_file_is_checked(folder, said):
    model = onnx.load(folder / "model.onnx")
    node = onnx.helper.make_node("Identity", ["a"], ["b"])
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "ab"]
    foreign = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", ends[:1], ends[1:]),
        ir_version=8,
        opset_imports=[onnx.helper.make_opsetid("", 17)],
    )
    onnx.helper.set_model_props(foreign, {model.metadata_props[0].key: said})
    onnx.save(foreign, folder / "model.onnx")
    with pytest.raises(UserError, match=r"damaged|onnxruntime cannot run it"):
        verify(str(folder / "model.onnx"))
