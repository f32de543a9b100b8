"""Train recurrent audio classifiers on spectrograms, evaluate them, and predict with them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["CONFIGS", "load"]

_PACKAGE = Path(__file__).resolve().parent
# In a wheel the configs lie inside the package, in a checkout beside it.
CONFIGS = next((folder for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if folder.is_dir()), _PACKAGE)

if TYPE_CHECKING:
    from spectrnn.inference.predictor import load


def __getattr__(name: str) -> Any:
    # Imported on demand: the command line starts without torch.
    if name == "load":
        from spectrnn.inference.predictor import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
