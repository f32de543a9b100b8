"""Arithmetic of the training step: every clip has the same weight, however uneven the batches."""

import copy

import torch
from hydra import compose, initialize_config_dir

from spectrnn.config.paths import CONFIG_DIR
from spectrnn.data.dataset import open_dataset
from spectrnn.progress import Stopwatch
from spectrnn.training.preflight import preflight
from spectrnn.training.train import build_trainer

CPU = torch.device("cpu")
SETTINGS = [
    "data=folder",
    "data.sample_rate=8000",
    "augment=[]",
    "model=gru",
    "model.hidden_size=4",
    "model.dropout=0",
    "pooling=mean",
    "head.dropout=0",
    "optimizer=sgd",
    "optimizer.momentum=0",
    "optimizer.nesterov=false",
    "optimizer.weight_decay=0",
    "optimizer.lr=1",
    "scheduler=constant",
    "scheduler.warmup_fraction=0",
    "trainer.device=cpu",
    "trainer.max_grad_norm=null",
    "trainer.batch_size=10",
    "trainer.grad_accum_steps=100",
    "task.label_smoothing=0",
]


def test_every_clip_has_the_same_weight_in_uneven_batches(tones):
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        run = preflight(compose("train", overrides=[f"data.root={tones}", *SETTINGS]))
    dataset = open_dataset(run.source, CPU)
    trainer = build_trainer(run, dataset, Stopwatch(), is_new=True)
    reference = copy.deepcopy(trainer.classifier)
    assert len({len(batch.rows) for batch in trainer.train.epoch(0)}) > 1
    for number, batch in enumerate(trainer.train.epoch(0), 1):
        trainer.batches_done = number
        assert trainer.train_step(batch)  # one optimizer update, after the last batch

    losses = [
        torch.nn.functional.cross_entropy(reference(batch.waveform, batch.lengths), batch.targets)
        for batch in dataset.batches("train", 1, CPU).epoch()
    ]
    mean = torch.stack(losses).mean()
    mean.backward()
    assert abs(trainer.meter.read()["loss"] - mean.item()) < 1e-5
    for updated, parameter in zip(trainer.classifier.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(parameter - parameter.grad, updated, atol=1e-5, rtol=1e-4)
