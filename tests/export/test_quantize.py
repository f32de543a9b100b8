"""Int8 weights against a classifier whose weights were rounded by other means."""

import numpy as np
import pytest
import torch

from spectrnn.export.graph import model_metadata, write_onnx
from spectrnn.export.onnx_model import OnnxModel
from spectrnn.export.quantize import quantize_weights, symmetric_int8


def test_rounding_is_off_by_half_a_step_at_most():
    weight = np.random.default_rng(0).normal(size=(1, 6, 50)).astype(np.float32) * np.arange(6)[:, None]
    weight = weight.astype(np.float32)
    rounded, scale = symmetric_int8(weight, 1)
    assert rounded.dtype == np.int8
    assert scale.shape == (1, 6, 1)
    assert (abs(rounded * scale - weight) <= scale / 2 * 1.001).all()
    assert (abs(rounded).max(2)[0, 1:] == 127).all()
    assert (rounded[0, 0] == 0).all()  # a slice of nothing


@pytest.mark.parametrize(
    ("model", "pooling"), [("bigru", "attention"), ("lstm", "mean"), ("crnn", "stats"), ("conv1d_rnn", "last")]
)
def test_the_file_computes_with_rounded_weights_and_nothing_else_is_rounded(
    classifier, sounds, tmp_path, model, pooling
):
    made = classifier(f"model={model}", f"pooling={pooling}")
    whole, smaller = tmp_path / "whole.onnx", tmp_path / "smaller.onnx"
    write_onnx(made, whole, model_metadata(made, None), inside=True)
    quantize_weights(whole, smaller)
    float32, int8 = OnnxModel(whole, threads=1), OnnxModel(smaller, threads=1)
    inputs = {"waveform": sounds[0][None], "lengths": np.array([len(sounds[0])])}
    np.testing.assert_array_equal(
        int8.session.run(["features"], inputs)[0], float32.session.run(["features"], inputs)[0]
    )
    for name, weight in made.named_parameters():
        if weight.dim() > 1:  # a row an output, in PyTorch, whatever the layer
            assert "bias" not in name
            step = weight.detach().flatten(1).abs().amax(1).div(127).view(-1, *[1] * (weight.dim() - 1))
            weight.data = (weight.detach() / step).round() * step
    with torch.inference_mode():
        expected = made.probabilities(torch.from_numpy(sounds[0])[None], torch.tensor([len(sounds[0])])).numpy()
    assert abs(int8(sounds[:1]) - expected).max() < 1e-5
    assert abs(float32(sounds[:1]) - expected).max() > 1e-5
    assert int8.metadata == float32.metadata


def test_the_file_is_a_fraction_of_the_size(classifier, tmp_path):
    made = classifier("model.hidden_size=8")
    made.encoder = type(made.encoder)(16, "gru", 256, 1, False, 0.0)
    made.pooling.input_size, made.head = 256, torch.nn.Sequential(torch.nn.Dropout(0.0), torch.nn.Linear(256, 3))
    made.pooling = type(made.pooling)(256, 2, 8)
    write_onnx(made.eval(), tmp_path / "whole.onnx", model_metadata(made, None))
    quantize_weights(tmp_path / "whole.onnx", tmp_path / "smaller.onnx")
    saved = (tmp_path / "whole.onnx").stat().st_size - (tmp_path / "smaller.onnx").stat().st_size
    weights = sum(parameter.numel() for parameter in made.parameters() if parameter.dim() > 1)
    assert saved > 0.9 * 3 * weights  # three bytes of four
