"""How recordings are scanned for events: what the command says, and where it leaves that open, what the model does."""

import logging
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le

from spectrnn.config import NonNegative, Positive, Probability
from spectrnn.errors import UserError
from spectrnn.inference.events import Array
from spectrnn.inference.hearing import Scanning
from spectrnn.inference.predictor import Predictor
from spectrnn.model.decisions import Above0, Decisions, Smoothing
from spectrnn.model.file import LONGEST_SECONDS

log = logging.getLogger(__name__)

_ONSET = 0.5  # of models without thresholds
_OTHERWISE = {"smooth": 3, "release": 0.8, "min_seconds": 0.0}  # of models without thresholds


@dataclass(kw_only=True)
class ScanConfig:
    """What the config of a command says of windows and events; None leaves it to the model file."""

    window: Literal["model"] | Annotated[Positive, Le(LONGEST_SECONDS)] | None
    hop: Annotated[Positive, Ge(0.001)] | None
    smooth: Smoothing | None
    threshold: Literal["model", "none"] | Probability
    release: Above0 | None
    min_seconds: NonNegative | None
    background: list[str]


def thresholds_of(config: ScanConfig, predictor: Predictor) -> Array | None:
    """The probability from which on each class counts: (classes,), beyond reach for the background; None for none.

    Raises:
        UserError: the background is none of the labels, or all of them.
    """
    decisions = predictor.decisions
    background = config.background or (decisions.background if decisions else [])
    for label in background:
        if label not in predictor.labels:
            raise UserError(
                f"background: {label!r} is none of the model's labels ({', '.join(predictor.labels)[:300]})"
            )
    if isinstance(config.threshold, float):
        thresholds = np.full(len(predictor.labels), config.threshold)
    elif config.threshold == "model" and decisions:
        thresholds = decisions.of(predictor.labels)
    else:
        return None
    thresholds[np.isin(predictor.labels, background)] = np.inf
    if not np.isfinite(thresholds).any():
        raise UserError("background: holds all labels that have a threshold, so that nothing could be heard")
    return thresholds


def scanning(config: ScanConfig, predictor: Predictor) -> Scanning:
    """The scan that a config with a window asks for.

    Raises:
        UserError: settings that fit neither each other nor the model.
    """
    decisions = predictor.decisions
    if config.threshold == "model" and decisions is None:
        log.warning("the model file has no thresholds: an event begins at %g; threshold=NUMBER sets another", _ONSET)
        config = replace(config, threshold=_ONSET)
    if config.window == "model" and decisions is None:
        raise UserError("window=model: the model file has no thresholds, and no window that they were chosen with")
    chosen = vars(decisions) if decisions and "model" in (config.window, config.threshold) else {}
    window = config.window if isinstance(config.window, float) else chosen["window"]
    left = {**_OTHERWISE, "hop": window / 2, **chosen}
    if chosen.get("window") != window:
        left["hop"] = window / 2
    asked = {name: getattr(config, name) for name in ("hop", "smooth", "release", "min_seconds")}
    settings = {"window": window, **{name: left[name] if value is None else value for name, value in asked.items()}}
    if settings["hop"] > window:
        raise UserError(f"hop={settings['hop']:g}: is longer than window={window:g}, so that sound would be lost")
    if decisions and config.threshold == "model":
        _warn_of_another(settings, decisions)
    return Scanning(predictor, thresholds=thresholds_of(config, predictor), **settings)


def _warn_of_another(settings: dict[str, float], decisions: Decisions) -> None:
    """Thresholds hold for the scan that they were chosen with."""
    names = [name for name in ("window", "hop", "smooth") if settings[name] != getattr(decisions, name)]
    if names:
        theirs, ours = (" ".join(f"{name}={of[name]:g}" for name in names) for of in (vars(decisions), settings))
        log.warning("the model's thresholds were chosen with %s, and may not hold for %s", theirs, ours)
