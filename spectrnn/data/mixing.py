"""From the channels of a recording to mono, without channels that cancel or are dead, and within full scale.

What is decided holds for the whole recording, and depends on its first second of sound only, so that the samples are
the same from a file, from a part of it, and from a stream. Floats beyond full scale are scaled by the maximum of the
whole file; in a stream, by that of the first second.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from spectrnn.data.readers.reader import FloatSamples

_SECONDS = 1.0  # of sound, on which the decision rests
_SEARCHED = 4096  # frames at once
_MAX_VALUES = 1 << 22  # of all channels, which bounds the memory
_QUIET = 0.001  # -60 dBFS: the sound begins where it is exceeded
_DEAD = 1e-6  # -60 dB: power of a channel without sound, relative to the loudest one
_OPPOSITE = -0.8  # correlation with the loudest channel from which on a channel is inverted
_MAGNITUDES = (2.0**7, 2.0**15, 2.0**23, 2.0**31)  # of integers that were stored as floats
_MAX_MARGIN = 64.0  # by which the maximum may be below the magnitude


@dataclass(frozen=True)
class Mix:
    """How the channels of a recording become one.

    Attributes:
        weights: Factor of each channel, float32 (channels,); None for their mean.
        onset: Frame from which on the weights apply; those before it are quiet, and averaged.
        scale: Divisor of all samples.
        warnings: What is wrong with channels, as ends of sentences that start with the path.
        peak: Maximum magnitude of floats.
    """

    weights: npt.NDArray[np.float32] | None = None
    onset: int = 0
    scale: float = 1.0
    warnings: list[str] = field(default_factory=list)
    peak: float = 0.0

    @property
    def scale_warnings(self) -> list[str]:
        """What is wrong with the level, as ends of sentences."""
        reached = f"its samples reach {self.peak:g} times full scale, and are divided by {self.scale:g}"
        return [reached] if self.scale != 1 else []

    def scaled(self, samples: FloatSamples) -> FloatSamples:
        """Divides samples of any shape by the scale."""
        return samples if self.scale == 1 else samples / np.float32(self.scale)

    def apply(self, samples: FloatSamples, position: int) -> FloatSamples:
        """Mixes scaled samples (frames, channels), of which the first one is the frame `position`: (frames,)."""
        if self.weights is None:
            return to_mono(samples)
        quiet = min(max(0, self.onset - position), len(samples))
        mixed = np.asarray(samples[quiet:] @ self.weights, np.float32)
        return np.concatenate([to_mono(samples[:quiet]), mixed]) if quiet else mixed


class MixFinder:
    """Decides on a mix, given the blocks of a recording from its beginning.

    Args:
        sample_rate: Sample rate in Hz.
        channels: Number of channels.
        is_float: Whether the samples may exceed full scale.
    """

    def __init__(self, sample_rate: int, channels: int, is_float: bool) -> None:
        self.channels, self.is_float = channels, is_float
        self.missing = max(1, min(round(_SECONDS * sample_rate), _MAX_VALUES // channels))  # frames
        self.position, self.peak = 0, 0.0
        self.onset: int | None = None
        self.sound: list[FloatSamples] = []

    def push(self, block: FloatSamples) -> bool:
        """Takes the next frames (frames, channels); returns whether the decision on the channels needs no more."""
        if self.is_float and len(block):
            self.peak = max(self.peak, float(np.abs(block).max()))
        if self.missing:
            if self.onset is None:
                first = _first_loud(block)
                if first < len(block):
                    self.onset = self.position + first
                self.position += first
                block = block[first:]
            self.sound.append(block[: self.missing])
            self.missing -= len(self.sound[-1])
        return not self.missing

    def mix(self) -> Mix:
        """Returns the decision."""
        warnings: list[str] = []
        weights = None
        if self.channels > 1 and self.onset is not None:
            weights = _weights(np.concatenate(self.sound), warnings)
        return Mix(weights, self.onset or 0, find_scale(self.peak), warnings, self.peak)


def _first_loud(block: FloatSamples) -> int:
    """First of (frames, channels) that is not quiet; their number if all are."""
    for start in range(0, len(block), _SEARCHED):
        loud = (np.abs(block[start : start + _SEARCHED]) > _QUIET).any(axis=1)
        if loud.any():
            return start + int(loud.argmax())
    return len(block)


def find_scale(peak: float) -> float:
    """Returns the divisor for floats of a maximum magnitude: that of integers if it is clear, or the maximum."""
    if peak <= 1:
        return 1.0
    for magnitude in _MAGNITUDES:
        if peak <= magnitude <= _MAX_MARGIN * peak and peak > 8:
            return magnitude
    return peak


def _weights(sound: FloatSamples, warnings: list[str]) -> npt.NDArray[np.float32] | None:
    """Factors of the channels of (frames, channels), and warnings; None for the mean of all channels."""
    centered = sound - sound.mean(axis=0)
    products = (centered.T @ centered).astype(np.float64)
    power = products.diagonal()
    loudest = int(power.argmax())
    alive = power > _DEAD * power[loudest]
    if not alive.any():
        return None
    correlation = products[loudest] / np.sqrt(np.maximum(power * power[loudest], np.finfo(np.float64).tiny))
    opposite = alive & (correlation < _OPPOSITE)
    if alive.all() and not opposite.any():
        return None
    if not alive.all():
        warnings.append(f"{_named(~alive)} silent at its beginning, and not counted in the average")
    if opposite.any():
        inverted = "inverted before the average"
        warnings.append(f"{_named(opposite)} the opposite of channel {loudest + 1}, and {inverted}")
    # A channel that is silent is not lost if sound begins in it later.
    return (np.where(opposite, -1.0, 1.0) / alive.sum()).astype(np.float32)


def _named(channels: npt.NDArray[np.bool_]) -> str:
    numbers = [str(number + 1) for number in np.flatnonzero(channels)]
    return f"channel {numbers[0]} is" if len(numbers) == 1 else f"channels {', '.join(numbers)} are"


def to_mono(samples: FloatSamples) -> FloatSamples:
    """Averages the channels: (samples,) or (samples, channels) -> (samples,)."""
    if samples.ndim == 2 and samples.shape[1] == 1:
        return samples[:, 0]
    return samples if samples.ndim == 1 else samples.mean(axis=1, dtype=np.float32)
