"""The clip table: what a source knows of each recording before a sample is read."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, NamedTuple

from spectrnn.config.types import Fraction, NonNegativeInt, PositiveFloat, SampleRate

SPLITS = ("train", "val", "test")


class Clip(NamedTuple):
    """One row of the clip table."""

    path: str
    label: str
    split: str | None = None  # train, val or test; None: to be drawn
    fold: str | None = None  # of a cross-validation
    group: str | None = None  # speaker, recorder or source file; never in two splits
    start: float = 0.0  # seconds into the file
    end: float | None = None  # seconds into the file; None: to its end


@dataclass(kw_only=True)
class DataSource(ABC):
    """A dataset of labelled recordings, and how spectrnn is to hold it. Subclasses say where the clips are."""

    sample_rate: SampleRate  # Hz
    max_seconds: PositiveFloat | None
    fold: int | str | None
    val_fraction: Fraction
    test_fraction: Fraction
    split_seed: NonNegativeInt
    on_error: Literal["fail", "skip"]
    storage: Literal["auto", "gpu", "ram", "disk"]
    cache: str

    @abstractmethod
    def clips(self) -> list[Clip]:
        """The clip table, in an order that does not depend on the machine.

        Raises:
            UserError: the dataset is not where the config says, or not as it should be.
        """
