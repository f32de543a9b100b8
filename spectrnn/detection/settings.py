"""Detection settings: from the command line, else from the model file, else defaults."""

import logging
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from spectrnn.config.instantiate import unknown_name
from spectrnn.config.types import HopSeconds, NonNegativeFloat, NumWindows, PositiveFraction, Probability, WindowSeconds
from spectrnn.detection.events import Array, EventDetector
from spectrnn.detection.thresholds import TunedThresholds, WindowSettings
from spectrnn.errors import ErrorCollector, UserError

log = logging.getLogger(__name__)

# For models without tuned thresholds.
_DEFAULT_THRESHOLD = 0.5
DEFAULTS: dict[str, Any] = {"smoothing_windows": 3, "offset_ratio": 0.8, "min_event_seconds": 0.0}
# Of frames, which are a few ms apart, so that their probabilities fluctuate within a sound.
_FRAME_SMOOTHING_SECONDS = 0.1
_FRAME_DEFAULTS = {"offset_ratio": 0.5, "min_event_seconds": 0.1}


@dataclass(kw_only=True)
class DetectionConfig:
    """Config keys of commands that detect events; null means as in the model file."""

    window: Literal["model"] | WindowSeconds | None
    hop: HopSeconds | None
    smoothing_windows: NumWindows | None
    threshold: Literal["model", "none"] | Probability
    offset_ratio: PositiveFraction | None
    min_event_seconds: NonNegativeFloat | None
    background: list[str | int]


@dataclass(frozen=True, kw_only=True)
class DetectionSettings(WindowSettings):
    """Resolved settings of a detection.

    Args:
        thresholds: Onset threshold per class, (classes,); None to label each window instead.
        trim_seconds: Time in s that each event is shortened by at both ends, as for `EventDetector`.
    """

    thresholds: Array | None
    trim_seconds: float = 0.0

    @classmethod
    def resolve(
        cls,
        config: DetectionConfig,
        labels: list[str],
        tuned: TunedThresholds | None,
        default_window: float,
        default_hop: float | None = None,
        own: Array | None = None,
        frame_seconds: float | None = None,
    ) -> "DetectionSettings":
        """Resolves the settings of a command.

        Args:
            config: Config of the command.
            labels: Labels of the model.
            tuned: Tuned thresholds of the model file, if there are any.
            default_window: Window in s if neither the config nor the model file has one.
            default_hop: Hop in s likewise; None for half of the window.
            own: Thresholds of the model's task (classes,) if it has any, for a model file without tuned ones.
            frame_seconds: Time between the frames that events are detected from in s; None for windows.

        Raises:
            UserError: A hop that leaves gaps, ``window=model`` without tuned thresholds, or an invalid background.
        """
        if config.window == "model" and tuned is None:
            raise UserError("window=model: the model file has no tuned thresholds, and so no window; give it in s")
        errors = ErrorCollector()
        window = config.window if isinstance(config.window, float) else tuned.window if tuned else default_window
        hop = config.hop
        if hop is None:
            hop = tuned.hop if tuned and tuned.window == window else min(default_hop or window / 2, window)
        if hop > window:
            errors.add(f"hop={hop:g}: longer than the window of {window:g} s, so audio would be skipped")
        thresholds = errors.collect(
            resolve_thresholds, config, labels, tuned, np.array(_DEFAULT_THRESHOLD) if own is None else own
        )
        errors.raise_if_any()
        if config.threshold == "model" and tuned is None and own is None:
            log.warning(
                "the model file has no tuned thresholds: using %g; threshold=NUMBER sets another", _DEFAULT_THRESHOLD
            )
        values = DEFAULTS
        if frame_seconds is not None:
            frames = max(1, round(_FRAME_SMOOTHING_SECONDS / frame_seconds))
            values = values | _FRAME_DEFAULTS | {"smoothing_windows": frames}
        values = values | (asdict(tuned) if tuned else {})
        values = {name: values[name] if (own := getattr(config, name)) is None else own for name in DEFAULTS}
        settings = cls(window=window, hop=hop, thresholds=thresholds, **values)
        if tuned and config.threshold == "model":
            different = [n for n in ("window", "hop", "smoothing_windows") if getattr(settings, n) != getattr(tuned, n)]
            before, now = (" ".join(f"{n}={getattr(of, n):g}" for n in different) for of in (tuned, settings))
            if different:
                log.warning("the model's thresholds were tuned with %s, and may not be valid for %s", before, now)
        return settings

    def detector(self, labels: list[str]) -> EventDetector | None:
        """Returns a detector for one recording; None if each window is to be labelled instead."""
        if self.thresholds is None:
            return None
        settings = self.smoothing_windows, self.offset_ratio, self.min_event_seconds, self.trim_seconds
        return EventDetector(labels, self.thresholds, *settings)


def resolve_thresholds(
    config: DetectionConfig, labels: list[str], tuned: TunedThresholds | None, default: Array | None = None
) -> Array | None:
    """Resolves the threshold of each class.

    Args:
        config: Config of the command.
        labels: Labels of the model.
        tuned: Tuned thresholds of the model file, if there are any.
        default: Threshold, () or (classes,), for ``threshold=model`` without tuned ones; None for no thresholds.

    Returns:
        Thresholds (classes,), infinite for the background; None for none.

    Raises:
        UserError: A background that is not among the labels, or that covers all of them.
    """
    background = [str(label) for label in config.background] or (tuned.background if tuned else [])
    for label in background:
        if label not in labels:
            raise UserError(f"background: the model has no label {label!r}; {unknown_name(label, labels)}")
    if config.threshold == "model" and tuned:
        thresholds = tuned.as_array(labels)
    else:
        value = default if config.threshold == "model" else config.threshold
        if value is None or isinstance(value, str):
            return None
        thresholds = np.full(len(labels), value, np.float64)
    thresholds[np.isin(labels, background)] = np.inf
    if not np.isfinite(thresholds).any():
        raise UserError("background: covers every label with a threshold, so nothing could be detected")
    return thresholds
