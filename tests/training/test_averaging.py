"""Averages of weights: closed forms, resumption, and the statistics of batch normalization."""

import torch
from torch import nn

from spectrnn.training.averaging import ExponentialMovingAverage, LastEpochsAverage
from spectrnn.training.logger import NullLogger


def test_moving_average_equals_its_closed_form():
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = ExponentialMovingAverage(module, 0.7)
    expected = [parameter.detach().clone() for parameter in module.parameters()]
    for step in range(1, 40):
        for parameter in module.parameters():
            parameter.data.normal_()
        module(torch.randn(5, 3))  # updates the running statistics
        average.step_end(module)
        decay = min(0.7, (1 + step) / (10 + step))
        expected = [decay * old + (1 - decay) * new for old, new in zip(expected, module.parameters(), strict=True)]
    for ours, value in zip(average.module.parameters(), expected, strict=True):
        torch.testing.assert_close(ours.detach(), value.detach())
    assert all(torch.equal(*pair) for pair in zip(average.module.buffers(), module.buffers(), strict=True))


def test_moving_average_is_not_trained():
    module = nn.Linear(3, 2)
    average = ExponentialMovingAverage(module, 0.9)
    assert not any(parameter.requires_grad for parameter in average.module.parameters())
    assert all(parameter.requires_grad for parameter in module.parameters())
    before = module.weight.detach().clone()
    average.step_end(module)
    assert torch.equal(module.weight, before)
    assert average.module.weight.data_ptr() != module.weight.data_ptr()


def test_resumed_moving_average_equals_an_uninterrupted_one():
    module = nn.Linear(3, 2)
    averages = [ExponentialMovingAverage(module, 0.99), ExponentialMovingAverage(module, 0.99)]
    for step in range(30):
        module.weight.data.normal_()
        for average in averages:
            average.step_end(module)
        if step == 10:
            resumed = ExponentialMovingAverage(module, 0.99)
            resumed.load_state_dict(averages[1].state_dict())
            averages[1] = resumed
    assert torch.equal(averages[0].module.weight, averages[1].module.weight)


def test_average_of_the_last_epochs_is_their_mean():
    module = nn.Linear(3, 2)
    average, weights = LastEpochsAverage(module, 3), []
    for epoch in range(1, 8):
        module.weight.data.normal_()
        average.step_end(module)  # changes nothing
        average.epoch_end(module)
        weights.append(module.weight.detach().clone())
        torch.testing.assert_close(average.module.weight, torch.stack(weights[-3:]).mean(0))
        assert len(average.snapshots) == min(epoch, 3)
        if epoch == 4:
            resumed = LastEpochsAverage(module, 3)
            resumed.load_state_dict(average.state_dict())
            assert torch.equal(resumed.module.weight, average.module.weight)
            average = resumed


def fit(trainer):
    """Trains, and returns the weights at the end of each epoch."""
    weights = []
    trainer.fit(NullLogger(), lambda _: weights.append([p.detach().clone() for p in trainer.classifier.parameters()]))
    return weights


def test_trainer_evaluates_the_mean_of_the_last_epochs(make_trainer):
    trainer = make_trainer(
        "trainer.average_last=2", "trainer.epochs=3", "model=gru", "augment=[]", "trainer.device=cpu"
    )
    weights = fit(trainer)
    assert trainer.eval_model is not trainer.classifier
    for average, *epochs in zip(trainer.eval_model.parameters(), *weights[-2:], strict=True):
        torch.testing.assert_close(average, torch.stack(epochs).mean(0))
        assert not torch.equal(*epochs)


def test_statistics_are_those_of_the_averaged_weights(make_trainer):
    settings = ("model=crnn", "augment=[]", "model.dropout=0", "head.dropout=0", "trainer.device=cpu")
    trainer = make_trainer("trainer.average_last=2", "trainer.epochs=3", "trainer.batch_size=8", *settings)
    fit(trainer)
    model, moments = trainer.eval_model.eval(), []
    block = model.encoder.blocks[0]
    with torch.no_grad():
        for batch in trainer.train.epoch(2):
            x, frames = model.frontend(batch.waveform, batch.lengths)
            y = block.convolution(x[:, None] * (torch.arange(x.shape[1]) < frames[:, None])[:, None, :, None])
            # Of valid frames, whose number the first convolution may reduce.
            valid = [
                clip[:, : (n - 1) // block.stride + 1].flatten(1) for clip, n in zip(y, frames.tolist(), strict=True)
            ]
            values = torch.cat(valid, 1)
            moments.append((values.mean(1), values.var(1, correction=0)))
    mean, variance = (torch.stack(part).mean(0) for part in zip(*moments, strict=True))
    torch.testing.assert_close(block.norm.mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(block.norm.variance, variance, rtol=1e-4, atol=1e-5)
    assert block.norm.momentum == 0.1
    current = trainer.classifier.encoder.blocks[0].norm
    assert not torch.allclose(current.mean, mean, rtol=1e-3)


def test_training_does_not_depend_on_the_average(make_trainer):
    settings = ("model=crnn", "trainer.epochs=2", "trainer.batch_size=8", "trainer.device=cpu")
    plain, averaged = (fit(make_trainer(*settings, *extra)) for extra in ((), ("trainer.average_last=2",)))
    for first, second in zip(plain, averaged, strict=True):
        assert all(map(torch.equal, first, second))
