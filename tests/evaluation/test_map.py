"""The map of the clips: its projection compared with NumPy's singular values, and its sample; no page."""

import numpy as np
import pytest

from spectrnn.evaluation.report import map as clips_map
from spectrnn.evaluation.report.map import clip_map, principal_components


def vectors(clips, size, seed=0):
    generator = np.random.default_rng(seed)
    return (generator.standard_normal((clips, size)) * 3.0 ** -np.arange(size) + 5).astype(np.float32)


@pytest.mark.parametrize(("clips", "size"), [(300, 12), (7, 20), (3, 2)])
def test_components_are_those_of_the_singular_values(clips, size):
    x = vectors(clips, size)
    left, values, _ = np.linalg.svd((x - x.mean(0)).astype(np.float64), full_matrices=False)
    places, fractions = principal_components(x)
    expected = left[:, :2] * values[:2]
    signs = np.sign((places * expected).sum(0))
    np.testing.assert_allclose(places, expected * signs, atol=1e-5)
    np.testing.assert_allclose(fractions, values[:2] ** 2 / (values**2).sum(), atol=1e-4)


def test_orientation_does_not_depend_on_the_order_of_the_clips():
    x, order = vectors(50, 6), np.random.default_rng(1).permutation(50)
    np.testing.assert_allclose(principal_components(x[order])[0], principal_components(x)[0][order], atol=1e-5)


def test_map_has_one_scale_for_both_axes():
    x = vectors(40, 8)
    found = clip_map(x)
    numbers, places = np.array(found["points"])[:, 0], np.array(found["points"])[:, 1:]
    assert numbers.tolist() == [*range(40)]
    assert (places.min(0).tolist(), places.max()) == ([0, 0], 2000)
    ours, theirs = (np.linalg.norm(own[:, None] - own, axis=-1) for own in (places, principal_components(x)[0]))
    np.testing.assert_allclose(ours / ours.max(), theirs / theirs.max(), atol=1e-3)


def test_map_of_many_clips_is_of_a_random_sample(monkeypatch):
    monkeypatch.setattr(clips_map, "_MAX_CLIPS", 20)
    found, again = clip_map(vectors(400, 4)), clip_map(vectors(400, 4))
    numbers = [number for number, _, _ in found["points"]]
    assert found == again
    assert len({*numbers}) == 20
    assert numbers == sorted(numbers)
    assert numbers[-1] > 200


def test_equal_clips_have_one_place():
    assert clip_map(np.ones((4, 3), np.float32))["points"] == [[0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]]


@pytest.mark.parametrize("embeddings", [None, vectors(2, 8), vectors(9, 1)])
def test_there_is_no_map_of_unknown_few_or_single_values(embeddings):
    assert clip_map(embeddings) is None
