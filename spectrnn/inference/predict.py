"""`spectrnn predict`: labels of recordings, or events in them, in bounded memory for any number and length."""

import logging
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from omegaconf import DictConfig

from spectrnn.config.instantiate import to_container, validate_kwargs
from spectrnn.config.types import NonNegativeFloat, PositiveInt, SampleRate
from spectrnn.data.audio import open_audio
from spectrnn.data.stdin_audio import STDIN
from spectrnn.detection.settings import DetectionConfig, DetectionSettings, resolve_thresholds
from spectrnn.devices import reporting_out_of_memory
from spectrnn.errors import TrainingInterrupted, UserError
from spectrnn.inference.formats import RowFormat, event_format, label_format
from spectrnn.inference.merge import concatenate, merge
from spectrnn.inference.pipeline import RecordingStatus, audio_paths, predict_recordings
from spectrnn.inference.predictor import Predictor, load, model_hash
from spectrnn.inference.shards import Shard, Unit, describe, divide, work_units
from spectrnn.inference.tasks import ClipTask, DetectionTask, PredictionTask
from spectrnn.inference.writers import TableWriter, Writer, open_writer
from spectrnn.messages import counted
from spectrnn.progress import progress_bar
from spectrnn.runs import find_model

log = logging.getLogger(__name__)

_ROW_INDEPENDENT_KEYS = {"paths", "run", "out", "shard", "batch_size", "device", "trust"}
_EVENT_FORMATS = ("audacity", "raven")


@dataclass(kw_only=True)
class PredictConfig(DetectionConfig):
    """Top level of predict.yaml."""

    paths: list[str]
    run: str
    trim_seconds: NonNegativeFloat
    format: Literal["csv", "jsonl", "audacity", "raven"]
    top_k: PositiveInt
    out: str | None
    shard: str | None
    raw_sample_rate: SampleRate | None
    batch_size: PositiveInt
    device: str
    trust: list[str]


@reporting_out_of_memory("batch_size")
def predict(node: DictConfig) -> None:
    """Classifies recordings or detects events in them as a predict.yaml defines it, and writes the rows.

    Raises:
        UserError: No recordings, a model that cannot be loaded, an output that cannot be written; or, after all others
            have been processed, recordings that cannot be read.
    """
    config = PredictConfig(**validate_kwargs(to_container(node, ""), PredictConfig, ""))
    if config.window is None and config.format in _EVENT_FORMATS:
        raise UserError(f"format={config.format}: requires event detection; set window and hop, as in window=2 hop=0.5")
    if not config.paths:
        raise UserError("paths: missing; name files, folders or globs: spectrnn predict recordings/ run=outputs/...")
    shard = Shard.parse(config.shard) if config.shard is not None else None
    paths = [*dict.fromkeys(audio_paths(config.paths))]
    if STDIN in paths and len(paths) > 1:
        raise UserError(f"{STDIN}: standard input cannot be combined with other paths")
    if STDIN in paths and shard:
        raise UserError(f"shard={config.shard}: standard input cannot be shared by several processes")
    config.run = str(find_model(config.run))  # once, as the best run may change
    predictor = load(config.run, config.device, config.trust)
    task, row_format = _task_and_format(config, predictor)
    out, settings, units = _output_path(config, paths, row_format), _row_settings(config), work_units(paths)
    if shard:
        shards = divide(units, shard.total)
        units, settings["recordings"] = shards[shard.number - 1], describe(shards)
    is_folder = row_format.single_recording and out is not None and (len(paths) > 1 or out.is_dir())
    paths = [path for unit in units for path in unit]
    with open_writer(out, row_format, is_folder, paths, config.paths, settings, shard) as writer:
        progress = Progress("predicting", config.raw_sample_rate, is_hidden=config.out is None)
        failed = write_rows(writer, predictor, task, units, config.batch_size, progress)
        if shard and isinstance(writer, TableWriter):
            writer.complete_part(failed)
        elif writer.journal and failed < len(paths):
            writer.journal.delete()
    if out and shard and isinstance(writer, TableWriter):
        merge(out, shard.all_paths(out), settings, shard, partial(concatenate, out=out, row_format=row_format))
    report_failures(failed, len(paths), "predicted")


class Progress(NamedTuple):
    """How progress is shown: by a bar with a title, or not at all; and the sample rate of raw standard input in Hz."""

    title: str
    raw_sample_rate: int | None = None
    is_hidden: bool = False


