"""The ONNX graph of a stream, block by block, against the classifier for the stream so far."""

import numpy as np
import pytest
import torch

from spectrnn.export.graph import model_metadata
from spectrnn.export.onnx_model import StreamingOnnxModel, load_onnx
from spectrnn.export.quantize import quantize_weights
from spectrnn.export.streaming import streaming_differences, write_streaming_onnx
from spectrnn.model.ensemble import Ensemble
from spectrnn.streaming.classifier import StreamingClassifier


def export(classifier, path):
    write_streaming_onnx(StreamingClassifier(classifier, {}), path, model_metadata(classifier, None))
    exported = load_onnx(path, threads=1)
    assert isinstance(exported, StreamingOnnxModel)
    return exported


@pytest.mark.parametrize(
    ("model", "pooling", "features", "normalize", "answers"),
    [
        ("gru", "last", "logmel", "global", ()),
        ("lstm", "mean", "mfcc", "none", ("task=multi_label",)),
        ("gru", "attention", "mfcc", "global", ("task=multi_label", "head=frames")),
        ("lstm", "stats", "logmel", "global", ()),
        ("gru", "max", "logmel", "none", ()),
        ("gru", "mean", "pcen", "global", ()),
        ("lstm", "attention", "pcen", "none", ()),
    ],
)
def test_every_result_equals_that_of_the_classifier(
    make_classifier, waveforms, tmp_path, model, pooling, features, normalize, answers
):
    stages = (f"model={model}", f"pooling={pooling}", f"features={features}", f"normalize={normalize}")
    classifier = make_classifier(*stages, "features.deltas=0", *answers)
    exported = export(classifier, tmp_path / "model.onnx")
    streams = np.stack([waveforms[0], waveforms[-1][:4000][::-1]])
    for hops in (1, 5):
        results = list(exported.stream(streams, hops))
        assert [samples for samples, _ in results] == sorted({200, *range(200, 3960, 80 * hops), 3960})
        for samples, actual in results[:: 7 if hops == 1 else 2]:
            with torch.inference_mode():
                prefix = torch.from_numpy(streams[:, :samples].copy())
                expected = classifier.probabilities(prefix, torch.full((2,), samples)).numpy()
            assert abs(actual - expected).max() < 1e-5
    single = np.concatenate([exported([waveform]) for waveform in waveforms])
    assert abs(exported(waveforms) - single).max() < 1e-5
    assert single.std(0).max() > 0.01  # the probabilities depend on the clip
    assert max(streaming_differences(classifier, exported, waveforms).values()) < 1e-5


def test_pcen_of_long_blocks_equals_that_of_the_classifier(make_classifier, tmp_path):
    classifier = make_classifier("model=gru", "pooling=mean", "features=pcen", "normalize=global")
    exported = export(classifier, tmp_path / "model.onnx")
    streams = np.random.default_rng(0).normal(0, 0.1, (2, 80 * 500)).astype(np.float32)
    for samples, actual in exported.stream(streams, 150):
        with torch.inference_mode():
            prefix = torch.from_numpy(streams[:, :samples].copy())
            expected = classifier.probabilities(prefix, torch.full((2,), samples)).numpy()
        assert abs(actual - expected).max() < 1e-5


@pytest.mark.parametrize(("model", "pooling"), [("gru", "attention"), ("lstm", "stats")])
def test_streaming_ensemble_equals_the_mean_of_its_members(
    make_classifier, variants, waveforms, tmp_path, model, pooling
):
    members = variants(make_classifier(f"model={model}", f"pooling={pooling}", "normalize=global"), 3)
    ensemble = Ensemble(members)
    exported = export(ensemble, tmp_path / "model.onnx")
    assert max(streaming_differences(ensemble, exported, waveforms).values()) < 1e-5
    for samples, actual in list(exported.stream(waveforms[0][None], 5))[::3]:
        prefix = torch.from_numpy(waveforms[0][None, :samples])
        with torch.inference_mode():
            expected = sum(member.probabilities(prefix, torch.tensor([samples])) for member in members) / 3
        assert abs(actual - expected.numpy()).max() < 1e-5


def test_lost_state_is_detected(make_classifier, waveforms, tmp_path, monkeypatch):
    classifier = make_classifier("model=gru", "pooling=mean", "normalize=global")
    exported = export(classifier, tmp_path / "model.onnx")
    run = exported.session.run

    class ForgetfulSession:
        def run(self, outputs, inputs):
            return run(outputs, inputs | {"state_1": np.zeros_like(inputs["state_1"])})

    monkeypatch.setattr(exported, "session", ForgetfulSession())
    assert min(streaming_differences(classifier, exported, waveforms).values()) > 1e-4


def test_streaming_model_can_be_quantized(make_classifier, waveforms, tmp_path):
    exported = export(make_classifier("model=lstm", "pooling=attention", "normalize=global"), tmp_path / "model.onnx")
    quantize_weights(tmp_path / "model.onnx", tmp_path / "int8.onnx")
    int8 = load_onnx(tmp_path / "int8.onnx", threads=1)
    assert isinstance(int8, StreamingOnnxModel)
    assert 0 < abs(int8(waveforms) - exported(waveforms)).max() < 0.1
