"""`spectrnn predict`: the labels of files, or the events in them, in bounded memory however many and long they are."""

import hashlib
import logging
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import soundfile
from omegaconf import DictConfig

from spectrnn.config.instantiate import to_container, validate_kwargs
from spectrnn.config.types import PositiveInt, SampleRate
from spectrnn.data import stdin_audio
from spectrnn.detection.settings import resolve_thresholds
from spectrnn.errors import TrainingInterrupted, UserError
from spectrnn.inference import formats
from spectrnn.inference.pipeline import RecordingResult, RecordingStatus, audio_paths, predict_recordings
from spectrnn.inference.predictor import Predictor, load
from spectrnn.inference.tasks import ClipTask, PredictionTask, ScanConfig, scanning
from spectrnn.inference.writers import DirectoryWriter, StreamWriter, TableWriter, Writer
from spectrnn.progress import progress_bar
from spectrnn.runs import find_model

log = logging.getLogger(__name__)

# Of the settings, those that change no line of the output.
_HARMLESS = {"paths", "run", "out", "batch_size", "device"}
_EVENT_FORMATS = {"audacity", "raven"}  # formats


@dataclass(kw_only=True)
class PredictConfig(ScanConfig):
    """predict.yaml."""

    paths: list[str]
    run: str
    format: Literal["csv", "jsonl", "audacity", "raven"]
    top_k: PositiveInt
    out: str | None
    raw_sample_rate: SampleRate | None
    batch_size: PositiveInt
    device: str


def predict(node: DictConfig) -> None:
    """Predicts recordings, and writes a line for each, or for each of their events.

    Args:
        node: as predict.yaml composes it.

    Raises:
        UserError: nothing to predict, a model that cannot be loaded, an output that cannot be written, or, after all
            others were predicted, recordings that cannot be read.
    """
    config = PredictConfig(**validate_kwargs(to_container(node, ""), PredictConfig, ""))
    if config.window is None and config.format in _EVENT_FORMATS:
        raise UserError(
            f"format={config.format}: is of events, which are heard through a window, as in window=2 hop=0.5"
        )
    paths = _paths(config)
    predictor = load(config.run, config.device)
    hearing = _build_task(config, predictor)
    with _output(config, paths, _format(config, predictor)) as output:
        left = [path for path in paths if path not in output.done]
        if len(left) < len(paths):
            log.info("%d of %d recordings are done; the others follow", len(paths) - len(left), len(paths))
        try:
            failed = _run(config, predictor, hearing, left, output)
        except KeyboardInterrupt as error:
            if isinstance(output, StreamWriter):
                raise
            raise TrainingInterrupted("interrupted; the same command goes on from there", 130) from error
        if failed < len(paths):
            output.finish()
    if failed:
        raise UserError(_failure(failed, len(paths)))


def _run(config: PredictConfig, predictor: Predictor, hearing: PredictionTask, paths: list[str], output: Writer) -> int:
    """Hears recordings and writes what is heard; returns how many cannot be read."""
    failed = 0
    with Progress(paths, config.out is None) as progress:
        for heap in predict_recordings(predictor, hearing, paths, config.batch_size, config.raw_sample_rate):
            for heard in heap:
                output.write(heard.path, heard.rows)
                if heard.state is RecordingStatus.OVER:
                    output.end(heard.path, heard.seconds)
                elif heard.state is RecordingStatus.BROKEN:
                    failed += 1
                    output.drop()
                    log.error("%s", heard.error)
            if heap[-1].state is not RecordingStatus.OPEN:
                output.commit()
            progress.update(heap)
    return failed


def _paths(config: PredictConfig) -> list[str]:
    if not config.paths:
        raise UserError("paths: missing; name files, folders or globs: spectrnn predict recordings/ run=outputs/...")
    paths = [*dict.fromkeys(audio_paths(config.paths))]
    if stdin_audio.STDIN in paths and len(paths) > 1:
        raise UserError(f"{stdin_audio.STDIN}: standard input is predicted alone; leave out the other paths")
    return paths


