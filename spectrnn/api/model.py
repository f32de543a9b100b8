"""A trained classifier for Python."""

import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from html import escape
from itertools import count
from pathlib import Path
from typing import Any, Literal, cast, overload

import numpy as np
import numpy.typing as npt
import torch

from spectrnn.api.inputs import Channels, Waveform, is_pair, parse_audio
from spectrnn.api.results import Results
from spectrnn.config.compose import compose, quote_override
from spectrnn.config.instantiate import instantiate, to_container
from spectrnn.config.paths import CONFIG_DIR
from spectrnn.data.audio import load_audio, to_float
from spectrnn.data.clips import Clip, DataSource
from spectrnn.data.dataset import open_dataset_for_evaluation
from spectrnn.detection.events import Event
from spectrnn.detection.settings import DetectionConfig, DetectionSettings
from spectrnn.evaluation.evaluate import compute_metrics, predict_batches
from spectrnn.evaluation.metrics import metrics_of
from spectrnn.evaluation.predictions import Predictions
from spectrnn.evaluation.report.media import render_waveform
from spectrnn.evaluation.report.text import text_report
from spectrnn.inference import predictor
from spectrnn.inference.pipeline import (
    RecordingStatus,
    audio_paths,
    group_limits,
    group_windows,
    logged_blocks,
    predict_groups,
    recording_items,
)
from spectrnn.inference.predictor import Prediction, Predictor
from spectrnn.inference.tasks import (
    ClipEmbeddingTask,
    ClipPrediction,
    ClipTask,
    DetectionTask,
    Embedding,
    PredictionTask,
)
from spectrnn.messages import preview
from spectrnn.runs import METRICS, find_model

log = logging.getLogger(__name__)

Audio = Any  # of `parse_audio`
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Evaluation:
    """Results of a model on labelled recordings.

    Attributes:
        metrics: Metrics by name, such as accuracy and macro_f1.
        report: All results as in metrics.json: intervals, per-class metrics, confusion matrix.
        predictions: Clips with their probabilities.
        split: Split that was evaluated.
    """

    metrics: dict[str, float]
    report: dict[str, Any] = field(repr=False)
    predictions: Predictions = field(repr=False)
    split: str = "all"

    def to_dict(self) -> dict[str, Any]:
        """Returns all results, as metrics.json contains them."""
        return self.report

    def to_frame(self) -> Any:
        """Returns a pandas data frame of the clips: path, label, predicted, and a probability per class.

        Raises:
            ImportError: pandas is not installed.
        """
        import pandas

        clips, labels = self.predictions.clips, self.predictions.labels
        probabilities = self.predictions.probabilities
        columns = {
            "path": [clip.path for clip in clips],
            "label": [clip.label for clip in clips],
            "predicted": [self.predictions.predicted(row) for row in range(len(clips))],
        }
        return pandas.DataFrame(columns | dict(zip(labels, probabilities.T, strict=True)))

    def __str__(self) -> str:
        return text_report(self.split, self.report)


