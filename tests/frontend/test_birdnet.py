"""The converted BirdNET, compared with values of the original network in the TFLite runtime."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
_FILE = Path(
    os.environ.get("SPECTRNN_TEST_BIRDNET", Path(__file__).resolve().parents[3] / "shared" / "data" / "birdnet.onnx")
)
SIZE, HOP = 144_000, 24_000  # samples at 48 kHz


@pytest.fixture(scope="module")
def features(stage):
    if not _FILE.is_file():
        pytest.skip(f"needs {_FILE}, which scripts/convert_birdnet.py writes; SPECTRNN_TEST_BIRDNET names another file")
    return stage("features", "birdnet", {"contents": False}, path=str(_FILE), padding_ms=0)


def test_vector_is_that_of_the_original_network_at_any_level(features):
    time = np.arange(SIZE) / 48_000
    noise = np.random.default_rng(0).normal(0, 0.01, SIZE)
    clip = torch.from_numpy(0.1 * np.sin(2 * np.pi * (1000 + 500 * time) * time) + noise).float()
    x, frames = features(torch.stack([clip, 0.1 * clip]), torch.tensor([SIZE, SIZE]))
    assert x.shape == (2, 1, 1024) == (2, 1, features.output_size)
    assert frames.tolist() == [1, 1]
    largest = x[0, 0].topk(5)
    assert largest.indices.tolist() == [339, 17, 343, 939, 515]
    expected = torch.tensor([3.2762, 2.9148, 2.7649, 2.6568, 2.5944])
    torch.testing.assert_close(largest.values, expected, rtol=0, atol=1e-3)
    assert x[0].mean().item() == pytest.approx(0.434755, abs=1e-4)
    torch.testing.assert_close(x[1], x[0], rtol=0, atol=0.02)  # scaled to its smallest and largest value, plus 1e-6


def test_each_window_has_a_vector(features):
    waveform = torch.randn(1, SIZE + 2 * HOP + 100, generator=torch.Generator().manual_seed(0)) * 0.1
    x, frames = features(waveform, torch.tensor([waveform.shape[1]]))
    assert frames.tolist() == [3]
    window, _ = features(waveform[:, HOP : HOP + SIZE], torch.tensor([SIZE]))
    torch.testing.assert_close(x[0, 1], window[0, 0], rtol=0, atol=0)
