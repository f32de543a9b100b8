"""Quantized exports compute with rounded weights, and with nothing else rounded."""

import numpy as np
import pytest
import torch

from spectrnn.export.graph import model_metadata, write_onnx
from spectrnn.export.onnx_model import OnnxModel
from spectrnn.export.quantize import quantize_weights, symmetric_int8
from spectrnn.model.ensemble import Ensemble


def test_rounding_error_is_at_most_half_a_step():
    weight = np.random.default_rng(0).normal(size=(1, 6, 50)).astype(np.float32) * np.arange(6)[:, None]
    weight = weight.astype(np.float32)
    rounded, scale = symmetric_int8(weight, 1)
    assert rounded.dtype == np.int8
    assert scale.shape == (1, 6, 1)
    assert (abs(rounded * scale - weight) <= scale / 2 * 1.001).all()
    assert (abs(rounded).max(2)[0, 1:] == 127).all()
    assert (rounded[0, 0] == 0).all()  # a slice of zeros


@pytest.mark.parametrize(
    ("model", "pooling"), [("bigru", "attention"), ("lstm", "mean"), ("crnn", "stats"), ("conv1d_rnn", "last")]
)
def test_only_weights_are_rounded(make_classifier, waveforms, tmp_path, model, pooling):
    classifier = make_classifier(f"model={model}", f"pooling={pooling}")
    original, quantized = tmp_path / "original.onnx", tmp_path / "quantized.onnx"
    write_onnx(classifier, original, model_metadata(classifier, None), intermediates=True)
    quantize_weights(original, quantized)
    float32, int8 = OnnxModel(original, threads=1), OnnxModel(quantized, threads=1)
    inputs = {"waveform": waveforms[0][None], "lengths": np.array([len(waveforms[0])])}
    np.testing.assert_array_equal(
        int8.session.run(["features"], inputs)[0], float32.session.run(["features"], inputs)[0]
    )
    for name, weight in classifier.named_parameters():
        if weight.dim() > 1:  # in PyTorch the rows are the outputs, in every layer
            assert "bias" not in name
            step = weight.detach().flatten(1).abs().amax(1).div(127).view(-1, *[1] * (weight.dim() - 1))
            weight.data = (weight.detach() / step).round() * step
    with torch.inference_mode():
        waveform, lengths = torch.from_numpy(waveforms[0])[None], torch.tensor([len(waveforms[0])])
        expected = classifier.probabilities(waveform, lengths).numpy()
    assert abs(int8(waveforms[:1]) - expected).max() < 1e-5
    assert abs(float32(waveforms[:1]) - expected).max() > 1e-5
    assert int8.metadata == float32.metadata


def test_weights_of_all_members_are_rounded(make_classifier, variants, waveforms, tmp_path):
    members = variants(make_classifier("model=gru", "pooling=attention"), 3)
    write_onnx(Ensemble(members), tmp_path / "original.onnx", model_metadata(Ensemble(members), None))
    quantize_weights(tmp_path / "original.onnx", tmp_path / "quantized.onnx")
    for member in members:
        for name, weight in member.named_parameters():
            if weight.dim() > 1:
                step = weight.detach().abs().amax(1, keepdim=True).div(127)
                assert step.shape == (len(weight), 1), name
                weight.data = (weight.detach() / step).round() * step
    with torch.inference_mode():
        inputs = torch.from_numpy(waveforms[0])[None], torch.tensor([len(waveforms[0])])
        expected = Ensemble(members).probabilities(*inputs).numpy()
    assert abs(OnnxModel(tmp_path / "quantized.onnx")(waveforms[:1]) - expected).max() < 1e-5
    assert abs(OnnxModel(tmp_path / "original.onnx")(waveforms[:1]) - expected).max() > 1e-5


def test_quantized_weights_take_a_quarter_of_the_size(make_classifier, tmp_path):
    classifier = make_classifier("model=gru")
    classifier.encoder = type(classifier.encoder)(16, "gru", 256, 1, False, 0.0)
    classifier.head = torch.nn.Sequential(torch.nn.Dropout(0.0), torch.nn.Linear(256, 3))
    classifier.pooling = type(classifier.pooling)(256, 2, 8)
    write_onnx(classifier.eval(), tmp_path / "original.onnx", model_metadata(classifier, None))
    quantize_weights(tmp_path / "original.onnx", tmp_path / "quantized.onnx")
    saved = (tmp_path / "original.onnx").stat().st_size - (tmp_path / "quantized.onnx").stat().st_size
    weights = sum(parameter.numel() for parameter in classifier.parameters() if parameter.dim() > 1)
    assert saved > 0.9 * 3 * weights  # three of four bytes
