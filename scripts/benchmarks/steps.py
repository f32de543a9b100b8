"""The training step: its speed, its stages, its fraction of the machine's limit, and the fraction of padding."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook

from benchmarks.limits import product_rate, synchronize
from spectrnn.config.paths import CONFIG_DIR
from spectrnn.data.dataset import open_dataset
from spectrnn.model.rnn import RNNLayer
from spectrnn.progress import Stopwatch
from spectrnn.training.meter import Meter
from spectrnn.training.preflight import preflight
from spectrnn.training.train import build_trainer
from spectrnn.training.trainer import Trainer

_MIN_SECONDS = 2.0  # of whole steps per round: an epoch of a small dataset takes less on a GPU


def compose_train(overrides: list[str]) -> DictConfig:
    """Composes the config of `spectrnn train`."""
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose("train", overrides=overrides)


def train_epoch(trainer: Trainer, epoch: int, record: Callable[[str], None] = lambda stage: None) -> float:
    """Trains for one epoch as `Trainer.fit` does, waits for the device once at its end, and returns its duration in s.

    Args:
        trainer: Trainer.
        epoch: Number of the epoch.
        record: Function called with the name of a stage when it has ended, of those outside the classifier.
    """
    start = time.perf_counter()
    trainer.classifier.train()
    trainer.epoch, trainer.meter = epoch, Meter(trainer.device)
    for number, batch in enumerate(trainer.train.epoch(epoch), 1):
        record("gather")
        trainer.batches_done = number
        trainer.train_step(batch)
        record("optimizer")
    trainer.meter.read()
    synchronize(trainer.device)
    return time.perf_counter() - start


class Stages:
    """Measures the stages of `Trainer.train_step` with hooks, waiting for the device after each of them.

    Args:
        trainer: Trainer.

    Attributes:
        seconds: Duration of each stage in s.
        operations: Number of operations of the encoder's products, in both passes.
        num_frames: Number of valid frames.
        num_padded: Number of frames with padding.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.operations = trainer, 0.0
        self.seconds: dict[str, float] = {}
        self.num_frames = self.num_padded = 0

    def train_epoch(self, epoch: int) -> None:
        """Trains for one epoch, which adds to the measurements."""
        classifier = self.trainer.classifier
        encoder = classifier.encoder
        handles = [
            classifier.features.register_forward_pre_hook(lambda *_: self._record("augmentation")),
            classifier.normalization.register_forward_hook(lambda *_: self._record("features")),
            encoder.register_forward_pre_hook(self._before_encoder),
            encoder.register_forward_hook(self._after_encoder),
            register_multi_grad_hook(list(encoder.parameters()), lambda *_: self._record("encoder backward")),
        ]
        for layer in encoder.modules():
            if isinstance(layer, RNNLayer):
                handles.append(layer.register_forward_hook(self._count_recurrent))
            elif isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
                handles.append(layer.register_forward_hook(self._count_products))
        self._last = time.perf_counter()
        train_epoch(self.trainer, epoch, self._record)
        for handle in handles:
            handle.remove()

    def _record(self, stage: str) -> None:
        synchronize(self.trainer.device)
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now

    def _before_encoder(self, _: nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
        x, lengths = inputs
        self._record("augmentation")
        self.num_frames += int(lengths.sum())
        self.num_padded += x.shape[0] * x.shape[1]
        self._last = time.perf_counter()

    def _after_encoder(self, _: nn.Module, inputs: Any, outputs: tuple[Tensor, Tensor]) -> None:
        self._record("encoder forward")
        outputs[0].register_hook(lambda _: self._record("pooling, head and loss"))

    def _count_recurrent(self, layer: RNNLayer, inputs: tuple[Tensor, Tensor], _: Tensor) -> None:
        x, lengths = inputs
        # Per matrix: the product, and the gradients of weights and inputs; that of the features is not needed.
        sizes = sum(3 * rnn.weight_hh_l0.numel() + _num_passes(x) * rnn.weight_ih_l0.numel() for rnn in layer)
        self.operations += 2.0 * sizes * int(lengths.sum())

    def _count_products(self, layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        self.operations += 2.0 * _num_passes(inputs[0]) * output.numel() * layer.weight[0].numel()


def _num_passes(x: Tensor) -> int:
    return 3 if x.requires_grad else 2


def steps(overrides: list[str], rounds: int) -> dict[str, float]:
    """Measures the speed of the training step, the duration of its stages, and what limits it.

    Args:
        overrides: Overrides of train.yaml.
        rounds: Number of repetitions, after one epoch for warm-up.

    Returns:
        Means over the rounds. Stages are measured in epochs of their own, as each of them ends with a wait for a GPU.
        The limit is that of a matrix product in the precision of the training.
    """
    run = preflight(compose_train(overrides))
    dataset = open_dataset(run.source, run.device)
    trainer = build_trainer(run, dataset, Stopwatch(), is_new=True)
    stages = Stages(trainer)
    train_epoch(trainer, 0)
    epoch = num_epochs = 0
    total, limits = 0.0, []
    for _ in range(rounds):
        # Between the epochs, as the speed of the machine drifts.
        limits.append(product_rate(trainer.device, trainer.precision or torch.float32))
        stages.train_epoch(epoch := epoch + 1)
        round_end = total + _MIN_SECONDS
        while total < round_end:
            total += train_epoch(trainer, epoch := epoch + 1)
            num_epochs += 1
    num_steps, clips = rounds * len(trainer.train), num_epochs * len(trainer.train.rows)
    limit = 1e9 * statistics.mean(limits)
    encoder = stages.seconds["encoder forward"] + stages.seconds["encoder backward"]
    return {
        "whole step, clips/s": clips / total,
        "whole step, fraction of the matrix product limit": stages.operations / rounds * num_epochs / total / limit,
        "encoder, fraction of the matrix product limit": stages.operations / encoder / limit,
        **{f"{stage}, ms": 1000 * seconds / num_steps for stage, seconds in stages.seconds.items()},
        "fraction outside the encoder": 1 - encoder / sum(stages.seconds.values()),
        "padding": 1 - stages.num_frames / stages.num_padded,
    }
