"""Files of embeddings: vectors with their places in recordings, and the model that they are of."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from spectrnn.embeddings import npz, parquet
from spectrnn.errors import UserError
from spectrnn.files import why_unreadable
from spectrnn.inference.tasks import Embedding

Array = npt.NDArray[Any]

_BLOCK = 4096  # rows in memory


class Embeddings(NamedTuple):
    """An open file of embeddings, of any size.

    Attributes:
        model: Hash of the model, from `predictor.embedding_hash`.
        paths: Recording of each row, (rows,).
        starts: Start of each row in its recording in s, float64 (rows,).
        ends: End in s, float64 (rows,).
        norms: Euclidean norm of each vector, float32 (rows,).
        blocks: Function that yields the vectors in blocks, float32 or float16 (block, size).
    """

    model: str
    paths: Sequence[str] | Array
    starts: Array
    ends: Array
    norms: Array
    blocks: Callable[[], Iterator[Array]]


class Columns(NamedTuple):
    """What is written beside the vectors; as for `Embeddings`."""

    model: str
    paths: list[str]
    starts: Array
    ends: Array
    norms: Array


def format_of(path: Path, key: str) -> Any:
    """Returns the module that reads and writes a kind of file.

    Raises:
        UserError: A name that does not end in .npz or .parquet, or a kind whose package is not installed.
    """
    formats = {".npz": npz, ".parquet": parquet}
    if path.suffix not in formats:
        raise UserError(f"{key}={path}: the name should end in .npz or .parquet")
    formats[path.suffix].require()
    return formats[path.suffix]


def write_embeddings(
    path: Path, file_format: Any, rows: Iterable[tuple[str, Embedding]], count: int, model: str
) -> None:
    """Writes a file, of which the vectors are never in memory.

    Args:
        path: File to write.
        file_format: Module from `format_of`.
        rows: Path of the recording and embedding of each row, whose vectors have one type and size.
        count: Number of rows, at least 1.
        model: Hash of the model.
    """
    columns = Columns(model, [], np.zeros(count), np.zeros(count), np.zeros(count, np.float32))

    def vectors() -> Iterator[Array]:
        for row, (recording, embedding) in enumerate(rows):
            same = columns.paths and columns.paths[-1] == recording
            columns.paths.append(columns.paths[-1] if same else recording)  # one string per recording
            columns.starts[row], columns.ends[row] = embedding.start, embedding.end
            columns.norms[row] = np.linalg.norm(embedding.vector.astype(np.float32))
            yield embedding.vector

    file_format.write(path, _stacked(vectors()), columns)


def open_embeddings(path: Path, key: str = "embeddings") -> Embeddings:
    """Opens a file.

    Raises:
        UserError: A file that cannot be read, or is not one of embeddings; `key` is that of the config.
    """
    module = format_of(path, key)
    if reason := why_unreadable(path):
        raise UserError(f"{key}={path}: {reason}")
    try:
        return Embeddings(*module.read(path, _BLOCK))
    except Exception as error:  # whatever a damaged file makes its reader raise
        raise UserError(f"{key}={path}: is not a file of spectrnn embed ({error})") from error


def _stacked(vectors: Iterable[Array]) -> Iterator[Array]:
    """Stacks vectors (size,) to blocks (block, size)."""
    block: list[Array] = []
    for vector in vectors:
        block.append(vector)
        if len(block) == _BLOCK:
            yield np.stack(block)
            block = []
    if block:
        yield np.stack(block)
