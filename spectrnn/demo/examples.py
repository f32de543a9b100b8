"""Example clips of the page: clips of the dataset that the model was not trained on."""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from spectrnn.config.instantiate import instantiate
from spectrnn.data.audio import Samples, load_audio
from spectrnn.data.clips import Clip, DataSource
from spectrnn.data.labels import ONE_LABEL, LabelFormat
from spectrnn.data.splits import assign_splits
from spectrnn.errors import UserError

log = logging.getLogger(__name__)

_MAX_SECONDS = 30  # length of an example


class Example(NamedTuple):
    """Example clip.

    Attributes:
        waveform: Samples at the model's sample rate, int16 (samples,).
        label: Label of the clip.
        path: File that contains the clip.
    """

    waveform: Samples
    label: str
    path: str


def load_examples(data: Any, labels: Sequence[str], count: int, label_format: LabelFormat = ONE_LABEL) -> list[Example]:
    """Loads clips of the test split, one per label; none if the dataset is not available.

    Args:
        data: Config of the dataset, at the model's sample rate.
        labels: Class names of the model.
        count: Maximum number of clips.
        label_format: How the label of a clip names classes.
    """
    if not count:
        return []
    try:
        source: DataSource = instantiate(data, "data", DataSource)
        chosen: dict[str, Clip] = {}
        known = set(labels)
        for clip in assign_splits(source.labelled_clips(label_format), source, label_format):
            if clip.split == "test" and {*label_format.classes(clip.label)} <= known:
                chosen.setdefault(clip.label, clip)
        examples = []
        for clip in [chosen[label] for label in sorted(chosen)][:count]:
            samples = load_audio(clip.path, source.sample_rate, clip.start, clip.end, clip.copy)
            examples.append(Example(samples[: _MAX_SECONDS * source.sample_rate], clip.label, clip.path))
        return examples
    except UserError as error:
        log.info("the page has no examples: %s", str(error).splitlines()[0])
        return []
