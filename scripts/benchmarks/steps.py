"""One training step, split into its stages; what the encoder reaches of the machine's limit; and what padding costs."""

import statistics
import time
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import nn

from benchmarks.limits import product_rate, wait
from spectrnn.config.instantiate import instantiate, to_container
from spectrnn.config.paths import CONFIG_DIR
from spectrnn.data.dataset import Dataset, open_dataset
from spectrnn.devices import autocast_dtype
from spectrnn.frontend.augmentation import Augmentations
from spectrnn.model.classifier import Classifier


def composed(overrides: list[str]) -> DictConfig:
    """The config of `spectrnn train` with these overrides."""
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose("train", overrides=overrides)


class Step:
    """A training step as the loop takes it, with a look at the clock after each stage.

    Args:
        config: as train.yaml composes it.
        device: of the classifier.
    """

    def __init__(self, config: DictConfig, device: torch.device) -> None:
        self.dataset: Dataset = open_dataset(instantiate(config.data, "data"), device)
        augment = Augmentations([instantiate(node, name) for name, node in (config.get("augment") or {}).items()])
        self.classifier = Classifier(to_container(config, ""), self.dataset.labels, augment).to(device).train()
        self.optimizer = instantiate(config.optimizer, "optimizer", params=self.classifier.parameters())
        self.batches = self.dataset.batches("train", config.trainer.batch_size, device, config.seed)
        self.max_grad_norm, self.device = config.trainer.max_grad_norm, device
        self.precision = autocast_dtype("auto", device)
        self.frames = self.padded = 0
        self.seconds: dict[str, list[float]] = {}

    def epoch(self, number: int) -> None:
        """Runs an epoch."""
        batches = iter(self.batches.epoch(number))
        self._now = time.perf_counter()
        while (batch := next(batches, None)) is not None:
            self._tick("gather")
            self._step(batch)

    def _step(self, batch: Any) -> None:
        classifier = self.classifier
        batch = classifier.augment.waveform(batch)
        self._tick("augmentation")
        x, frames = classifier.features(batch.waveform, batch.lengths)
        x = classifier.normalization(x, frames)
        self._tick("features")
        x = classifier.augment.spectrogram(x, frames)
        self._tick("augmentation")
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not None):
            states, shortened = classifier.encoder(x, frames)
            self._tick("encoder forward")
            loose = states.detach().requires_grad_()
            logits = classifier.head(classifier.pooling(loose, shortened))
        nn.functional.cross_entropy(logits.float(), batch.targets).backward()
        self._tick("pooling, head and loss")
        states.backward(loose.grad)
        self._tick("encoder backward")
        nn.utils.clip_grad_norm_(classifier.parameters(), self.max_grad_norm, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._tick("optimizer")
        self.frames += int(frames.sum())
        self.padded += x.shape[0] * x.shape[1]
        self._now = time.perf_counter()

    def _tick(self, stage: str) -> None:
        wait(self.device)
        now = time.perf_counter()
        self.seconds.setdefault(stage, []).append(now - self._now)
        self._now = now


def steps(overrides: list[str], device: torch.device, epochs: int) -> dict[str, Any]:
    """Milliseconds a step by stage, the encoder's share of the matrix product limit, and the share of padding.

    Args:
        overrides: of train.yaml.
        device: of the classifier.
        epochs: to take the mean over, after one that warms up.
    """
    step = Step(composed(overrides), device)
    step.epoch(0)
    step.seconds, step.frames, step.padded = {}, 0, 0
    limit = []
    for number in range(1, epochs + 1):
        limit.append(product_rate(device))  # between the epochs: other users of the machine slow both down
        step.epoch(number)
    seconds = {stage: sum(times) for stage, times in step.seconds.items()}
    total = sum(seconds.values())
    encoder = seconds["encoder forward"] + seconds["encoder backward"]
    rate = operations_a_frame(step.classifier.encoder) * step.frames / encoder / 1e9
    return {
        "ms a step": {stage: 1000 * value / epochs / len(step.batches) for stage, value in seconds.items()},
        "everything but the encoder": 1 - encoder / total,
        "encoder, share of the matrix product limit": rate / statistics.mean(limit),
        "padding": 1 - step.frames / step.padded,
        "clips/s": epochs * len(step.batches.rows) / total,
        "frames/s": step.frames / total,
    }


def operations_a_frame(encoder: nn.Module) -> float:
    """Of the recurrent layers' matrix products in training: forward once, backward for weights and for inputs."""
    layers = [layer for layer in encoder.modules() if isinstance(layer, nn.RNNBase)]
    first = layers[0].input_size
    total = 0.0
    for layer in layers:
        gates = layer.weight_hh_l0.shape[0]
        of_input, of_state = 2.0 * gates * layer.input_size, 2.0 * gates * layer.hidden_size
        # Nothing asks for the gradient of the features.
        total += 3 * of_state + (2 if layer.input_size == first else 3) * of_input
    return total
