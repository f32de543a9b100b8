"""The scan of recordings that a config with a window asks for."""

import logging
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Le

from spectrnn.config import Positive
from spectrnn.errors import UserError
from spectrnn.inference.detection import DetectionConfig, detection, require_overlap
from spectrnn.inference.predictor import Predictor
from spectrnn.inference.recordings.hearing import Scanning
from spectrnn.model.decisions import Decisions
from spectrnn.model.file import LONGEST_SECONDS

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class ScanConfig(DetectionConfig):
    """What the config of a command says of windows and events."""

    window: Literal["model"] | Annotated[Positive, Le(LONGEST_SECONDS)] | None


def scanning(config: ScanConfig, predictor: Predictor) -> Scanning:
    """The scan that a config with a window asks for.

    Raises:
        UserError: settings that fit neither each other nor the model.
    """
    decisions = predictor.decisions
    if isinstance(config.window, float):
        window = config.window
    elif decisions:
        window = decisions.window
    else:
        raise UserError("window=model: the model file has no thresholds, and no window that they were chosen with")
    hop = config.hop or (decisions.hop if decisions and decisions.window == window else window / 2)
    require_overlap(window, hop)
    how = detection(config, predictor.labels, decisions)
    if decisions and config.threshold == "model":
        _warn_of_another({"window": window, "hop": hop, "smooth": how.smooth}, decisions)
    return Scanning(predictor, window, hop, how)


def _warn_of_another(settings: dict[str, float], decisions: Decisions) -> None:
    """Thresholds hold for the scan that they were chosen with."""
    names = [name for name in settings if settings[name] != getattr(decisions, name)]
    if names:
        theirs, ours = (" ".join(f"{name}={of[name]:g}" for name in names) for of in (vars(decisions), settings))
        log.warning("the model's thresholds were chosen with %s, and may not hold for %s", theirs, ours)
