"""The polyphonic sound detection score (Bilen et al., 2020), by the package sed_scores_eval."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from spectrnn.detection.annotations import Annotation
from spectrnn.detection.events import Array
from spectrnn.errors import UserError

_INSTALL = "pip install sed-scores-eval-np2 'setuptools<81' 'pandas<3'"  # not an extra: it fits no later ones


def require_package() -> Any:
    """Imports the package.

    Raises:
        UserError: It is not installed, or does not fit the installed version of another package.
    """
    try:
        return importlib.import_module("sed_scores_eval")
    except Exception as error:  # old packages that it imports fail in many ways
        needs = f"needs the package sed_scores_eval ({type(error).__name__}: {error})"
        raise UserError(f"psds=true: {needs}; {_INSTALL}") from error


def psds(
    steps: Mapping[str, tuple[Array, Array]],
    true: Mapping[str, Sequence[Annotation]],
    labels: list[str],
    *,
    dtc: float,
    gtc: float,
    alpha_st: float,
    max_efpr: float,
) -> float:
    """Computes the score, which is independent of thresholds.

    Args:
        steps: Spans in s without gaps, (steps, 2), and probabilities (steps, classes), by recording.
        true: True events by recording.
        labels: Names of the classes; those without events do not count.
        dtc: Detection tolerance criterion: fraction of a detected event that is in true ones.
        gtc: Ground truth intersection criterion: fraction of a true event that is in such detected ones.
        alpha_st: Weight of the standard deviation over the classes.
        max_efpr: Maximum rate of false positives per hour.
    """
    package = require_package()
    scores = importlib.import_module("sed_scores_eval.base_modules.scores")
    classes = [label for label in labels if any(event.label == label for events in true.values() for event in events)]
    columns = [labels.index(label) for label in classes]
    frames = {
        path: scores.create_score_dataframe(probabilities[:, columns], [*spans[:, 0], spans[-1, 1]], classes)
        for path, (spans, probabilities) in steps.items()
    }
    durations = {path: float(spans[-1, 1]) for path, (spans, _) in steps.items()}
    events = {path: [tuple(event) for event in true[path]] for path in steps}
    value, *_ = package.intersection_based.psds(
        frames,
        events,
        durations,
        dtc_threshold=dtc,
        gtc_threshold=gtc,
        alpha_st=alpha_st,
        max_efpr=max_efpr,
    )
    return float(value)
