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

from spectrnn.data import streams
from spectrnn.data.ahead import ahead
from spectrnn.data.audio import Samples, blocks
from spectrnn.data.sources import is_audio
from spectrnn.errors import UserError
from spectrnn.inference.predictor import Predictor
from spectrnn.inference.recordings.hearing import Hearing, Mark, Reader, Row
from spectrnn.inference.scan import Window, as_float, spans_of

_OPENED = 32  # files that are decoded while others are computed
_BATCHES = 8  # that are sorted by length together
_HEAP_SECONDS = 240  # of sound that they hold, at most: bounds the memory


class State(Enum):
    """How far a recording is."""

    OPEN = "open"
    OVER = "over"
    BROKEN = "broken"


class Heard(NamedTuple):
    """What was heard of a recording.

    Attributes:
        path: of the recording.
        rows: what there is to write, after that which came before.
        seconds: of it that were heard until now.
        state: whether more follows; of a recording that breaks off, nothing counts.
        error: why it cannot be read.
    """

    path: str
    rows: list[Row]
    seconds: float
    state: State
    error: UserError | None = None


Part = tuple[str, Window | Mark | UserError]  # of a recording: its windows, then its end, or why it cannot be read


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


def hear(
    predictor: Predictor, hearing: Hearing, paths: Iterable[str], batch_size: int, pcm_rate: int | None = None
) -> Iterator[list[Heard]]:
    """Hears recordings heap by heap, and decodes the next ones meanwhile.

    A heap that ends with a recording depends on nothing that came before, so that whoever begins behind it hears the
    same, to the last digit.

    Args:
        predictor: whose rate recordings are resampled to.
        hearing: what is made of them.
        paths: of audio files, or `streams.NAME` alone.
        batch_size: windows a batch, at most.
        pcm_rate: of raw samples on standard input, as for `streams.stdin_blocks`.

    Yields:
        What was heard in each heap, in the order of the paths.
    """
    paths = list(paths)
    if paths == [streams.NAME]:  # on no other thread, which no signal would end while it waits for sound
        parts = _parts(streams.NAME, streams.stdin_blocks(predictor.sample_rate, pcm_rate), hearing)
        heaps = heaped(parts, _BATCHES * batch_size, _HEAP_SECONDS * predictor.sample_rate)
    else:
        parts = _read(paths, hearing, predictor.sample_rate)
        found = (part for part in parts if part[1] is not Mark.PAUSE)
        heaps = ahead(heaped(found, _BATCHES * batch_size, _HEAP_SECONDS * predictor.sample_rate), 1)
    reader, seconds = hearing.reader(), 0.0
    for heap in heaps:
        samples = [as_float(content.samples) for _, content in heap if isinstance(content, Window)]
        probabilities = predictor.probabilities(samples, batch_size)
        heard = []
        for path, run in groupby(heap, itemgetter(0)):
            contents = [content for _, content in run]
            windows = [content for content in contents if isinstance(content, Window)]
            rows: list[Row] = []
            if windows:
                seconds = windows[-1].end
                said, probabilities = np.split(probabilities, [len(windows)])
                rows += reader.push(spans_of(windows), said)
            heard.append(_heard(path, rows, seconds, contents[-1], reader))
            if heard[-1].state is not State.OPEN:
                reader, seconds = hearing.reader(), 0.0
        yield heard


def _heard(path: str, rows: list[Row], seconds: float, last: Window | Mark | UserError, reader: Reader) -> Heard:
    if isinstance(last, UserError):
        return Heard(path, [], seconds, State.BROKEN, last)
    if last is Mark.END:
        return Heard(path, [*rows, *reader.finish()], seconds, State.OVER)
    return Heard(path, rows, seconds, State.OPEN)


def _read(paths: list[str], hearing: Hearing, sample_rate: int) -> Iterator[Part]:
    """The parts of all files, one file after another; the first of the next ones is decoded meanwhile."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        opened: deque[tuple[Future[Part], Iterator[Part]]] = deque()
        for path in paths:
            parts = _parts(path, blocks(path, sample_rate), hearing)
            opened.append((pool.submit(next, parts), parts))
            if len(opened) == _OPENED:
                first, rest = opened.popleft()
                yield from chain([first.result()], rest)
        for first, rest in opened:
            yield from chain([first.result()], rest)


def _parts(path: str, sound: Iterator[Samples], hearing: Hearing) -> Iterator[Part]:
    try:
        for content in hearing.cut(sound):
            yield path, content
    except UserError as error:
        yield path, error
    else:
        yield path, Mark.END


def heaped(parts: Iterable[Part], windows: int, samples: float) -> Iterator[list[Part]]:
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
        if part[1] is not Mark.PAUSE:
            heap.append(part)
        if heap and (part[1] is Mark.PAUSE or full or not begun or len(heap) >= 2 * windows):  # or nothing can be read
            yield heap
            heap, lengths, begun = [], [], part[1] is not Mark.PAUSE
    if heap:
        yield heap
