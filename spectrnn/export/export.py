"""`spectrnn export`: one file for any device, or a look whether such a file still says what it said."""

from dataclasses import dataclass
from typing import Any, Literal

from omegaconf import DictConfig

from spectrnn.config import Count, Fraction, check, plain


@dataclass(kw_only=True)
class ExportConfig:
    """export.yaml."""

    data: dict[str, Any] | None
    run: str
    format: Literal["onnx"]
    quantize: Literal["int8"] | None
    split: Literal["train", "val", "test", "all"]
    clips: Count
    int8_accuracy_drop: Fraction
    license: str
    out: str | None
    batch_size: Count
    verify: str | None


def export(node: DictConfig) -> None:
    """Exports a model, or verifies an export.

    Args:
        node: as export.yaml composes it.

    Raises:
        UserError: any mistake in the config, the model or the corpus; or a file that says other than it should.
    """
    config = ExportConfig(**check({"data": None, **plain(node, "")}, ExportConfig, ""))
    if config.verify is not None:
        from spectrnn.export.golden import verify

        verify(config.verify)
    else:
        from spectrnn.export.package import export_run

        export_run(config)
