"""`spectrnn predict`: the labels of files, in bounded memory however many and however long they are."""

import csv
import glob
import json
import logging
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
from omegaconf import DictConfig

from spectrnn.config import Count, check, plain
from spectrnn.data.ahead import ahead
from spectrnn.data.audio import FULL_SCALE, blocks
from spectrnn.data.sources import is_audio
from spectrnn.errors import UserError
from spectrnn.inference.predictor import Piece, Prediction, Predictor, cut, load
from spectrnn.progress import bar

log = logging.getLogger(__name__)

_OPENED = 32  # files that are decoded while others are computed
_BATCHES = 8  # that are sorted by length together
_HEAP_SECONDS = 240  # of sound that they hold, at most: bounds the memory

Event = tuple[str, Piece | UserError | None]  # a file's piece, its end, or why it cannot be read


@dataclass(kw_only=True)
class PredictConfig:
    """predict.yaml."""

    paths: list[str]
    run: str
    format: Literal["csv", "jsonl"]
    top_k: Count
    out: str | None
    batch_size: Count
    device: str


def predict(node: DictConfig) -> None:
    """Predicts files, and writes a line for each.

    Args:
        node: as predict.yaml composes it.

    Raises:
        UserError: nothing to predict, a model that cannot be loaded, or, after all others were predicted, files that
            cannot be read.
    """
    config = PredictConfig(**check(plain(node, ""), PredictConfig, ""))
    if not config.paths:
        raise UserError("paths: missing; name files, folders or globs: spectrnn predict recordings/ run=outputs/...")
    predictor = load(config.run, config.device)
    total = failed = 0
    with _output(config.out) as file, bar(None, "predicting", "file", disable=config.out is None) as progress:
        write = _writer(file, config.format, min(config.top_k, len(predictor.labels)))
        for path, outcome in predict_files(predictor, audio_paths(config.paths), config.batch_size):
            total += 1
            progress.update()
            if isinstance(outcome, UserError):
                failed += 1
                log.error("%s", outcome)
            else:
                write(path, outcome)
    if failed:
        raise UserError(f"{failed} of {total} files could not be predicted; the others were")


def predict_files(
    predictor: Predictor, paths: Iterable[str], batch_size: int
) -> Iterator[tuple[str, Prediction | UserError]]:
    """Predicts files batch by batch, and decodes the next ones meanwhile.

    Args:
        predictor: whose rate files are resampled to.
        paths: of audio files.
        batch_size: pieces of files a batch, at most.

    Yields:
        Each path with its prediction, or with why it could not be read, in the order of the paths.
    """
    events = _read(paths, predictor)
    heaps = _heaped(events, _BATCHES * batch_size, _HEAP_SECONDS * predictor.sample_rate)
    weights = np.zeros(len(predictor.labels))
    for heap in ahead(heaps, 1):
        pieces = [content for _, content in heap if isinstance(content, np.ndarray)]
        probabilities = iter(predictor.probabilities(pieces, batch_size))
        for path, content in heap:
            if isinstance(content, np.ndarray):
                weights += len(content) * next(probabilities)
            else:
                yield path, content or predictor.prediction(weights)
                weights = np.zeros_like(weights)


def _read(paths: Iterable[str], predictor: Predictor) -> Iterator[Event]:
    """The events of all files, one file after another; the first piece of the next ones is decoded meanwhile."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        opened: deque[tuple[Future[Event], Iterator[Event]]] = deque()
        for path in paths:
            events = _events(path, predictor)
            opened.append((pool.submit(next, events), events))
            if len(opened) == _OPENED:
                first, rest = opened.popleft()
                yield from chain([first.result()], rest)
        for first, rest in opened:
            yield from chain([first.result()], rest)


def _events(path: str, predictor: Predictor) -> Iterator[Event]:
    """The pieces of a file, and then either None, for its end, or why it cannot be read."""
    try:
        for piece in cut(blocks(path, predictor.sample_rate), predictor.window):
            yield path, piece.astype(np.float32) / np.float32(FULL_SCALE)
    except UserError as error:
        yield path, error
    else:
        yield path, None


def _heaped(events: Iterable[Event], pieces: int, samples: float) -> Iterator[list[Event]]:
    """Events in lists of so many pieces or samples, about: enough for batches of pieces of like length."""
    heap: list[Event] = []
    lengths: list[int] = []
    for event in events:
        heap.append(event)
        if isinstance(event[1], np.ndarray):
            lengths.append(len(event[1]))
        if len(lengths) >= pieces or sum(lengths) >= samples or len(heap) >= 2 * pieces:  # or nothing can be read
            yield heap
            heap, lengths = [], []
    yield heap


def audio_paths(paths: Iterable[str]) -> Iterator[str]:
    """Files as they are, all audio files below folders, and the files that globs find, one after another.

    A folder or glob that holds none stays in the list, so that it is reported, and not passed over.
    """
    for name in paths:
        path = Path(name).expanduser()
        found = [str(path)]
        if path.is_dir():
            found = [str(file) for file in sorted(path.rglob("*"))
                     if is_audio(file.relative_to(path)) and not file.is_dir()]  # fmt: skip
        elif not path.exists() and glob.has_magic(name):
            found = [file for file in sorted(glob.glob(str(path), recursive=True)) if not Path(file).is_dir()]
        yield from found or [str(path)]


@contextmanager
def _output(out: str | None) -> Iterator[TextIO]:
    if out is None:
        yield sys.stdout
        return
    path = Path(out).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise UserError(f"out={out}: cannot be written ({error.strerror})") from error
    with file:
        yield file


def _writer(file: TextIO, form: str, top_k: int) -> Any:
    """A function of a path and its prediction that writes a line."""
    if form == "jsonl":

        def write_json(path: str, prediction: Prediction) -> None:
            top = list(prediction.probabilities.items())[:top_k]
            rows = [{"label": label, "probability": round(value, 6)} for label, value in top]
            file.write(json.dumps({"path": path, "predictions": rows}, ensure_ascii=False) + "\n")

        return write_json
    table = csv.writer(file, lineterminator="\n")
    numbers = [""] + [f"_{number}" for number in range(2, top_k + 1)]
    table.writerow(["path", *(name + number for number in numbers for name in ("label", "probability"))])

    def write_csv(path: str, prediction: Prediction) -> None:
        top = list(prediction.probabilities.items())[:top_k]
        table.writerow([path, *(cell for label, value in top for cell in (label, f"{value:.6f}"))])

    return write_csv
