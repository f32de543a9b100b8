"""Batched prediction over many recordings, with decoding overlapped with computation."""

import glob
import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from enum import Enum
from itertools import chain, groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import torch

from spectrnn.data.audio import iter_blocks
from spectrnn.data.remote import is_address
from spectrnn.data.samples import prefetch
from spectrnn.data.scan import Ignored, scan_folder, warn_about_ignored
from spectrnn.data.stdin_audio import STDIN, stdin_blocks
from spectrnn.errors import UserError
from spectrnn.inference.predictor import Chunk, Predictor
from spectrnn.inference.shards import Unit
from spectrnn.inference.sliding_window import Window, join_steps
from spectrnn.inference.tasks import Marker, PredictionRow, PredictionTask

log = logging.getLogger(__name__)

_OPEN_FILES, _FILES_PER_TASK = 32, 8  # files that are decoded ahead, and in one task of a thread
# Limits of a group of windows: enough for batches of windows of similar length, and for bounded memory.
_GROUP_BATCHES = 8
_GROUP_SECONDS = 240


class RecordingStatus(Enum):
    """Status of a recording after a group of windows."""

    IN_PROGRESS = "in progress"
    DONE = "done"
    FAILED = "failed"


class RecordingResult(NamedTuple):
    """New results for a recording.

    Attributes:
        path: Path of the recording.
        rows: Rows since the last result.
        seconds: Length of the recording so far in s.
        status: Status of the recording; if it failed, its earlier rows are not valid.
        error: Reason why it failed.
    """

    path: str
    rows: list[PredictionRow]
    seconds: float
    status: RecordingStatus
    error: UserError | None = None


Item = tuple[str, Window | Marker | UserError]  # path of a recording, and a window, a marker, or why it cannot be read


def audio_paths(paths: Iterable[str]) -> list[str]:
    """Expands folders to the audio files in them, and globs to the files that match; files stay as they are.

    A folder or glob without files is kept, so that it is reported and not skipped. What else folders contain is warned
    about.

    Raises:
        UserError: An address, such as https:// or s3://.
    """
    expanded: list[str] = []
    folders: list[str] = []
    ignored: list[Ignored] = []
    for name in paths:
        if is_address(name):
            raise UserError(f"{name}: is not on this machine; only a table of data=manifest may name addresses")
        path = Path(name).expanduser()
        files: list[str] = []
        if path.is_dir():
            with suppress(OSError):  # opening the folder itself then reports why
                scan = scan_folder(path)
                files = scan.files
                folders.append(name)
                ignored += scan.ignored
        elif not path.exists() and glob.has_magic(name):
            files = [file for file in sorted(glob.glob(str(path), recursive=True)) if not os.path.isdir(file)]
        expanded += files or [str(path)]
    warn_about_ignored(ignored, folders[0] if len(folders) == 1 else f"{len(folders)} folders")
    return expanded


def predict_recordings(
    predictor: Predictor,
    task: PredictionTask,
    units: Sequence[Unit],
    batch_size: int,
    raw_sample_rate: int | None = None,
) -> Iterator[list[RecordingResult]]:
    """Processes recordings in groups of windows, and decodes the next ones meanwhile.

    A group that ends with a recording is independent of earlier ones, so resuming after it gives identical results.
    So does any distribution of the units to several processes.

    Args:
        predictor: Predictor that classifies the windows.
        task: Task that defines the windows and the rows.
        units: Audio files, as divided by `work_units`; or `STDIN` alone.
        batch_size: Maximum number of windows per batch.
        raw_sample_rate: Sample rate of raw samples on standard input, as for `stdin_blocks`.

    Yields:
        Results of each group, in the order of the paths.
    """
    max_windows, max_samples = group_limits(predictor, batch_size)
    if units == [[STDIN]]:  # in this thread, as no signal would interrupt another one that waits for input
        blocks = stdin_blocks(predictor.sample_rate, raw_sample_rate)
        groups = group_windows(recording_items(STDIN, blocks, task), max_windows, max_samples)
    else:
        paths = [path for unit in units for path in unit]
        items = (item for item in _read_files(paths, task, predictor.sample_rate) if item[1] is not Marker.FLUSH)
        grouped = (group_windows(_recordings(items, len(unit)), max_windows, max_samples) for unit in units)
        groups = prefetch(chain.from_iterable(grouped), 1)
    yield from predict_groups(task, groups, batch_size)


