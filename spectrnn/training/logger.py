"""Logging of a run: progress bar, log lines and TensorBoard."""

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from spectrnn.data.batches import Batch
from spectrnn.evaluation.metrics import Array
from spectrnn.evaluation.plots import confusion_figure, spectrogram_figure
from spectrnn.model.classifier import Classifier
from spectrnn.progress import progress_bar

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)

_NUM_CLIPS = 4  # of a batch in TensorBoard
_SPEED = "train/clips_per_second"  # a curve that is a metric in HPARAMS, too


class RunLogger:
    """Progress bar and TensorBoard of a run. The step of all curves is the number of training clips seen.

    Args:
        folder: Folder of the run.
        metric: Name of the metric that selects the best epoch, for the log line of an epoch.
        resumed_at: Number of clips seen by a resumed run, whose later events are dropped; None for a new run.
    """

    def __init__(self, folder: Path, metric: str, resumed_at: int | None = None) -> None:
        self.folder, self.metric, self.resumed_at = folder, metric, resumed_at

    @cached_property
    def writer(self) -> "SummaryWriter":
        """TensorBoard's writer, imported after the first steps."""
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.folder), purge_step=None if self.resumed_at is None else self.resumed_at + 1)

    def __enter__(self) -> "RunLogger":
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.close()

    def flush(self) -> None:
        """Writes pending events to disk."""
        self.writer.flush()

    def progress(self, epoch: int, epochs: int, clips: int, seen: int) -> "tqdm[Any]":
        """Returns the progress bar of an epoch, in clips, of which some may have been seen before an interruption."""
        return progress_bar(clips, f"epoch {epoch + 1:>{len(str(epochs))}}/{epochs}", "clip", initial=seen)

    def log_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs metrics within an epoch: loss and accuracy so far, learning rate, gradient norm."""
        for name, value in metrics.items():
            self.writer.add_scalar(f"step/{name}", value, step)

    def log_epoch(self, step: int, metrics: Mapping[str, Any], is_best: bool) -> None:
        """Logs the metrics of an epoch (``epoch``, ``train``, ``val``), and prints its line."""
        for split in ("train", "val"):
            for name, value in (metrics[split] or {}).items():
                self.writer.add_scalar(f"{split}/{name}", value, step)
        train, val = metrics["train"], metrics["val"]
        line = f"epoch {metrics['epoch']:>3}  train loss {train['loss']:.4f}  accuracy {train['accuracy']:.4f}"
        if val:
            names = dict.fromkeys(("loss", self.metric))
            line += "  val " + "  ".join(f"{name} {val[name]:.4f}" for name in names)
        log.info("%s  %5.0f clips/s%s", line, train["clips_per_second"], "  (best)" if is_best else "")

    @torch.no_grad()
    def log_batch(self, classifier: Classifier, batch: Batch, titles: Sequence[str], step: int) -> None:
        """Logs audio and features of the first clips of a training batch, before and after augmentation.

        Args:
            classifier: Classifier; its mode is restored.
            batch: Batch of clips.
            titles: Title of each clip.
            step: Number of clips seen.
        """
        original = Batch(*(tensor[:_NUM_CLIPS] for tensor in batch))
        training = classifier.training
        targets = classifier.task.encode(original.targets)
        augmented = classifier.train().augment.waveform(original._replace(targets=targets))
        after = _per_clip(*classifier.frontend(augmented.waveform, augmented.lengths))
        before = _per_clip(*classifier.eval().frontend(original.waveform, original.lengths))
        classifier.train(training)
        for suffix, clips, features in (("", original, before), ("_augmented", augmented, after)):
            figure = spectrogram_figure(features, titles, classifier.features)
            self.writer.add_figure(f"train_clips/features{suffix}", figure, step)
            for index, length in enumerate(clips.lengths.tolist()):
                samples = clips.waveform[index, :length].clamp(-1, 1)
                samples = torch.nn.functional.pad(samples, (0, max(0, 2 - length)))  # TensorBoard needs two samples
                tag = f"train_clips/audio{suffix}/{index}_{titles[index]}"
                self.writer.add_audio(tag, samples[None].cpu(), step, classifier.sample_rate)

    @torch.no_grad()
    def log_attention(self, classifier: Classifier, batch: Batch, titles: Sequence[str], step: int) -> None:
        """Logs attention weights, if the pooling has any, for the first clips of a batch; arguments as in `log_batch`.

        The classifier is in evaluation mode.
        """
        x = classifier.trace(batch.waveform[:_NUM_CLIPS], batch.lengths[:_NUM_CLIPS])
        if x.attention is not None:
            weights = [clip.T for clip in _per_clip(x.attention.transpose(1, 2), x.state_lengths)]
            features = _per_clip(x.features, x.feature_lengths)
            figure = spectrogram_figure(features, titles, classifier.features, weights)
            self.writer.add_figure("train_clips/attention", figure, step)

    def log_confusion(self, split: str, matrix: Array, labels: list[str], step: int) -> None:
        """Logs the confusion matrix (classes, classes) of a split."""
        self.writer.add_figure(f"{split}/confusion", confusion_figure(matrix, labels), step)

    def log_result(self, hyperparameters: Mapping[str, Any], metrics: Mapping[str, float], step: int) -> None:
        """Logs hyperparameters, and the final metrics of the best classifier, for TensorBoard's HPARAMS tab."""
        from torch.utils.tensorboard.summary import hparams

        # The writer's own add_hparams would create a second run in a folder of its own.
        file_writer = self.writer.file_writer
        assert file_writer is not None
        for summary in hparams(dict(hyperparameters), dict.fromkeys([*metrics, _SPEED])):
            file_writer.add_summary(summary)
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)


class NullLogger(RunLogger):
    """Logger of all ranks but the first: logs nothing."""

    def __init__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def progress(self, epoch: int, epochs: int, clips: int, seen: int) -> "tqdm[Any]":
        """Returns a disabled progress bar."""
        return progress_bar(clips, "", "clip", disable=True)

    def log_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Does nothing."""

    def log_epoch(self, step: int, metrics: Mapping[str, Any], is_best: bool) -> None:
        """Does nothing."""


def _per_clip(x: Tensor, lengths: Tensor) -> list[Array]:
    """(batch, frames, size), valid frames (batch,) -> an array (valid frames, size) per clip."""
    return [clip[: int(length)].float().cpu().numpy() for clip, length in zip(x, lengths, strict=True)]
