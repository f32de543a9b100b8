"""A training step never synchronizes with the device: no value is read back."""

from contextlib import nullcontext

import pytest
import torch
from hydra import compose, initialize_config_dir

from spectrnn.config.instantiate import instantiate, to_container
from spectrnn.config.paths import CONFIG_DIR
from spectrnn.data.batches import Batch
from spectrnn.data.dataset import open_dataset
from spectrnn.frontend.augmentation import Augmentations
from spectrnn.model.classifier import Classifier, build_stages
from spectrnn.progress import Stopwatch
from spectrnn.training.preflight import preflight
from spectrnn.training.train import build_trainer

ENCODERS = ["gru", "bigru", "lstm", "bilstm", "crnn", "conv1d_rnn"]
SPEECH = ["augment=[speech,gain]", "augment.speed.p=1"]


def compose_train(*overrides):
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose("train", overrides=list(overrides))


def make_classifier(config, device):
    augment = Augmentations([instantiate(node, name) for name, node in config.augment.items()])
    return Classifier(build_stages(to_container(config, ""), 3), ["a", "b", "c"], augment).to(device)


def make_batch(device):
    lengths = torch.tensor([4000, 3500, 4000, 1500])
    waveform = torch.randn(4, 4000) * (torch.arange(4000) < lengths[:, None])
    return Batch(waveform.to(device), lengths.to(device), torch.tensor([0, 1, 2, 0]).to(device), torch.arange(4))


@pytest.mark.parametrize(
    ("model", "pooling", "normalize"),
    [
        *((model, "attention", "global") for model in ENCODERS),
        *(("bigru", pooling, "cmvn") for pooling in ("last", "mean", "max", "attention", "stats")),
    ],
)
def test_step_reads_no_value_back(model, pooling, normalize, monkeypatch):
    # Tensors on the meta device have no values, so reading one fails. They do not support autocast.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    config = compose_train(
        f"model={model}", f"pooling={pooling}", f"normalize={normalize}", "features.deltas=1", *SPEECH
    )
    classifier, batch = make_classifier(config, "meta"), make_batch("meta")
    task = classifier.task
    batch = classifier.augment.waveform(batch._replace(targets=task.encode(batch.targets)))
    logits = classifier(batch.waveform, batch.lengths)
    loss = task.loss(logits, batch.targets)
    assert task.correct(logits, batch.targets).shape == (4,)
    loss.backward()
    with pytest.raises(RuntimeError, match="item"):
        loss.item()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("storage", ["gpu", "ram", "disk"])
@pytest.mark.parametrize("model", ENCODERS)
def test_step_on_a_gpu_does_not_synchronize(model, storage, tones):
    config = compose_train(
        "data=folder",
        f"data.root={tones}",
        "data.sample_rate=8000",
        f"data.storage={storage}",
        f"model={model}",
        "augment=[speech,gain,mixup]",
        "augment.speed.p=1",
        "trainer.batch_size=8",
        "trainer.device=cuda",
    )
    run = preflight(config)
    trainer = build_trainer(run, open_dataset(run.source, run.device), Stopwatch(), is_new=True)

    def train_epoch(epoch):
        trainer.epoch = epoch
        for number, batch in enumerate(trainer.train.epoch(epoch), 1):
            trainer.batches_done = number
            trainer.train_step(batch)

    train_epoch(0)  # lazy initialization may synchronize
    torch.cuda.set_sync_debug_mode("error")
    try:
        train_epoch(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.meter.read()["loss"] > 0
