"""Nothing in a training step waits for the device: no number is read back, and on a GPU nothing synchronizes."""

from contextlib import nullcontext

import pytest
import torch
from hydra import compose, initialize_config_dir

from spectrnn.config.instantiate import instantiate, to_container
from spectrnn.config.paths import CONFIG_DIR
from spectrnn.data.batches import Batch
from spectrnn.data.dataset import open_dataset
from spectrnn.frontend.augmentation import Augmentations
from spectrnn.model.classifier import Classifier
from spectrnn.training.trainer import Learner, Meter

MODELS = ["gru", "bigru", "lstm", "bilstm", "crnn", "conv1d_rnn"]
SPEECH = ["augment=[speech,gain]", "augment.speed.p=1"]


def composed(*overrides):
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose("train", overrides=list(overrides))


def classifier_of(config, device):
    augment = Augmentations([instantiate(node, name) for name, node in config.augment.items()])
    return Classifier(to_container(config, ""), ["a", "b", "c"], augment).to(device)


def batch_of(device):
    lengths = torch.tensor([8000, 7000, 8000, 3000])
    waveform = torch.randn(4, 8000) * (torch.arange(8000) < lengths[:, None])
    return Batch(waveform.to(device), lengths.to(device), torch.eye(4, 3).to(device), torch.arange(4))


@pytest.mark.parametrize(
    ("model", "pooling", "normalize"),
    [
        *((model, "attention", "global") for model in MODELS),
        *(("bigru", pooling, "cmvn") for pooling in ("last", "mean", "max", "attention", "stats")),
    ],
)
def test_a_step_reads_nothing_back(model, pooling, normalize, monkeypatch):
    # Tensors on the meta device have no values: whoever asks for one is found. Nor do they know autocast.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    config = composed(f"model={model}", f"pooling={pooling}", f"normalize={normalize}", "features.deltas=1", *SPEECH)
    classifier, batch = classifier_of(config, "meta"), batch_of("meta")
    batch = classifier.augment.waveform(batch)
    loss = torch.nn.functional.cross_entropy(classifier(batch.waveform, batch.lengths), batch.targets)
    loss.backward()
    with pytest.raises(RuntimeError, match="item"):
        loss.item()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("storage", ["gpu", "ram", "disk"])
@pytest.mark.parametrize("model", MODELS)
def test_a_step_on_a_gpu_waits_for_nothing(model, storage, tones):
    config = composed(
        "data=folder",
        f"data.root={tones}",
        "data.sample_rate=8000",
        f"data.storage={storage}",
        f"model={model}",
        "augment=[speech,gain,mixup]",
        "augment.speed.p=1",
    )
    device = torch.device("cuda")
    dataset = open_dataset(instantiate(config.data, "data"), device)
    classifier, batches = classifier_of(config, device), dataset.batches("train", 8, device, 0)
    optimizer = instantiate(config.optimizer, "optimizer", params=classifier.parameters())
    schedule = instantiate(config.scheduler, "scheduler", optimizer=optimizer, steps=100)
    settings = instantiate(config.trainer, "trainer")
    learner = Learner(settings, classifier, optimizer, schedule, batches, 0)
    meter = Meter(device)
    for number, batch in enumerate(batches.epoch(0), 1):  # what is built once may wait
        learner.learn(0, number, batch, meter)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number, batch in enumerate(batches.epoch(1), 1):
            learner.learn(1, number, batch, meter)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert meter.read()["loss"] > 0
