"""`spectrnn stream`: detects events in live audio, and prints them as they occur."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

import torch
from annotated_types import Le
from omegaconf import DictConfig

from spectrnn.config.instantiate import to_container, validate_kwargs
from spectrnn.config.types import NonNegativeInt, PositiveFloat, PositiveInt, SampleRate
from spectrnn.data.readers.reader import FloatSamples
from spectrnn.detection.settings import DetectionConfig, DetectionSettings
from spectrnn.detection.thresholds import read_thresholds
from spectrnn.devices import log_device, pick_device
from spectrnn.errors import ErrorCollector, UserError
from spectrnn.model import serialization
from spectrnn.progress import progress_bar
from spectrnn.runs import find_model
from spectrnn.streaming.audio_input import audio_chunks
from spectrnn.streaming.classifier import StreamingClassifier
from spectrnn.streaming.output import FORMATS, EventUpdate, StreamDecoder
from spectrnn.streaming.rolling import RollingClassifier

log = logging.getLogger(__name__)

_DEFAULT_HOP = 0.1  # s, for models without tuned thresholds


@dataclass(kw_only=True)
class StreamConfig(DetectionConfig):
    """Top level of stream.yaml."""

    run: str
    source: str | NonNegativeInt
    block_ms: PositiveFloat
    raw_sample_rate: SampleRate | None
    num_replicas: Annotated[PositiveInt, Le(64)]
    format: Literal["text", "csv", "jsonl"]
    device: str
    trust: list[str]


def stream(node: DictConfig) -> None:
    """Detects events until the audio ends or Ctrl-C is pressed, and prints each update immediately.

    Args:
        node: Config as stream.yaml composes it.

    Raises:
        UserError: An error in the config, a model that cannot be loaded or cannot process a stream, or no audio.
    """
    config = StreamConfig(**validate_kwargs(to_container(node, ""), StreamConfig, ""))
    errors = ErrorCollector()
    path: Path = errors.collect(find_model, config.run)
    device: torch.device = errors.collect(pick_device, config.device)
    errors.raise_if_any()
    torch.set_num_threads(1)  # a block is too small for several
    log_device(device)
    classifier, trained = serialization.load(path, device, config.trust)
    streaming = StreamingClassifier(classifier, trained)
    labels, rate = classifier.labels, classifier.sample_rate
    longest = int(classifier.max_train_samples) / rate
    thresholds = classifier.task.thresholds
    own = None if thresholds is None else thresholds.double().numpy(force=True)
    settings = DetectionSettings.resolve(config, labels, read_thresholds(path), longest, _DEFAULT_HOP, own)
    output_stride = max(1, round(settings.hop * rate / classifier.features.hop_size))
    rolling = RollingClassifier(streaming, round(settings.window * rate), config.num_replicas, output_stride)
    decoder = StreamDecoder(labels, rate, settings.detector(labels))
    blocks = audio_chunks(str(config.source), rate, config.block_ms, config.raw_sample_rate)
    header, to_line = FORMATS[config.format]
    with progress_bar(None, "", "", disable=not sys.stderr.isatty(), bar_format="{desc}") as bar:
        updates = _event_updates(blocks, rolling, decoder, bar.set_description_str)
        for text in chain([header], map(to_line, updates)):
            if text:
                bar.write(text, sys.stdout, end="")
                sys.stdout.flush()


def _event_updates(
    blocks: Iterable[FloatSamples],
    rolling: RollingClassifier,
    decoder: StreamDecoder,
    show_status: Callable[[str], None],
) -> Iterator[EventUpdate]:
    """Yields updates as they occur. Ctrl-C or broken audio ends the stream, and what was detected until then counts."""
    failure = None
    try:
        for block in blocks:
            for prediction in rolling.push(torch.from_numpy(block)):
                show_status(decoder.status_line(prediction))
                yield from decoder.push(prediction)
    except KeyboardInterrupt:
        log.info("interrupted")
    except UserError as error:
        failure = error
    for prediction in rolling.finish():
        yield from decoder.push(prediction)
    yield from decoder.finish()
    if failure:
        raise failure
