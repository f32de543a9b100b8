"""`spectrnn embed`: pooled vectors of recordings or their windows, in bounded memory for any number and length."""

import base64
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from omegaconf import DictConfig

from spectrnn.config.instantiate import to_container, validate_kwargs
from spectrnn.config.types import HopSeconds, PositiveInt, WindowSeconds
from spectrnn.data.stdin_audio import STDIN
from spectrnn.devices import reporting_out_of_memory
from spectrnn.embeddings.table import format_of, write_embeddings
from spectrnn.errors import UserError
from spectrnn.files import atomic_write
from spectrnn.inference.formats import RowContext, RowFormat, json_line
from spectrnn.inference.merge import merge
from spectrnn.inference.pipeline import audio_paths
from spectrnn.inference.predict import Progress, report_failures, write_rows
from spectrnn.inference.predictor import Predictor, embedding_hash, load
from spectrnn.inference.shards import Shard, describe, divide, work_units
from spectrnn.inference.tasks import ClipEmbeddingTask, Embedding, WindowEmbeddingTask
from spectrnn.inference.writers import ResumeJournal, TableWriter, open_writer
from spectrnn.runs import find_model

VectorType = Literal["float32", "float16"]
EmbeddingTask = ClipEmbeddingTask | WindowEmbeddingTask


@dataclass(kw_only=True)
class EmbedConfig:
    """Top level of embed.yaml."""

    paths: list[str]
    run: str
    window: WindowSeconds | None
    hop: HopSeconds | None
    dtype: VectorType
    out: str
    shard: str | None
    batch_size: PositiveInt
    device: str
    trust: list[str]


@reporting_out_of_memory("batch_size")
def embed(node: DictConfig) -> None:
    """Writes the embeddings of recordings as an embed.yaml defines them.

    Raises:
        UserError: No recordings, a model that cannot be loaded, an output that cannot be written; or, after all others
            have been processed, recordings that cannot be read.
    """
    config = EmbedConfig(**validate_kwargs(to_container(node, ""), EmbedConfig, ""))
    shard = Shard.parse(config.shard) if config.shard is not None else Shard(1, 1)
    out = Path(config.out).expanduser()
    format_of(out, "out")
    paths = list_recordings(config.paths, "embed")
    model = find_model(config.run)  # once, as the best run may change
    task = embedding_task(load(model, config.device, config.trust), config.window, config.hop)
    failed, total = write_recordings(out, embedding_hash(model), task, paths, config.dtype, config.batch_size, shard)
    report_failures(failed, total, "embedded")


def list_recordings(paths: list[str], command: str) -> list[str]:
    """Expands the paths of a command as `audio_paths` does.

    Raises:
        UserError: No paths, or standard input.
    """
    if not paths:
        raise UserError(f"paths: missing; name files, folders or globs: spectrnn {command} recordings/")
    if STDIN in paths:
        raise UserError(f"{STDIN}: {command} reads files, not standard input")
    return [*dict.fromkeys(audio_paths(paths))]


def embedding_task(predictor: Predictor, window: float | None, hop: float | None) -> EmbeddingTask:
    """Returns the task of one embedding per recording or, with a window in s, per window.

    Raises:
        UserError: A hop without a window, or one that leaves gaps.
    """
    if window is None:
        if hop is not None:
            raise UserError(f"hop={hop:g}: requires a window, as in window=2 hop=1")
        return ClipEmbeddingTask(predictor)
    hop = window if hop is None else hop
    if hop > window:
        raise UserError(f"hop={hop:g}: longer than the window of {window:g} s, so audio would be skipped")
    return WindowEmbeddingTask(predictor, window, hop)


def write_recordings(
    out: Path,
    model: str,
    task: EmbeddingTask,
    paths: list[str],
    dtype: VectorType,
    batch_size: int,
    shard: Shard,
) -> tuple[int, int]:
    """Writes the embeddings of the recordings of a shard, and of all once every shard is complete.

    Rows are first appended to a text file next to the output, as a table of `spectrnn predict` is, so that a command
    that was killed resumes.

    Args:
        out: File of embeddings.
        model: Hash of the model that computes them.
        task: Task that defines the rows.
        paths: Recordings of all shards.
        dtype: Type of the vectors.
        batch_size: Maximum number of recordings or windows per batch.
        shard: Shard whose recordings are processed.

    Returns:
        Number of recordings that cannot be read, and of all of the shard.
    """
    shards = divide(work_units(paths), shard.total)
    settings = {"model": model, **task.settings, "dtype": dtype, "recordings": describe(shards)}
    rows = out.with_name(f"{out.name}.rows")
    units = shards[shard.number - 1]
    row_format = RowFormat("", partial(_line, dtype=dtype))
    with open_writer(rows, row_format, False, (), (), settings, shard) as writer:
        if not isinstance(writer, TableWriter):
            raise UserError(f"out={out}: {rows} is not a regular file")
        failed = write_rows(writer, task.predictor, task, units, batch_size, Progress("embedding"))
        writer.complete_part(failed)
    merge(out, shard.all_paths(rows), settings, shard, partial(_combine, out=out, dtype=dtype, model=model))
    return failed, sum(map(len, units))


def _combine(journals: list[ResumeJournal], out: Path, dtype: VectorType, model: str) -> None:
    count = sum(journal.position.rows for journal in journals)
    with atomic_write(out) as temporary:
        rows = _rows([journal.out for journal in journals], dtype)
        write_embeddings(temporary, format_of(out, "out"), rows, count, model)


def _line(context: RowContext, row: Embedding, dtype: VectorType) -> str:
    vector = base64.b64encode(row.vector.astype(dtype).tobytes()).decode()
    return json_line({"path": context.path, "start": row.start, "end": row.end, "vector": vector})


def _rows(parts: Iterable[Path], dtype: VectorType) -> Iterator[tuple[str, Embedding]]:
    """Reads the lines of parts."""
    for part in parts:
        with part.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            for line in file:
                row = json.loads(line)
                vector = np.frombuffer(base64.b64decode(row["vector"]), dtype)
                yield row["path"], Embedding(row["start"], row["end"], vector)
