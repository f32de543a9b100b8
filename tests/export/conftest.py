"""Small classifiers, built as by the command line, whose probabilities differ between clips."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from spectrnn.config.paths import CONFIG_DIR
from spectrnn.model.classifier import Classifier, build_stages

_SIZES = {
    "features": {"n_mels": 16},
    "model": {"hidden_size": 8, "channels": [4, 4], "time_strides": [1, 2], "frequency_strides": [2, 2]},
    "pooling": {"num_heads": 2, "hidden_size": 8},
}


@pytest.fixture(scope="session")
def make_classifier() -> Callable[..., Classifier]:
    """Builds a small classifier of three classes: `make_classifier("model=crnn", "features.deltas=2")`."""
    return _make_classifier


@pytest.fixture(scope="session")
def waveforms() -> list[np.ndarray]:
    """Clips at 8 kHz, float32 (samples,), down to one sample and less than a window; one is silent."""
    generator = np.random.default_rng(0)
    clips = [generator.normal(0, 0.2, samples).clip(-1, 1) for samples in (4000, 1, 120, 200, 285, 2400, 4001)]
    clips[5] = np.zeros(2400)
    return [clip.astype(np.float32) for clip in clips]


def _make_classifier(*overrides: str) -> Classifier:
    torch.manual_seed(0)
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = compose("train", ["data.sample_rate=8000", *overrides])
    for group, sizes in _SIZES.items():
        config[group].update({name: value for name, value in sizes.items() if name in config[group]})
    classifier = Classifier(build_stages(config, 3), ["one", "two", "three"]).eval()
    for name, tensor in classifier.state_dict().items():
        if name.endswith((".mean", ".variance", ".std")):  # as if fitted
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    classifier.head[1].weight.data *= 20
    classifier.max_train_samples.fill_(4000)
    classifier.temperature.fill_(1.5)
    return classifier
