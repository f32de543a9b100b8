"""Batches for augmentations, and frontend stages as the command line builds them."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from spectrnn.config.instantiate import instantiate
from spectrnn.config.paths import CONFIG_DIR
from spectrnn.data.batches import Batch
from spectrnn.frontend.masking import length_mask


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def stage() -> Callable[..., Any]:
    """Builds a stage as the command line does: `stage("features", "mfcc", deltas=1)`, `stage("augment", "gain")`."""
    return _stage


@pytest.fixture(scope="session")
def batch() -> Callable[..., Batch]:
    """Batch of white noise, or of a waveform, with one class per clip as encoded targets: `batch([100, 50])`."""
    return _batch


@functools.cache
def _config(group: str, option: str) -> DictConfig:
    choice = f"augment=[{option}]" if group == "augment" else f"{group}={option}"
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose("train", ["data.sample_rate=16000", choice])


def _stage(group: str, option: str, context: dict[str, Any] | None = None, **settings: Any) -> Any:
    key = f"augment.{option}" if group == "augment" else group
    config = OmegaConf.merge(_config(group, option))
    for name, value in settings.items():
        OmegaConf.update(config, f"{key}.{name}", value, force_add=True)
    return instantiate(OmegaConf.select(config, key), key, **(context or {}))


def _batch(lengths: Sequence[int], waveform: Tensor | None = None) -> Batch:
    waveform = torch.randn(len(lengths), max(lengths)) * 0.1 if waveform is None else waveform
    valid = length_mask(torch.tensor(lengths), waveform.shape[1])
    targets, rows, weights = torch.eye(len(lengths)), torch.arange(len(lengths)), torch.ones(len(lengths))
    return Batch(waveform * valid, torch.tensor(lengths), targets, rows, weights)
