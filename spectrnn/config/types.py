"""Types of config values, with their ranges; pydantic checks them."""

from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

PositiveInt = Annotated[int, Gt(0)]
LayerSize = Annotated[int, Gt(0), Le(1 << 16)]  # of a layer or table: a stranger's config must not fill the memory
NumLayers = Annotated[int, Gt(0), Le(100)]  # layers
SampleRate = Annotated[int, Gt(0), Le(1_000_000)]  # Hz
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Probability = Annotated[float, Ge(0), Le(1)]
Fraction = Annotated[float, Ge(0), Lt(1)]
MAX_CLIP_SECONDS = 3600  # of a clip that a model was trained on, and so of what is classified at once
WindowSeconds = Annotated[PositiveFloat, Le(MAX_CLIP_SECONDS)]  # s
HopSeconds = Annotated[PositiveFloat, Ge(0.001)]  # s
NumWindows = Annotated[PositiveInt, Le(10_000)]  # windows
PositiveFraction = Annotated[PositiveFloat, Le(1)]
ReportMegabytes = Annotated[float, Ge(1)]  # 10^6 bytes
