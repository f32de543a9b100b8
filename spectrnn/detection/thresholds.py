"""Detection thresholds that were tuned for a model, and are stored in its file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spectrnn.config.instantiate import validate_kwargs
from spectrnn.config.types import (
    HopSeconds,
    NonNegativeFloat,
    NumWindows,
    PositiveFloat,
    PositiveFraction,
    Probability,
    WindowSeconds,
)
from spectrnn.detection.events import Array
from spectrnn.errors import UserError
from spectrnn.model.header import read_header


@dataclass(frozen=True, kw_only=True)
class WindowSettings:
    """Settings that the thresholds of a detection depend on.

    Args:
        window: Length of a window in s.
        hop: Hop between windows in s.
        smoothing_windows: Number of windows that probabilities are averaged over.
        offset_ratio: Fraction of the threshold below which an event ends.
        min_event_seconds: Minimum length of an event in s; shorter ones are dropped.
    """

    window: WindowSeconds
    hop: HopSeconds
    smoothing_windows: NumWindows
    offset_ratio: PositiveFraction
    min_event_seconds: NonNegativeFloat


@dataclass(frozen=True, kw_only=True)
class TunedThresholds(WindowSettings):
    """Thresholds per class, and the settings that they were tuned with.

    Args:
        by_label: Onset threshold of the smoothed probability for each class that is an event.
        background: Classes that are not events, such as silence or noise.
        max_false_alarms_per_hour: Maximum rate of false alarms per class in the negative recordings.
        hours: Length of the negative recordings in hours.
    """

    by_label: dict[str, Probability]
    background: list[str]
    max_false_alarms_per_hour: NonNegativeFloat
    hours: PositiveFloat

    def as_array(self, labels: list[str]) -> Array:
        """Returns the thresholds in the order of the labels, (classes,); infinite for classes that are not events."""
        return np.array([self.by_label.get(label, np.inf) for label in labels])


def read_thresholds(path: Path) -> TunedThresholds | None:
    """Reads the tuned thresholds of a model file; None if it has none.

    Raises:
        UserError: No such file, or invalid thresholds.
    """
    header = read_header(path)
    values = header.get("tuned_thresholds")
    if values is None:
        return None
    try:
        if not isinstance(values, dict):
            raise UserError("should be a mapping")
        tuned = TunedThresholds(**validate_kwargs(values, TunedThresholds, ""))
        if unknown := {*tuned.by_label, *tuned.background} - {*header["labels"]}:
            raise UserError(f"{sorted(unknown)[0]!r:.60} is not one of its labels")
        if tuned.hop > tuned.window:
            raise UserError(f"hop={tuned.hop:g} is longer than window={tuned.window:g}")
    except UserError as error:
        raise UserError(f"{path}: its thresholds are invalid ({' / '.join(str(error).splitlines())[:300]})") from error
    return tuned
