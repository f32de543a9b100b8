"""Augmentations that move samples in time, which move the events of the clips likewise."""

import pytest
import torch

from spectrnn.data.batches import ClipEvents

SIZE = 4000


def sounding(waveform):
    """First sample and end of what sounds in a clip (samples,)."""
    found = torch.nonzero(waveform.abs() > 0.05)
    return torch.stack([found[0, 0], found[-1, 0] + 1])


@pytest.mark.parametrize(
    ("option", "settings", "tolerance"),
    [
        ("shift", {"max_ms": 50, "p": 1}, 0),
        ("trim", {"max_fraction": 0.2, "p": 1}, 0),
        ("pad", {"max_ms": 50, "p": 1}, 0),
        ("speed", {"min_factor": 1.2, "max_factor": 1.3, "p": 1}, 2),
        ("stretch", {"min_factor": 0.7, "max_factor": 0.8, "p": 1}, 400),  # of the window of the phase vocoder
        ("gain", {"min_db": 1, "max_db": 2, "p": 1}, 0),
    ],
)
def test_events_move_with_the_sound(stage, batch, option, settings, tolerance):
    torch.manual_seed(0)
    times = torch.tensor([[[1500.0, 2500.0]], [[1000.0, 1600.0]]])
    waveform = torch.zeros(2, SIZE)
    for clip, (start, end) in zip(waveform, times[:, 0].long().tolist(), strict=True):
        clip[start:end] = 0.5 * torch.sin(torch.arange(1, end - start + 1) * 0.3) + 0.2
    own = batch([SIZE, 3000], waveform)
    events = ClipEvents(times, torch.tensor([[0], [1]]), torch.ones(2, 1))
    augmented = stage("augment", option, **settings)(own._replace(events=events))
    expected = torch.stack([sounding(clip) for clip in augmented.waveform])
    torch.testing.assert_close(augmented.events.times[:, 0], expected.float(), atol=tolerance + 2, rtol=0)
    assert (option == "gain") == torch.equal(augmented.events.times, times)
    torch.manual_seed(0)
    without = stage("augment", option, **settings)(own)
    assert torch.equal(without.waveform, augmented.waveform)
    assert without.events is None


def test_mixup_has_the_events_of_both_clips(stage, batch):
    own = batch([100, 100, 80])
    events = ClipEvents(
        torch.tensor([[[0.0, 9.0]], [[1.0, 8.0]], [[2.0, 7.0]]]), torch.tensor([[0], [1], [2]]), torch.ones(3, 1)
    )
    mixed = stage("augment", "mixup", alpha=1.0, p=1)(own._replace(events=events))
    classes = mixed.events.classes
    assert classes[:, 0].tolist() == [0, 1, 2]
    for clip, (first, other) in enumerate(classes.tolist()):
        weights = torch.zeros(3).index_add_(0, torch.tensor([first, other]), mixed.events.weights[clip])
        torch.testing.assert_close(weights, mixed.targets[clip])
        assert mixed.events.times[clip, 1].tolist() == [other, 9 - other]
