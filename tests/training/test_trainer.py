"""The training loop's arithmetic: every clip weighs the same, however uneven the batches."""

import copy

import torch
from hydra import compose, initialize_config_dir

from spectrnn.config.instantiate import instantiate, to_container
from spectrnn.config.paths import CONFIG_DIR
from spectrnn.data.dataset import open_dataset
from spectrnn.model.classifier import Classifier
from spectrnn.training.trainer import Learner, Meter

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
    "trainer.max_grad_norm=null",
    "trainer.batch_size=10",
    "trainer.grad_accum_steps=100",
    "task.label_smoothing=0",
]


def test_every_clip_weighs_the_same_in_uneven_batches(tones):
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = compose("train", overrides=[f"data.root={tones}", *SETTINGS])
    dataset = open_dataset(instantiate(config.data, "data"), CPU)
    classifier = Classifier(to_container(config, ""), dataset.labels)
    alone = copy.deepcopy(classifier)
    batches = dataset.batches("train", 10, CPU, 0)
    assert len({len(batch.rows) for batch in batches.epoch(0)}) > 1
    optimizer = instantiate(config.optimizer, "optimizer", params=classifier.parameters())
    schedule = instantiate(config.scheduler, "scheduler", optimizer=optimizer, steps=1)
    learner = Learner(instantiate(config.trainer, "trainer"), classifier, optimizer, schedule, batches, 0)
    meter = Meter(CPU)
    for number, batch in enumerate(batches.epoch(0), 1):
        learner.learn(0, number, batch, meter)  # one optimizer step, after the last

    losses = [
        torch.nn.functional.cross_entropy(alone(batch.waveform, batch.lengths), batch.targets)
        for batch in dataset.batches("train", 1, CPU).epoch()
    ]
    mean = torch.stack(losses).mean()
    mean.backward()
    assert abs(meter.read()["loss"] - mean.item()) < 1e-5
    for moved, parameter in zip(classifier.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(parameter - parameter.grad, moved, atol=1e-5, rtol=1e-4)
