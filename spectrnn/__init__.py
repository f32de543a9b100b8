"""Train recurrent audio classifiers on spectrograms, evaluate them, and predict with them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from spectrnn.threads import set_wait_policy
from spectrnn.version import __version__

set_wait_policy()

# Imported on demand: the command line starts without torch.
_MODULES = {
    "Evaluation": "spectrnn.api.model",
    "Event": "spectrnn.detection.events",
    "Model": "spectrnn.api.model",
    "Prediction": "spectrnn.inference.predictor",
    "Results": "spectrnn.api.results",
    "Run": "spectrnn.api.run",
    "UserError": "spectrnn.errors",
    "load": "spectrnn.api.model",
    "train": "spectrnn.api.run",
}

__all__ = ["Evaluation", "Event", "Model", "Prediction", "Results", "Run", "UserError", "__version__", "load", "train"]

if TYPE_CHECKING:
    from spectrnn.api.model import Evaluation, Model, load
    from spectrnn.api.results import Results
    from spectrnn.api.run import Run, train
    from spectrnn.detection.events import Event
    from spectrnn.errors import UserError
    from spectrnn.inference.predictor import Prediction


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