def group_limits(predictor: Predictor, batch_size: int) -> tuple[int, int]:
    """Returns the maximum number of windows and of samples for `group_windows`."""
    return _GROUP_BATCHES * batch_size, _GROUP_SECONDS * predictor.sample_rate


def predict_groups(
    task: PredictionTask, groups: Iterable[list[Item]], batch_size: int
) -> Iterator[list[RecordingResult]]:
    """Processes the windows of groups that `group_windows` returns, and yields the results of each."""
    aggregator, seconds = task.aggregator(), 0.0
    for group in groups:
        steps = iter(task.steps([content for _, content in group if isinstance(content, Window)], batch_size))
        results = []
        for path, part in groupby(group, itemgetter(0)):
            contents = [content for _, content in part]
            windows = [content for content in contents if isinstance(content, Window)]
            rows: list[PredictionRow] = []
            if windows:
                seconds = windows[-1].end
                rows += aggregator.push(*join_steps(islice(steps, len(windows))))
            last = contents[-1]
            if isinstance(last, UserError):
                results.append(RecordingResult(path, [], seconds, RecordingStatus.FAILED, last))
            elif last is Marker.END:
                results.append(RecordingResult(path, [*rows, *aggregator.finish()], seconds, RecordingStatus.DONE))
            else:
                results.append(RecordingResult(path, rows, seconds, RecordingStatus.IN_PROGRESS))
                continue
            aggregator, seconds = task.aggregator(), 0.0
        yield results


def _read_files(paths: list[str], task: PredictionTask, sample_rate: int) -> Iterator[Item]:
    """Items of all files, one file after another; the first items of the next ones are computed ahead."""
    # Decoding short files mostly holds Python's lock: more threads would slow down those that compute.
    with ThreadPoolExecutor(max(1, torch.get_num_threads() // 2)) as pool:
        opened: deque[tuple[Future[list[Item]], list[Iterator[Item]]]] = deque()
        for start in range(0, len(paths), _FILES_PER_TASK):
            group = paths[start : start + _FILES_PER_TASK]
            streams = [recording_items(path, logged_blocks(path, sample_rate), task) for path in group]
            opened.append((pool.submit(_first_items, streams), streams))
            if len(opened) == _OPEN_FILES // _FILES_PER_TASK:
                yield from _all_items(*opened.popleft())
        for group_opened in opened:
            yield from _all_items(*group_opened)


def logged_blocks(path: str, sample_rate: int) -> Iterator[Chunk]:
    """Decodes a file like `iter_blocks`, and logs its warnings at the end."""
    warnings: list[str] = []
    yield from iter_blocks(path, sample_rate, warnings=warnings)
    for warning in warnings:
        log.warning("%s", warning)


def _recordings(items: Iterator[Item], count: int) -> Iterator[Item]:
    """The items of the next recordings."""
    while count:
        yield (item := next(items))
        count -= item[1] is Marker.END or isinstance(item[1], UserError)


def _first_items(streams: list[Iterator[Item]]) -> list[Item]:
    return [next(stream) for stream in streams]


def _all_items(first_items: Future[list[Item]], streams: list[Iterator[Item]]) -> Iterator[Item]:
    for first, rest in zip(first_items.result(), streams, strict=True):
        yield first
        yield from rest


def recording_items(path: str, blocks: Iterable[Chunk], task: PredictionTask) -> Iterator[Item]:
    """Yields the windows of a recording, given as blocks int16 or float32 (samples,), and its end or its error."""
    try:
        for content in task.split(blocks):
            yield path, content
    except UserError as error:
        yield path, error
    else:
        yield path, Marker.END


def group_windows(items: Iterable[Item], max_windows: int, max_samples: float) -> Iterator[list[Item]]:
    """Groups the items of recordings into lists of about so many windows or samples.

    A group ends with a recording, or within one that is longer than a group and then with it, or at `Marker.FLUSH`.
    """
    group: list[Item] = []
    windows, samples = 0, 0
    starts_within = False  # whether the group starts within a recording
    for item in items:
        content, is_full = item[1], windows >= max_windows or samples >= max_samples
        if isinstance(content, Window):
            if is_full:
                yield group
                group, windows, samples, starts_within = [], 0, 0, True
            group.append(item)
            windows, samples = windows + 1, samples + len(content.samples)
            continue
        if content is not Marker.FLUSH:
            group.append(item)
        # The last condition bounds the number of files that cannot be read.
        if group and (content is Marker.FLUSH or is_full or starts_within or len(group) >= 2 * max_windows):
            yield group
            group, windows, samples, starts_within = [], 0, 0, content is Marker.FLUSH
    if group:
        yield group
