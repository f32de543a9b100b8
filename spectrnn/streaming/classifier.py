"""A trained classifier from packet to packet: what it keeps between them is its input and its output."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spectrnn.config.instantiate import format_value
from spectrnn.config.paths import CONFIG_DIR
from spectrnn.errors import UserError
from spectrnn.frontend.masking import StreamState
from spectrnn.model.classifier import Classifier

_HINT = (
    "  It cannot run along with a stream. Sliding windows can: spectrnn predict - window=1 hop=0.1; "
    "or train one that runs along: spectrnn train experiment=streaming"
)


class StreamingClassifier(nn.Module):
    """A causal classifier whose answers, packet by packet, equal those to all the sound since the start, as a clip.

    The state is a tuple of tensors, all (batch, ...) and float32:

        unread    (batch, samples)      heard, and part of frames to come; at first none
        frames    (batch, 1)            that were heard
        encoder   (batch, hidden_size)  each, as its `initial_state` says
        pooling   (batch, ...)          each, as its `initial_state` says

    From ``window_size - hop_size`` unread samples on, packets of whole hops leave all shapes as they are; so an export
    for such packets begins with a state whose unread samples are the first ones of the stream.

    Args:
        classifier: in evaluation mode.
        config: of its run, which names the stages in messages.

    Raises:
        UserError: some of its stages cannot go on from packet to packet; all are named.
    """

    def __init__(self, classifier: Classifier, config: Mapping[str, Any]) -> None:
        super().__init__()
        _require_streamable(classifier, config)
        self.classifier = classifier
        self._encoder_states = len(classifier.encoder.initial_state(1))

    def initial(self, batch: int) -> StreamState:
        """The state before a stream."""
        classifier = self.classifier
        frames = torch.zeros(batch, 1)
        states = (
            *classifier.features.initial_state(batch),
            frames,
            *classifier.encoder.initial_state(batch),
            *classifier.pooling.initial_state(batch),
        )
        return tuple(state.to(classifier.max_train_samples.device) for state in states)

    def forward(self, waveform: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Hears a packet.

        Args:
            waveform: float32 (batch, samples) in [-1, 1), any number of samples.
            state: as `initial` or the last call gave it.

        Returns:
            Probabilities (batch, classes), those of `Classifier.probabilities` for all that was heard so far; before
            the first frame is whole, that is padded with zeros to one, as every such clip is. And the state.
        """
        x, unread = self.features(waveform, state[:1])
        states = state[1:]
        if x.shape[1]:
            states = self.step(x, states)
        elif not states[0].any():
            padding = self.classifier.features.window_size - unread[0].shape[1]
            x, _ = self.features(waveform.new_zeros(len(waveform), padding), unread)
            return self.probabilities(self.step(x, states)), (*unread, *states)
        return self.probabilities(states), (*unread, *states)

    def features(self, waveform: Tensor, unread: StreamState) -> tuple[Tensor, StreamState]:
        """(batch, samples), unread samples -> normalized (batch, frames, bins), of whole frames; unread samples."""
        x, unread = self.classifier.features.step(waveform, unread)
        return self.classifier.normalization(x, torch.full((len(x),), x.shape[1], device=x.device)), unread

    def step(self, x: Tensor, state: StreamState) -> StreamState:
        """Hears a frame or more: normalized (batch, frames, bins), the state but for unread samples -> the same."""
        encoder, pooling = self.classifier.encoder, self.classifier.pooling
        frames, split = state[0] + x.shape[1], 1 + self._encoder_states
        x, of_encoder = encoder.step(x, state[1:split])
        return frames, *of_encoder, *pooling.step(x, state[split:], frames)

    def probabilities(self, state: StreamState) -> Tensor:
        """The state but for unread samples -> calibrated probabilities (batch, classes)."""
        pooled = self.classifier.pooling.output(state[1 + self._encoder_states :])
        return self.classifier.task.probabilities(self.classifier.head(pooled), self.classifier.temperature)


def _require_streamable(classifier: Classifier, config: Mapping[str, Any]) -> None:
    problems = [
        f"{key}.{name}={format_value(config[key].get(name))}: {reason}"
        if name
        else f"{key}={_option(key, config)}: {reason}"
        for key, stage in classifier.stages.items()
        for name, reason in getattr(stage, "streaming_issues", {}).items()
    ]
    if problems:
        raise UserError("\n".join([*problems, _HINT]))


def _option(group: str, config: Mapping[str, Any]) -> str:
    """What one types for a stage: the option of its group, or, of someone's own, the class."""
    target = config[group]["_target_"]
    files = [
        file for file in sorted((CONFIG_DIR / group).glob("*.yaml")) if f"_target_: {target}\n" in file.read_text()
    ]
    return files[0].stem if files else target
