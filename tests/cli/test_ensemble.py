"""An ensemble on the command line: each command takes it like any other model, and averages the members."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors.torch import load_file

from spectrnn import load
from spectrnn.api.model import Model
from spectrnn.detection.thresholds import read_thresholds
from spectrnn.export.onnx_model import load_onnx
from spectrnn.inference.predictor import Predictor
from spectrnn.model import serialization
from spectrnn.model.classifier import Classifier, build_stages
from spectrnn.model.ensemble import Ensemble
from spectrnn.model.header import read_header


@pytest.fixture(scope="module")
def members(trained_run, variants):
    """Three variants of the trained classifier; only the second one responds much to all tones."""
    classifier, _ = serialization.load(trained_run / "model.safetensors")
    return variants(classifier, 3)


@pytest.fixture
def run(trained_run, members, tmp_path):
    """Folder with the model file of the ensemble."""
    (tmp_path / "run").mkdir()
    header = read_header(trained_run / "model.safetensors")
    path = tmp_path / "run" / "model.safetensors"
    serialization.save(Ensemble(members), header["config"], path, header["splits"])
    return path.parent


@pytest.fixture
def mean(members):
    """Mean of the members' probabilities for a recording: `mean(path)` -> probability by label."""

    def probabilities(path):
        waveform, rate = soundfile.read(path, dtype="float32")
        models = [Model(Path("member"), Predictor(member)) for member in members]
        predictions = [model.predict(waveform, rate).probabilities for model in models]
        return {label: np.mean([each[label] for each in predictions]) for label in members[0].labels}

    return probabilities


def test_predictions_are_those_of_the_mean(spectrnn, run, tones, mean):
    outcome = spectrnn("predict", tones, f"run={run}", "batch_size=7")
    assert outcome.code == 0, outcome.err
    rows = list(csv.DictReader(outcome.out.splitlines()))
    assert len(rows) == 36
    for row in rows[::5]:
        probabilities = mean(row["path"])
        label = max(probabilities, key=probabilities.get)
        assert (row["label"], float(row["probability"])) == (label, pytest.approx(probabilities[label], abs=1e-4))
    waveform, rate = soundfile.read(tones / "low" / "03.wav")
    prediction = load(run).predict(waveform, rate)
    assert prediction.probabilities == pytest.approx(mean(tones / "low" / "03.wav"), abs=1e-6)


def test_evaluation_and_report_are_those_of_the_mean(spectrnn, run, tones, mean, tmp_path):
    outcome = spectrnn("eval", f"run={run}", "split=all", f"out={tmp_path / 'out'}")
    assert outcome.code == 0, outcome.err
    report = json.loads((tmp_path / "out" / "metrics.json").read_text())["all"]
    losses = [-np.log(mean(path)[path.parent.name]) for path in tones.glob("*/*.wav")]
    assert report["clips"] == len(losses) == 36
    assert report["loss"] == pytest.approx(np.mean(losses), abs=1e-4)
    page = (tmp_path / "out" / "report.html").read_text()
    assert (
        '"stages":["LogMelSpectrogram","GlobalNormalization","RNNEncoder","AttentivePooling","ensemble of 3"]' in page
    )


def test_thresholds_are_tuned_for_an_ensemble(spectrnn, run, tone, tmp_path):
    tone(tmp_path / "negatives" / "a.wav", 20, 8000, frequency=1600)
    before = load_file(run / "model.safetensors")
    arguments = (f"negatives=[{tmp_path / 'negatives'}]", "window=0.4", "max_false_alarms_per_hour=200")
    outcome = spectrnn("tune-thresholds", f"run={run}", *arguments)
    assert outcome.code == 0, outcome.err
    assert read_thresholds(run / "model.safetensors").window == 0.4
    assert read_header(run / "model.safetensors")["members"] == 3
    after = load_file(run / "model.safetensors")
    assert after.keys() == before.keys()
    assert all((after[name] == before[name]).all() for name in before)


