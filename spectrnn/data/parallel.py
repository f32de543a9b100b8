"""Work on the files of a clip table with all cores."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from spectrnn.data.clips import Clip
from spectrnn.errors import UserError
from spectrnn.progress import progress_bar

T = TypeVar("T")

_CLIPS, _BYTES = 128, 1 << 25  # the work of one task of a process, at most


def parallel_map(task: Callable[[Sequence[Clip]], T], clips: Sequence[Clip], description: str) -> Iterator[T]:
    """Gives the clips to a task, part by part, in as many processes as there are cores, and shows a bar.

    Args:
        task: of some clips that follow each other in the table.
        clips: the clip table.
        description: of the work, for the bar.

    Yields:
        What the task returns, in the table's order; a few parts are worked on ahead.

    Raises:
        UserError: a process died.
    """
    # Of what can run in processes, joblib alone needs no `if __name__ == "__main__"` in the caller's script.
    from joblib import Parallel, cpu_count, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    parts = list(_parts(clips))
    workers = min(cpu_count(), len(parts))
    parallel = Parallel(workers, return_as="generator", pre_dispatch="2*n_jobs", batch_size=1)
    done = 0
    with progress_bar(len(clips), description, "clip") as progress:
        try:
            for part, result in zip(parts, parallel(delayed(task)(part) for part in parts), strict=True):
                yield result
                done += len(part)
                progress.update(len(part))
        except TerminatedWorkerError as error:
            last = min(done + 2 * workers * _CLIPS, len(clips)) - 1
            raise UserError(
                f"{clips[done].path}: a decoding process died, out of memory or of a broken file, while it "
                f"read this one or a later one up to {clips[last].path}"
            ) from error


def _parts(clips: Sequence[Clip]) -> Iterator[Sequence[Clip]]:
    start = size = 0
    for end, clip in enumerate(clips, 1):
        size += os.path.getsize(clip.path) if os.path.isfile(clip.path) else 0
        if end - start == _CLIPS or size > _BYTES or end == len(clips):
            yield clips[start:end]
            start, size = end, 0
