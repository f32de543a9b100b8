"""`spectrnn export` and `spectrnn verify`, end to end on tones."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile

import spectrnn as package
from spectrnn.detection.thresholds import TunedThresholds
from spectrnn.export import export, parity
from spectrnn.model import serialization
from spectrnn.model.classifier import Classifier, build_stages


def run_python(*arguments, **settings):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False, **settings
    )
    assert done.returncode == 0, done.stderr
    return done


def temporaries(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".") and path.name.endswith(".tmp")]


def change_head(path, name, change):
    """Replaces a tensor of the head in an ONNX file."""
    model = onnx.load(path)
    tensor = next(each for each in model.graph.initializer if each.name.endswith(f"head.1.{name}"))
    tensor.CopyFrom(onnx.numpy_helper.from_array(change(onnx.numpy_helper.to_array(tensor)), tensor.name))
    onnx.save(model, path)


@pytest.fixture(scope="module")
def exported(trained_run, tmp_path_factory):
    """Read-only folder of a quantized export, made in a separate process."""
    folder = tmp_path_factory.mktemp("exported") / "export"
    overrides = ["quantize=int8", "license=CC0-1.0", "max_int8_accuracy_drop=0.5"]
    done = run_python("-m", "spectrnn", "export", f"run={trained_run}", *overrides, f"out={folder}")
    assert "verified: largest difference of a probability between onnxruntime and PyTorch" in done.stderr
    return folder


def test_export_is_complete(exported, trained_run):
    assert sorted(path.name for path in exported.iterdir()) == ["README.md", "example.py", "golden", "model.onnx"]
    assert not temporaries(exported.parent)
    card = (exported / "README.md").read_text()
    accuracy = json.loads((trained_run / "metrics.json").read_text())["test"]["accuracy"]
    for text in (
        "# Sound classifier with 3 classes",
        "high, low, middle",
        "**License:** CC0-1.0",
        "license: cc0-1.0",
        "8000 Hz",
        "test (6 clips) | accuracy |",
        "| int8 | 0.",
        "| float32 | 0.",
        "chosen at random (seed 0",
        "the model divides its logits by",
        "| train | 27 |",
    ):
        assert text in card, text
    assert re.search(rf"\| float32 \| [\d.]+ MB \| {accuracy:.4f} \|", card)
    headings = re.findall(r"^## (.*)$", card, re.MULTILINE)
    assert headings == [
        "Model Details",
        "Uses",
        "Bias, Risks, and Limitations",
        "How to Get Started with the Model",
        "Training Details",
        "Evaluation",
        "Technical Specifications",
    ]
    assert len(list((exported / "golden").glob("*.wav"))) == 4


def test_example_predicts_what_predict_does(exported, trained_run, tones):
    recording = sorted((tones / "middle").glob("*.wav"))[3]
    probability, label = run_python(exported / "example.py", recording).stdout.splitlines()[0].split()
    prediction = package.load(str(trained_run)).predict(*soundfile.read(recording, dtype="float32"))
    assert label == prediction.label
    assert float(probability) == pytest.approx(prediction.probability, abs=0.02)  # the file has int8 weights
    default = run_python("example.py", cwd=exported)
    assert len(default.stdout.splitlines()) == 3


EXAMPLE_ERRORS = {
    "missing.wav": "missing.wav: no such file",
    "note.wav": "note.wav: cannot be read (",
    "empty.wav": "empty.wav: contains no audio",
    "fast.wav": "fast.wav: has 16000 Hz; resample it to 8000 Hz",
    "--help": "Classifies a recording",
    "fast.wav more.wav": "Classifies a recording",
}


@pytest.mark.parametrize("arguments", EXAMPLE_ERRORS)
def test_example_fails_with_a_sentence(exported, tone, tmp_path, arguments):
    tone(tmp_path / "fast.wav", rate=16000)
    tone(tmp_path / "empty.wav", seconds=0)
    (tmp_path / "note.wav").write_text("not audio")
    command = [sys.executable, exported / "example.py", *arguments.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(EXAMPLE_ERRORS[arguments]), done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["example.py", "example_streaming.py"])
def test_example_names_what_it_lacks(tmp_path, name):
    script = shutil.copy(Path(export.__file__).with_name(name), tmp_path / "example.py")
    command = [sys.executable, script, script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"{tmp_path / 'model.onnx'}: no such file\n")
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('No module named onnxruntime')")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    message = "No module named onnxruntime; pip install numpy onnxruntime soundfile\n"
    assert (done.returncode, done.stderr) == (1, message)
    (tmp_path / "onnxruntime.py").unlink()
    (tmp_path / "model.onnx").write_bytes(b"no model")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{tmp_path / 'model.onnx'}: cannot be loaded (")


def test_verify_needs_neither_run_nor_dataset_nor_torch(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "elsewhere")
    code = "import sys; from spectrnn.cli.main import main; main(); sys.exit(7 * ('torch' in sys.modules))"
    done = run_python("-c", code, "verify", folder / "model.onnx", cwd=tmp_path)
    assert "model.onnx: verified with 4 golden clips, largest difference of a probability " in done.stderr


def test_changed_model_is_not_verified(spectrnn, exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "changed")
    change_head(folder / "model.onnx", "bias", lambda _: -3 * np.arange(3, dtype=np.float32))
    error = spectrnn("verify", folder / "model.onnx").error()
    assert re.search(r"probabilities of .*golden/0-\w+\.wav differ by 0\.\d+ from those at export", error)


def test_export_that_fails_verification_is_deleted(spectrnn, trained_run, exported, tmp_path, monkeypatch):
    monkeypatch.setattr(parity, "TOLERANCE", 0.0)
    error = spectrnn("export", f"run={trained_run}", f"out={tmp_path / 'out'}").error()
    assert "format=onnx: the exported model failed verification and was deleted" in error
    assert not list(tmp_path.glob("*out*"))
    before = shutil.copytree(exported, tmp_path / "before")
    assert spectrnn("export", f"run={trained_run}", f"out={before}").code == 1
    assert (before / "model.onnx").read_bytes() == (exported / "model.onnx").read_bytes()
    assert not temporaries(tmp_path)


def test_export_replaces_an_export_but_no_other_folder(spectrnn, trained_run, tmp_path):
    model = shutil.copy(trained_run / "model.safetensors", tmp_path / "copy.safetensors")
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "thesis.txt").write_text("years of work")
    message = f"out={tmp_path / 'export'}: exists and is not an export; name another folder"
    assert message in spectrnn("export", f"run={model}").error()
    (tmp_path / "export" / "model.onnx").write_text("another model")
    assert message in spectrnn("export", f"run={model}").error()
    (tmp_path / "export" / "thesis.txt").rename(tmp_path / "thesis.txt")
    assert spectrnn("export", f"run={model}", "num_parity_clips=2").code == 0
    first = (tmp_path / "export" / "README.md").read_text()
    outcome = spectrnn("export", f"run={model}", "num_parity_clips=2", "license=MIT")
    assert outcome.code == 0, outcome.err
    assert "**License:** unknown" in first
    assert "**License:** MIT" in (tmp_path / "export" / "README.md").read_text()
    assert not temporaries(tmp_path)


def test_thresholds_and_temperature_are_exported(spectrnn, trained_run, tmp_path):
    classifier, config = serialization.load(trained_run / "model.safetensors")
    classifier.temperature.fill_(2.0)
    tuned = TunedThresholds(
        by_label={"low": 0.625},
        background=["high"],
        max_false_alarms_per_hour=2.0,
        hours=1.5,
        window=0.3,
        hop=0.1,
        smoothing_windows=3,
        offset_ratio=0.5,
        min_event_seconds=0.2,
    )
    serialization.save(classifier, config, tmp_path / "model.safetensors", tuned_thresholds=asdict(tuned))
    outcome = spectrnn("export", f"run={tmp_path / 'model.safetensors'}")
    assert outcome.code == 0, outcome.err
    card = (tmp_path / "export" / "README.md").read_text()
    assert "| low | 0.625 |" in card
    assert "at most 2 false alarms per hour and class" in card
    assert "the model divides its logits by 2.000" in card
    properties = onnx.load(tmp_path / "export" / "model.onnx").metadata_props
    metadata = json.loads({prop.key: prop.value for prop in properties}["spectrnn"])
    assert metadata["tuned_thresholds"] == asdict(tuned)
    assert metadata["temperature"] == 2.0


def test_quantization_that_costs_too_much_accuracy_is_rejected(spectrnn, trained_run, tmp_path, monkeypatch):
    def predict_the_last_class(path, quantized):
        change_head(path, "bias", lambda bias: np.arange(len(bias), dtype=np.float32) * 1000)

    monkeypatch.setattr(export, "quantize_weights", predict_the_last_class)
    accuracy = json.loads((trained_run / "metrics.json").read_text())["test"]["accuracy"]
    arguments = ("export", f"run={trained_run}", "quantize=int8", "max_int8_accuracy_drop=0.05", "out=out")
    assert (
        f"quantize=int8: accuracy on the test split drops from {accuracy:.4f} to 0.3333, by more than "
        "max_int8_accuracy_drop=0.05; quantize=null exports float32"
    ) in spectrnn(*arguments).error()
    assert not (tmp_path / "out").exists()
    assert spectrnn(*arguments, "max_int8_accuracy_drop=0.9").code == 0


@pytest.mark.parametrize("name", ["onnx", "onnxruntime"])
def test_missing_package_is_reported(spectrnn, trained_run, exported, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    error = spectrnn("export", f"run={trained_run}", f"out={tmp_path / 'out'}").error()
    assert f"export: needs {name} (" in error
    assert "pip install 'spectrnn[export]'" in error
    verified = spectrnn("verify", exported / "model.onnx")
    assert verified.code == (0 if name == "onnx" else 1), verified.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "quantize=int4"], "quantize=int4: should be 'int8'"),
        (["export", "format=tflite"], "format=tflite: should be 'onnx'"),
        (["export", "run=nothing"], "run=nothing: no such run folder or model file"),
        (["export", "out=file/out"], "out=file/out: cannot be written (File exists)"),
        (["verify", "nothing.onnx"], "nothing.onnx: no such file"),
    ],
    ids=["quantize", "format", "run", "out", "file"],
)
def test_errors_are_reported(spectrnn, trained_run, tmp_path, arguments, message):
    (tmp_path / "file").write_text("")
    command, *overrides = arguments
    if command == "export" and not overrides[0].startswith("run="):
        overrides.append(f"run={trained_run}")
    assert message in spectrnn(command, *overrides).error()


def test_bidirectional_model_is_not_exported_for_streams(spectrnn, trained_run, tmp_path):
    error = spectrnn("export", f"run={trained_run}", "streaming=true", f"out={tmp_path / 'out'}").error()
    assert "model.bidirectional=true: processes a clip from its end, which a stream does not have" in error
    assert not (tmp_path / "out").exists()


def test_causal_model_is_exported_for_streams(spectrnn, trained_run, tones, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    trained, config = serialization.load(trained_run / "model.safetensors")
    config["model"]["bidirectional"] = False
    causal = Classifier(build_stages(config, len(trained.labels)), trained.labels).eval()
    causal.max_train_samples.copy_(trained.max_train_samples)
    serialization.save(causal, config, run / "model.safetensors")
    outcome = spectrnn("export", f"run={run}", "streaming=true", "num_parity_clips=4")
    assert outcome.code == 0, outcome.err
    assert "stream in blocks of 1 hop" in outcome.err
    folder = run / "export-streaming"
    assert spectrnn("verify", folder / "model.onnx").code == 0
    assert "`next_...`" in (folder / "README.md").read_text()
    done = run_python(folder / "example.py", tones / "low" / "05.wav")
    assert len(done.stdout.splitlines()) == 3  # 0.3 s: a window, and two blocks of 0.1 s
