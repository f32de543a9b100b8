"""Paired tests agree with scipy and scikit-learn; clips are joined by what they are, not by their order."""

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap
from sklearn.metrics import balanced_accuracy_score, f1_score

from spectrnn.data.clips import Clip
from spectrnn.errors import UserError
from spectrnn.evaluation.predictions import Predictions, with_labels
from spectrnn.study.paired_test import common_clips, mcnemar, paired_test

LABELS = ["cat", "dog", "owl"]


def predictions(targets, predicted, groups=None, labels=LABELS, folder="/data", split="test"):
    """One clip per target, classified with probability 0.9."""
    clips = [
        Clip(f"{folder}/{labels[target]}/{number}.wav", labels[target], split, group=groups and groups[number])
        for number, target in enumerate(targets)
    ]
    probabilities = np.full((len(clips), len(labels)), 0.1 / (len(labels) - 1), np.float32)
    probabilities[np.arange(len(clips)), predicted] = 0.9
    return Predictions(clips, probabilities, probabilities.argmax(1), list(labels))


def noisy_pair(clips=400, groups=None, seed=0):
    """Predictions of two classifiers that are correct for about 75 % and 85 % of the clips."""
    generator = np.random.default_rng(seed)
    targets = generator.choice(3, clips, p=[0.6, 0.3, 0.1])
    wrong = [generator.random(clips) < rate for rate in (0.25, 0.15)]
    other = (targets + generator.integers(1, 3, clips)) % 3
    return [predictions(targets, np.where(is_wrong, other, targets), groups) for is_wrong in wrong]


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 1), (8, 20), (5, 5), (5, 6), (0, 40), (3000, 3200), (2, 9000)])
def test_mcnemar_is_the_exact_binomial_test(b, c):
    expected = binomtest(b, b + c, 0.5).pvalue if b + c else 1
    assert mcnemar(b, c) == mcnemar(c, b) == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_metrics_and_discordant_clips_are_those_of_scikit_learn():
    a, b = noisy_pair()
    test = paired_test(a, b)
    predicted = [part.probabilities.argmax(1) for part in (a, b)]
    right = [column == a.targets for column in predicted]
    assert (test.only_a, test.only_b) == ((right[0] & ~right[1]).sum(), (right[1] & ~right[0]).sum())
    assert test.p_value == pytest.approx(binomtest(test.only_a, test.only_a + test.only_b, 0.5).pvalue)
    expected = {
        "accuracy": [column.mean() for column in right],
        "balanced_accuracy": [balanced_accuracy_score(a.targets, column) for column in predicted],
        "macro_f1": [f1_score(a.targets, column, average="macro") for column in predicted],
    }
    assert list(test.metrics) == list(expected)
    for name, values in expected.items():
        metric = test.metrics[name]
        assert (metric.a, metric.b) == pytest.approx(values)
        assert metric.difference == pytest.approx(values[1] - values[0])
        assert metric.interval[0] < metric.difference < metric.interval[1]


def test_intervals_agree_with_another_bootstrap():
    a, b = noisy_pair()
    columns = a.targets, *(part.probabilities.argmax(1) for part in (a, b))

    def scores(targets, predicted):
        size = targets.max() + 1
        counts = np.bincount(size * targets + predicted, minlength=size * size).reshape(size, size)
        hits, true, found = counts.diagonal(), counts.sum(1), counts.sum(0)
        return np.array([hits.sum() / counts.sum(), (hits / true).mean(), (2 * hits / (true + found)).mean()])

    def differences(targets, x, y):
        return scores(targets, y) - scores(targets, x)

    # The formulas are those of scikit-learn, which takes a hundred times as long.
    balanced, f1 = (balanced_accuracy_score(*columns[:2]), f1_score(*columns[:2], average="macro"))
    assert scores(*columns[:2]) == pytest.approx([(columns[0] == columns[1]).mean(), balanced, f1])

    expected = bootstrap(
        columns, differences, paired=True, vectorized=False, method="percentile", n_resamples=600, rng=1
    ).confidence_interval
    intervals = np.array([metric.interval for metric in paired_test(a, b).metrics.values()])
    np.testing.assert_allclose(intervals, np.transpose(expected), atol=0.012)  # of a width of 0.1 to 0.17


