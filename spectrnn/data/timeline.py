"""Annotated recordings on one axis of time, from which windows are cut by index arithmetic."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spectrnn.data.sampling import draw_clips, mean_draws


class Windows(NamedTuple):
    """Windows of recordings.

    Attributes:
        recordings: Index of the recording, int64 (windows,).
        starts: First sample in the decoded dataset, int64 (windows,).
        lengths: Number of samples, int64 (windows,).
    """

    recordings: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray


class Timeline:
    """Events and quiet parts of recordings. All positions are samples of the decoded dataset.

    Args:
        starts: First sample of each recording, int64 (recordings,), ascending.
        lengths: Number of samples of each recording, int64 (recordings,).
        events: Recording, first sample, end and class of each event, int64 (events, 4); the class is -1 for a sound of
            no class.
        quiet: Recording, first sample and end of each part in which nothing sounds, int64 (parts, 3).
        num_classes: Number of classes.
        size: Number of samples of a window; a shorter recording is one window.
        hop: Number of samples between the windows of a grid.
        min_overlap: Fraction of an event, or of the window if that is shorter, that a window of its class contains.
        quiet_share: Fraction of the drawn windows in which nothing sounds.
        is_complete: Whether everything that sounds is an event; else a grid leaves out what is neither event nor quiet.
    """

    def __init__(
        self,
        starts: np.ndarray,
        lengths: np.ndarray,
        events: np.ndarray,
        quiet: np.ndarray,
        *,
        num_classes: int,
        size: int,
        hop: int,
        min_overlap: float,
        quiet_share: float,
        is_complete: bool,
    ) -> None:
        self.starts, self.lengths, self.num_classes = starts, lengths, num_classes
        self.size, self.hop, self.quiet_share, self.is_complete = size, hop, quiet_share, is_complete
        self.recordings, self.firsts, self.ends, self.classes = events[np.argsort(events[:, 1], kind="stable")].T
        self.latest_ends = np.maximum.accumulate(self.ends)
        window = np.minimum(size, lengths)
        shorter = np.minimum(self.ends - self.firsts, window[self.recordings])
        self.needed = np.ceil(min_overlap * shorter).astype(np.int64).clip(1)
        room = quiet[:, 2] - quiet[:, 1] - window[quiet[:, 0]] + 1  # positions of a window
        self.quiet, self.room = quiet[room > 0], room[room > 0]
        known = np.concatenate([events[:, :3], quiet])
        unknown = np.empty((0, 3), np.int64) if is_complete else quiet_parts(starts, lengths, known, 0, None)
        self.unknown_firsts, self.unknown_ends = unknown[:, 1], unknown[:, 2]

    def windows(self, recordings: np.ndarray, starts: np.ndarray) -> Windows:
        """Returns the windows that start at some samples, int64 (windows,), of recordings (windows,)."""
        return Windows(recordings, starts, np.minimum(self.size, self.lengths[recordings]))

    def grid(self) -> Windows:
        """Covers all recordings by windows, the last one at the end; see `is_complete`."""
        room = np.maximum(self.lengths - self.size, 0)
        counts = 1 + -(-room // self.hop)
        recordings = np.repeat(np.arange(len(counts)), counts)
        index = np.arange(len(recordings)) - np.repeat(np.cumsum(counts) - counts, counts)
        windows = self.windows(recordings, self.starts[recordings] + np.minimum(index * self.hop, room[recordings]))
        if self.is_complete:
            return windows
        part = np.searchsorted(self.quiet[:, 1], windows.starts, "right") - 1
        is_quiet = (part >= 0) & (windows.starts + windows.lengths <= np.append(self.quiet[:, 2], 0)[part])
        known = is_quiet | self.targets(windows).any(1)
        return Windows(*(column[known] for column in windows))

    def overlaps(self, windows: Windows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns window, event and number of common samples of each pair that overlaps, int64 (pairs,) each."""
        return _overlaps(windows, self.firsts, self.ends, self.latest_ends)

    def events_in(self, windows: Windows) -> np.ndarray:
        """Returns the events in windows, for the targets of frames: whole ones, of which a part is in the window.

        Returns:
            Window, first sample and end from its start, and class, int64 (events, 4), in the order of the windows; the
            class is -1 for a part that is neither event nor quiet, unless everything that sounds is an event.
        """
        pairs, events, _ = self.overlaps(windows)
        is_class = self.classes[events] >= 0
        pairs, events = pairs[is_class], events[is_class]
        unknown_pairs, unknown, _ = _overlaps(windows, self.unknown_firsts, self.unknown_ends, self.unknown_ends)
        found = np.concatenate([pairs, unknown_pairs])
        firsts = np.append(self.firsts[events], self.unknown_firsts[unknown]) - windows.starts[found]
        ends = np.append(self.ends[events], self.unknown_ends[unknown]) - windows.starts[found]
        classes = np.append(self.classes[events], np.full(len(unknown), -1))
        return np.stack([found, firsts, ends, classes], 1)[np.argsort(found, kind="stable")]

    def targets(self, windows: Windows) -> np.ndarray:
        """Returns the classes of windows, bool (windows, classes): those of the events that they contain enough of."""
        pairs, events, common = self.overlaps(windows)
        found = (common >= self.needed[events]) & (self.classes[events] >= 0)
        targets = np.zeros((len(windows.starts), self.num_classes), bool)
        targets[pairs[found], self.classes[events[found]]] = True
        return targets

    def draw(self, is_used: np.ndarray, sampling_power: float, generator: np.random.Generator) -> Windows:
        """Draws the windows of an epoch from some recordings: as many as they have events of a class, and quiet ones.

        Args:
            is_used: Whether each recording is used, bool (recordings,).
            sampling_power: Exponent of the number of events of a class, to which the number of its windows is
                proportional: 1 for a window for each event, 0 for as many of each class.
            generator: Source of randomness.
        """
        events = self._draw_events(is_used, sampling_power, generator)
        count = round(len(events.starts) * self.quiet_share / (1 - self.quiet_share))
        quiet = self.draw_quiet(is_used, generator, count)
        return Windows(*(np.concatenate(columns) for columns in zip(events, quiet, strict=True)))

    def _draw_events(self, is_used: np.ndarray, sampling_power: float, generator: np.random.Generator) -> Windows:
        """Windows at random positions at which they contain enough of their event."""
        used = np.flatnonzero(is_used[self.recordings] & (self.classes >= 0))
        if sampling_power != 1:
            classes = self.classes[used]
            used = used[draw_clips(classes, mean_draws(classes, sampling_power), generator)]
        recordings, needed = self.recordings[used], self.needed[used]
        earliest, size = self.starts[recordings], np.minimum(self.size, self.lengths[recordings])
        latest = earliest + self.lengths[recordings] - size
        low = np.clip(self.firsts[used] + needed - size, earliest, latest)
        high = np.clip(self.ends[used] - needed, low, latest)
        return self.windows(recordings, generator.integers(low, high + 1))

    def draw_quiet(self, is_used: np.ndarray, generator: np.random.Generator, count: int) -> Windows:
        """Windows in which nothing sounds, at positions of which all are equally probable; none if there are none."""
        used = is_used[self.quiet[:, 0]]
        quiet, room = self.quiet[used], self.room[used]
        sums = np.cumsum(room)
        drawn = generator.integers(sums[-1], size=count) if len(sums) else np.empty(0, np.int64)
        part = np.searchsorted(sums, drawn, "right")
        return self.windows(quiet[part, 0], quiet[part, 1] + drawn - (sums - room)[part])


