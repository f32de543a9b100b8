"""A training step by stage, the encoder's fraction of the machine's limit, and the fraction of padding."""

import statistics
import time

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import nn

from benchmarks.limits import product_rate, synchronize
from spectrnn.config.paths import CONFIG_DIR
from spectrnn.data.batches import Batch
from spectrnn.data.dataset import open_dataset
from spectrnn.progress import Stopwatch
from spectrnn.training.preflight import preflight
from spectrnn.training.train import build_trainer


def compose_train(overrides: list[str]) -> DictConfig:
    """Composes the config of `spectrnn train`."""
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose("train", overrides=overrides)


class TimedTrainer:
    """Trains as `Trainer.train_step` does, and adds up the time of each stage.

    Args:
        overrides: Overrides of train.yaml.

    Attributes:
        seconds: Duration of each stage in seconds.
        num_frames: Number of valid frames.
        num_padded: Number of frames with padding.
    """

    def __init__(self, overrides: list[str]) -> None:
        config = compose_train(overrides)
        run = preflight(config)
        dataset = open_dataset(run.source, run.device)
        self.trainer = build_trainer(run, dataset, Stopwatch(), is_new=True)
        self.trainer.classifier.train()
        self.reset()

    def reset(self) -> None:
        """Discards all measurements."""
        self.seconds: dict[str, float] = {}
        self.num_frames = self.num_padded = 0

    def train_epoch(self, epoch: int) -> None:
        """Trains for one epoch."""
        batches = self.trainer.train.epoch(epoch)
        self._last = time.perf_counter()
        while (batch := next(batches, None)) is not None:
            self._record("gather")
            self._train_step(batch)

    def _train_step(self, batch: Batch) -> None:
        trainer, classifier = self.trainer, self.trainer.classifier
        targets = classifier.task.encode(batch.targets)
        batch = classifier.augment.waveform(batch._replace(targets=targets))
        self._record("augmentation")
        x, lengths = classifier.features(batch.waveform, batch.lengths)
        x = classifier.normalization(x, lengths)
        self._record("features")
        x = classifier.augment.spectrogram(x, lengths)
        self._record("augmentation")
        with torch.autocast(trainer.device.type, trainer.precision, enabled=trainer.precision is not None):
            states, state_lengths = classifier.encoder(x, lengths)
            self._record("encoder forward")
            detached = states.detach().requires_grad_()
            logits = classifier.head(classifier.pooling(detached, state_lengths))
        classifier.task.loss(logits, batch.targets).backward()
        self._record("pooling, head and loss")
        states.backward(detached.grad)
        self._record("encoder backward")
        nn.utils.clip_grad_norm_(classifier.parameters(), trainer.config.max_grad_norm, foreach=True)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad(set_to_none=True)
        self._record("optimizer")
        self.num_frames += int(lengths.sum())
        self.num_padded += x.shape[0] * x.shape[1]
        self._last = time.perf_counter()

    def _record(self, stage: str) -> None:
        synchronize(self.trainer.device)
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now


def steps(overrides: list[str], epochs: int) -> dict[str, float]:
    """Measures the duration of a training step by stage, and what limits it.

    Args:
        overrides: Overrides of train.yaml.
        epochs: Number of measured epochs, after one for warm-up.
    """
    timed = TimedTrainer(overrides)
    trainer = timed.trainer
    timed.train_epoch(0)
    timed.reset()
    limit = []
    for epoch in range(1, epochs + 1):
        limit.append(product_rate(trainer.device))  # between the epochs, as other load on the machine slows both down
        timed.train_epoch(epoch)
    total, num_steps = sum(timed.seconds.values()), epochs * len(trainer.train)
    encoder = timed.seconds["encoder forward"] + timed.seconds["encoder backward"]
    rate = operations_per_frame(trainer.classifier.encoder) * timed.num_frames / encoder / 1e9
    return {
        **{f"{stage}, ms": 1000 * seconds / num_steps for stage, seconds in timed.seconds.items()},
        "fraction outside the encoder": 1 - encoder / total,
        "encoder, fraction of the matrix product limit": rate / statistics.mean(limit),
        "padding": 1 - timed.num_frames / timed.num_padded,
        "clips/s": epochs * len(trainer.train.rows) / total,
        "frames/s": timed.num_frames / total,
    }


def operations_per_frame(encoder: nn.Module) -> float:
    """Operations of the recurrent layers' matrix products in training: forward, and backward for weights and inputs."""
    layers = [layer for layer in encoder.modules() if isinstance(layer, nn.RNNBase)]
    first = layers[0].input_size
    total = 0.0
    for layer in layers:
        gates = layer.weight_hh_l0.shape[0]
        # The gradient of the features is not needed.
        input_passes = 2 if layer.input_size == first else 3
        total += 2.0 * gates * (3 * layer.hidden_size + input_passes * layer.input_size)
    return total
