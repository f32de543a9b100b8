"""Train recurrent audio classifiers on spectrograms, evaluate them, and predict with them."""

from typing import TYPE_CHECKING, Any

from spectrnn.threads import set_wait_policy
from spectrnn.version import __version__

set_wait_policy()

__all__ = ["__version__", "load"]

if TYPE_CHECKING:
    from spectrnn.inference.predictor import load


def __getattr__(name: str) -> Any:
    # Imported on demand: the command line starts without torch.
    if name == "load":
        from spectrnn.inference.predictor import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
