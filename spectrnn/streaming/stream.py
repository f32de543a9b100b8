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

from spectrnn.config import Count, Positive, Rate, Whole, check, plain
from spectrnn.devices import pick_device
from spectrnn.errors import Mistakes, UserError
from spectrnn.inference.detection import DetectionConfig, detection, hop_of, warn_of_another_scan
from spectrnn.model import file as model_file
from spectrnn.model.decisions import Decisions, Window, read_decisions
from spectrnn.progress import bar
from spectrnn.runs import find_model
from spectrnn.streaming.classifier import StreamingClassifier
from spectrnn.streaming.rolling import Answer, Rolling
from spectrnn.streaming.sources import Packet, packets
from spectrnn.streaming.telling import FORMATS, Ears, Told

log = logging.getLogger(__name__)

_HOP = 0.1  # s, where no thresholds were chosen


@dataclass(kw_only=True)
class StreamConfig(DetectionConfig):
    """stream.yaml."""

    run: str
    source: str | Whole
    packet_ms: Positive
    pcm_rate: Rate | None
    window: Window | None
    listeners: Annotated[Count, Le(64)]
    format: Literal["text", "csv", "jsonl"]
    device: str


def stream(node: DictConfig) -> None:
    """Listens until the sound or Ctrl-C ends it, and prints what it hears at once.

    Args:
        node: as stream.yaml composes it.

    Raises:
        UserError: a mistake in the config, a model that cannot be loaded or cannot stream, or no sound to be had.
    """
    config = StreamConfig(**check(plain(node, ""), StreamConfig, ""))
    mistakes = Mistakes()
    path: Path = mistakes.attempt(find_model, config.run)
    device: torch.device = mistakes.attempt(pick_device, config.device)
    mistakes.tell()
    torch.set_num_threads(1)  # a packet is too small to be shared
    classifier, trained = model_file.load(path, device)
    rolling, ears = _prepared(config, StreamingClassifier(classifier, trained), read_decisions(path))
    header, written = FORMATS[config.format]
    sound = packets(str(config.source), classifier.sample_rate, config.packet_ms, config.pcm_rate)
    with bar(None, "", "", disable=not sys.stderr.isatty(), bar_format="{desc}") as line:
        if header:
            line.write(header, sys.stdout)
            sys.stdout.flush()
        for told in _listened(sound, rolling, ears, lambda answer: line.set_description_str(ears.line(answer))):
            if (text := written(told)) is not None:
                line.write(text, sys.stdout)
                sys.stdout.flush()


def _prepared(
    config: StreamConfig, classifier: StreamingClassifier, decisions: Decisions | None
) -> tuple[Rolling, Ears]:
    """The listeners and the ears that a config asks for; what it leaves open is as thresholds were chosen."""
    offline = classifier.classifier
    rate = offline.sample_rate
    window = config.window or (decisions.window if decisions else int(offline.longest) / rate)
    hop = hop_of(config, window, decisions, min(_HOP, window))
    how = detection(config, offline.labels, decisions)
    if decisions and config.threshold == "model":
        warn_of_another_scan(window, hop, how.smooth, decisions)
    every = max(1, round(hop * rate / offline.features.hop_size))
    ears = Ears(offline.labels, rate, how.detector(offline.labels))
    return Rolling(classifier, round(window * rate), config.listeners, every), ears


def _listened(sound: Iterable[Packet], rolling: Rolling, ears: Ears, show: Callable[[Answer], None]) -> Iterator[Told]:
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
