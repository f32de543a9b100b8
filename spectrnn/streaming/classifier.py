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
        self._num_encoder_states = len(classifier.encoder.initial_state(1))

    def initial_state(self, batch_size: int) -> StreamState:
        """Returns the state at the start of a stream."""
        stages = (self.classifier.features, self.classifier.encoder, self.classifier.pooling)
        features, encoder, pooling = (stage.initial_state(batch_size) for stage in stages)
        states = (*features, torch.zeros(batch_size, 1), *encoder, *pooling)
        return tuple(state.to(self.classifier.max_train_samples.device) for state in states)

    def forward(self, waveform: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Processes a block.

        Args:
            waveform: Block of any size in [-1, 1), float32 (batch, samples).
            state: State from `initial_state` or the last call.

        Returns:
            Probabilities (batch, classes), those of `Classifier.probabilities` for the stream so far, and the state.
        """
        x, pending = self.features(waveform, state[:1])
        states = state[1:]
        if x.shape[1]:
            states = self.step(x, states)
        elif not states[0].any():  # before the first frame: padded with zeros to one, like a short clip
            missing = self.classifier.features.window_size - pending[0].shape[1]
            x, _ = self.features(waveform.new_zeros(len(waveform), missing), pending)
            return self.probabilities(self.step(x, states)), (*pending, *states)
        return self.probabilities(states), (*pending, *states)

    def features(self, waveform: Tensor, pending: StreamState) -> tuple[Tensor, StreamState]:
        """Block (batch, samples), pending samples -> normalized features (batch, frames, bins), pending samples."""
        x, pending = self.classifier.features.step(waveform, pending)
        return self.classifier.normalization(x, torch.full((len(x),), x.shape[1], device=x.device)), pending

    def step(self, x: Tensor, state: StreamState) -> StreamState:
        """One or more frames of normalized features (batch, frames, bins), state without pending samples -> same."""
        count, split = state[0] + x.shape[1], 1 + self._num_encoder_states
        x, encoder_state = self.classifier.encoder.step(x, state[1:split])
        return count, *encoder_state, *self.classifier.pooling.step(x, state[split:], count)

    def probabilities(self, state: StreamState) -> Tensor:
        """State without pending samples -> calibrated probabilities (batch, classes)."""
        pooled = self.classifier.pooling.output(state[1 + self._num_encoder_states :])
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
