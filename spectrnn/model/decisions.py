"""From which probability on a model hears a class: chosen by an evaluation, and kept in the model file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Le

from spectrnn.config import Count, NonNegative, Positive, Probability, check
from spectrnn.errors import UserError
from spectrnn.model.header import read_header

LONGEST_SECONDS = 3600  # of a clip that a model was trained on, and so of what is classified at once

Window = Annotated[Positive, Le(LONGEST_SECONDS)]  # s
Hop = Annotated[Positive, Ge(0.001)]  # s
Smoothing = Annotated[Count, Le(10_000)]  # windows
Above0 = Annotated[Positive, Le(1)]


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """Thresholds, and what they were chosen for.

    Args:
        thresholds: the smoothed probability from which on an event of a class begins, for each class that is one.
        background: classes that are no events, such as silence or noise.
        false_alarms: an hour and class, at most, in the recordings that they were chosen on.
        hours: of such recordings.
        window, hop: of the scan, s.
        smooth: windows that a probability is the mean of.
        release: share of the threshold below which an event ends.
        min_seconds: of an event.
    """

    thresholds: dict[str, Probability]
    background: list[str]
    false_alarms: NonNegative
    hours: Positive
    window: Window
    hop: Hop
    smooth: Smoothing
    release: Above0
    min_seconds: NonNegative

    def of(self, labels: list[str]) -> npt.NDArray[np.float64]:
        """The thresholds in the order of the labels: (classes,), beyond reach for those that are no events."""
        return np.array([self.thresholds.get(label, np.inf) for label in labels])


def read_decisions(path: Path) -> Decisions | None:
    """What a model file says of thresholds; None where none were chosen.

    Raises:
        UserError: no such file, or its decisions are none.
    """
    header: Mapping[str, Any] = read_header(path)
    written = header.get("decisions")
    if written is None:
        return None
    try:
        if not isinstance(written, dict):
            raise UserError("should be a mapping")
        decisions = Decisions(**check(written, Decisions, ""))
        foreign = {*decisions.thresholds, *decisions.background} - {*header["labels"]}
        if foreign:
            raise UserError(f"{sorted(foreign)[0]!r:.60} is none of its labels")
        if decisions.hop > decisions.window:
            raise UserError(f"hop={decisions.hop:g} is longer than window={decisions.window:g}")
    except UserError as error:
        raise UserError(f"{path}: its decisions are damaged ({' / '.join(str(error).splitlines())[:300]})") from error
    return decisions
