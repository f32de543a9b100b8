"""PSDS: a closed form of two classes, and the package sed_scores_eval."""

import numpy as np
import pytest

from spectrnn.detection.annotations import Annotation
from spectrnn.detection.matching import unite
from spectrnn.evaluation.psds import psds

# Those of DESED (tasks 4 of DCASE 2021 to 2023), and one with all terms.
FIRST = {"dtc": 0.7, "gtc": 0.7, "cttc": 0.3, "alpha_ct": 0.0, "alpha_st": 1.0, "max_efpr": 100.0}
SECOND = {"dtc": 0.1, "gtc": 0.1, "cttc": 0.3, "alpha_ct": 0.5, "alpha_st": 1.0, "max_efpr": 100.0}
THIRD = {"dtc": 0.4, "gtc": 0.5, "cttc": 0.2, "alpha_ct": 1.0, "alpha_st": 0.5, "max_efpr": 3000.0}

# By sed-scores-eval-np2 0.0.4, of the recordings of each seed.
EXPECTED = [
    (0.3413829028963493, 1.0, 0.8851124964736482),
    (0.3718849048016459, 1.0, 0.6424191650934653),
    (0.5197103254174287, 0.8499243647794391, 0.8302501569722835),
    (0.35084763631898197, 0.7640276594949448, 0.9828229914655493),
    (0.16255494044307073, 0.9127596046387952, 0.6377529178631718),
    (0.25250356094770054, 1.0, 0.8319588351995759),
    (0.6890564951584595, 0.9790724500244233, 0.930431960145143),
    (0.3003260798375117, 0.8994077682344545, 0.9010836820222242),
]


def test_score_of_two_classes():
    """Each event of a has a higher probability than the rest; of b one of two has, and all else is equally probable.

    In an hour the ROC of a is 1 from no false positive on, and that of b 1/2: the mean less the deviation is 1/2.
    """
    spans = np.stack([np.arange(3600.0), np.arange(1, 3601.0)], 1)
    probabilities = np.full((3600, 3), 0.1)
    true = [Annotation(100, 105, "a"), Annotation(200, 204, "a"), Annotation(300, 303, "b"), Annotation(400, 404, "b")]
    probabilities[100:105, 0] = probabilities[200:204, 0] = probabilities[300:303, 2] = 0.9
    arguments = {"night.wav": (spans, probabilities)}, {"night.wav": true}, ["a", "silent", "b"]
    assert psds(*arguments, **FIRST) == pytest.approx(0.75 - 0.25)
    assert psds(*arguments, **{**FIRST, "alpha_st": 0.0}) == pytest.approx(0.75)
    # A false detection of a in an event of b: 1 per hour, and 1 per 7 s of b, of a maximum of 1000 per hour.
    probabilities[400:404, 0] = 0.95
    rate = 1 + 0.5 * 3600 / 7
    expected = (1 - rate / 1000 + 0.5) / 2
    settings = {**FIRST, "alpha_ct": 0.5, "alpha_st": 0.0, "max_efpr": 1000.0}
    assert psds(*arguments, **settings) == pytest.approx(expected)


def recordings(seed):
    """Probabilities of four classes in three recordings, and true events of three of the classes."""
    generator = np.random.RandomState(seed)  # the same numbers in each version of numpy
    labels = ["a", "b", "never", "c"]
    steps, true = {}, {}
    for name in ("one", "two", "three"):
        edges = np.append(0, generator.uniform(0.5, 2, 80).cumsum())
        starts = generator.uniform(0, edges[-1] - 5, 12)
        events = unite(
            Annotation(start, start + generator.uniform(1, 15), labels[index])
            for start, index in zip(starts, generator.choice([0, 1, 3], 12), strict=True)
        )
        noise = generator.uniform(0, 1, (84, 4))
        probabilities = (noise[:-4] + noise[1:-3] + noise[2:-2] + noise[3:-1] + noise[4:]) / 10
        for start, end, label in events:
            inside = (edges[1:] > start - generator.uniform(-2, 2)) & (edges[:-1] < end)
            probabilities[inside, labels.index(label)] += generator.uniform(0, 0.5)
        if seed % 2:
            probabilities = probabilities.round(1)  # many equal ones
        steps[name], true[name] = (np.stack([edges[:-1], edges[1:]], 1), probabilities), events
    return steps, true, labels


def by_package(steps, true, labels, *, cttc, **criteria):
    """The score by the package sed_scores_eval (sed-scores-eval-np2 0.0.4)."""
    package = pytest.importorskip("sed_scores_eval")
    classes = [label for label in labels if label != "never"]
    kept = [labels.index(label) for label in classes]
    score, *_ = package.intersection_based.psds(
        {
            name: package.base_modules.scores.create_score_dataframe(
                values[:, kept], [*spans[:, 0], spans[-1, 1]], classes
            )
            for name, (spans, values) in steps.items()
        },
        {name: [tuple(event) for event in events] for name, events in true.items()},
        {name: spans[-1, 1] for name, (spans, _) in steps.items()},
        dtc_threshold=criteria.pop("dtc"),
        gtc_threshold=criteria.pop("gtc"),
        cttc_threshold=cttc if criteria["alpha_ct"] else None,
        **criteria,
    )
    return score


@pytest.mark.parametrize("seed", range(len(EXPECTED)))
def test_score_is_that_of_the_package(seed):
    scores = [psds(*recordings(seed), **settings) for settings in (FIRST, SECOND, THIRD)]
    assert scores == pytest.approx(EXPECTED[seed], abs=1e-12)


@pytest.mark.parametrize("seed", range(len(EXPECTED)))
def test_package_gives_the_expected_scores(seed):
    assert [by_package(*recordings(seed), **settings) for settings in (FIRST, SECOND, THIRD)] == list(EXPECTED[seed])
