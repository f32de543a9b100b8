"""What export.yaml says."""

from dataclasses import dataclass
from typing import Any, Literal

from spectrnn.config import Count, Fraction


@dataclass(kw_only=True)
class ExportConfig:
    """export.yaml."""

    data: dict[str, Any] | None
    run: str
    format: Literal["onnx"]
    quantize: Literal["int8"] | None
    streaming: bool
    split: Literal["train", "val", "test", "all"]
    clips: Count
    int8_accuracy_drop: Fraction
    license: str
    out: str | None
    batch_size: Count
    verify: str | None
