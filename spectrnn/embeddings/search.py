"""`spectrnn search`: exact search for the most similar embeddings, by their cosine."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from omegaconf import DictConfig

from spectrnn.config.instantiate import to_container, validate_kwargs
from spectrnn.config.types import NonNegativeFloat, PositiveFloat, PositiveInt
from spectrnn.data.audio import iter_blocks
from spectrnn.embeddings.table import Embeddings, open_embeddings
from spectrnn.errors import UserError
from spectrnn.inference.formats import csv_line, json_line
from spectrnn.inference.pipeline import group_limits, group_windows, predict_groups, recording_items
from spectrnn.inference.predictor import Predictor, embedding_hash, load
from spectrnn.inference.tasks import ClipEmbeddingTask, Embedding
from spectrnn.messages import format_table
from spectrnn.runs import find_model

Array = npt.NDArray[Any]

_BATCH_SIZE = 64  # parts of a long recording


@dataclass(kw_only=True)
class SearchConfig:
    """Top level of search.yaml."""

    embeddings: str
    like: str | None
    start: NonNegativeFloat
    end: PositiveFloat | None
    n: PositiveInt
    format: Literal["text", "csv", "jsonl"]
    run: str
    device: str
    trust: list[str]


class Match(NamedTuple):
    """A row of a file of embeddings: recording, start and end in s, and cosine of the angle between the vectors."""

    path: str
    start: float
    end: float
    similarity: float


def search(node: DictConfig) -> None:
    """Prints the rows of a file of embeddings that are most similar to a recording as a search.yaml defines it.

    Raises:
        UserError: A file, a recording or a model that cannot be read, or embeddings of another model.
    """
    config = SearchConfig(**validate_kwargs(to_container(node, ""), SearchConfig, ""))
    if config.like is None:
        raise UserError(f"like: missing; name a recording: spectrnn search {config.embeddings} like=clip.wav")
    if config.end is not None and config.end <= config.start:
        raise UserError(f"end={config.end:g}: should be after start={config.start:g}")
    embeddings = open_embeddings(Path(config.embeddings).expanduser())
    model = find_model(config.run)
    predictor = load(model, config.device, config.trust)
    require_model(embeddings, config.embeddings, model)
    query = embed_part(predictor, str(Path(config.like).expanduser()), config.start, config.end)
    matches = most_similar(embeddings, query, config.n)
    cells = [[row.path, f"{row.start:.3f}", f"{row.end:.3f}", f"{row.similarity:.4f}"] for row in matches]
    if config.format == "text":
        print(format_table(Match._fields, cells))
    for match, row in zip(matches, cells, strict=True) if config.format == "jsonl" else ():
        print(json_line(match._asdict() | {"similarity": float(row[-1])}), end="")
    for row in [list(Match._fields), *cells] if config.format == "csv" else ():
        print(csv_line(row), end="")


def require_model(embeddings: Embeddings, name: str, model: Path) -> None:
    """Raises a `UserError` if embeddings, of a file of this name, are not those of a model file that can be loaded."""
    if embeddings.model != (own := embedding_hash(model)):
        of = f"is of another model ({embeddings.model}) than {model} ({own})"
        raise UserError(f"embeddings={name}: {of}; name that one with run=, or embed the recordings again")


def embed_part(predictor: Predictor, path: str, start: float, end: float | None) -> Array:
    """Computes the embedding (size,) of a part of a recording, from start to end in s."""
    blocks = iter_blocks(path, predictor.sample_rate, start, end)
    return embed_blocks(predictor, path, blocks).vector


def embed_blocks(predictor: Predictor, path: str, blocks: Iterable[Array]) -> Embedding:
    """Computes the embedding of a recording, given as blocks int16 or float32 (samples,).

    Raises:
        UserError: A recording that cannot be read.
    """
    task = ClipEmbeddingTask(predictor)
    items = recording_items(path, blocks, task)
    groups = group_windows(items, *group_limits(predictor, _BATCH_SIZE))
    (*_, last) = predict_groups(task, groups, _BATCH_SIZE)
    if last[-1].error is not None:
        raise last[-1].error
    (row,) = last[-1].rows
    assert isinstance(row, Embedding)
    return row


def most_similar(embeddings: Embeddings, query: Array, count: int) -> list[Match]:
    """Returns the rows whose vectors have the largest cosine with a query (size,), largest first.

    Raises:
        UserError: Vectors of another size.
    """
    similarities = cosines(embeddings.blocks(), embeddings.norms, query)
    count = min(count, len(similarities))
    nearest = np.argpartition(-similarities, count - 1)[:count]
    nearest = nearest[np.lexsort([nearest, -similarities[nearest]])]
    return [
        Match(
            str(embeddings.paths[row]),
            float(embeddings.starts[row]),
            float(embeddings.ends[row]),
            float(similarities[row]),
        )
        for row in nearest
    ]


def cosines(blocks: Iterator[Array], norms: Array, query: Array) -> Array:
    """Cosines of a query (size,) with vectors, given in blocks (block, size) and by their norms (rows,)."""
    products = np.zeros(len(norms), np.float32)
    query = query.astype(np.float32)
    start = 0
    for block in blocks:
        # Not a product of BLAS, whose threads take longer than memory, to which this is bound.
        np.einsum("ij,j->i", _to_float32(block), query, out=products[start : start + len(block)])
        start += len(block)
    return products / np.maximum(norms * np.linalg.norm(query), np.finfo(np.float32).tiny)


def _to_float32(block: Array) -> Array:
    """Converts vectors (block, size); PyTorch converts float16 several times as fast as NumPy."""
    return block if block.dtype == np.float32 else torch.from_numpy(np.array(block)).float().numpy()
