"""The ONNX graph computes what the classifier computes, for every encoder, pooling, feature and normalization."""

from dataclasses import asdict

import numpy as np
import pytest
import torch

from spectrnn.detection.thresholds import TunedThresholds
from spectrnn.export.graph import ConvolutionalSTFT, model_metadata, write_onnx
from spectrnn.export.onnx_model import OnnxModel
from spectrnn.frontend.features import STFT
from spectrnn.model.ensemble import Ensemble
from spectrnn.model.rnn import RNNLayer
from spectrnn.version import __version__

# Every option of every group.
COMBINATIONS = [
    ("gru", "last", "logmel", "global", 0),
    ("bigru", "attention", "logmel", "global", 0),
    ("bigru", "last", "mfcc", "cmvn", 2),
    ("lstm", "mean", "mfcc", "none", 2),
    ("bilstm", "stats", "logmel", "cmvn", 1),
    ("bilstm", "last", "mfcc", "global", 0),
    ("crnn", "max", "logmel", "none", 2),
    ("crnn", "stats", "mfcc", "global", 1),
    ("conv1d_rnn", "attention", "mfcc", "cmvn", 2),
    ("conv1d_rnn", "mean", "logmel", "global", 0),
    ("gru", "attention", "mfcc", "cmvn", 1),
    ("lstm", "max", "logmel", "global", 0),
    ("gru", "mean", "pcen", "global", 0),
    ("crnn", "attention", "pcen", "none", 1),
]


def export(classifier, path, **options):
    write_onnx(classifier, path, model_metadata(classifier, None), **options)
    return OnnxModel(path, threads=1)


def predict(classifier, waveform):
    with torch.inference_mode():
        return classifier.probabilities(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)])).numpy()


@pytest.mark.parametrize(("model", "pooling", "features", "normalize", "deltas"), COMBINATIONS)
def test_graph_equals_classifier_for_single_and_padded_clips(
    make_classifier, waveforms, tmp_path, model, pooling, features, normalize, deltas
):
    classifier = make_classifier(
        f"model={model}",
        f"pooling={pooling}",
        f"features={features}",
        f"normalize={normalize}",
        f"features.deltas={deltas}",
    )
    exported = export(classifier, tmp_path / "model.onnx")
    expected = np.concatenate([predict(classifier, waveform) for waveform in waveforms])
    assert abs(exported(waveforms) - expected).max() < 1e-5
    assert abs(exported(waveforms[::-1][:3]) - expected[::-1][:3]).max() < 1e-5
    for waveform, row in zip(waveforms, expected, strict=True):
        assert abs(exported([waveform])[0] - row).max() < 1e-5
        padded = np.zeros((1, 9000), np.float32)
        padded[0, : len(waveform)] = waveform
        assert abs(exported.run(padded, np.array([len(waveform)])) - row).max() < 1e-5
    assert expected.std(0).max() > 0.01  # the probabilities depend on the clip


@pytest.mark.parametrize("model", ["bigru", "crnn"])
def test_graph_of_a_classifier_with_answers_of_frames(make_classifier, waveforms, tmp_path, model):
    classifier = make_classifier(f"model={model}", "pooling=attention", "task=multi_label", "head=frames")
    assert classifier.has_frames
    exported = export(classifier, tmp_path / "model.onnx")
    expected = np.concatenate([predict(classifier, waveform) for waveform in waveforms])
    assert abs(exported(waveforms) - expected).max() < 1e-5
    assert expected.std(0).max() > 0.01


