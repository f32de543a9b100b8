"""Types of config values with their ranges, which pydantic validates."""

from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

PositiveInt = Annotated[int, Gt(0)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Probability = Annotated[float, Ge(0), Le(1)]
Fraction = Annotated[float, Ge(0), Lt(1)]
PositiveFraction = Annotated[PositiveFloat, Le(1)]
# Limits keep an untrusted config from exhausting the memory.
LayerSize = Annotated[int, Gt(0), Le(1 << 16)]
NumLayers = Annotated[int, Gt(0), Le(100)]
NumWindows = Annotated[PositiveInt, Le(10_000)]
SampleRate = Annotated[int, Gt(0), Le(1_000_000)]  # Hz
MAX_CLIP_SECONDS = 3600  # maximum length of a training clip, and so of a window
WindowSeconds = Annotated[PositiveFloat, Le(MAX_CLIP_SECONDS)]
HopSeconds = Annotated[PositiveFloat, Ge(0.001)]
NumFolds = Annotated[int, Ge(2), Le(1000)]
ReportMegabytes = Annotated[float, Ge(1)]  # 10^6 bytes
