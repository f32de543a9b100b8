"""`spectrnn export`: one file for any device, or a look whether such a file still says what it said."""

from omegaconf import DictConfig

from spectrnn.config import check, plain
from spectrnn.export.settings import ExportConfig


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