def test_groups_are_resampled_as_a_whole():
    # In each of 20 groups of 20 clips, both classifiers are right everywhere, or only one of them is: as 20 clips.
    right = np.arange(20) % 3
    few = [predictions([0] * 20, np.where(right == wrong, 1, 0)) for wrong in (1, 2)]
    groups = [f"speaker {number}" for number in range(20) for _ in range(20)]
    many = [predictions([0] * 400, np.repeat(np.where(right == wrong, 1, 0), 20), groups) for wrong in (1, 2)]
    by_clip, by_group = (paired_test(*pair) for pair in (few, many))
    assert (by_clip.groups, by_group.groups) == (0, 20)
    assert by_group.metrics["accuracy"] == by_clip.metrics["accuracy"]
    # Without groups, the interval of the 400 clips would be narrower by about the square root of 20.
    ungrouped = paired_test(*(predictions([0] * 400, part.probabilities.argmax(1)) for part in many))
    width = np.diff(by_group.metrics["accuracy"].interval) / np.diff(ungrouped.metrics["accuracy"].interval)
    assert 3.5 < width < 5.5


def test_resampling_is_seeded():
    a, b = noisy_pair()
    assert paired_test(a, b) == paired_test(a, b)
    assert paired_test(a, b, seed=1).metrics["accuracy"].interval != paired_test(a, b).metrics["accuracy"].interval


def test_sentence_names_the_better_one_with_positive_limits():
    a, b = noisy_pair()
    test, reverse = paired_test(a, b), paired_test(b, a)
    low, high = (100 * end for end in test.metrics["accuracy"].interval)
    claim = f"new is better than old by {100 * test.metrics['accuracy'].difference:.1f} points"
    expected = f"{claim} (95 %: {low:.1f} to {high:.1f}); McNemar p = {test.p_value:.3f}; "
    counts = f"{test.only_a} clips only old classifies correctly, {test.only_b} only new"
    assert 0 < low < high
    assert test.describe("old", "new") == expected + counts
    assert reverse.describe("new", "old").startswith(expected)
    same = paired_test(a, a).describe("a", "b")
    assert same.startswith("a and b are equally accurate (95 %: 0.0 to 0.0); McNemar p = 1.000; 0 clips only a")


def test_difference_whose_interval_includes_0_may_be_chance():
    a, b = noisy_pair()
    b.probabilities[:] = a.probabilities
    wrong = np.flatnonzero(a.probabilities.argmax(1) != a.targets)[0]
    b.decisions[:] = a.decisions
    b.decisions[wrong] = a.targets[wrong]
    b.probabilities[wrong] = np.eye(len(a.labels))[a.targets[wrong]]  # a single clip better
    low, high = paired_test(a, b).metrics["accuracy"].interval
    assert low == 0 < high
    assert ", which may be chance (95 %: 0.0 to" in paired_test(a, b).describe("old", "new")


def test_clips_are_joined_by_path_part_and_label():
    a = predictions([0, 1, 2, 0, 1], [0, 1, 1, 0, 1])
    b = predictions([0, 1, 2, 0, 1], [0, 0, 2, 0, 1])
    b.clips[3] = b.clips[3]._replace(start=0.5)  # another part of the file
    b.clips[4] = b.clips[4]._replace(label="owl")  # a corrected label
    order = [4, 2, 0, 3, 1]
    shuffled = with_labels(b.rows(order), ["owl", "cat", "dog"])
    x, y = common_clips(a, shuffled, "test")
    assert [clip.path for clip in x.clips] == [clip.path for clip in y.clips] == [clip.path for clip in a.clips[:3]]
    assert x.labels == y.labels == LABELS
    assert x.probabilities.argmax(1).tolist() == [0, 1, 1]
    assert y.probabilities.argmax(1).tolist() == [0, 0, 2]


def test_clips_of_a_dataset_that_has_moved_are_joined():
    a = predictions([0, 1, 2], [0, 1, 2], folder="/old/place")
    b = predictions([0, 1, 2], [0, 1, 1], folder="/new")
    assert paired_test(*common_clips(a, b, "test")).only_a == 1


def test_only_clips_of_the_split_are_joined():
    a, b = predictions([0, 1, 2], [0, 1, 2]), predictions([0, 1, 2], [0, 1, 1])
    b.clips[1] = b.clips[1]._replace(split="val")
    assert len(common_clips(a, b, "test")[0].clips) == 2
    with pytest.raises(UserError, match="they have no common clips of the val split"):
        common_clips(a, b, "val")


def test_other_labels_are_rejected():
    a, b = predictions([0, 1], [0, 1]), predictions([0, 1], [0, 1], labels=["cat", "dog", "wolf"])
    with pytest.raises(UserError, match="their labels differ: only one of them has 'owl', 'wolf'"):
        common_clips(a, b, "test")
