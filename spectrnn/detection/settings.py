"""How events are heard: as the command says, and where it leaves that open, as the model file does."""

import logging
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from spectrnn.config.instantiate import unknown_name
from spectrnn.config.types import HopSeconds, NonNegativeFloat, NumWindows, PositiveFraction, Probability
from spectrnn.detection.events import Array, EventDetector
from spectrnn.detection.thresholds import TunedThresholds
from spectrnn.errors import UserError

log = logging.getLogger(__name__)

_DEFAULT_THRESHOLD = 0.5  # of models without thresholds
_DEFAULTS: dict[str, Any] = {"smoothing_windows": 3, "offset_ratio": 0.8, "min_event_seconds": 0.0}  # likewise


@dataclass(kw_only=True)
class DetectionConfig:
    """What the config of a command says of events; None leaves it to the model file."""

    hop: HopSeconds | None
    smoothing_windows: NumWindows | None
    threshold: Literal["model", "none"] | Probability
    offset_ratio: PositiveFraction | None
    min_event_seconds: NonNegativeFloat | None
    background: list[str | int]


class DetectionSettings(NamedTuple):
    """How events are heard in the probabilities of windows.

    Attributes:
        thresholds: (classes,), from which on an event begins; None for the label of each window.
        smoothing_windows: windows that a probability is the mean of.
        offset_ratio: share of the threshold below which an event ends.
        min_event_seconds: shorter events are dropped.
    """

    thresholds: Array | None
    smoothing_windows: int
    offset_ratio: float
    min_event_seconds: float

    def detector(self, labels: list[str]) -> EventDetector | None:
        """What hears the events of one recording; None where each window's label is asked for."""
        if self.thresholds is None:
            return None
        return EventDetector(labels, self.thresholds, self.smoothing_windows, self.offset_ratio, self.min_event_seconds)


def resolve_settings(
    config: DetectionConfig, labels: list[str], tuned_thresholds: TunedThresholds | None
) -> DetectionSettings:
    """What a config asks for; where it leaves that open, it is as the model's thresholds were chosen.

    Raises:
        UserError: the background is none of the labels, or all of them.
    """
    if config.threshold == "model" and tuned_thresholds is None:
        log.warning(
            "the model file has no thresholds: an event begins at %g; threshold=NUMBER sets another", _DEFAULT_THRESHOLD
        )
        config = replace(config, threshold=_DEFAULT_THRESHOLD)
    left = {**_DEFAULTS, **(vars(tuned_thresholds) if tuned_thresholds else {})}
    asked = {name: getattr(config, name) for name in _DEFAULTS}
    settings = {name: left[name] if value is None else value for name, value in asked.items()}
    return DetectionSettings(resolve_thresholds(config, labels, tuned_thresholds), **settings)


def resolve_thresholds(
    config: DetectionConfig, labels: list[str], tuned_thresholds: TunedThresholds | None
) -> Array | None:
    """The probability from which on each class counts: (classes,), beyond reach for the background; None for none.

    Raises:
        UserError: the background is none of the labels, or all of them.
    """
    background = [str(label) for label in config.background] or (
        tuned_thresholds.background if tuned_thresholds else []
    )
    for label in background:
        if label not in labels:
            raise UserError(f"background: the model has no label {label!r}; {unknown_name(label, labels)}")
    if isinstance(config.threshold, float):
        thresholds = np.full(len(labels), config.threshold)
    elif config.threshold == "model" and tuned_thresholds:
        thresholds = tuned_thresholds.of(labels)
    else:
        return None
    thresholds[np.isin(labels, background)] = np.inf
    if not np.isfinite(thresholds).any():
        raise UserError("background: holds all labels that have a threshold, so that nothing could be heard")
    return thresholds


def resolve_hop(
    config: DetectionConfig, window: float, tuned_thresholds: TunedThresholds | None, otherwise: float
) -> float:
    """From a window of so many seconds to the next, s: as the config says, or as it was when thresholds were chosen for
    such windows, or otherwise.

    Raises:
        UserError: it leaves gaps between windows.
    """
    hop = config.hop or (tuned_thresholds.hop if tuned_thresholds and tuned_thresholds.window == window else otherwise)
    if hop > window:
        raise UserError(f"hop={hop:g}: is longer than window={window:g}, so that sound would be lost")
    return hop


def warn_if_settings_differ(
    window: float, hop: float, smoothing_windows: int, tuned_thresholds: TunedThresholds
) -> None:
    """Tells where thresholds are used with other settings, window and hop in s, than they were chosen with."""
    ours = {"window": window, "hop": hop, "smoothing_windows": smoothing_windows}
    names = [name for name in ours if ours[name] != getattr(tuned_thresholds, name)]
    if names:
        theirs, these = (" ".join(f"{name}={of[name]:g}" for name in names) for of in (vars(tuned_thresholds), ours))
        log.warning("the model's thresholds were chosen with %s, and may not hold for %s", theirs, these)
