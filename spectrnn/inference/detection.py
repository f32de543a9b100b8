"""How events are heard: as the command says, and where it leaves that open, as the model file does."""

import logging
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from spectrnn.config import NonNegative, Probability, unknown_name
from spectrnn.errors import UserError
from spectrnn.inference.events import Array, Detector
from spectrnn.model.decisions import Above0, Decisions, Hop, Smoothing

log = logging.getLogger(__name__)

_ONSET = 0.5  # of models without thresholds
_OTHERWISE: dict[str, Any] = {"smooth": 3, "release": 0.8, "min_seconds": 0.0}  # likewise


@dataclass(kw_only=True)
class DetectionConfig:
    """What the config of a command says of events; None leaves it to the model file."""

    hop: Hop | None
    smooth: Smoothing | None
    threshold: Literal["model", "none"] | Probability
    release: Above0 | None
    min_seconds: NonNegative | None
    background: list[str | int]


class Detection(NamedTuple):
    """How events are heard in the probabilities of windows.

    Attributes:
        thresholds: (classes,), from which on an event begins; None for the label of each window.
        smooth: windows that a probability is the mean of.
        release: share of the threshold below which an event ends.
        min_seconds: shorter events are dropped.
    """

    thresholds: Array | None
    smooth: int
    release: float
    min_seconds: float

    def detector(self, labels: list[str]) -> Detector | None:
        """What hears the events of one recording; None where each window's label is asked for."""
        if self.thresholds is None:
            return None
        return Detector(labels, self.thresholds, self.smooth, self.release, self.min_seconds)


def detection(config: DetectionConfig, labels: list[str], decisions: Decisions | None) -> Detection:
    """What a config asks for; where it leaves that open, it is as the model's thresholds were chosen.

    Raises:
        UserError: the background is none of the labels, or all of them.
    """
    if config.threshold == "model" and decisions is None:
        log.warning("the model file has no thresholds: an event begins at %g; threshold=NUMBER sets another", _ONSET)
        config = replace(config, threshold=_ONSET)
    left = {**_OTHERWISE, **(vars(decisions) if decisions else {})}
    asked = {name: getattr(config, name) for name in _OTHERWISE}
    settings = {name: left[name] if value is None else value for name, value in asked.items()}
    return Detection(thresholds_of(config, labels, decisions), **settings)


def thresholds_of(config: DetectionConfig, labels: list[str], decisions: Decisions | None) -> Array | None:
    """The probability from which on each class counts: (classes,), beyond reach for the background; None for none.

    Raises:
        UserError: the background is none of the labels, or all of them.
    """
    background = [str(label) for label in config.background] or (decisions.background if decisions else [])
    for label in background:
        if label not in labels:
            raise UserError(f"background: the model has no label {label!r}; {unknown_name(label, labels)}")
    if isinstance(config.threshold, float):
        thresholds = np.full(len(labels), config.threshold)
    elif config.threshold == "model" and decisions:
        thresholds = decisions.of(labels)
    else:
        return None
    thresholds[np.isin(labels, background)] = np.inf
    if not np.isfinite(thresholds).any():
        raise UserError("background: holds all labels that have a threshold, so that nothing could be heard")
    return thresholds


def hop_of(config: DetectionConfig, window: float, decisions: Decisions | None, otherwise: float) -> float:
    """From a window of so many seconds to the next, s: as the config says, or as it was when thresholds were chosen for
    such windows, or otherwise.

    Raises:
        UserError: it leaves gaps between windows.
    """
    hop = config.hop or (decisions.hop if decisions and decisions.window == window else otherwise)
    if hop > window:
        raise UserError(f"hop={hop:g}: is longer than window={window:g}, so that sound would be lost")
    return hop


def warn_of_another_scan(window: float, hop: float, smooth: int, decisions: Decisions) -> None:
    """Tells where thresholds are used with other settings, window and hop in s, than they were chosen with."""
    ours = {"window": window, "hop": hop, "smooth": smooth}
    names = [name for name in ours if ours[name] != getattr(decisions, name)]
    if names:
        theirs, these = (" ".join(f"{name}={of[name]:g}" for name in names) for of in (vars(decisions), ours))
        log.warning("the model's thresholds were chosen with %s, and may not hold for %s", theirs, these)
