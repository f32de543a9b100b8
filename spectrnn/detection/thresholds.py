"""From which probability on a model hears a class: chosen by an evaluation, and kept in the model file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

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
from spectrnn.errors import UserError
from spectrnn.model.header import read_header


@dataclass(frozen=True, kw_only=True)
class TunedThresholds:
    """Thresholds, and what they were chosen for.

    Args:
        thresholds: the smoothed probability from which on an event of a class begins, for each class that is one.
        background: classes that are no events, such as silence or noise.
        max_false_alarms_per_hour: an hour and class, at most, in the recordings that they were chosen on.
        hours: of such recordings.
        window, hop: of the scan, s.
        smoothing_windows: windows that a probability is the mean of.
        offset_ratio: share of the threshold below which an event ends.
        min_event_seconds: of an event.
    """

    thresholds: dict[str, Probability]
    background: list[str]
    max_false_alarms_per_hour: NonNegativeFloat
    hours: PositiveFloat
    window: WindowSeconds
    hop: HopSeconds
    smoothing_windows: NumWindows
    offset_ratio: PositiveFraction
    min_event_seconds: NonNegativeFloat

    def of(self, labels: list[str]) -> npt.NDArray[np.float64]:
        """The thresholds in the order of the labels: (classes,), beyond reach for those that are no events."""
        return np.array([self.thresholds.get(label, np.inf) for label in labels])


def read_thresholds(path: Path) -> TunedThresholds | None:
    """What a model file says of thresholds; None where none were chosen.

    Raises:
        UserError: no such file, or its tuned_thresholds are none.
    """
    header: Mapping[str, Any] = read_header(path)
    written = header.get("tuned_thresholds")
    if written is None:
        return None
    try:
        if not isinstance(written, dict):
            raise UserError("should be a mapping")
        tuned_thresholds = TunedThresholds(**validate_kwargs(written, TunedThresholds, ""))
        foreign = {*tuned_thresholds.thresholds, *tuned_thresholds.background} - {*header["labels"]}
        if foreign:
            raise UserError(f"{sorted(foreign)[0]!r:.60} is none of its labels")
        if tuned_thresholds.hop > tuned_thresholds.window:
            raise UserError(f"hop={tuned_thresholds.hop:g} is longer than window={tuned_thresholds.window:g}")
    except UserError as error:
        raise UserError(
            f"{path}: its tuned_thresholds are damaged ({' / '.join(str(error).splitlines())[:300]})"
        ) from error
    return tuned_thresholds
