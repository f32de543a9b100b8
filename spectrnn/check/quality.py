"""Files that cannot be used, or hold less than they seem to: what each row says by itself."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from spectrnn.check.issues import Issue
from spectrnn.check.measure import ClipStats
from spectrnn.config.types import Fraction, PositiveFloat, PositiveInt, Probability


@dataclass(kw_only=True)
class Limits:
    """From where on a clip or a class is worth a warning; see check.yaml."""

    silence: float
    clipping: Fraction
    offset: PositiveFloat
    bandwidth: Probability
    tiny: PositiveInt

    def silent(self, row: ClipStats) -> bool:
        """Whether nothing is to be heard, steady offset aside."""
        return row.problem is None and decibels(row.rms) < self.silence


def quality(names: Sequence[str], rows: Sequence[ClipStats], limits: Limits, sample_rate: int) -> list[Issue]:
    """The findings about single files.

    Args:
        names: of the clips, for examples.
        rows: of the clips.
        limits: from where on to warn.
        sample_rate: at which a training would hear them, Hz.
    """
    broken = [row.problem for row in rows if row.problem is not None]
    findings = [Issue("error", "broken", "clips that cannot be used", len(broken), broken)]

    def listed(
        kind: str, text: str, concerned: Callable[[ClipStats], bool], measure: Callable[[ClipStats], str]
    ) -> None:
        found = [
            f"{name}: {measure(row)}"
            for name, row in zip(names, rows, strict=True)
            if row.problem is None and concerned(row)
        ]
        findings.append(Issue("warning", kind, text, len(found), found))

    listed(
        "silent",
        f"clips below {limits.silence:g} dB of full scale: their label cannot be heard",
        limits.silent,
        lambda row: f"{decibels(row.rms):.0f} dB",
    )
    listed(
        "clipped",
        f"clips with over {limits.clipping:.1%} of their samples on plateaus at the extremes",
        lambda row: row.clipped > limits.clipping,
        lambda row: f"{row.clipped:.1%}",
    )
    listed(
        "offset",
        f"clips whose mean lies beyond {limits.offset:g} of full scale",
        lambda row: abs(row.offset) > limits.offset,
        lambda row: f"{row.offset:+.3f}",
    )
    listed(
        "bandwidth",
        "clips that hold less than their rate promises, as after upsampling or a low bit rate",
        lambda row: row.bandwidth < limits.bandwidth * row.rate / 2 and not limits.silent(row),
        lambda row: f"{row.bandwidth:.0f} Hz of {row.rate / 2:.0f} Hz",
    )
    return [finding for finding in [*findings, *_rates(rows, sample_rate)] if finding.count]


def _rates(rows: Sequence[ClipStats], sample_rate: int) -> list[Issue]:
    rates = Counter(row.rate for row in rows if row.problem is None)
    if len(rates) > 1:
        text = f"clips in {len(rates)} rates; training hears all at {sample_rate} Hz"
        counts = [f"{rate} Hz: {count} clips" for rate, count in rates.most_common()]
        return [Issue("note", "rates", text, sum(rates.values()), counts)]
    upsampled = sum(count for rate, count in rates.items() if rate < sample_rate)
    text = (
        f"clips at {min(rates, default=0)} Hz, below data.sample_rate={sample_rate}, which costs time and adds nothing"
    )
    return [Issue("note", "rates", text, upsampled, [])]


def decibels(level: float) -> float:
    """Of full scale; -200 for digital silence."""
    return 20 * math.log10(max(level, 1e-10))
