"""Audio as users have it: paths, arrays, tensors, (waveform, sample rate) pairs and dictionaries of Hugging Face."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import soxr
import torch

from spectrnn.data.audio import require_finite
from spectrnn.data.mixing import to_mono
from spectrnn.data.readers.reader import FloatSamples

Channels = Literal["first", "last"]


class Waveform(NamedTuple):
    """A waveform at its own sample rate.

    Attributes:
        samples: Mono samples, float32 (samples,).
        sample_rate: Sample rate in Hz.
    """

    samples: FloatSamples
    sample_rate: int

    def resampled(self, sample_rate: int) -> FloatSamples:
        """Returns the samples at another sample rate in Hz, float32 (samples,)."""
        if self.sample_rate == sample_rate:
            return self.samples
        return soxr.resample(self.samples, self.sample_rate, sample_rate)


def parse_audio(audio: Any, sample_rate: int | None, channels: Channels | None) -> str | Waveform:
    """Interprets one recording.

    Args:
        audio: Path; waveform, an array or tensor of floats in [-1, 1), (samples,) or with `channels` of two dimensions;
            pair (waveform, sample rate), as of ``soundfile.read``; or dictionary with ``array`` and ``sampling_rate``.
        sample_rate: Sample rate of a waveform in Hz.
        channels: Which dimension of a waveform of two dimensions the channels are.

    Returns:
        The path, or the waveform.

    Raises:
        ValueError: Audio that is empty, ambiguous, not finite, or of another type or shape.
    """
    if isinstance(audio, str | os.PathLike):
        return str(Path(audio).expanduser())
    if isinstance(audio, Mapping):
        if not {"array", "sampling_rate"} <= audio.keys():
            raise ValueError(f"expected a dictionary with array and sampling_rate, got {', '.join(map(str, audio))}")
        audio, sample_rate = audio["array"], audio["sampling_rate"]
    elif is_pair(audio):
        audio, sample_rate = audio
    samples = np.asarray(audio.detach().cpu() if isinstance(audio, torch.Tensor) else audio)
    if not np.issubdtype(samples.dtype, np.floating):
        remedy = "; divide int16 by 32768" if np.issubdtype(samples.dtype, np.integer) else ""
        raise ValueError(f"expected a path or floats in [-1, 1), got {samples.dtype}{remedy}")
    if not samples.ndim:
        raise ValueError("expected a path or a waveform, got a number; a list is taken for several recordings")
    if samples.ndim not in (1, 2) or not samples.size:
        raise ValueError(f"expected a waveform of shape (samples,) or (channels, samples), got {samples.shape}")
    if samples.ndim == 2 and channels is None and 1 not in samples.shape:
        raise ValueError(
            f"a waveform of shape {samples.shape} could be channels or several recordings: set channels='first' or "
            "channels='last' for one recording, or pass list(waveforms) for several"
        )
    if sample_rate is None:
        raise ValueError("a waveform needs its sample_rate in Hz")
    if samples.ndim == 2:
        is_last = channels == "last" or (channels is None and samples.shape[1] == 1)
        samples = to_mono((samples if is_last else samples.T).astype(np.float32))
    samples = np.ascontiguousarray(samples, dtype=np.float32)
    if not np.isfinite(samples).all():
        raise ValueError("the waveform contains values that are not finite (NaN or Inf)")
    require_finite(samples, "waveform")
    return Waveform(samples, int(sample_rate))


def is_pair(audio: Any) -> bool:
    """Whether audio is a pair of a waveform and its sample rate in Hz."""
    is_rate = isinstance(audio, tuple) and len(audio) == 2 and isinstance(audio[1], int | np.integer)
    return is_rate and not isinstance(audio[0], str | os.PathLike)
