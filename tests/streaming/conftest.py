"""Small causal classifiers whose outputs vary, and test signals."""

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from spectrnn.config.instantiate import to_container
from spectrnn.config.paths import CONFIG_DIR
from spectrnn.model.classifier import Classifier, build_stages

_SMALL = {"features": {"n_mels": 16, "deltas": 0}, "model": {"hidden_size": 8}, "pooling": {"num_heads": 2}}


@pytest.fixture(scope="session")
def causal() -> Callable[..., tuple[Classifier, dict[str, Any]]]:
    """Builds a classifier at 8 kHz and its config: `causal(num_layers=1, model="lstm", pooling="max")`."""
    return _causal


@pytest.fixture
def sound() -> Tensor:
    """Waveforms (3, 8001): noise of rising level, a falling tone, and one that stops halfway."""
    torch.manual_seed(1)
    time = torch.arange(8001) / 8000
    tone = 0.3 * torch.sin(2 * torch.pi * (900 - 400 * time) * time)
    return torch.stack([time * torch.randn(8001) * 0.3, tone, tone * (time < 0.5)])


@functools.cache
def _node(group: str, option: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = to_container(compose("train", ["data.sample_rate=8000", f"{group}={option}"]), "")
    small = {key: value for key, value in _SMALL.get(group, {}).items() if key in config[group]}
    return {"head": config["head"], "task": config["task"], group: config[group] | small}


def _causal(num_layers: int = 2, deltas: int = 0, **options: str) -> tuple[Classifier, dict[str, Any]]:
    options = {"features": "logmel", "normalize": "global", "model": "gru", "pooling": "mean"} | options
    config: dict[str, Any] = {}
    for group, option in options.items():
        config |= copy.deepcopy(_node(group, option))
    config["model"]["num_layers"], config["features"]["deltas"] = num_layers, deltas
    torch.manual_seed(0)
    classifier = Classifier(build_stages(config, 3), ["one", "two", "three"]).eval()
    with torch.no_grad():
        classifier.temperature.fill_(0.7)
        for parameter in classifier.parameters():
            parameter.mul_(2)
        if options["normalize"] == "global":
            classifier.normalization.fit([(classifier.features(torch.randn(2, 4000) * 0.1, torch.tensor([4000] * 2)))])
    return classifier, config
