"""The scan of recordings that a config with a window asks for."""

from dataclasses import dataclass
from typing import Literal

from spectrnn.errors import UserError
from spectrnn.inference.detection import DetectionConfig, detection, hop_of, warn_of_another_scan
from spectrnn.inference.predictor import Predictor
from spectrnn.inference.recordings.hearing import Scanning
from spectrnn.model.decisions import Window


@dataclass(kw_only=True)
class ScanConfig(DetectionConfig):
    """What the config of a command says of windows and events."""

    window: Literal["model"] | Window | None


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
    hop = hop_of(config, window, decisions, window / 2)
    how = detection(config, predictor.labels, decisions)
    if decisions and config.threshold == "model":
        warn_of_another_scan(window, hop, how.smooth, decisions)
    return Scanning(predictor, window, hop, how)
