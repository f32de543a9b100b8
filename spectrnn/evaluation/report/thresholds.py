"""Curves of two classes by threshold."""

from typing import Any

import numpy as np

from spectrnn.evaluation.rankings import Array

_MAX_POINTS = 400


def operating_points(scores: Array, is_positive: Array) -> dict[str, Any]:
    """Computes the ROC and precision-recall curves of a class (Fawcett, 2006), ready for JSON.

    A clip is detected if its score is not less than the threshold.

    Args:
        scores: Probability of the class, float32 (clips,).
        is_positive: Whether the class is that of the clip, bool (clips,); some are and some are not.

    Returns:
        ``positives`` and ``negatives``, their numbers of clips; ``points``: threshold, detected positives and detected
        negatives, in order of rising thresholds, 0.5 among them; at most 400 of them, evenly from all; the area under
        the ROC curve ``auc``, and the ``average_precision``, both of all thresholds.
    """
    order = np.argsort(-scores, kind="stable")
    thresholds, hits = scores[order], np.cumsum(is_positive[order])
    last = np.flatnonzero(np.append(np.diff(thresholds) != 0, True))  # of the clips with the same score
    detected, false = hits[last], last + 1 - hits[last]
    positives, negatives = int(hits[-1]), int(len(scores) - hits[-1])
    recall, rate = np.append(0, detected / positives), np.append(0, false / negatives)
    precision = detected / (detected + false)
    kept = np.unique(np.linspace(0, len(last) - 1, min(len(last), _MAX_POINTS - 1)).round().astype(int))
    points = {
        float(f"{threshold:.9g}"): [int(own), int(other)]
        for threshold, own, other in zip(thresholds[last[kept]], detected[kept], false[kept], strict=True)
    }
    is_detected = scores >= 0.5
    points[0.5] = [int((is_detected & is_positive).sum()), int((is_detected & ~is_positive).sum())]
    return {
        "positives": positives,
        "negatives": negatives,
        "points": [[threshold, *points[threshold]] for threshold in sorted(points)],
        "auc": float(np.trapezoid(recall, rate)),
        "average_precision": float(np.diff(recall) @ precision),
    }
