"""Base class of the stages that may process a stream block by block, with explicit state."""

from collections.abc import Mapping

from torch import Tensor, nn

StreamState = tuple[Tensor, ...]  # float32 tensors (batch, ...)


class StreamingModule(nn.Module):
    """A stage that may support streaming; unless a subclass declares it, it does not.

    To support it, a subclass sets ``streaming_issues = {}`` and implements `initial_state` and ``step``, so that the
    results of successive steps equal that of `forward` for all blocks at once.

    Attributes:
        streaming_issues: Reasons against streaming by the setting that causes them, "" for the stage itself.
    """

    streaming_issues: Mapping[str, str] = {"": "does not support streaming"}

    def initial_state(self, batch_size: int) -> StreamState:
        """Returns the state at the start of a stream, tensors (batch, ...); none by default."""
        return ()
