"""Embeddings as Parquet, with pyarrow: columns path, start, end, norm and vector, in groups of rows."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spectrnn.errors import UserError

Array = npt.NDArray[Any]

_MODEL = b"spectrnn_model"  # in the metadata of the schema


def require() -> None:
    """Raises a `UserError` if pyarrow is not installed."""
    if find_spec("pyarrow") is None:
        raise UserError("a .parquet file requires pyarrow: pip install 'spectrnn[parquet]'; an .npz file does not")


def write(path: Path, blocks: Iterator[Array], columns: Any) -> None:
    """Writes blocks (block, size) of vectors with the columns, which are complete as far as the blocks are."""
    import pyarrow
    from pyarrow import parquet

    writer, row = None, 0
    for block in blocks:
        rows = slice(row, row + len(block))
        row += len(block)
        vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(block.ravel()), block.shape[1])
        table = pyarrow.table(
            {
                "path": columns.paths[rows],
                "start": columns.starts[rows],
                "end": columns.ends[rows],
                "norm": columns.norms[rows],
                "vector": vectors,
            }
        ).replace_schema_metadata({_MODEL: columns.model})
        writer = writer or parquet.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer:
        writer.close()


def read(path: Path, block: int) -> tuple[str, list[str], Array, Array, Array, Callable[[], Iterator[Array]]]:
    """Returns the fields of `Embeddings`; the vectors stay in the file."""
    from pyarrow import parquet

    file = parquet.ParquetFile(path)
    table = file.read(["path", "start", "end", "norm"])
    size = file.schema_arrow.field("vector").type.list_size

    def blocks() -> Iterator[Array]:
        for batch in file.iter_batches(block, columns=["vector"]):
            yield batch.column(0).flatten().to_numpy(zero_copy_only=False).reshape(-1, size)

    columns = (np.asarray(table.column(name)) for name in ("start", "end", "norm"))
    starts, ends, norms = columns
    return file.schema_arrow.metadata[_MODEL].decode(), table.column("path").to_pylist(), starts, ends, norms, blocks
