"""Logging of a run: progress bar, log lines, and what its loggers receive."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from spectrnn.data.batches import Batch
from spectrnn.evaluation.confusion import Confusion
from spectrnn.evaluation.metrics import Outcome
from spectrnn.evaluation.plots import confusion_figure, spectrogram_figure
from spectrnn.evaluation.rankings import Array, is_of_class
from spectrnn.messages import format_seconds
from spectrnn.model.classifier import Classifier
from spectrnn.progress import progress_bar
from spectrnn.training.loggers.base import Hyperparameters, Logger

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

_NUM_CLIPS = 4  # of a batch that is logged
_MAX_PR_CURVES = 20  # of a split: more classes have none


class RunLogger:
    """Progress bar and log lines of a run, and its loggers. A step is the number of training clips seen.

    Args:
        loggers: Loggers of the run.
        metric: Name of the metric that selects the best epoch, for the log line of an epoch.
        fraction_correct: What the fraction of correct clips is called, as of `Task`.

    Attributes:
        started: Loggers that have been started.
    """

    def __init__(self, loggers: Sequence[Logger], metric: str, fraction_correct: str) -> None:
        self.loggers, self.metric, self.fraction_correct = loggers, metric, fraction_correct
        self.started: list[Logger] = []
        self.has_head = False  # of the lines of epochs

    def __enter__(self) -> "RunLogger":
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        for logger in self.started:
            logger.close(error)

    def start(self, folder: Path, hyperparameters: Hyperparameters, resumed_at: int | None) -> None:
        """Starts the loggers; arguments as for `Logger.start`."""
        for logger in self.loggers:
            logger.start(folder, hyperparameters, resumed_at)
            self.started.append(logger)

    def log_text(self, tag: str, text: str) -> None:
        """Logs a text about the run in Markdown."""
        for logger in self.started:
            logger.log_text(tag, text)

    def flush(self) -> None:
        """Writes what is pending to the logs."""
        for logger in self.started:
            logger.flush()

    def progress(self, epoch: int, epochs: int, clips: int, seen: int) -> "tqdm[Any]":
        """Returns the progress bar of an epoch, in clips, of which some may have been seen before an interruption."""
        return progress_bar(clips, f"epoch {epoch + 1:>{len(str(epochs))}}/{epochs}", "clip", initial=seen)

    def log_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs metrics within an epoch: loss and accuracy so far, learning rate, gradient norm."""
        for logger in self.started:
            logger.log_metrics({f"step/{name}": value for name, value in metrics.items()}, step)

    def log_epoch(self, step: int, metrics: Mapping[str, Any], is_best: bool, seconds_left: float) -> None:
        """Logs the metrics of an epoch, and prints its line, with a head before the first one.

        Args:
            step: Number of clips seen.
            metrics: ``epoch``, its number; metrics of ``train`` and ``val``, the latter None without such clips.
            is_best: Whether the epoch is the best so far.
            seconds_left: Expected time until training ends in s.
        """
        train, val = metrics["train"], metrics["val"]
        splits = {"train": train, "val": val or {}}
        values = {f"{split}/{name}": value for split, scores in splits.items() for name, value in scores.items()}
        for logger in self.started:
            logger.log_metrics(values, step)
        cells = [("train loss", f"{train['loss']:.4f}"), (self.fraction_correct, f"{train['accuracy']:.4f}")]
        if val:
            cells += [("val loss", f"{val['loss']:.4f}")]
            cells += [(self.metric, f"{val[self.metric]:.4f}")] if self.metric != "loss" else []
        cells += [
            ("       speed", f"{train['clips_per_second']:.0f} clips/s"),
            ("time left", format_seconds(seconds_left)),
        ]
        if not self.has_head:
            log.info("%s\n%9s  %s", "*: the best epoch so far", "", "  ".join(title for title, _ in cells))
            self.has_head = True
        row = "  ".join(value.rjust(len(title)) for title, value in cells)
        log.info("epoch %3d  %s%s", metrics["epoch"], row, " *" if is_best else "")

    @torch.no_grad()
    def log_batch(self, classifier: Classifier, batch: Batch, titles: Sequence[str], step: int) -> None:
        """Logs audio and features of the first clips of a training batch, before and after augmentation.

        Args:
            classifier: Classifier; its mode is restored.
            batch: Batch of clips.
            titles: Title of each clip.
            step: Number of clips seen.
        """
        if not self.started:
            return
        waveform, lengths, targets, rows, weights = (tensor[:_NUM_CLIPS] for tensor in batch[:5])
        original = Batch(waveform, lengths, targets, rows, weights)
        training = classifier.training
        encoded = original._replace(targets=classifier.task.encode(targets))
        augmented = classifier.train().augment.waveform(encoded)
        after = _per_clip(*classifier.frontend(augmented.waveform, augmented.lengths))
        before = _per_clip(*classifier.eval().frontend(original.waveform, original.lengths))
        classifier.train(training)
        for suffix, clips, features in (("", original, before), ("_augmented", augmented, after)):
            figure = spectrogram_figure(features, titles, classifier.features)
            self._log_figure(f"train_clips/features{suffix}", figure, step)
            for index, length in enumerate(clips.lengths.tolist()):
                samples = clips.waveform[index, :length].clamp(-1, 1).cpu().numpy()
                tag = f"train_clips/audio{suffix}/{index}_{_tag_part(titles[index])}"
                for logger in self.started:
                    logger.log_audio(tag, samples, classifier.sample_rate, step)

    @torch.no_grad()
    def log_attention(self, classifier: Classifier, batch: Batch, titles: Sequence[str], step: int) -> None:
        """Logs attention weights, if the pooling has any, for the first clips of a batch; arguments as in `log_batch`.

        The classifier is in evaluation mode.
        """
        if not self.started:
            return
        x = classifier.trace(batch.waveform[:_NUM_CLIPS], batch.lengths[:_NUM_CLIPS])
        if x.attention is not None:
            weights = [clip.T for clip in _per_clip(x.attention.transpose(1, 2), x.state_lengths)]
            features = _per_clip(x.features, x.feature_lengths)
            figure = spectrogram_figure(features, titles, classifier.features, weights)
            self._log_figure("train_clips/attention", figure, step)

    def log_confusion(self, split: str, confusion: Confusion, step: int) -> None:
        """Logs the confusion matrix of a split."""
        if self.started:
            self._log_figure(f"{split}/confusion", confusion_figure(confusion), step)

    def log_pr_curves(self, split: str, outcome: Outcome, labels: Sequence[str], step: int) -> None:
        """Logs a precision-recall curve of each class of a split, unless there are many.

        Args:
            split: Name of the split.
            outcome: Answers for the clips of the split.
            labels: Class names.
            step: Number of clips seen.
        """
        for index, label in enumerate(labels if len(labels) <= _MAX_PR_CURVES else ()):
            for logger in self.started:
                tag = f"{split}_pr_curve/{_tag_part(label)}"
                logger.log_pr_curve(tag, is_of_class(outcome.targets, index), outcome.probabilities[:, index], step)

    def finish(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs the final metrics of the best classifier."""
        for logger in self.started:
            logger.finish(metrics, step)

    def _log_figure(self, tag: str, figure: "Figure", step: int) -> None:
        for logger in self.started:
            logger.log_figure(tag, figure, step)


class NullLogger(RunLogger):
    """Logger of all ranks but the first: logs nothing."""

    def __init__(self) -> None:
        super().__init__([], "", "")

    def progress(self, epoch: int, epochs: int, clips: int, seen: int) -> "tqdm[Any]":
        """Returns a disabled progress bar."""
        return progress_bar(clips, "", "clip", disable=True)

    def log_epoch(self, step: int, metrics: Mapping[str, Any], is_best: bool, seconds_left: float) -> None:
        """Does nothing."""


def _tag_part(label: str) -> str:
    """A label without what a tag or file name must not contain."""
    return re.sub(r"[^\w.-]+", "_", label)


def _per_clip(x: Tensor, lengths: Tensor) -> list[Array]:
    """(batch, frames, size), valid frames (batch,) -> an array (valid frames, size) per clip."""
    return [clip[: int(length)].float().cpu().numpy() for clip, length in zip(x, lengths, strict=True)]