def _failure(failed: int, total: int) -> str:
    if total == 1:
        return "the recording could not be predicted"
    if failed == total:
        return f"none of the {total} files could be predicted"
    return f"{failed} of {total} files could not be predicted; the others were"


def _build_task(config: PredictConfig, predictor: Predictor) -> PredictionTask:
    if config.window is None:
        return ClipTask(predictor, resolve_thresholds(config, predictor.labels, predictor.tuned_thresholds))
    return scanning(config, predictor)


def _format(config: PredictConfig, predictor: Predictor) -> formats.RowFormat:
    if config.window is None:
        form = {"csv": formats.CSVLabels, "jsonl": formats.JSONLabels}[config.format]
        decided = resolve_thresholds(config, predictor.labels, predictor.tuned_thresholds) is not None
        return form(min(config.top_k, len(predictor.labels)), decided)
    events = {"csv": formats.CSVEvents(), "jsonl": formats.JSONEvents(), "audacity": formats.Audacity()}
    return {**events, "raven": formats.Raven(predictor.sample_rate / 2)}[config.format]


def _output(config: PredictConfig, paths: list[str], form: formats.RowFormat) -> Writer:
    if config.out is None:
        if form.of_one and len(paths) > 1:
            raise UserError(f"format={config.format}: is of one recording; of several, out=FOLDER takes a file each")
        return StreamWriter(sys.stdout, form)
    out = Path(config.out).expanduser()
    if out.resolve() in {find_model(config.run).resolve(), *(Path(path).resolve() for path in paths)}:
        raise UserError(f"out={config.out}: is read, and would be lost; name another file")
    if form.of_one and (len(paths) > 1 or out.is_dir()):
        return DirectoryWriter(out, form, _fingerprint(config), config.paths)
    if out.exists() and not out.is_file() and not out.is_dir():  # a device or a named pipe
        return StreamWriter(out.open("w", encoding="utf-8", newline=""), form, out)
    return TableWriter(out, form, _fingerprint(config))


def _fingerprint(config: PredictConfig) -> dict[str, Any]:
    """What decides the lines of the output, but for the recordings."""
    settings = {name: value for name, value in asdict(config).items() if name not in _HARMLESS}
    with find_model(config.run).open("rb") as file:
        return {"model": hashlib.file_digest(file, "sha256").hexdigest()[:16], **settings}


class Progress:
    """A bar of recordings, or of one recording's seconds, with the time that is left.

    Args:
        paths: of the recordings.
        hidden: show none.
    """

    def __init__(self, paths: list[str], hidden: bool) -> None:
        self.over, self.path, self.seconds = 0, "", 0.0  # recordings; the open one's, and its length
        self.alone = len(paths) == 1
        self.hidden = hidden
        total = round(_seconds(paths[0])) or None if self.alone else len(paths)
        count = "{n:.0f}" if self.alone else "{n:.1f}"
        form = f"{{l_bar}}{{bar}}| {count}/{{total_fmt}} [{{elapsed}}<{{remaining}}, {{rate_fmt}}]" if total else None
        self.bar = progress_bar(
            total, "predicting", "s of sound" if self.alone else "file", disable=hidden, bar_format=form
        )

    def __enter__(self) -> Self:
        self.bar.__enter__()
        return self

    def update(self, heap: list[RecordingResult]) -> None:
        """Shows how far the last heap came."""
        if self.hidden:
            return
        last = heap[-1]
        self.over += sum(heard.state is not RecordingStatus.OPEN for heard in heap)
        share = 0.0
        if last.state is RecordingStatus.OPEN and not self.alone:
            if last.path != self.path:
                self.path, self.seconds = last.path, _seconds(last.path)
            share = last.seconds / max(self.seconds, last.seconds)
        self.bar.update((last.seconds if self.alone else self.over + share) - self.bar.n)

    def __exit__(self, *error: object) -> None:
        self.bar.__exit__(*error)


def _seconds(path: str) -> float:
    """How long a recording claims to be; 0 where it does not say."""
    try:
        return soundfile.info(path).duration if path != stdin_audio.STDIN else 0.0
    except (soundfile.SoundFileError, OSError):
        return 0.0
