"""Classifiers as the command line builds them, and a batch of clips with edge cases."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from spectrnn.config.instantiate import instantiate
from spectrnn.config.paths import CONFIG_DIR
from spectrnn.frontend.augmentation import Augmentations
from spectrnn.model.classifier import Classifier, build_stages

_DEFAULTS = {"features": "logmel", "normalize": "global", "model": "bigru", "pooling": "attention"}
_SMALL = {
    "features": {"n_mels": 16},
    "model": {"hidden_size": 8, "channels": [4, 4], "time_strides": [1, 2], "frequency_strides": [2, 2]},
    "pooling": {"num_heads": 2, "hidden_size": 8},
}


class Clips(NamedTuple):
    """Batch of clips: waveform (batch, samples), zero after each clip's end, and lengths (batch,)."""

    waveform: Tensor
    lengths: Tensor

    def alone(self, clip: int) -> "Clips":
        """Returns a single clip, without padding."""
        length = self.lengths[clip : clip + 1]
        return Clips(self.waveform[clip : clip + 1, : int(length)], length)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def stage() -> Callable[..., Any]:
    """Builds one stage with default settings: `stage("pooling", "attention", {"input_size": 8}, num_heads=2)`."""
    return _stage


@pytest.fixture(scope="session")
def stages() -> Callable[..., dict[str, Any]]:
    """Returns config nodes of small stages: `stages(model="crnn", pooling="mean")`; others as in train.yaml."""
    return _stages


@pytest.fixture(scope="session")
def classifier() -> Callable[..., Classifier]:
    """Builds a small classifier of three classes, in evaluation mode: `classifier(model="crnn", augment=["gain"])`."""
    return _classifier


@pytest.fixture(scope="session")
def members(variants: Callable[..., list[Classifier]]) -> Callable[..., list[Classifier]]:
    """Builds members of an ensemble: `members(3, model="crnn")`."""
    return lambda count, **choices: variants(_classifier(**choices), count)


@pytest.fixture
def clips() -> Clips:
    """Seven clips at 8 kHz: long, below a window, one frame, two frames, half silent, silent, one sample longer."""
    lengths = torch.tensor([4000, 120, 200, 285, 2400, 1500, 4001])
    waveform = torch.randn(7, 4001) * torch.tensor([0.5, 0.3, 0.1, 0.2, 0.3, 0.0, 0.01])[:, None]
    waveform[4, 1200:] = 0
    return Clips(waveform * (torch.arange(4001) < lengths[:, None]), lengths)


@functools.cache
def _config(group: str, option: str) -> DictConfig:
    choice = f"augment=[{option}]" if group == "augment" else f"{group}={option}"
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose("train", ["data.sample_rate=8000", choice])


def _node(group: str, option: str, **settings: Any) -> dict[str, Any]:
    node = OmegaConf.to_container(_config(group, option), resolve=True, throw_on_missing=False)[group]
    return {**(node[option] if group == "augment" else node), **settings}


def _stage(group: str, option: str, context: dict[str, Any] | None = None, **settings: Any) -> Any:
    return instantiate(_node(group, option, **settings), group, **(context or {}))


def _stages(**choices: str) -> dict[str, Any]:
    nodes = {group: _node(group, option) for group, option in (_DEFAULTS | choices).items()}
    for group, node in nodes.items():
        node |= {name: value for name, value in _SMALL.get(group, {}).items() if name in node}
    return {**nodes, **{key: OmegaConf.to_container(_config("model", "gru")[key]) for key in ("head", "task")}}


def _classifier(augment: tuple[str, ...] = (), **choices: str) -> Classifier:
    augmentation = Augmentations([_stage("augment", option) for option in augment])
    return Classifier(build_stages(_stages(**choices), 3), ["one", "two", "three"], augmentation).eval()
