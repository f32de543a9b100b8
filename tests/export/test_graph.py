"""The ONNX graph against the classifier, of every encoder, pooling, feature and normalization."""

from dataclasses import asdict

import numpy as np
import pytest
import torch

from spectrnn.detection.thresholds import TunedThresholds
from spectrnn.export.graph import ConvolutionalSTFT, model_metadata, write_onnx
from spectrnn.export.onnx_model import OnnxModel
from spectrnn.frontend.features import STFT
from spectrnn.model.rnn import RNNLayer

# Every option of every group, and both kinds of padding where they meet.
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
]


def alone(made, clip):
    with torch.inference_mode():
        return made.probabilities(torch.from_numpy(clip)[None], torch.tensor([len(clip)])).numpy()


@pytest.mark.parametrize(("model", "pooling", "features", "normalize", "deltas"), COMBINATIONS)
def test_the_graph_says_what_the_classifier_says_alone_and_padded(
    classifier, sounds, tmp_path, model, pooling, features, normalize, deltas
):
    made = classifier(
        f"model={model}",
        f"pooling={pooling}",
        f"features={features}",
        f"normalize={normalize}",
        f"features.deltas={deltas}",
    )
    write_onnx(made, tmp_path / "model.onnx", model_metadata(made, None))
    exported = OnnxModel(tmp_path / "model.onnx", threads=1)
    expected = np.concatenate([alone(made, clip) for clip in sounds])
    assert abs(exported(sounds) - expected).max() < 1e-5
    assert abs(exported(sounds[::-1][:3]) - expected[::-1][:3]).max() < 1e-5
    for clip, row in zip(sounds, expected, strict=True):
        assert abs(exported([clip])[0] - row).max() < 1e-5
        padded = np.zeros((1, 9000), np.float32)
        padded[0, : len(clip)] = clip
        assert abs(exported.run(padded, np.array([len(clip)])) - row).max() < 1e-5
    assert expected.std(0).max() > 0.01  # the clips are told apart


def test_the_convolution_is_the_fourier_transform(classifier):
    for override in ("features.window_ms=25", "features.n_fft=400", "features.hop_ms=25"):
        features = classifier(override).features
        waveform = torch.randn(2, 1234)
        expected = features.stft(waveform)
        assert ConvolutionalSTFT(features)(waveform).shape == expected.shape
        torch.testing.assert_close(ConvolutionalSTFT(features)(waveform), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("pooling", "names"),
    [("attention", ["probabilities", "features", "attention"]), ("mean", ["probabilities", "features"])],
)
def test_what_happens_inside_is_given_where_asked_for(classifier, sounds, tmp_path, pooling, names):
    made = classifier("model=crnn", f"pooling={pooling}")
    write_onnx(made, tmp_path / "model.onnx", model_metadata(made, None), inside=True)
    session = OnnxModel(tmp_path / "model.onnx", threads=1).session
    assert [output.name for output in session.get_outputs()] == names
    waveform, lengths = torch.from_numpy(sounds[0])[None], torch.tensor([len(sounds[0])])
    found = session.run(None, {"waveform": waveform.numpy(), "lengths": lengths.numpy()})
    with torch.inference_mode():
        x = made.trace(waveform, lengths)
    np.testing.assert_allclose(found[1], x.features.numpy(), atol=1e-3)
    if x.attention is not None:
        np.testing.assert_allclose(found[2], x.attention.numpy(), atol=1e-5)


def test_the_file_says_all_that_its_users_need(classifier, tmp_path):
    made = classifier()
    tuned_thresholds = TunedThresholds(
        thresholds={"one": 0.5},
        background=["two"],
        max_false_alarms_per_hour=1.0,
        hours=2.0,
        window=0.5,
        hop=0.1,
        smoothing_windows=3,
        offset_ratio=0.8,
        min_event_seconds=0.0,
    )
    write_onnx(made, tmp_path / "model.onnx", model_metadata(made, tuned_thresholds))
    metadata = OnnxModel(tmp_path / "model.onnx").metadata
    assert metadata["labels"] == ["one", "two", "three"]
    assert (metadata["sample_rate"], metadata["longest"], metadata["window"], metadata["hop"]) == (8000, 4000, 200, 80)
    assert metadata["temperature"] == 1.5
    assert metadata["tuned_thresholds"] == asdict(tuned_thresholds)


def test_the_classifier_stays_as_it_is(classifier, sounds, tmp_path):
    made = classifier()
    before = alone(made, sounds[0])
    write_onnx(made, tmp_path / "model.onnx", model_metadata(made, None))
    assert all(layer.by_hand for layer in made.modules() if isinstance(layer, RNNLayer))
    assert isinstance(made.features.stft, STFT)
    np.testing.assert_array_equal(alone(made, sounds[0]), before)
