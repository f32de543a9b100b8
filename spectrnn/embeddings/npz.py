"""Embeddings as .npz of NumPy: an array per column, uncompressed, so that it can be mapped into memory."""

import zipfile
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_LOCAL_HEADER = 30  # bytes before the name of a member of a zip archive
_BLOCK = 1 << 16  # paths in memory


def require() -> None:
    """Needs no package."""


def write(path: Path, blocks: Iterator[Array], columns: Any) -> None:
    """Writes blocks (block, size) of vectors, and then the columns, which are complete by then.

    The members are ``vector`` (rows, size), ``norm``, ``start``, ``end``, ``path`` (rows,) and ``model`` ().
    """
    first = next(blocks)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        _write(archive, "vector", (len(columns.starts), first.shape[1]), first.dtype, chain([first], blocks))
        for name, values in (("norm", columns.norms), ("start", columns.starts), ("end", columns.ends)):
            _write(archive, name, values.shape, values.dtype, iter([values]))
        text = np.dtype(f"<U{max(map(len, columns.paths))}")
        starts = range(0, len(columns.paths), _BLOCK)
        parts = (np.array(columns.paths[start : start + _BLOCK], text) for start in starts)
        _write(archive, "path", (len(columns.paths),), text, parts)
        _write(archive, "model", (), np.dtype(f"<U{len(columns.model)}"), iter([np.array(columns.model)]))


def read(path: Path, block: int) -> tuple[str, Array, Array, Array, Array, Callable[[], Iterator[Array]]]:
    """Returns the fields of `Embeddings`, mapped into memory."""
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        names = ("model", "path", "start", "end", "norm", "vector")
        model, paths, starts, ends, norms, vectors = (_map(archive, file, path, name) for name in names)
    if vectors.ndim != 2 or {len(column) for column in (paths, starts, ends, norms)} != {len(vectors)}:
        raise ValueError("its columns differ in length")
    return (
        str(model),
        paths,
        starts,
        ends,
        norms,
        lambda: (vectors[i : i + block] for i in range(0, len(vectors), block)),
    )


def _write(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], parts: Iterator[Array]
) -> None:
    member = zipfile.ZipInfo(f"{name}.npy")  # of 1980, so that equal content is an equal file
    with archive.open(member, "w", force_zip64=True) as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype).tobytes())


def _map(archive: zipfile.ZipFile, file: Any, path: Path, name: str) -> Array:
    """Maps a member into memory; one that is compressed or a single value is read."""
    member = archive.getinfo(f"{name}.npy")
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, is_fortran, dtype = read_header[version](stream)
        header = stream.tell()
    if member.compress_type != zipfile.ZIP_STORED or not shape or is_fortran:
        with archive.open(member) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)
    if dtype.hasobject:
        raise ValueError(f"{name} contains Python objects")
    file.seek(member.header_offset)
    local = file.read(_LOCAL_HEADER)
    names = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    return np.memmap(path, dtype, "r", member.header_offset + _LOCAL_HEADER + names + header, shape)