def _overlaps(
    windows: Windows, firsts: np.ndarray, interval_ends: np.ndarray, latest_ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `Timeline.overlaps`, of intervals (n,) that are sorted by their first sample, with the latest end by now."""
    ends = windows.starts + windows.lengths
    # The intervals that may overlap follow each other, as they are sorted by start, and their latest end by now, too.
    low = np.searchsorted(latest_ends, windows.starts, "right")
    counts = np.maximum(np.searchsorted(firsts, ends) - low, 0)
    pairs = np.repeat(np.arange(len(counts)), counts)
    index = np.arange(len(pairs)) - np.repeat(np.cumsum(counts) - counts, counts) + low[pairs]
    common = np.minimum(ends[pairs], interval_ends[index]) - np.maximum(windows.starts[pairs], firsts[index])
    found = common > 0
    return pairs[found], index[found], common[found]


def quiet_parts(
    starts: np.ndarray, lengths: np.ndarray, events: np.ndarray, guard: int, declared: Sequence[np.ndarray] | None
) -> np.ndarray:
    """Finds the parts of recordings in which nothing sounds.

    Args:
        starts, lengths: Recordings, as for `Timeline`.
        events: Events, as for `Timeline`.
        guard: Distance from any event in samples.
        declared: First sample and end of the parts of each recording that were annotated as quiet, in any order, int64
            (parts, 2); None if everything without an annotation is quiet.

    Returns:
        Recording, first sample and end of each part, int64 (parts, 3), ascending.
    """
    parts = []
    order = np.lexsort((events[:, 1], events[:, 0]))
    bounds = np.searchsorted(events[order, 0], np.arange(len(starts) + 1))
    for recording, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        own = events[order[bounds[recording] : bounds[recording + 1]]]
        whole = np.array([[start, start + length]])
        free = _difference(whole if declared is None else _union(declared[recording]), own[:, 1:3] + [-guard, guard])
        parts += [(recording, first, end) for first, end in free]
    return np.array(parts, np.int64).reshape(-1, 3)


def _union(parts: np.ndarray) -> np.ndarray:
    """Joins intervals that overlap or follow each other, (n, 2), in ascending order."""
    starts, ends = np.sort(parts, 0).T
    is_first = np.append(True, starts[1:] > ends[:-1])[: len(starts)]
    return np.stack([starts[is_first], ends[np.append(is_first[1:], True)[: len(ends)]]], 1)


def _difference(parts: np.ndarray, removed: np.ndarray) -> list[tuple[int, int]]:
    """Removes intervals, sorted by start, (n, 2), from others, (m, 2)."""
    rest = []
    for first, end in parts.tolist():
        position = first
        for start, stop in removed.tolist():
            if start >= end:
                break
            if start > position:
                rest.append((position, start))
            position = max(position, stop)
        if position < end:
            rest.append((position, end))
    return rest