class Model:
    """A trained classifier.

    Args:
        path: Model file.
        predictor: Predictor of its classifier.

    Attributes:
        labels: Class names.
        sample_rate: Sample rate of the classifier in Hz, to which recordings are resampled.
    """

    def __init__(self, path: Path, predictor: Predictor) -> None:
        self.path, self._predictor = path, predictor
        self.labels, self.sample_rate = predictor.labels, predictor.sample_rate

    @property
    def classifier(self) -> torch.nn.Module:
        """The PyTorch module: waveforms (batch, samples) and lengths (batch,) -> logits (batch, classes)."""
        return self._predictor.classifier

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The content of metrics.json beside the model file; empty if there is none."""
        with suppress(OSError, ValueError):
            content = json.loads((self.path.parent / METRICS).read_text(encoding="utf-8"))
            return content if isinstance(content, dict) else {}
        return {}

    @overload
    def predict(
        self,
        audio: str | Path | Array | torch.Tensor | Mapping[str, Any] | tuple[Array, int],
        sample_rate: int | None = None,
        *,
        channels: Channels | None = None,
        batch_size: int = 64,
    ) -> Prediction: ...
    @overload
    def predict(
        self,
        audio: Sequence[Audio],
        sample_rate: int | None = None,
        *,
        channels: Channels | None = None,
        batch_size: int = 64,
    ) -> Results[Prediction]: ...
    @overload
    def predict(
        self,
        audio: Iterator[Audio],
        sample_rate: int | None = None,
        *,
        channels: Channels | None = None,
        batch_size: int = 64,
    ) -> Iterator[Prediction]: ...
    def predict(
        self, audio: Any, sample_rate: int | None = None, *, channels: Channels | None = None, batch_size: int = 64
    ) -> Prediction | Results[Prediction] | Iterator[Prediction]:
        """Classifies one recording, or several in batches.

        Args:
            audio: Recording as for `parse_audio`: a path, a waveform, or a waveform with its sample rate. Or a list of
                recordings, for a list of predictions; or an iterator, for an iterator, which reads a few batches ahead.
            sample_rate: Sample rate of waveforms in Hz.
            channels: Which dimension of waveforms of two dimensions the channels are; one recording each.
            batch_size: Maximum number of recordings per batch.

        Raises:
            ValueError: A waveform that is empty, ambiguous, not finite, or of another type or shape.
            UserError: A file that cannot be read.
        """
        if isinstance(audio, Iterator):
            return self._classify(audio, sample_rate, channels, batch_size)
        if isinstance(audio, list) or (isinstance(audio, tuple) and not is_pair(audio)):
            return Results(self._classify(iter(audio), sample_rate, channels, batch_size))
        recording = parse_audio(audio, sample_rate, channels)
        (prediction,) = self._classify(iter([recording]), None, None, batch_size)
        return replace(prediction, media=partial(self._media, recording))

    def predict_folder(self, folder: str | Path, batch_size: int = 64) -> Results[Prediction]:
        """Classifies all audio files in a folder, sorted by path.

        Raises:
            UserError: A folder without audio files, or a file that cannot be read.
        """
        return Results(self._classify(iter(audio_paths([str(folder)])), None, None, batch_size))

    def embed(
        self, audio: Any, sample_rate: int | None = None, *, channels: Channels | None = None, batch_size: int = 64
    ) -> Array:
        """Computes pooled vectors, the input of the head, as ``spectrnn embed`` does; arguments as for `predict`.

        Returns:
            Vector of a recording float32 (pooled,), or of a list of recordings (recordings, pooled).

        Raises:
            ValueError, UserError: As for `predict`.
        """
        is_single = not isinstance(audio, list | Iterator) and (not isinstance(audio, tuple) or is_pair(audio))
        recordings = (parse_audio(one, sample_rate, channels) for one in ([audio] if is_single else audio))
        rows = self._rows(recordings, ClipEmbeddingTask(self._predictor), batch_size)
        vectors = [cast(Embedding, row).vector for _, (row,) in rows]
        size = self._predictor.classifier.pooling.output_size
        return vectors[0] if is_single else np.array(vectors, np.float32).reshape(-1, size)

    def events(
        self,
        audio: Audio,
        sample_rate: int | None = None,
        *,
        channels: Channels | None = None,
        window: float | None = None,
        hop: float | None = None,
        threshold: float | Literal["model", "none"] = "model",
        smoothing_windows: int | None = None,
        offset_ratio: float | None = None,
        min_event_seconds: float | None = None,
        background: Sequence[str] = (),
        batch_size: int = 64,
    ) -> Results[Event]:
        """Detects events in a recording of any length, as ``spectrnn predict window=...`` does.

        Args:
            audio, sample_rate, channels: Recording, as for `predict`.
            window: Window length in s; None for that of the tuned thresholds, else of the longest training clip.
            hop: Hop between windows in s; None for that of the tuned thresholds, else half of the window.
            threshold: Probability at which an event starts; ``model``: as tuned, else 0.5; ``none``: label each window.
            smoothing_windows: Number of windows that probabilities are averaged over.
            offset_ratio: Fraction of the threshold below which an event ends.
            min_event_seconds: Minimum event length in s.
            background: Labels that are not events.
            batch_size: Maximum number of windows per batch.

        Raises:
            ValueError, UserError: As for `predict`, and settings that contradict each other.
        """
        config = DetectionConfig(
            window=None if window is None else float(window),
            hop=None if hop is None else float(hop),
            smoothing_windows=smoothing_windows,
            threshold=threshold if isinstance(threshold, str) else float(threshold),
            offset_ratio=offset_ratio,
            min_event_seconds=min_event_seconds,
            background=list(background),
        )
        own = self._predictor
        longest = own.window / own.sample_rate
        thresholds, frame_seconds = own.step_thresholds, own.frame_seconds
        settings = DetectionSettings.resolve(
            config, self.labels, own.tuned_thresholds, longest, own=thresholds, frame_seconds=frame_seconds
        )
        recordings = iter([parse_audio(audio, sample_rate, channels)])
        (rows,) = self._rows(recordings, DetectionTask(own, settings), batch_size)
        return Results(cast(list[Event], rows[1]))

    def evaluate(self, table: Any, split: str = "all", batch_size: int = 64) -> Evaluation:
        """Evaluates the model on labelled recordings; those with labels that it does not know are skipped.

        Args:
            table: Manifest file, folder with a folder per class, data frame with the columns path and label (and
                optionally start, end, group, split), or pairs (path, label).
            split: train, val, test or all.
            batch_size: Maximum number of clips per batch.

        Raises:
            UserError: A table or recordings that cannot be read, or no clip with a label of the model.
        """
        source, classifier = _source(table, self.sample_rate), self._predictor.classifier
        device = self._predictor.device
        dataset, unknown = open_dataset_for_evaluation(source, split, self.labels, device, classifier.task.label_format)
        if unknown:
            names = preview([f"{label!r} ({clips} clips)" for label, clips in sorted(unknown.items())], 20)
            log.warning("labels that the model does not know were skipped: %s", names)
        batches = dataset.batches(split, batch_size, device, cover=True)
        outcome = predict_batches(classifier, batches, progress=True)
        metrics = metrics_of(classifier.task, {})
        report = compute_metrics(outcome, self.labels, metrics)
        clips = [dataset.clips[row] for row in dataset.rows(split)]
        values = {name: report[name] for name in metrics if name in report}
        return Evaluation(values, report, Predictions.of(clips, outcome, classifier), split)

    def __repr__(self) -> str:
        summary = ", ".join(f"{title} {value}" for title, value in self._summary().items())
        return f"<spectrnn.Model {self.path}: {summary}>"

    def _repr_html_(self) -> str:
        rows = {"model": str(self.path), **self._summary()}
        cells = (f"<tr><th>{escape(title)}</th><td>{escape(value)}</td></tr>" for title, value in rows.items())
        return f"<table>{''.join(cells)}</table>"

    def _summary(self) -> dict[str, str]:
        classifier = self._predictor.classifier
        parameters = sum(parameter.numel() for parameter in classifier.parameters())
        summary = {
            "labels": f"{len(self.labels)} ({preview(self.labels, 5)})",
            "sample rate": f"{self.sample_rate} Hz",
            "stages": " + ".join(classifier.architecture),
            "parameters": f"{parameters:,}",
        }
        main = classifier.task.metrics[0]
        for split in ("test", "val", "pooled"):
            value = self.metrics.get(split, {}).get(main)
            if isinstance(value, float):
                return summary | {f"{split} {main}": f"{value:.4f}"}
        return summary

    def _classify(
        self, recordings: Iterator[Audio], sample_rate: int | None, channels: Channels | None, batch_size: int
    ) -> Iterator[Prediction]:
        parsed = (
            audio if isinstance(audio, Waveform) else parse_audio(audio, sample_rate, channels) for audio in recordings
        )
        for recording, (row,) in self._rows(parsed, ClipTask(self._predictor, None), batch_size):
            prediction = cast(ClipPrediction, row).prediction
            yield replace(prediction, path=recording) if isinstance(recording, str) else prediction

    def _rows(
        self, recordings: Iterator[str | Waveform], task: PredictionTask, batch_size: int
    ) -> Iterator[tuple[str | Waveform, list[Any]]]:
        """Yields the recordings, each with its rows."""
        pending: dict[str, str | Waveform] = {}

        def items() -> Iterator[Any]:
            for number, recording in zip(count(), recordings, strict=False):
                key = str(number)
                pending[key] = recording
                if isinstance(recording, str):
                    blocks: Iterable[Array] = logged_blocks(recording, self.sample_rate)
                else:
                    blocks = [recording.resampled(self.sample_rate)]
                yield from recording_items(key, blocks, task)

        rows: list[Any] = []
        limits = group_limits(self._predictor, batch_size)
        for results in predict_groups(task, group_windows(items(), *limits), batch_size):
            for result in results:
                if result.error is not None:
                    raise result.error
                rows += result.rows
                if result.status is RecordingStatus.DONE:
                    yield pending.pop(result.path), rows
                    rows = []

    def _media(self, recording: str | Waveform) -> dict[str, str]:
        """Returns ``audio`` and ``spectrogram`` of a recording as data URLs."""
        rate = self.sample_rate
        samples = to_float(load_audio(recording, rate)) if isinstance(recording, str) else recording.resampled(rate)
        return render_waveform(self._predictor.classifier, samples)


@dataclass(kw_only=True)
class _Table(DataSource):
    """Clips that are given as such."""

    rows: list[Clip]

    def clips(self) -> list[Clip]:
        return self.rows


def _source(table: Any, sample_rate: int) -> DataSource:
    """Returns the data source of a manifest file, a folder, a data frame or pairs (path, label)."""
    if isinstance(table, str | Path):
        path = Path(table).expanduser()
        kind, key = ("folder", "root") if path.is_dir() else ("manifest", "path")
        return instantiate(_data_node(kind, key, str(path), sample_rate), "data", DataSource)
    if hasattr(table, "to_dict"):  # a data frame
        clips = [_clip(row) for row in table.to_dict("records")]
    else:
        clips = [Clip(str(path), str(label)) for path, label in table]
    data = _data_node("manifest", "path", "", sample_rate)
    return _Table(rows=clips, **{name: data[name] for name in DataSource.__dataclass_fields__ if name in data})


def _data_node(kind: str, key: str, place: str, sample_rate: int) -> dict[str, Any]:
    """Returns the config node ``data`` of a kind of source, with its defaults."""
    overrides = [f"data={kind}", f"data.{key}={quote_override(place)}", f"data.sample_rate={sample_rate}"]
    return to_container(compose("eval", overrides, [CONFIG_DIR]).config.data, "data")


def _clip(row: Mapping[str, Any]) -> Clip:
    """Converts a row of a data frame, in which a missing value is None or NaN."""
    given = {
        name: value
        for name, value in row.items()
        if value is not None and not (isinstance(value, float) and math.isnan(value))
    }
    return Clip(
        str(given["path"]),
        str(given["label"]),
        split=given.get("split") or None,
        group=str(given["group"]) if "group" in given else None,
        start=float(given.get("start", 0.0)),
        end=float(given["end"]) if "end" in given else None,
    )


def load(run: str | Path = "latest", device: str = "auto", trust: Sequence[str] = ()) -> Model:
    """Loads a trained classifier.

    Args:
        run: Run folder, model file, ``latest``, ``best``, or a folder of runs: its best.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        trust: Packages, besides spectrnn, whose classes the model file may instantiate.

    Raises:
        UserError: No such model, a damaged file, or stages from packages that are not trusted.
    """
    path = find_model(str(run))
    return Model(path, predictor.load(path, device, trust))
