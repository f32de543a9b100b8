"""Answers to a sound that never ends: always for its last stretch, as if that were a clip."""

from typing import NamedTuple

import torch
from torch import Tensor

from spectrnn.frontend.masking import StreamState
from spectrnn.streaming.classifier import StreamingClassifier


class StreamPrediction(NamedTuple):
    """What a classifier says of a stretch of sound.

    Attributes:
        start, end: the stretch, in samples since the stream's beginning.
        probabilities: (classes,).
    """

    start: int
    end: int
    probabilities: Tensor


class RollingClassifier:
    """Several listeners to one stream, which begin anew in turn; the one that has listened longest answers.

    A classifier was trained on clips. A listener that never began anew would pool over hours, and no longer notice a
    word. With listeners as rows of one batch over the same features, all but the products of the encoder is done once.
    Packets wait until an answer is due: ten frames at once cost far less than one after another.

    Args:
        classifier: what listens.
        window: samples that a listener hears before it begins anew, about: what is not a frame for each is left out.
            An answer is for the window's last part, from ``1 - 1 / listeners`` of it to the whole.
        num_replicas: how many.
        every: frames from one answer to the next.
    """

    def __init__(self, classifier: StreamingClassifier, window: int, num_replicas: int, every: int) -> None:
        self.classifier, self.num_replicas, self.every = classifier, num_replicas, every
        self.layout = classifier.classifier.features
        frames = int(self.layout.num_frames(torch.tensor(window)))
        self.period = max(1, frames // num_replicas)  # frames from a new beginning to the next
        self.frames = 0  # that were heard
        self.waiting: list[Tensor] = []  # packets (1, samples)
        self.missing = (every - 1) * self.layout.hop_size + self.layout.window_size  # samples to the next answer
        unread, *self.fresh = classifier.initial(1)
        self.unread: StreamState = (unread,)
        self.state = tuple(classifier.initial(num_replicas)[1:])

    @torch.inference_mode()
    def hear(self, waveform: Tensor) -> list[StreamPrediction]:
        """Takes a packet of float32 (samples,), of any size, and gives the answers that are due."""
        self.waiting.append(waveform[None])
        self.missing -= len(waveform)
        if self.missing > 0:
            return []
        between = self.every * self.layout.hop_size
        self.missing = between - -self.missing % between
        return self._heard()

    @torch.inference_mode()
    def finish(self) -> list[StreamPrediction]:
        """The stream is over: what is due, and an answer for the rest, unless that is no whole frame."""
        rest = torch.cat(self.waiting, 1) if self.waiting else torch.zeros(1, 0)
        answers = self._heard() if self.waiting else []
        if self.frames % self.every:
            answers.append(self._answer((self.frames - 1) // self.period))
        elif not self.frames and rest.shape[1]:  # shorter than a frame, and padded to one as such a clip is
            device = self.unread[0].device
            probabilities, _ = self.classifier(rest.to(device), self.classifier.initial(1))
            answers.append(StreamPrediction(0, rest.shape[1], probabilities[0]))
        return answers

    def _heard(self) -> list[StreamPrediction]:
        """The answers due in the packets that waited."""
        waveform, self.waiting = torch.cat(self.waiting, 1), []
        answers = []
        x, self.unread = self.classifier.features(waveform.to(self.unread[0].device), self.unread)
        while x.shape[1]:
            turn, passed = divmod(self.frames, self.period)
            if not passed:
                self._begin_anew(turn % self.num_replicas)
            due = self.every - self.frames % self.every
            part, x = x[:, : min(due, self.period - passed)], x[:, min(due, self.period - passed) :]
            self.state = self.classifier.step(part.expand(self.num_replicas, -1, -1), self.state)
            self.frames += part.shape[1]
            if part.shape[1] == due:
                answers.append(self._answer(turn))
        return answers

    def _begin_anew(self, listener: int) -> None:
        for state, fresh in zip(self.state, self.fresh, strict=True):
            state[listener] = fresh[0]

    def _answer(self, turn: int) -> StreamPrediction:
        """That of the listener whose turn is next, at the end of what was heard."""
        oldest = (turn + 1) % self.num_replicas
        begun = max(0, turn + 1 - self.num_replicas) * self.period
        hop, window = self.layout.hop_size, self.layout.window_size
        probabilities = self.classifier.probabilities(tuple(state[oldest : oldest + 1] for state in self.state))
        return StreamPrediction(begun * hop, (self.frames - 1) * hop + window, probabilities[0])
