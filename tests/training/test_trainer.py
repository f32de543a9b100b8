"""The training step: the weight of each clip in uneven batches, and gradients that are never finite."""

import copy

import numpy as np
import pytest
import torch

from spectrnn.errors import UserError
from spectrnn.training.logger import NullLogger
from spectrnn.training.trainer import seed_generators

CPU = torch.device("cpu")
SETTINGS = [
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


def test_every_clip_has_the_same_weight_in_uneven_batches(make_trainer, train_epoch):
    trainer = make_trainer(*SETTINGS)
    reference = copy.deepcopy(trainer.classifier)
    assert len({len(batch.rows) for batch in trainer.train.epoch(0)}) > 1
    assert len(list(train_epoch(trainer, 0))) == len(trainer.train)  # one optimizer update, after the last batch

    losses = [
        torch.nn.functional.cross_entropy(reference(batch.waveform, batch.lengths), batch.targets)
        for batch in trainer.dataset.batches("train", 1, CPU).epoch()
    ]
    mean = torch.stack(losses).mean()
    mean.backward()
    assert abs(trainer.meter.read()["loss"] - mean.item()) < 1e-5
    for updated, parameter in zip(trainer.classifier.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(parameter - parameter.grad, updated, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("interval", [1, 10])
def test_gradient_that_is_never_finite_stops_a_run_with_a_gradient_scaler(make_trainer, interval):
    settings = ("trainer.batch_size=1", "trainer.grad_accum_steps=1", f"trainer.log_every_n_steps={interval}")
    trainer = make_trainer(*SETTINGS, *settings)
    trainer.scaler = torch.amp.GradScaler("cpu")  # as for half precision
    before = copy.deepcopy(trainer.classifier.state_dict())
    trainer.classifier.head[1].weight.register_hook(lambda grad: grad * torch.inf)
    with pytest.raises(UserError) as error:
        trainer.fit(NullLogger(), lambda is_best: None)
    number = 17 if interval == 1 else 20  # the first reading with a scale of 2 ** (16 - number) < 1
    clip = trainer.dataset.clips[trainer.train.rows_of_batch(0, number)[0]].path
    assert str(error.value) == (
        "non-finite loss or gradient; last.ckpt predates it. Try a lower optimizer.lr, or trainer.on_nan=skip. "
        f"It occurred in batch {number} of epoch 1:\n  {clip}"
    )
    assert all(torch.equal(before[name], value) for name, value in trainer.classifier.state_dict().items())


DEVICES = [
    "cpu",
    pytest.param("cuda:0", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]


@pytest.mark.parametrize("device", DEVICES)
def test_generators_are_seeded_by_position_as_torch_would(device):
    def draw():
        return [torch.rand(3), torch.rand(3, device=device).cpu()]

    seed = int(np.random.SeedSequence((3, 1, 4)).generate_state(1, np.uint64)[0] >> np.uint64(1))
    torch.manual_seed(seed)
    expected = draw()
    for position, is_equal in (((3, 1, 4), True), ((3, 1, 5), False), ((3, 1, 4), True)):
        seed_generators(torch.device(device), *position)
        assert [torch.equal(*pair) for pair in zip(draw(), expected, strict=True)] == [is_equal] * 2


def test_epochs_repeat_the_versions_of_augmented_clips(make_trainer, train_epoch):
    trainer = make_trainer(*SETTINGS, "augment=[gain,specaugment]", "trainer.augmented_versions=2")
    waveforms, features = [[] for _ in range(3)], [[] for _ in range(3)]
    trainer.model.register_forward_pre_hook(lambda _, inputs: waveforms[trainer.epoch].append(inputs[0]))
    trainer.classifier.encoder.register_forward_pre_hook(lambda _, inputs: features[trainer.epoch].append(inputs[0]))
    for epoch in range(3):
        list(train_epoch(trainer, epoch))
    assert all(map(torch.equal, waveforms[0], waveforms[2]))
    assert not all(map(torch.equal, features[0], features[2]))  # masks of the spectrogram are new in each epoch
    assert not torch.equal(waveforms[0][0], waveforms[1][0])
