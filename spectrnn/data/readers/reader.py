"""The interface of all readers of recordings."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

FloatSamples = npt.NDArray[np.float32]


class AudioReader(ABC):
    """A recording at its own sample rate, with all of its channels.

    Attributes:
        sample_rate: Sample rate in Hz.
        channels: Number of channels.
        frames: Number of frames that the header announces, or that were counted; None if neither is reliable.
        is_float: Whether the samples are stored as floats, which may exceed full scale.
        is_live: Whether it can be read once only, as it arrives.
        warnings: What is wrong with the recording as far as it was read, as ends of sentences that start with its path.
    """

    sample_rate: int
    channels: int
    frames: int | None
    is_float: bool
    is_live = False
    warnings: list[str]

    @property
    @abstractmethod
    def format(self) -> str:
        """Container and encoding, such as ``WAV PCM_16``."""

    @abstractmethod
    def read(self, first: int, last: int | None, size: int) -> Iterator[FloatSamples]:
        """Reads frames. The same frames are the same samples, whatever was read before.

        Args:
            first: First frame.
            last: Frame before which to stop; None for the end.
            size: Maximum number of frames of a block.

        Yields:
            Blocks, float32 (frames, channels), without empty ones; fewer frames if the recording ends before `last`.
        """

    @abstractmethod
    def close(self) -> None:
        """Closes the file."""

    @property
    def seconds(self) -> float:
        """Length in s according to the header; 0 if that is unknown."""
        return (self.frames or 0) / self.sample_rate
