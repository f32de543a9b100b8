"""Parallel processing of clip tables."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from spectrnn.data.clips import Clip
from spectrnn.errors import UserError
from spectrnn.progress import progress_bar

S = TypeVar("S")
T = TypeVar("T")

_MAX_CLIPS, _MAX_BYTES = 128, 1 << 25  # per chunk


def in_current_folder(function: Callable[[S], T]) -> Callable[[S], T]:
    """Returns a function that runs in the current folder: joblib's processes remain where they were started."""
    return partial(_call_in, os.getcwd(), function)


def _call_in(folder: str, function: Callable[[S], T], argument: S) -> T:
    if os.getcwd() != folder:
        os.chdir(folder)
    return function(argument)


def parallel_map(function: Callable[[Sequence[Clip]], T], clips: Sequence[Clip], description: str) -> Iterator[T]:
    """Applies a function to chunks of a clip table, in as many processes as there are cores, with a progress bar.

    Yields:
        The results, in order; a few chunks are computed ahead.

    Raises:
        UserError: A process that was killed.
    """
    # Only joblib's processes do not need `if __name__ == "__main__"` in the caller's script.
    from joblib import Parallel, cpu_count, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    chunks = list(_chunks(clips))
    workers = min(cpu_count(), len(chunks))
    function = in_current_folder(function)
    parallel = Parallel(workers, return_as="generator", pre_dispatch="2*n_jobs", batch_size=1)
    done = 0
    with progress_bar(len(clips), description, "clip") as progress:
        try:
            for chunk, result in zip(chunks, parallel(delayed(function)(chunk) for chunk in chunks), strict=True):
                yield result
                done += len(chunk)
                progress.update(len(chunk))
        except TerminatedWorkerError as error:
            last = min(done + 2 * workers * _MAX_CLIPS, len(clips)) - 1
            raise UserError(
                f"{clips[done].path}: a decoding process was killed, by lack of memory or by a broken file, while "
                f"reading this file or one up to {clips[last].path}"
            ) from error


def _chunks(clips: Sequence[Clip]) -> Iterator[Sequence[Clip]]:
    start = size = 0
    for end, clip in enumerate(clips, 1):
        file = clip.copy or clip.path
        size += os.path.getsize(file) if os.path.isfile(file) else 0
        if end - start == _MAX_CLIPS or size > _MAX_BYTES or end == len(clips):
            yield clips[start:end]
            start, size = end, 0