def write_rows(
    writer: Writer, predictor: Predictor, task: PredictionTask, units: list[Unit], batch_size: int, progress: Progress
) -> int:
    """Processes the recordings that an output does not have yet; returns the number of those that cannot be read.

    Raises:
        TrainingInterrupted: Ctrl-C; the same command resumes.
    """
    done = writer.journal.done if writer.journal else ()
    total, units = sum(map(len, units)), [[path for path in unit if path not in done] for unit in units]
    if done:
        log.info("resuming: %d of %d recordings already done", total - sum(map(len, units)), total)
    if writer.journal and writer.journal.failed is not None:
        return writer.journal.failed  # an earlier process has completed this shard
    try:
        return _run(predictor, task, units, writer, batch_size, progress)
    except KeyboardInterrupt as error:
        if writer.journal is None:
            raise
        raise TrainingInterrupted("interrupted; rerun the same command to resume", 130) from error


def report_failures(failed: int, total: int, verb: str) -> None:
    """Raises a `UserError` if recordings could not be processed; the verb says how, such as ``predicted``."""
    if failed == total == 1:
        raise UserError(f"the recording could not be {verb}")
    if failed:
        some = f"{failed} of {total} files could not be {verb}; the others were"
        raise UserError(some if failed < total else f"none of the {failed} files could be {verb}")


def _run(
    predictor: Predictor, task: PredictionTask, units: list[Unit], writer: Writer, batch_size: int, progress: Progress
) -> int:
    """Processes recordings and writes the results; returns the number of recordings that cannot be read."""
    completed = failed = rows = 0
    is_stdin = units == [[STDIN]]  # of unknown length
    bar = progress_bar(
        None if is_stdin else sum(map(len, units)),
        progress.title,
        "s" if is_stdin else "file",
        disable=progress.is_hidden,
        bar_format=None if is_stdin else "{l_bar}{bar}| {n:.1f}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]",
    )
    with bar:
        for group in predict_recordings(predictor, task, units, batch_size, progress.raw_sample_rate):
            writer.write(group)
            rows += sum(len(result.rows) for result in group)
            for error in filter(None, (result.error for result in group)):
                failed += 1
                log.error("%s", error)
            completed += sum(result.status is not RecordingStatus.IN_PROGRESS for result in group)
            path, seconds, position = group[-1].path, group[-1].seconds, float(completed)
            if is_stdin:
                position = seconds
            elif group[-1].status is RecordingStatus.IN_PROGRESS and not bar.disable:
                position += seconds / max(_duration(path), seconds)
            bar.update(position - bar.n)
    if completed > failed and not rows:
        which = counted(completed - failed, "recording")
        log.warning("no event was detected in %s; a threshold=NUMBER below that of the model detects more", which)
    return failed


def _task_and_format(config: PredictConfig, predictor: Predictor) -> tuple[PredictionTask, RowFormat]:
    labels, tuned = predictor.labels, predictor.tuned_thresholds
    if config.window is None:
        thresholds = resolve_thresholds(config, labels, tuned, predictor.thresholds)
        row_format = label_format(config.format, min(config.top_k, len(labels)), thresholds is not None)
        return ClipTask(predictor, thresholds, config.top_k), row_format
    window = predictor.window / predictor.sample_rate
    own, frame_seconds = predictor.step_thresholds, predictor.frame_seconds
    settings = DetectionSettings.resolve(config, labels, tuned, window, own=own, frame_seconds=frame_seconds)
    settings = replace(settings, trim_seconds=config.trim_seconds)
    return DetectionTask(predictor, settings), event_format(config.format, predictor.sample_rate / 2)


def _output_path(config: PredictConfig, paths: list[str], row_format: RowFormat) -> Path | None:
    if config.out is None:
        if row_format.single_recording and len(paths) > 1:
            remedy = "for several recordings set out=FOLDER"
            raise UserError(f"format={config.format}: writes one file per recording; {remedy}")
        return None
    out = Path(config.out).expanduser()
    if out.resolve() in {Path(config.run).resolve(), *(Path(path).resolve() for path in paths)}:
        raise UserError(f"out={config.out}: is also an input; choose another file")
    return out


def _row_settings(config: PredictConfig) -> dict[str, Any]:
    """The settings that determine the rows of each recording."""
    settings = {key: value for key, value in asdict(config).items() if key not in _ROW_INDEPENDENT_KEYS}
    return {"model": model_hash(Path(config.run)), **settings}


@lru_cache(maxsize=1)
def _duration(path: str) -> float:
    """Length of a recording in s according to its header; 0 if it cannot be read."""
    with suppress(UserError), open_audio(path) as recording:
        return recording.reader.seconds
    return 0.0
