"""Quality of the individual clips."""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass

from spectrnn.check.analysis import DatasetAnalysis, Issue
from spectrnn.check.measure import ClipStats
from spectrnn.config.types import Fraction, PositiveFloat, PositiveInt, Probability
from spectrnn.messages import counted


@dataclass(kw_only=True)
class Limits:
    """Limits beyond which a clip or a class is reported; configs/check.yaml documents its keys."""

    silence_dbfs: float
    max_clipped_fraction: Fraction
    max_dc_offset: PositiveFloat
    min_bandwidth_fraction: Probability
    min_clips_per_class: PositiveInt

    def is_silent(self, clip: ClipStats) -> bool:
        """Whether the level of a readable clip, without its DC offset, is below the limit."""
        return clip.error is None and decibels(clip.rms) < self.silence_dbfs


def quality_issues(analysis: DatasetAnalysis, limits: Limits, sample_rate: int) -> list[Issue]:
    """Derives the issues about individual clips and their sample rates.

    Args:
        analysis: Analysis of the dataset.
        limits: Limits beyond which a clip is reported.
        sample_rate: Sample rate of the training in Hz.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for name, clip in zip(analysis.names, analysis.stats, strict=True):
        if clip.error is not None:
            found["unreadable"].append(clip.error)
            continue
        for kind, flaws in clip.flaws.items():
            found[kind] += (flaw for flaw in flaws if flaw not in found[kind][-1:])  # clips of one file
        if limits.is_silent(clip):
            found["silent"].append(f"{name}: {decibels(clip.rms):.0f} dBFS")
        elif clip.bandwidth < limits.min_bandwidth_fraction * clip.rate / 2:
            found["bandwidth"].append(f"{name}: {clip.bandwidth:.0f} Hz of {clip.rate / 2:.0f} Hz")
        if clip.clipped_fraction > limits.max_clipped_fraction:
            found["clipped"].append(f"{name}: {clip.clipped_fraction:.1%}")
        if abs(clip.dc_offset) > limits.max_dc_offset:
            found["DC offset"].append(f"{name}: {clip.dc_offset:+.3f}")
    texts = {
        "sizes": "files of which sound is missing, or whose header announces another length; what is there is used",
        "channels": "files with a dead channel, or channels that would cancel when averaged; corrected when decoding",
        "level": "files with floats beyond full scale, which are rescaled when decoding",
        "silent": f"clips with a level below {limits.silence_dbfs:g} dBFS (RMS)",
        "clipped": f"clips with more than {limits.max_clipped_fraction:.1%} of their samples at clipped extremes",
        "DC offset": f"clips with a DC offset of more than {limits.max_dc_offset:g} of full scale",
        "bandwidth": "clips with a bandwidth far below half the sample rate, as after upsampling or at a low bit rate",
    }
    issues = [Issue("error", "unreadable", "clips that cannot be read", len(found["unreadable"]), found["unreadable"])]
    issues += [Issue("warning", kind, text, len(found[kind]), found[kind]) for kind, text in texts.items()]
    rates = Counter(clip.rate for clip in analysis.stats if clip.error is None)
    if len(rates) > 1:
        text = f"clips with {len(rates)} different sample rates, which are resampled to {sample_rate} Hz for training"
        examples = [f"{rate} Hz: {counted(count, 'clip')}" for rate, count in rates.most_common()]
        return [*issues, Issue("note", "sample rates", text, rates.total(), examples)]
    upsampled = sum(count for rate, count in rates.items() if rate < sample_rate)
    rate = f"{min(rates, default=0)} Hz, below data.sample_rate={sample_rate}"
    text = f"clips at {rate}: upsampling takes time and adds no information"
    return [*issues, Issue("note", "sample rates", text, upsampled, [])]


def decibels(amplitude: float) -> float:
    """Converts an amplitude (of full scale) to dBFS; -200 for digital silence."""
    return 20 * math.log10(max(amplitude, 1e-10))
