"""Rolling classification: each output equals that of the classifier for the last segment of the stream as a clip."""

import pytest
import torch

from spectrnn.streaming.classifier import StreamingClassifier
from spectrnn.streaming.rolling import RollingClassifier

WINDOW, REPLICAS, STRIDE = 1600, 4, 3  # samples; replicas; frames per output


@pytest.fixture
def stream(sound):
    """Three seconds, (24003,)."""
    return sound.flatten()


def predict(classifier, config, stream, sizes, window=WINDOW, num_replicas=REPLICAS, stride=STRIDE):
    rolling = RollingClassifier(StreamingClassifier(classifier, config), window, num_replicas, stride)
    return [prediction for block in stream.split(sizes) for prediction in rolling.push(block)]


def assert_equals_offline(classifier, stream, prediction):
    clip = stream[None, prediction.start : prediction.end]
    expected = classifier.probabilities(clip, torch.tensor([clip.shape[1]]))[0]
    torch.testing.assert_close(prediction.probabilities, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("features", ["logmel", "pcen"])
@pytest.mark.parametrize("pooling", ["last", "mean", "max", "attention", "stats"])
def test_predictions_equal_offline_ones_for_the_last_segment(causal, stream, pooling, features):
    classifier, config = causal(pooling=pooling, features=features)
    predictions = predict(classifier, config, stream, 160)
    for prediction in predictions:
        assert_equals_offline(classifier, stream, prediction)
    assert torch.stack([prediction.probabilities for prediction in predictions]).std(0).max() > 0.01


@pytest.mark.parametrize("num_replicas", [1, 2, 4, 5])
def test_segments_cover_most_of_the_window(causal, stream, num_replicas):
    classifier, config = causal()
    predictions = predict(classifier, config, stream, 160, num_replicas=num_replicas)
    # Frames have 200 samples and a hop of 80.
    assert [prediction.end for prediction in predictions] == [*range(200 + 80 * (STRIDE - 1), 24004, 80 * STRIDE)]
    lengths = [prediction.end - prediction.start for prediction in predictions if prediction.end > WINDOW]
    assert max(lengths) <= WINDOW
    assert min(lengths) >= (1 - 1 / num_replicas) * (WINDOW - 80 * num_replicas)
    starts = [prediction.start for prediction in predictions]
    assert starts == sorted(starts)


@pytest.mark.parametrize("sizes", [1, 7, 333, [0, 5000, 1, 0, 19002], 24003])
def test_predictions_are_independent_of_block_sizes(causal, stream, sizes):
    classifier, config = causal(pooling="attention")
    stream = stream[:4000] if sizes == 1 else stream
    found, expected = predict(classifier, config, stream, sizes), predict(classifier, config, stream, 160)
    assert [prediction[:2] for prediction in found] == [prediction[:2] for prediction in expected]
    for prediction, other in zip(found, expected, strict=True):
        torch.testing.assert_close(prediction.probabilities, other.probabilities, rtol=0, atol=1e-5)


def test_window_has_at_least_one_frame_per_replica(causal, stream):
    predictions = predict(*causal(), stream[:2000], 160, window=1, stride=1)
    assert max(prediction.end - prediction.start for prediction in predictions) == 200 + 3 * 80


@pytest.mark.parametrize("samples", [1, 100, 199, 200, 441, 1999, 4321])
def test_last_prediction_is_for_the_end_of_the_stream(causal, stream, samples):
    classifier, config = causal(pooling="attention")
    rolling = RollingClassifier(StreamingClassifier(classifier, config), WINDOW, REPLICAS, STRIDE)
    predictions = [*rolling.push(stream[:samples]), *rolling.finish()]
    last = predictions[-1]
    assert last.end <= samples < max(last.end, 200) + 80  # an incomplete frame is not used
    assert_equals_offline(classifier, stream, last)
    assert len({prediction.end for prediction in predictions}) == len(predictions)


def test_empty_stream_has_no_prediction(causal):
    classifier, config = causal()
    assert RollingClassifier(StreamingClassifier(classifier, config), WINDOW, REPLICAS, STRIDE).finish() == []
