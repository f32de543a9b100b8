"""Targets of frames: events of windows, compared with loops over samples, and a closed form."""

import numpy as np
import pytest
import torch

from spectrnn.data.batches import ClipEvents
from spectrnn.data.timeline import Timeline, quiet_parts

STARTS, LENGTHS = np.array([0, 1000]), np.array([1000, 600])
EVENTS = np.array([(0, 100, 180, 0), (0, 150, 400, 1), (0, 500, 520, -1), (1, 1000, 1090, 1), (1, 1300, 1350, 0)])
QUIET = [np.array([[600, 900]]), np.empty((0, 2), np.int64)]


@pytest.mark.parametrize("is_complete", [True, False])
def test_events_in_windows_are_those_of_their_samples(is_complete):
    quiet = quiet_parts(STARTS, LENGTHS, EVENTS, 20, None if is_complete else QUIET)
    settings = {"num_classes": 2, "size": 200, "hop": 50, "min_overlap": 0.5, "quiet_share": 0.5}
    timeline = Timeline(STARTS, LENGTHS, EVENTS, quiet, **settings, is_complete=is_complete)
    classes, known = np.zeros((1600, 2), bool), np.zeros(1600, bool)
    for _, first, end, label in EVENTS:
        known[first:end] = True
        classes[first:end, label] |= label >= 0
    for _, first, end in quiet:
        known[first:end] = True
    starts = np.concatenate([np.arange(0, 801, 13), np.arange(1000, 1401, 17)])
    windows = timeline.windows(np.searchsorted(STARTS, starts, "right") - 1, starts)
    events = timeline.events_in(windows)
    assert (np.diff(events[:, 0]) >= 0).all()
    centers = torch.arange(200.0)
    for window, start in enumerate(starts):
        own = torch.from_numpy(events[events[:, 0] == window])[None]
        times, weights = own[..., 1:3].float(), torch.ones(own.shape[:2])
        targets, is_known = ClipEvents(times, own[..., 3], weights).targets(centers, 2)
        assert (targets[0].numpy() == classes[start : start + 200]).all()
        assert (is_known[0].numpy() == (is_complete | known[start : start + 200])).all()


def test_targets_at_the_centers_of_frames():
    """A start belongs to its event, an end does not; of events of a class the one with the larger weight counts."""
    times = torch.tensor([[[1.0, 3.0], [2.0, 5.0], [0.0, 0.0]], [[0.0, 9.0], [4.0, 6.0], [1.0, 2.0]]])
    classes, weights = torch.tensor([[0, 0, -1], [1, -1, 0]]), torch.tensor([[0.3, 0.7, 1.0], [0.5, 0.5, 1.0]])
    targets, known = ClipEvents(times, classes, weights).targets(torch.tensor([0.0, 1.0, 2.5, 4.0, 5.0]), 2)
    expected = torch.tensor([[[0, 0.3, 0.7, 0.7, 0], [0, 0, 0, 0, 0]], [[0, 1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5, 0.5]]])
    assert torch.equal(targets, expected.transpose(1, 2))
    assert known.tolist() == [[True] * 5, [True, True, True, False, False]]
