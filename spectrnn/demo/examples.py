"""Clips that the page offers: recordings of the model's own dataset that it was not trained on."""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from spectrnn.config.instantiate import instantiate
from spectrnn.data.audio import Samples, load_audio
from spectrnn.data.clips import Clip, DataSource
from spectrnn.data.splits import assign_splits
from spectrnn.errors import UserError

log = logging.getLogger(__name__)

_LONGEST = 30  # s of a clip: a page is no archive


class Example(NamedTuple):
    """A clip: int16 (samples,) at the model's rate, what it is, and where it is from."""

    waveform: Samples
    label: str
    path: str


def examples(data: Any, labels: Sequence[str], count: int) -> list[Example]:
    """Clips of the test split, one of each class. Where the dataset is not on this machine there are none.

    Args:
        data: the config's node of the dataset, of the model's rate.
        labels: the model's.
        count: clips, at most.
    """
    if not count:
        return []
    try:
        source: DataSource = instantiate(data, "data")
        chosen: dict[str, Clip] = {}
        for clip in assign_splits(source.clips(), source):
            if clip.split == "test" and clip.label in labels:
                chosen.setdefault(clip.label, clip)
        clips = [chosen[label] for label in labels if label in chosen][:count]
        return [
            Example(
                load_audio(clip.path, source.sample_rate, clip.start, clip.end)[: _LONGEST * source.sample_rate],
                clip.label,
                clip.path,
            )
            for clip in clips
        ]
    except UserError as error:
        log.info("the page has no examples: %s", str(error).splitlines()[0])
        return []
