"""`spectrnn export`, end to end on tones."""

import json
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import soundfile

import spectrnn as package
from spectrnn.detection.thresholds import TunedThresholds
from spectrnn.errors import UserError
from spectrnn.export import parity
from spectrnn.model import serialization as model_file
from spectrnn.model.classifier import Classifier


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """An export of the run on tones, by a process of its own; not to be written to."""
    folder = tmp_path_factory.mktemp("exported") / "export"
    command = [
        sys.executable,
        "-m",
        "spectrnn",
        "export",
        f"run={trained}",
        "quantize=int8",
        "license=CC0-1.0",
        "max_int8_accuracy_drop=0.5",
        f"out={folder}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "certified: the largest difference" in done.stderr
    return folder


def hidden(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".") and path.name.endswith(".tmp")]


def test_the_export_is_complete(exported, trained):
    assert sorted(path.name for path in exported.iterdir()) == ["README.md", "example.py", "golden", "model.onnx"]
    assert not hidden(exported.parent)
    card = (exported / "README.md").read_text()
    accuracy = json.loads((trained / "metrics.json").read_text())["test"]["accuracy"]
    for text in (
        "high, low, middle.",
        "Licence: CC0-1.0",
        "8000 Hz",
        "test (6 clips) | accuracy |",
        "| int8 | 0.",
        "| float32 | 0.",
        "drawn (seed 0",
        "logits are divided by",
        "| train | 27 |",
    ):
        assert text in card, text
    assert re.search(rf"\| float32 \| [\d.]+ MB \| {accuracy:.4f} \|", card)
    for heading in ("How to run it", "Data", "What it is worth", "Thresholds", "Limits", "This file"):
        assert f"\n## {heading}\n" in card
    assert len(list((exported / "golden").glob("*.wav"))) == 4