def test_export_is_verified_and_describes_the_ensemble(spectrnn, run, tones, mean):
    settings = ("quantize=int8", "max_int8_accuracy_drop=0.5", "num_parity_clips=4")
    outcome = spectrnn("export", f"run={run}", *settings)
    assert outcome.code == 0, outcome.err
    assert "verified: largest difference of a probability between onnxruntime and PyTorch" in outcome.err
    card = (run / "export-int8" / "README.md").read_text()
    assert " parameters, an ensemble of 3 models" in card
    assert "Probabilities are calibrated: its members divide their logits by 0.500, 1.500, 2.500." in card
    outcome = spectrnn("verify", run / "export-int8" / "model.onnx")
    assert outcome.code == 0, outcome.err
    path = tones / "low" / "03.wav"
    exported = load_onnx(run / "export-int8" / "model.onnx")
    probabilities = exported([soundfile.read(path, dtype="float32")[0]])[0]
    expected = mean(path)
    assert probabilities == pytest.approx([expected[label] for label in exported.metadata["labels"]], abs=0.05)


def test_page_classifies_with_the_ensemble(spectrnn, run, tones, mean, tmp_path, monkeypatch):
    (tmp_path / "runtime").mkdir()
    monkeypatch.setattr("spectrnn.demo.demo.runtime_dir", lambda cache: tmp_path / "runtime")
    outcome = spectrnn("demo", f"run={run}", f"out={tmp_path / 'page'}", "num_examples=2")
    assert outcome.code == 0, outcome.err
    path = tones / "high" / "05.wav"
    exported = load_onnx(tmp_path / "page" / "model.onnx")
    probabilities = exported([soundfile.read(path, dtype="float32")[0]])[0]
    expected = mean(path)
    assert probabilities == pytest.approx([expected[label] for label in exported.metadata["labels"]], abs=1e-5)
    frequencies = json.loads((tmp_path / "page" / "model.json").read_text())["center_frequencies"]
    outputs = {output.name: output.shape for output in exported.session.get_outputs()}
    assert len(frequencies) == 20
    waveform = np.zeros((1, 4000), np.float32)
    features, attention = exported.session.run(
        ["features", "attention"], {"waveform": waveform, "lengths": np.array([4000])}
    )
    assert features.shape[2] == 20
    assert attention.shape[:2] == (1, 1)
    assert outputs.keys() == {"probabilities", "features", "attention"}


def test_causal_ensemble_is_exported_for_streams(spectrnn, trained_run, variants, tmp_path):
    trained, config = serialization.load(trained_run / "model.safetensors")
    config["model"]["bidirectional"] = False
    causal = Classifier(build_stages(config, len(trained.labels)), trained.labels).eval()
    causal.max_train_samples.copy_(trained.max_train_samples)
    serialization.save(Ensemble(variants(causal, 2)), config, tmp_path / "model.safetensors")
    outcome = spectrnn("export", f"run={tmp_path / 'model.safetensors'}", "streaming=true", "num_parity_clips=2")
    assert outcome.code == 0, outcome.err
    assert "stream in blocks of 1 hop" in outcome.err
    assert spectrnn("verify", tmp_path / "export-streaming" / "model.onnx").code == 0


def test_bidirectional_ensemble_is_not_exported_for_streams(spectrnn, run, tmp_path):
    error = spectrnn("export", f"run={run}", "streaming=true", f"out={tmp_path / 'out'}").error()
    assert "model.bidirectional=true: processes a clip from its end, which a stream does not have" in error


@pytest.mark.parametrize("command", ["eval", "predict", "export", "stream", "tune-thresholds"])
def test_damaged_ensemble_is_reported(spectrnn, run, tones, command):
    content = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").write_bytes(content.replace(b'\\"members\\": 3', b'\\"members\\": 7'))
    arguments = {"predict": [tones], "tune-thresholds": [f"negatives=[{tones}]"]}.get(command, [])
    error = spectrnn(command, *arguments, f"run={run}").error()
    assert error.startswith(f"spectrnn: {run / 'model.safetensors'}: its weights do not fit its config (")
