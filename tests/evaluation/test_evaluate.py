"""Predictions for clips in several crops, compared with each crop classified alone."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from spectrnn.config.instantiate import to_container
from spectrnn.config.paths import CONFIG_DIR
from spectrnn.data.dataset import open_dataset
from spectrnn.evaluation.calibration import apply_temperature
from spectrnn.evaluation.evaluate import mean_over_crops, predict_batches
from spectrnn.model.classifier import Classifier, build_stages

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset(source, tones):
    """Clips of 1600 to 3360 samples, with crops of 2000 samples."""
    return open_dataset(source("folder", root=tones, sample_rate=8000, max_seconds=0.25), CPU)


@pytest.fixture(scope="module")
def model(dataset):
    torch.manual_seed(0)
    settings = ["data.sample_rate=8000", "features.n_mels=32", "model.hidden_size=6", "model.num_layers=1"]
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = compose("train", settings)
    classifier = Classifier(build_stages(to_container(config, ""), len(dataset.labels)), dataset.labels).eval()
    with torch.no_grad():
        classifier.head[-1].weight.mul_(30)  # so that crops differ
    return classifier


def logits_of_crops(model, dataset, row):
    """Logits of each crop alone (crops, classes), and weights (crops,): lengths of the parts closest to its center."""
    start, length = int(dataset.cache.offsets[row]), int(dataset.cache.lengths[row])
    samples = dataset.cache.samples.read(start, length) / np.float32(32768)
    starts = {1: [0], 2: [0, length - 2000], 3: [0, 1000, length - 2000]}[1 + max(0, -(-(length - 2000) // 1000))]
    ends = [*((a + b + 2000) / 2 for a, b in pairwise(starts)), length]
    crops = [torch.from_numpy(samples[first : first + 2000])[None] for first in starts]
    with torch.inference_mode():
        logits = np.concatenate([model(crop, torch.tensor([crop.shape[1]])).numpy() for crop in crops])
    return logits, np.diff([0, *ends]) / length


@pytest.mark.parametrize("batch_size", [1, 5, 64])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_prediction_is_the_softmax_of_the_mean_logits_of_crops(model, dataset, batch_size, temperature):
    model.temperature.fill_(temperature)
    outcome = predict_batches(model, dataset.batches("all", batch_size, CPU, cover=True))
    probabilities, targets = outcome.probabilities, outcome.targets
    rows = dataset.rows("all")
    assert targets.tolist() == dataset.targets(rows).tolist()
    assert probabilities.dtype == np.float32
    counts = set()
    for row, found in zip(rows, probabilities, strict=True):
        logits, weights = logits_of_crops(model, dataset, row)
        counts.add(len(weights))
        powers = np.exp(weights @ logits / temperature)
        np.testing.assert_allclose(found, powers / powers.sum(), atol=1e-5)
        if len(weights) > 1 and np.ptp(logits, axis=0).max() > 0.1:
            counts.add("different")
    assert counts == {1, 2, 3, "different"}


def test_embeddings_are_of_the_same_pass_and_have_the_logits_of_the_clips(model, dataset, monkeypatch):
    model.temperature.fill_(1)
    batches, passes = dataset.batches("all", 8, CPU, cover=True), []
    trace = Classifier.trace
    monkeypatch.setattr(Classifier, "trace", lambda *arguments: passes.append(1) or trace(*arguments))
    outcome = predict_batches(model, batches, with_embeddings=True)
    assert len(passes) == len(batches)
    assert outcome.embeddings.shape == (len(dataset.rows("all")), model.pooling.output_size)
    with torch.inference_mode():
        expected = model.head(torch.from_numpy(outcome.embeddings)).softmax(1).numpy()
    np.testing.assert_allclose(outcome.probabilities, expected, atol=1e-5)
    assert predict_batches(model, batches).embeddings is None


def test_temperature_of_clips_is_that_of_crops(model, dataset):
    batches = dataset.batches("all", 8, CPU, cover=True)
    model.temperature.fill_(1)
    before, *_ = predict_batches(model, batches)
    model.temperature.fill_(3)
    after, *_ = predict_batches(model, batches)
    np.testing.assert_allclose(after, apply_temperature(model.task, before, 3), atol=1e-5)


def test_predictions_of_clips_that_are_short_enough_do_not_change(model, dataset):
    whole = replace(dataset, max_seconds=None)
    single, covered = (predict_batches(model, whole.batches("all", 8, CPU, cover=cover))[0] for cover in (False, True))
    assert np.array_equal(single, covered)
    cropped, covered = (
        predict_batches(model, dataset.batches("all", 8, CPU, cover=cover))[0] for cover in (False, True)
    )
    short = dataset.cache.lengths <= 2000
    assert 0 < short.sum() < len(short)
    assert np.array_equal(cropped[short], covered[short])
    assert not np.allclose(cropped[~short], covered[~short], atol=1e-4)


def test_mean_does_not_depend_on_the_order_of_crops_or_on_padding(model):
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(3), 7).astype(np.float32)
    rows, weights = np.array([2, 2, 5, -1, 9, 9, 9]), np.array([0.25, 0.75, 1, 1, 0.5, 0.3, 0.2])
    means = mean_over_crops(model.task, probabilities, rows, weights)
    order = generator.permutation(7)
    np.testing.assert_allclose(
        mean_over_crops(model.task, probabilities[order], rows[order], weights[order]), means, atol=1e-7
    )
    assert np.array_equal(means[1], probabilities[2])
    product = np.prod(probabilities[4:] ** weights[4:, None], axis=0)
    np.testing.assert_allclose(means[2], product / product.sum(), atol=1e-6)