@pytest.mark.parametrize("frames", [127, 128, 129, 1000, 128 * 128 + 1])
def test_pcen_of_any_number_of_frames_equals_that_of_the_classifier(make_classifier, tmp_path, frames):
    classifier = make_classifier("model=gru", "pooling=mean", "features=pcen", "normalize=none")
    exported = export(classifier, tmp_path / "model.onnx", intermediates=True)
    waveform = np.random.default_rng(0).normal(0, 0.1, 200 + 80 * (frames - 1)).astype(np.float32)
    inputs = {"waveform": waveform[None], "lengths": np.array([len(waveform)])}
    features = exported.session.run(["features"], inputs)[0]
    with torch.inference_mode():
        expected, _ = classifier.frontend(*map(torch.from_numpy, inputs.values()))
    assert features.shape == expected.shape
    np.testing.assert_allclose(features, expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("override", ["features.window_ms=25", "features.n_fft=400", "features.hop_ms=25"])
def test_convolution_equals_fourier_transform(make_classifier, override):
    features = make_classifier(override).features
    waveform = torch.randn(2, 1234)
    expected, actual = features.stft(waveform), ConvolutionalSTFT(features)(waveform)
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("pooling", "names"),
    [("attention", ["probabilities", "features", "attention"]), ("mean", ["probabilities", "features"])],
)
def test_intermediates_are_additional_outputs(make_classifier, waveforms, tmp_path, pooling, names):
    classifier = make_classifier("model=crnn", f"pooling={pooling}")
    session = export(classifier, tmp_path / "model.onnx", intermediates=True).session
    assert [output.name for output in session.get_outputs()] == names
    waveform, lengths = torch.from_numpy(waveforms[0])[None], torch.tensor([len(waveforms[0])])
    outputs = session.run(None, {"waveform": waveform.numpy(), "lengths": lengths.numpy()})
    with torch.inference_mode():
        expected = classifier.trace(waveform, lengths)
    np.testing.assert_allclose(outputs[1], expected.features.numpy(), atol=1e-3)
    if pooling == "attention":
        np.testing.assert_allclose(outputs[2], expected.attention.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("model", "pooling", "features", "normalize"),
    [("bigru", "attention", "logmel", "global"), ("crnn", "stats", "mfcc", "cmvn"), ("lstm", "mean", "logmel", "none")],
)
def test_graph_of_an_ensemble_contains_all_members(
    make_classifier, variants, waveforms, tmp_path, model, pooling, features, normalize
):
    overrides = f"model={model}", f"pooling={pooling}", f"features={features}", f"normalize={normalize}"
    members = variants(make_classifier(*overrides), 3)
    ensemble = Ensemble(members)
    assert model_metadata(ensemble, None)["max_train_samples"] == 6000
    exported = export(ensemble, tmp_path / "model.onnx", intermediates=True)
    expected = np.mean(
        [np.concatenate([predict(member, waveform) for waveform in waveforms]) for member in members], axis=0
    )
    single = np.concatenate([exported([waveform]) for waveform in waveforms])
    assert abs(single - expected).max() < 1e-5
    assert abs(exported(waveforms) - expected).max() < 1e-5
    assert expected.std(0).max() > 0.01  # the probabilities depend on the clip
    inputs = {"waveform": waveforms[0][None], "lengths": np.array([len(waveforms[0])])}
    intermediates = exported.session.run(None, inputs)[1:]
    with torch.inference_mode():
        traces = [member.trace(*map(torch.from_numpy, inputs.values())) for member in members]
    np.testing.assert_allclose(intermediates[0], traces[0].features.numpy(), atol=1e-3)
    if pooling == "attention":
        weights = torch.cat([trace.attention for trace in traces], 1).mean(1, keepdim=True)
        np.testing.assert_allclose(intermediates[1], weights.numpy(), atol=1e-5)


def test_probabilities_are_the_only_output_by_default(make_classifier, tmp_path):
    session = export(make_classifier(), tmp_path / "model.onnx").session
    assert [output.name for output in session.get_outputs()] == ["probabilities"]


def test_metadata_make_the_file_self_contained(make_classifier, tmp_path):
    classifier = make_classifier()
    tuned = TunedThresholds(
        by_label={"one": 0.5},
        background=["two"],
        max_false_alarms_per_hour=1.0,
        hours=2.0,
        window=0.5,
        hop=0.1,
        smoothing_windows=3,
        offset_ratio=0.8,
        min_event_seconds=0.0,
    )
    write_onnx(classifier, tmp_path / "model.onnx", model_metadata(classifier, tuned))
    assert OnnxModel(tmp_path / "model.onnx").metadata == {
        "labels": ["one", "two", "three"],
        "sample_rate": 8000,
        "max_train_samples": 4000,
        "window": 200,
        "hop": 80,
        "temperature": 1.5,
        "thresholds": None,
        "tuned_thresholds": asdict(tuned),
        "spectrnn": __version__,
    }


def test_export_does_not_change_the_classifier(make_classifier, waveforms, tmp_path):
    classifier = make_classifier()
    before = predict(classifier, waveforms[0])
    export(classifier, tmp_path / "model.onnx")
    assert all(layer.use_kernels for layer in classifier.modules() if isinstance(layer, RNNLayer))
    assert isinstance(classifier.features.stft, STFT)
    np.testing.assert_array_equal(predict(classifier, waveforms[0]), before)
