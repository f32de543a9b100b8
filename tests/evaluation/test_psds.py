"""PSDS: a closed form of two classes, and a missing package."""

import sys

import numpy as np
import pytest

from spectrnn.detection.annotations import Annotation
from spectrnn.errors import UserError
from spectrnn.evaluation.psds import psds, require_package

CRITERIA = {"dtc": 0.7, "gtc": 0.7, "alpha_st": 1.0, "max_efpr": 100.0}


def test_score_of_two_classes():
    """Each event of a has a higher probability than the rest; of b one of two has, and all else is equally probable.

    In an hour the ROC of a is 1 from no false positive on, and that of b 1/2: the mean less the deviation is 1/2.
    """
    pytest.importorskip("sed_scores_eval")
    spans = np.stack([np.arange(3600.0), np.arange(1, 3601.0)], 1)
    probabilities = np.full((3600, 3), 0.1)
    true = [Annotation(100, 105, "a"), Annotation(200, 204, "a"), Annotation(300, 303, "b"), Annotation(400, 404, "b")]
    probabilities[100:105, 0] = probabilities[200:204, 0] = probabilities[300:303, 2] = 0.9
    arguments = {"night.wav": (spans, probabilities)}, {"night.wav": true}, ["a", "silent", "b"]
    assert psds(*arguments, **CRITERIA) == pytest.approx(0.75 - 0.25)
    assert psds(*arguments, **{**CRITERIA, "alpha_st": 0.0}) == pytest.approx(0.75)


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sed_scores_eval", None)
    with pytest.raises(
        UserError, match=r"^psds=true: needs the package sed_scores_eval .*; pip install sed-scores-eval-np2 "
    ):
        require_package()
