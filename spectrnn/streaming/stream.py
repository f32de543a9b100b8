"""`spectrnn stream`: the events of a live sound, told as they happen."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from annotated_types import Le
from omegaconf import DictConfig

from spectrnn.config.instantiate import to_container, validate_kwargs
from spectrnn.config.types import NonNegativeInt, PositiveFloat, PositiveInt, SampleRate, WindowSeconds
from spectrnn.detection.settings import DetectionConfig, resolve_hop, resolve_settings, warn_if_settings_differ
from spectrnn.detection.thresholds import TunedThresholds, read_thresholds
from spectrnn.devices import pick_device
from spectrnn.errors import ErrorCollector, UserError
from spectrnn.model import serialization as model_file
from spectrnn.progress import progress_bar
from spectrnn.runs import find_model
from spectrnn.streaming.audio_input import AudioChunk, audio_chunks
from spectrnn.streaming.classifier import StreamingClassifier
from spectrnn.streaming.output import FORMATS, EventUpdate, StreamDecoder
from spectrnn.streaming.rolling import RollingClassifier, StreamPrediction

log = logging.getLogger(__name__)

_HOP = 0.1  # s, where no thresholds were chosen


@dataclass(kw_only=True)
class StreamConfig(DetectionConfig):
    """stream.yaml."""

    run: str
    source: str | NonNegativeInt
    block_ms: PositiveFloat
    raw_sample_rate: SampleRate | None
    window: WindowSeconds | None
    num_replicas: Annotated[PositiveInt, Le(64)]
    format: Literal["text", "csv", "jsonl"]
    device: str


def stream(node: DictConfig) -> None:
    """Listens until the sound or Ctrl-C ends it, and prints what it hears at once.

    Args:
        node: as stream.yaml composes it.

    Raises:
        UserError: a mistake in the config, a model that cannot be loaded or cannot stream, or no sound to be had.
    """
    config = StreamConfig(**validate_kwargs(to_container(node, ""), StreamConfig, ""))
    errors = ErrorCollector()
    path: Path = errors.collect(find_model, config.run)
    device: torch.device = errors.collect(pick_device, config.device)
    errors.raise_if_any()
    torch.set_num_threads(1)  # a packet is too small to be shared
    classifier, trained = model_file.load(path, device)
    rolling, ears = _build(config, StreamingClassifier(classifier, trained), read_thresholds(path))
    header, written = FORMATS[config.format]
    sound = audio_chunks(str(config.source), classifier.sample_rate, config.block_ms, config.raw_sample_rate)
    with progress_bar(None, "", "", disable=not sys.stderr.isatty(), bar_format="{desc}") as line:
        if header:
            line.write(header, sys.stdout)
            sys.stdout.flush()
        for told in _event_updates(sound, rolling, ears, lambda answer: line.set_description_str(ears.line(answer))):
            if (text := written(told)) is not None:
                line.write(text, sys.stdout)
                sys.stdout.flush()


def _build(
    config: StreamConfig, classifier: StreamingClassifier, tuned_thresholds: TunedThresholds | None
) -> tuple[RollingClassifier, StreamDecoder]:
    """The listeners and the ears that a config asks for; what it leaves open is as thresholds were chosen."""
    offline = classifier.classifier
    rate = offline.sample_rate
    window = config.window or (tuned_thresholds.window if tuned_thresholds else int(offline.max_train_samples) / rate)
    hop = resolve_hop(config, window, tuned_thresholds, min(_HOP, window))
    how = resolve_settings(config, offline.labels, tuned_thresholds)
    if tuned_thresholds and config.threshold == "model":
        warn_if_settings_differ(window, hop, how.smoothing_windows, tuned_thresholds)
    every = max(1, round(hop * rate / offline.features.hop_size))
    ears = StreamDecoder(offline.labels, rate, how.detector(offline.labels))
    return RollingClassifier(classifier, round(window * rate), config.num_replicas, every), ears


def _event_updates(
    sound: Iterable[AudioChunk],
    rolling: RollingClassifier,
    ears: StreamDecoder,
    show: Callable[[StreamPrediction], None],
) -> Iterator[EventUpdate]:
    """What there is to tell, as it happens. Ctrl-C ends the sound as its own end does."""
    broken = None
    try:
        for packet in sound:
            for answer in rolling.hear(torch.from_numpy(packet)):
                show(answer)
                yield from ears.push(answer)
    except KeyboardInterrupt:
        log.info("interrupted")
    except UserError as error:  # a sound that breaks off; what was heard of it counts
        broken = error
    for answer in rolling.finish():
        yield from ears.push(answer)
    yield from ears.finish()
    if broken:
        raise broken
