"""What a run tells: the progress bar, the log, and TensorBoard."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams
from tqdm import tqdm

from spectrnn.data.batches import Batch
from spectrnn.evaluation.metrics import Array
from spectrnn.evaluation.plots import confusion_figure, spectrogram_figure
from spectrnn.model.classifier import Classifier
from spectrnn.progress import progress_bar

log = logging.getLogger(__name__)

_SHOWN = 4  # clips of a batch that TensorBoard shows
_SPEED = "train/clips_per_second"  # a curve that runs are compared by, too


class RunLogger:
    """The progress bar and TensorBoard of a run; all steps of its curves are clips seen.

    Args:
        folder: of the run.
        resumed_at: clips seen when the run goes on after a stop; what was logged later is dropped.
    """

    def __init__(self, folder: Path, resumed_at: int | None = None) -> None:
        purge = None if resumed_at is None else resumed_at + 1
        self.writer = SummaryWriter(str(folder), purge_step=purge)

    def __enter__(self) -> "RunLogger":
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.close()

    def flush(self) -> None:
        """Writes what is still held back."""
        self.writer.flush()

    def progress(self, epoch: int, epochs: int, clips: int, done: int) -> "tqdm[Any]":
        """The bar of an epoch, counted in clips, of which some may be done already."""
        width = len(str(epochs))
        return progress_bar(clips, f"epoch {epoch + 1:>{width}}/{epochs}", "clip", initial=done)

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """Logs the curves within an epoch: its loss and accuracy so far, the learning rate, the gradient's norm."""
        for name, value in figures.items():
            self.writer.add_scalar(f"step/{name}", value, step)

    def epoch(self, step: int, figures: Mapping[str, Any], best: bool) -> None:
        """Logs the curves of an epoch, and prints its line."""
        for part in ("train", "val"):
            for name, value in (figures[part] or {}).items():
                self.writer.add_scalar(f"{part}/{name}", value, step)
        train, val = figures["train"], figures["val"]
        line = f"epoch {figures['epoch']:>3}  train loss {train['loss']:.4f}  acc {train['accuracy']:.4f}"
        if val:
            line += f"  val loss {val['loss']:.4f}  acc {val['accuracy']:.4f}  f1 {val['macro_f1']:.4f}"
        log.info("%s  %5.0f clips/s%s", line, train["clips_per_second"], "  *" if best else "")

    @torch.no_grad()
    def batch(self, classifier: Classifier, batch: Batch, titles: list[str], step: int) -> None:
        """Shows clips of a training batch: their sound and their features, before and after augmentation.

        Args:
            classifier: its mode is restored afterwards.
            batch: its first clips are shown.
            titles: one a clip.
            step: clips seen.
        """
        part = Batch(*(tensor[:_SHOWN] for tensor in batch))
        training = classifier.training
        classifier.train()
        augmented = classifier.augment.waveform(part)
        after = _per_clip(*classifier.frontend(augmented.waveform, augmented.lengths))
        before = _per_clip(*classifier.eval().frontend(part.waveform, part.lengths))
        classifier.train(training)
        self.writer.add_figure("train_clips/features", spectrogram_figure(before, titles, classifier.features), step)
        self.writer.add_figure(
            "train_clips/features_augmented", spectrogram_figure(after, titles, classifier.features), step
        )
        for name, shown in (("train_clips/audio", part), ("train_clips/audio_augmented", augmented)):
            for index in range(len(shown.lengths)):
                samples = shown.waveform[index, : int(shown.lengths[index])].clamp(-1, 1)
                samples = torch.nn.functional.pad(samples, (0, max(0, 2 - len(samples))))  # one alone is no sound to it
                tag = f"{name}/{index}_{titles[index]}"
                self.writer.add_audio(tag, samples[None].cpu(), step, classifier.sample_rate)

    @torch.no_grad()
    def attention(self, classifier: Classifier, batch: Batch, titles: list[str], step: int) -> None:
        """Shows what a pooling with attention looks at in clips of a batch; nothing for one without.

        Args:
            classifier: in evaluation mode.
            batch: its first clips are shown.
            titles: one a clip.
            step: clips seen.
        """
        part = Batch(*(tensor[:_SHOWN] for tensor in batch))
        x = classifier.trace(part.waveform, part.lengths)
        if x.attention is not None:
            looks = [weights.T for weights in _per_clip(x.attention.transpose(1, 2), x.state_lengths)]
            picture = spectrogram_figure(_per_clip(x.features, x.feature_lengths), titles, classifier.features, looks)
            self.writer.add_figure("train_clips/attention", picture, step)

    def confusion(self, split: str, matrix: Array, labels: list[str], step: int) -> None:
        """Shows a confusion matrix (classes, classes)."""
        self.writer.add_figure(f"{split}/confusion", confusion_figure(matrix, labels), step)

    def finish(self, hyperparameters: Mapping[str, Any], figures: Mapping[str, float], step: int) -> None:
        """Logs what the HPARAMS tab compares runs by.

        Args:
            hyperparameters: names and scalars.
            figures: of the best classifier; of a split's curves the last value is not its.
            step: clips seen.
        """
        # The writer's own add_hparams would open another run in a folder of its own.
        file_writer = self.writer.file_writer
        assert file_writer is not None
        for summary in hparams(dict(hyperparameters), dict.fromkeys([*figures, _SPEED])):
            file_writer.add_summary(summary)
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)


class NullLogger(RunLogger):
    """The log of a process that is not the first one: tells nothing."""

    def __init__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def progress(self, epoch: int, epochs: int, clips: int, done: int) -> "tqdm[Any]":
        """No bar."""
        return progress_bar(clips, "", "clip", disable=True)

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """Nothing."""

    def epoch(self, step: int, figures: Mapping[str, Any], best: bool) -> None:
        """Nothing."""


def _per_clip(x: Tensor, frames: Tensor) -> list[Array]:
    """(batch, frames, size), valid frames (batch,) -> an array (valid frames, size) a clip."""
    return [clip[: int(count)].float().cpu().numpy() for clip, count in zip(x, frames, strict=True)]


def table(rows: Mapping[str, Mapping[str, float] | None], columns: list[str]) -> str:
    """Figures as text: a row a split, a column a metric."""
    lines = ["         " + "".join(f"{name:>18}" for name in columns)]
    for name, figures in rows.items():
        if figures is not None:
            cells = (f"{figures[c]:18.4f}" if c in figures else f"{'':>18}" for c in columns)
            lines.append(f"{name:<9}" + "".join(cells))
    return "\n".join(lines)
