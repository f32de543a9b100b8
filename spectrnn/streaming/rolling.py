"""Classification of an endless stream: each output is for the last window of audio, as if that were a clip."""

from typing import NamedTuple

import torch
from torch import Tensor

from spectrnn.streaming.classifier import StreamingClassifier


class StreamPrediction(NamedTuple):
    """Probabilities (classes,) for a segment of a stream, whose start and end count samples from that of the stream."""

    start: int
    end: int
    probabilities: Tensor


class RollingClassifier:
    """Staggered replicas of a streaming classifier, reset in turn; the one reset longest ago provides the output.

    A replica that is never reset would pool over hours, and no longer respond to a word. The replicas are rows of one
    batch over the same features. Blocks are collected until an output is due, as ten frames at once take far less time
    than one by one.

    Args:
        classifier: Streaming classifier.
        window: Number of samples after which a replica is reset, rounded to whole frames per replica. An output is for
            the last ``1 - 1 / num_replicas`` of it, at least.
        num_replicas: Number of replicas.
        output_stride: Number of frames per output.
    """

    def __init__(self, classifier: StreamingClassifier, window: int, num_replicas: int, output_stride: int) -> None:
        self.classifier, self.num_replicas, self.output_stride = classifier, num_replicas, output_stride
        features = classifier.classifier.features
        self.hop_size, self.window_size = features.hop_size, features.window_size
        self.reset_stride = max(1, int(features.num_frames(torch.tensor(window))) // num_replicas)  # frames per reset
        self.frames = 0  # processed
        self.blocks: list[Tensor] = []  # collected, (1, samples) each
        self.samples_until_output = (output_stride - 1) * self.hop_size + self.window_size
        self.pending, *self.initial_state = classifier.initial_state(1)
        self.state = classifier.initial_state(num_replicas)[1:]

    @torch.inference_mode()
    def push(self, waveform: Tensor) -> list[StreamPrediction]:
        """Adds a block float32 (samples,) of any size, and returns the predictions that are due."""
        self.blocks.append(waveform[None])
        self.samples_until_output -= len(waveform)
        if self.samples_until_output > 0:
            return []
        stride = self.output_stride * self.hop_size
        self.samples_until_output = stride - -self.samples_until_output % stride
        return self._process()

    @torch.inference_mode()
    def finish(self) -> list[StreamPrediction]:
        """Returns the remaining predictions at the end of the stream, for whole frames."""
        rest = torch.cat(self.blocks, 1) if self.blocks else torch.zeros(1, 0)
        predictions = self._process() if self.blocks else []
        if self.frames % self.output_stride:
            predictions.append(self._predict())
        elif not self.frames and rest.shape[1]:  # shorter than a frame: padded to one, like a short clip
            probabilities, _ = self.classifier(rest.to(self.pending.device), self.classifier.initial_state(1))
            predictions.append(StreamPrediction(0, rest.shape[1], probabilities[0]))
        return predictions

    def _process(self) -> list[StreamPrediction]:
        """Processes the collected blocks up to each reset and output."""
        waveform, self.blocks = torch.cat(self.blocks, 1), []
        predictions = []
        x, self.pending = self.classifier.classifier.features.mel_step(waveform.to(self.pending.device), self.pending)
        while x.shape[1]:
            resets, frames_since_reset = divmod(self.frames, self.reset_stride)
            if not frames_since_reset:
                self._reset_replica(resets % self.num_replicas)
            frames_until_output = self.output_stride - self.frames % self.output_stride
            size = min(frames_until_output, self.reset_stride - frames_since_reset)
            part, x = x[:, :size], x[:, size:]
            _, self.state = self.classifier.step(part.expand(self.num_replicas, -1, -1), self.state)
            self.frames += part.shape[1]
            if part.shape[1] == frames_until_output:
                predictions.append(self._predict())
        return predictions

    def _reset_replica(self, replica: int) -> None:
        for state, initial in zip(self.state, self.initial_state, strict=True):
            state[replica] = initial[0]

    def _predict(self) -> StreamPrediction:
        """Output of the replica that is reset next, for the frames so far."""
        resets = 1 + (self.frames - 1) // self.reset_stride
        oldest, first_frame = resets % self.num_replicas, max(0, resets - self.num_replicas) * self.reset_stride
        probabilities = self.classifier.probabilities(tuple(state[oldest : oldest + 1] for state in self.state))
        end = (self.frames - 1) * self.hop_size + self.window_size
        return StreamPrediction(first_frame * self.hop_size, end, probabilities[0])
