"""A streaming wrapper of a causal classifier, which takes and returns explicit state."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spectrnn.config.instantiate import format_value
from spectrnn.config.paths import CONFIG_DIR
from spectrnn.errors import UserError
from spectrnn.frontend.streaming import StreamState
from spectrnn.model.classifier import Classifier

_HINT = (
    "  The model cannot process a stream. Sliding windows take any model: spectrnn predict - window=1 hop=0.1; "
    "or train a causal one: spectrnn train experiment=streaming"
)


class StreamingClassifier(nn.Module):
    """Classifies a stream block by block. The result equals that of the classifier for the whole stream so far.

    It does not crop: a stream that is longer than the training clips should be restarted.

    The state is a tuple of float32 tensors (batch, ...):

        pending samples  (batch, samples)      start of the frames to come; none at first
        frame count      (batch, 1)
        features         (batch, bins)         see their `initial_state`
        encoder          (batch, hidden_size)  see its `initial_state`
        pooling          (batch, ...)          see its `initial_state`

    From ``window_size - hop_size`` pending samples on, blocks of whole hops keep all shapes.

    Args:
        classifier: Classifier in evaluation mode.
        config: Config of its run, for messages.

    Raises:
        UserError: Stages that cannot process a stream, one per line.
    """

    def __init__(self, classifier: Classifier, config: Mapping[str, Any]) -> None:
        super().__init__()
        _require_streamable(classifier, config)
        self.classifier = classifier
        _, *features = classifier.features.initial_state(1)
        self._encoder_start = 1 + len(features)  # in the state without pending samples
        self._encoder_end = self._encoder_start + len(classifier.encoder.initial_state(1))

    def initial_state(self, batch_size: int) -> StreamState:
        """Returns the state at the start of a stream."""
        stages = (self.classifier.features, self.classifier.encoder, self.classifier.pooling)
        (pending, *features), encoder, pooling = (stage.initial_state(batch_size) for stage in stages)
        states = (pending, torch.zeros(batch_size, 1), *features, *encoder, *pooling)
        return tuple(state.to(self.classifier.max_train_samples.device) for state in states)

    def forward(self, waveform: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Processes a block.

        Args:
            waveform: Block of any size in [-1, 1), float32 (batch, samples).
            state: State from `initial_state` or the last call.

        Returns:
            Probabilities (batch, classes), those of `Classifier.probabilities` for the stream so far, and the state.
        """
        features, (pending, *rest) = self.classifier.features, state
        x, pending = features.mel_step(waveform, pending)
        states = tuple(rest)
        if x.shape[1]:
            _, states = self.step(x, states)
        elif not states[0].any():  # before the first frame: padded with zeros to one, like a short clip
            x, _ = features.mel_step(
                waveform.new_zeros(len(waveform), features.window_size - pending.shape[1]), pending
            )
            return self.probabilities(self.step(x, states)[1]), (pending, *states)
        return self.probabilities(states), (pending, *states)

    def step(self, x: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Processes frames.

        Args:
            x: Frames of `mel_step`, at least one, (batch, frames, n_mels).
            state: State without pending samples.

        Returns:
            Normalized features (batch, frames, bins), and the next state without pending samples.
        """
        model, start, end = self.classifier, self._encoder_start, self._encoder_end
        count = state[0] + x.shape[1]
        x, features_state = model.features.compress(x, state[1:start])
        x = model.normalization(x, torch.full((len(x),), x.shape[1], device=x.device))
        hidden, encoder_state = model.encoder.step(x, state[start:end])
        return x, (count, *features_state, *encoder_state, *model.pooling.step(hidden, state[end:], count))

    def probabilities(self, state: StreamState) -> Tensor:
        """State without pending samples -> calibrated probabilities (batch, classes)."""
        pooled = self.classifier.pooling.output(state[self._encoder_end :])
        return self.classifier.task.probabilities(self.classifier.head(pooled), self.classifier.temperature)


def _require_streamable(classifier: Classifier, config: Mapping[str, Any]) -> None:
    problems = [
        f"{key}.{name}={format_value(config[key].get(name))}: {reason}"
        if name
        else f"{key}={_option(key, config[key]['_target_'])}: {reason}"
        for key, stage in classifier.stages.items()
        for name, reason in getattr(stage, "streaming_issues", {}).items()
    ]
    if problems:
        raise UserError("\n".join([*problems, _HINT]))


def _option(group: str, target: str) -> str:
    """The option of a config group that has a target; for a class without a built-in option, the target itself."""
    files = sorted((CONFIG_DIR / group).glob("*.yaml"))
    return next((file.stem for file in files if f"_target_: {target}\n" in file.read_text("utf-8")), target)