def test_the_example_runs_and_says_what_predict_says(exported, trained, tones):
    recording = sorted((tones / "middle").glob("*.wav"))[3]
    done = subprocess.run(
        [sys.executable, exported / "example.py", recording], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    probability, label = done.stdout.splitlines()[0].split()
    prediction = package.load(str(trained)).predict(*soundfile.read(recording, dtype="float32"))
    assert label == prediction.label
    assert float(probability) == pytest.approx(prediction.probability, abs=0.02)  # the file has int8 weights
    bare = subprocess.run([sys.executable, "example.py"], cwd=exported, capture_output=True, text=True, check=False)
    assert bare.returncode == 0, bare.stderr
    assert len(bare.stdout.splitlines()) == 3


def test_an_export_verifies_without_run_corpus_or_torch(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "elsewhere")
    code = "import sys; from spectrnn.cli.main import main; main(); sys.exit(7 * ('torch' in sys.modules))"
    command = [sys.executable, "-c", code, "export", f"verify={folder / 'model.onnx'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "model.onnx: ok, 4 golden clips, largest difference" in done.stderr


def test_a_model_that_was_changed_does_not_verify(spectrnn, exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "changed")
    model = onnx.load(folder / "model.onnx")
    bias = next(each for each in model.graph.initializer if each.name.endswith("head.1.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(-3 * np.arange(3, dtype=np.float32), bias.name))
    onnx.save(model, folder / "model.onnx")
    told = spectrnn("export", f"verify={folder / 'model.onnx'}").mistake()
    assert "says other than when it was exported" in told
    assert "golden/0-" in told


def test_a_file_that_is_not_certified_is_not_kept(spectrnn, trained, exported, tmp_path, monkeypatch):
    monkeypatch.setattr(parity, "TOLERANCE", 0.0)
    told = spectrnn("export", f"run={trained}", f"out={tmp_path / 'out'}").mistake()
    assert "the file is not certified, and was not kept" in told
    assert not list(tmp_path.glob("*out*"))
    before = shutil.copytree(exported, tmp_path / "before")
    assert spectrnn("export", f"run={trained}", f"out={before}").code == 1
    assert (before / "model.onnx").read_bytes() == (exported / "model.onnx").read_bytes()
    assert not hidden(tmp_path)


def test_an_export_is_replaced_and_other_folders_are_not(spectrnn, trained, tmp_path):
    model = shutil.copy(trained / "model.safetensors", tmp_path / "given.safetensors")
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "thesis.txt").write_text("years of work")
    told = spectrnn("export", f"run={model}").mistake()
    assert "is there already, and is no export; name another folder" in told
    (tmp_path / "export" / "model.onnx").write_text("somebody's")
    assert "is there already" in spectrnn("export", f"run={model}").mistake()
    (tmp_path / "export" / "thesis.txt").rename(tmp_path / "thesis.txt")
    assert spectrnn("export", f"run={model}", "clips=2").code == 0
    first = (tmp_path / "export" / "README.md").read_text()
    outcome = spectrnn("export", f"run={model}", "clips=2", "license=MIT")
    assert outcome.code == 0, outcome.err
    assert "Licence: unknown" in first
    assert "Licence: MIT" in (tmp_path / "export" / "README.md").read_text()
    assert not hidden(tmp_path)


def test_thresholds_and_temperature_go_into_card_and_file(spectrnn, trained, tmp_path):
    classifier, config = model_file.load(trained / "model.safetensors")
    classifier.temperature.fill_(2.0)
    tuned_thresholds = TunedThresholds(
        thresholds={"low": 0.625},
        background=["high"],
        max_false_alarms_per_hour=2.0,
        hours=1.5,
        window=0.3,
        hop=0.1,
        smoothing_windows=3,
        offset_ratio=0.5,
        min_event_seconds=0.2,
    )
    model_file.save(classifier, config, tmp_path / "model.safetensors", tuned_thresholds=tuned_thresholds)
    outcome = spectrnn("export", f"run={tmp_path / 'model.safetensors'}")
    assert outcome.code == 0, outcome.err
    card = (tmp_path / "export" / "README.md").read_text()
    assert "| low | 0.625 |" in card
    assert "2 false alarms an hour and class" in card
    assert "logits are divided by 2.000" in card
    listed = onnx.load(tmp_path / "export" / "model.onnx").metadata_props
    metadata = json.loads({prop.key: prop.value for prop in listed}["spectrnn"])
    assert metadata["tuned_thresholds"]["thresholds"] == {"low": 0.625}
    assert metadata["temperature"] == 2.0


def test_int8_that_is_too_much_worse_is_refused():
    from spectrnn.export.export import _require_int8_accuracy

    findings = {
        name: SimpleNamespace(reports={"test": {"accuracy": accuracy}})
        for name, accuracy in (("float32", 0.95), ("int8", 0.92))
    }
    _require_int8_accuracy(findings, SimpleNamespace(split="test", max_int8_accuracy_drop=0.04))
    with pytest.raises(UserError, match=r"falls from 0.9500 to 0.9200, by more than max_int8_accuracy_drop=0.02"):
        _require_int8_accuracy(findings, SimpleNamespace(split="test", max_int8_accuracy_drop=0.02))


@pytest.mark.parametrize("name", ["onnx", "onnxruntime"])
def test_a_missing_library_is_a_sentence(spectrnn, trained, exported, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    told = spectrnn("export", f"run={trained}", f"out={tmp_path / 'out'}").mistake()
    assert "pip install 'spectrnn[export]'" in told
    verified = spectrnn("export", f"verify={exported / 'model.onnx'}")
    assert verified.code == (0 if name == "onnx" else 1), verified.err


def test_mistakes_are_sentences(spectrnn, trained, tmp_path):
    assert "quantize=int4: should be 'int8'" in spectrnn("export", f"run={trained}", "quantize=int4").mistake()
    assert "format=tflite: should be 'onnx'" in spectrnn("export", f"run={trained}", "format=tflite").mistake()
    assert "no such file" in spectrnn("export", "verify=nothing.onnx").mistake()
    assert "no such run folder" in spectrnn("export", "run=nothing").mistake()
    (tmp_path / "file").write_text("")
    assert "cannot be written" in spectrnn("export", f"run={trained}", f"out={tmp_path / 'file' / 'out'}").mistake()


def test_a_model_that_looks_ahead_is_no_stream(spectrnn, trained, tmp_path):
    told = spectrnn("export", f"run={trained}", "streaming=true", f"out={tmp_path / 'out'}").mistake()
    assert "model.bidirectional=true: reads a clip backward" in told
    assert not (tmp_path / "out").exists()


def test_a_causal_model_becomes_a_stream(spectrnn, trained, tones, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    like, config = model_file.load(trained / "model.safetensors")
    config["model"]["bidirectional"] = False
    causal = Classifier(config, like.labels).eval()
    causal.max_train_samples.copy_(like.max_train_samples)
    model_file.save(causal, config, run / "model.safetensors")
    outcome = spectrnn("export", f"run={run}", "streaming=true", "clips=4")
    assert outcome.code == 0, outcome.err
    assert "a stream in packets of a hop" in outcome.err
    folder = run / "export-streaming"
    assert spectrnn("export", f"verify={folder / 'model.onnx'}").code == 0
    assert "`next_...`" in (folder / "README.md").read_text()
    recording = tones / "low" / "05.wav"
    done = subprocess.run(
        [sys.executable, folder / "example.py", recording], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3  # 0.3 s: a window and two packets of 0.1 s
