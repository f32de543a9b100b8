"""Many recordings through a classifier: the pieces of all, in heaps, decoded while others are computed."""

import glob
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from enum import Enum
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spectrnn.data import stdin_audio
from spectrnn.data.audio import Samples, iter_blocks
from spectrnn.data.samples import prefetch
from spectrnn.data.sources.local import is_audio
from spectrnn.errors import UserError
from spectrnn.inference.predictor import Predictor
from spectrnn.inference.sliding_window import Window, int16_to_float, spans_of
from spectrnn.inference.tasks import Aggregator, Marker, PredictionRow, PredictionTask

_OPENED = 32  # files that are decoded while others are computed
_BATCHES = 8  # that are sorted by length together
_HEAP_SECONDS = 240  # of sound that they hold, at most: bounds the memory


class RecordingStatus(Enum):
    """How far a recording is."""

    OPEN = "open"
    OVER = "over"
    BROKEN = "broken"


class RecordingResult(NamedTuple):
    """What was heard of a recording.

    Attributes:
        path: of the recording.
        rows: what there is to write, after that which came before.
        seconds: of it that were heard until now.
        state: whether more follows; of a recording that breaks off, nothing counts.
        error: why it cannot be read.
    """

    path: str
    rows: list[PredictionRow]
    seconds: float
    state: RecordingStatus
    error: UserError | None = None


Part = tuple[str, Window | Marker | UserError]  # of a recording: its windows, then its end, or why it cannot be read


def audio_paths(paths: Iterable[str]) -> Iterator[str]:
    """Files as they are, all audio files below folders, and the files that globs find, one after another.

    A folder or glob that holds none stays in the list, so that it is reported, and not passed over.
    """
    for name in paths:
        path = Path(name).expanduser()
        found = [str(path)]
        if path.is_dir():
            found = [
                str(file) for file in sorted(path.rglob("*")) if is_audio(file.relative_to(path)) and not file.is_dir()
            ]
        elif not path.exists() and glob.has_magic(name):
            found = [file for file in sorted(glob.glob(str(path), recursive=True)) if not Path(file).is_dir()]
        yield from found or [str(path)]


def predict_recordings(
    predictor: Predictor,
    hearing: PredictionTask,
    paths: Iterable[str],
    batch_size: int,
    raw_sample_rate: int | None = None,
) -> Iterator[list[RecordingResult]]:
    """Hears recordings heap by heap, and decodes the next ones meanwhile.

    A heap that ends with a recording depends on nothing that came before, so that whoever begins behind it hears the
    same, to the last digit.

    Args:
        predictor: whose rate recordings are resampled to.
        hearing: what is made of them.
        paths: of audio files, or `streams.NAME` alone.
        batch_size: windows a batch, at most.
        raw_sample_rate: of raw samples on standard input, as for `streams.stdin_blocks`.

    Yields:
        What was heard in each heap, in the order of the paths.
    """
    paths = list(paths)
    if paths == [stdin_audio.STDIN]:  # on no other thread, which no signal would end while it waits for sound
        parts = _parts(stdin_audio.STDIN, stdin_audio.stdin_blocks(predictor.sample_rate, raw_sample_rate), hearing)
        heaps = group_windows(parts, _BATCHES * batch_size, _HEAP_SECONDS * predictor.sample_rate)
    else:
        parts = _read(paths, hearing, predictor.sample_rate)
        found = (part for part in parts if part[1] is not Marker.PAUSE)
        heaps = prefetch(group_windows(found, _BATCHES * batch_size, _HEAP_SECONDS * predictor.sample_rate), 1)
    reader, seconds = hearing.reader(), 0.0
    for heap in heaps:
        samples = [int16_to_float(content.samples) for _, content in heap if isinstance(content, Window)]
        probabilities = predictor.probabilities(samples, batch_size)
        heard = []
        for path, run in groupby(heap, itemgetter(0)):
            contents = [content for _, content in run]
            windows = [content for content in contents if isinstance(content, Window)]
            rows: list[PredictionRow] = []
            if windows:
                seconds = windows[-1].end
                said, probabilities = np.split(probabilities, [len(windows)])
                rows += reader.push(spans_of(windows), said)
            heard.append(_heard(path, rows, seconds, contents[-1], reader))
            if heard[-1].state is not RecordingStatus.OPEN:
                reader, seconds = hearing.reader(), 0.0
        yield heard


def _heard(
    path: str, rows: list[PredictionRow], seconds: float, last: Window | Marker | UserError, reader: Aggregator
) -> RecordingResult:
    if isinstance(last, UserError):
        return RecordingResult(path, [], seconds, RecordingStatus.BROKEN, last)
    if last is Marker.END:
        return RecordingResult(path, [*rows, *reader.finish()], seconds, RecordingStatus.OVER)
    return RecordingResult(path, rows, seconds, RecordingStatus.OPEN)


def _read(paths: list[str], hearing: PredictionTask, sample_rate: int) -> Iterator[Part]:
    """The parts of all files, one file after another; the first of the next ones is decoded meanwhile."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        opened: deque[tuple[Future[Part], Iterator[Part]]] = deque()
        for path in paths:
            parts = _parts(path, iter_blocks(path, sample_rate), hearing)
            opened.append((pool.submit(next, parts), parts))
            if len(opened) == _OPENED:
                first, rest = opened.popleft()
                yield from chain([first.result()], rest)
        for first, rest in opened:
            yield from chain([first.result()], rest)


def _parts(path: str, sound: Iterator[Samples], hearing: PredictionTask) -> Iterator[Part]:
    try:
        for content in hearing.cut(sound):
            yield path, content
    except UserError as error:
        yield path, error
    else:
        yield path, Marker.END


def group_windows(parts: Iterable[Part], windows: int, samples: float) -> Iterator[list[Part]]:
    """Parts in lists of so many windows or samples, about: enough for batches of windows of like length.

    A list ends with a recording; but where a recording is longer, within it, and then at its end. It ends at a pause.
    """
    heap: list[Part] = []
    lengths: list[int] = []
    begun = True  # whether the heap holds all of its first recording
    for part in parts:
        full = len(lengths) >= windows or sum(lengths) >= samples
        if isinstance(part[1], Window):
            if full:
                yield heap
                heap, lengths, begun = [], [], False
            heap.append(part)
            lengths.append(len(part[1].samples))
            continue
        if part[1] is not Marker.PAUSE:
            heap.append(part)
        if heap and (
            part[1] is Marker.PAUSE or full or not begun or len(heap) >= 2 * windows
        ):  # or nothing can be read
            yield heap
            heap, lengths, begun = [], [], part[1] is not Marker.PAUSE
    if heap:
        yield heap
