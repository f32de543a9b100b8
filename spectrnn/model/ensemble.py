"""An ensemble: several classifiers as one, whose probabilities are the mean of theirs."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from spectrnn.errors import UserError
from spectrnn.frontend.features import Features
from spectrnn.frontend.normalization import Normalization
from spectrnn.frontend.streaming import StreamingModule, StreamState
from spectrnn.model.classifier import Classifier, Head, Stages
from spectrnn.model.header import MAX_MEMBERS
from spectrnn.model.pooling import Pooling
from spectrnn.model.rnn import Encoder
from spectrnn.model.task import Task

_Stage = TypeVar("_Stage", bound=StreamingModule)


class Ensemble(Classifier):
    """Classifier whose probabilities are the mean of the calibrated probabilities of its members.

    It shares the weights of its members, and is in evaluation mode. Features are computed once. Each of its other
    stages runs that of all members, side by side: normalized features, hidden states and pooled vectors of a member
    follow those of the previous one in the last dimension. The attention weights are the mean over all heads of all
    members, (batch, 1, frames'). The logits are the logarithm of the mean probabilities.

    Args:
        members: Classifiers with the same labels and config, on the same device; of a cross-validation, for example.

    Attributes:
        num_members: Number of members.

    Raises:
        UserError: Too many members, or members that differ in more than their weights.
    """

    def __init__(self, members: Sequence[Classifier]) -> None:
        if not 1 <= len(members) <= MAX_MEMBERS:
            raise UserError(f"an ensemble has 1 to {MAX_MEMBERS} members, not {len(members)}")
        if any(isinstance(member, Ensemble) for member in members):
            raise UserError("the members of an ensemble should not be ensembles")
        first = members[0]
        for member in members[1:]:
            if member.labels != first.labels or _shapes(member) != _shapes(first):
                raise UserError("the members of an ensemble should have the same labels and the same stages")
            if not _equal(member.features, first.features):
                raise UserError("the members of an ensemble should have the same features; trained ones differ")
        temperatures = torch.stack([member.temperature for member in members])
        task = first.task.averaged([member.task for member in members[1:]])
        stages = Stages(
            first.features,
            _Normalizations([member.normalization for member in members]),
            _Encoders([member.encoder for member in members]),
            _Poolings([member.pooling for member in members]),
            _Heads([member.head for member in members], temperatures, task),
            task,
        )
        super().__init__(stages, first.labels)
        self.num_members, self._member_architecture = len(members), first.architecture
        self.max_train_samples = torch.stack([member.max_train_samples for member in members]).amax()
        self.temperature = torch.ones_like(first.temperature)
        self.eval()

    @property
    def architecture(self) -> list[str]:
        """See `Classifier.architecture`."""
        return [*self._member_architecture, f"ensemble of {self.num_members}"]

    @property
    def temperatures(self) -> Tensor:
        """Calibration temperature of the ensemble, 1 unless set, and those of its members: (1 + members, ...)."""
        return torch.cat([super().temperatures, cast(_Heads, self.head).temperatures])


class _SideBySide(StreamingModule, Generic[_Stage]):
    """A stage of all members."""

    members: Sequence[_Stage]

    def __init__(self, members: Sequence[_Stage], *args: Any) -> None:
        super().__init__(*args)
        self.members = cast(Sequence[_Stage], nn.ModuleList(members))
        self.streaming_issues = members[0].streaming_issues

    def initial_state(self, batch_size: int) -> StreamState:
        """Returns the states of all members, one after the other."""
        return tuple(chain(*(member.initial_state(batch_size) for member in self.members)))

    def _parts(self, x: Tensor) -> Iterator[tuple[_Stage, Tensor]]:
        """Yields each member with its part of an input (batch, frames, members * size)."""
        return zip(self.members, x.chunk(len(self.members), -1), strict=True)

    def _states(self, state: StreamState) -> Iterator[tuple[_Stage, StreamState]]:
        """Yields each member with its part of the state."""
        size = len(state) // len(self.members)
        for index, member in enumerate(self.members):
            yield member, state[index * size :][:size]


class _Normalizations(_SideBySide[Normalization], Normalization):
    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Features (batch, frames, bins), lengths (batch,) -> (batch, frames, members * bins)."""
        return torch.cat([member(x, lengths) for member in self.members], -1)


class _Encoders(_SideBySide[Encoder], Encoder):
    def __init__(self, members: Sequence[Encoder]) -> None:
        super().__init__(members)
        self.output_size = sum(member.output_size for member in members)
        self.time_stride = members[0].time_stride

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, frames, members * bins), lengths (batch,) -> (batch, frames', output_size), lengths' (batch,)."""
        outputs = [member(part, lengths) for member, part in self._parts(x)]
        return torch.cat([states for states, _ in outputs], -1), outputs[0][1]

    def step(self, x: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """See `Encoder.step`."""
        parts = zip(self._parts(x), self._states(state), strict=True)
        outputs = [member.step(part, member_state) for (member, part), (_, member_state) in parts]
        return torch.cat([states for states, _ in outputs], -1), tuple(chain(*(after for _, after in outputs)))


class _Poolings(_SideBySide[Pooling], Pooling):
    def __init__(self, members: Sequence[Pooling]) -> None:
        super().__init__(members, sum(member.output_size for member in members))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frames, members * size), lengths (batch,) -> (batch, output_size)."""
        return self.attend(x, lengths)[0]

    def attend(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
        """`forward` and the mean of all attention weights (batch, 1, frames); None without attention."""
        outputs = [member.attend(part, lengths) for member, part in self._parts(x)]
        weights = [attention for _, attention in outputs if attention is not None]
        attention = torch.cat(weights, 1).mean(1, keepdim=True) if weights else None
        return torch.cat([pooled for pooled, _ in outputs], -1), attention

    def step(self, x: Tensor, state: StreamState, count: Tensor) -> StreamState:
        """See `Pooling.step`."""
        parts = zip(self._parts(x), self._states(state), strict=True)
        return tuple(chain(*(member.step(part, before, count) for (member, part), (_, before) in parts)))

    def output(self, state: StreamState) -> Tensor:
        """See `Pooling.output`."""
        return torch.cat([member.output(member_state) for member, member_state in self._states(state)], -1)


class _Heads(nn.Module):
    """Heads of all members: (batch, members * pooled) -> logits (batch, classes) of the mean probabilities."""

    temperatures: Tensor

    def __init__(self, members: Sequence[nn.Module], temperatures: Tensor, task: Task) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self._task = (task,)  # not as a module, whose weights would be saved twice
        self.has_frames = getattr(members[0], "has_frames", False)
        self.register_buffer("temperatures", temperatures)

    def forward(self, pooled: Tensor) -> Tensor:
        """(batch, members * pooled) -> (batch, classes)."""
        parts = zip(self.members, pooled.chunk(len(self.members), -1), self.temperatures, strict=True)
        (task,) = self._task
        probabilities = [task.probabilities(member(part), temperature) for member, part, temperature in parts]
        return task.logits(torch.stack(probabilities).mean(0))

    def frames(self, states: Tensor) -> Tensor:
        """See `Head.frames`; (batch, frames', members * size) -> (batch, frames', classes)."""
        (task,) = self._task
        parts = zip(self.members, states.chunk(len(self.members), -1), strict=True)
        probabilities = [task.probabilities(cast(Head, member).frames(part)) for member, part in parts]
        return task.logits(torch.stack(probabilities).mean(0))


def _shapes(classifier: Classifier) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in classifier.state_dict().items()}


def _equal(first: Features, second: Features) -> bool:
    """Whether two features have equal tables and weights."""
    tensors = [[*features.parameters(), *features.buffers()] for features in (first, second)]
    return len(tensors[0]) == len(tensors[1]) and all(map(torch.equal, *tensors))
