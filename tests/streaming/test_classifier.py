"""Streaming classifiers: the result after each block equals that of the classifier for the whole stream so far."""

import itertools

import pytest
import torch

from spectrnn.errors import UserError
from spectrnn.frontend.normalization import Normalization
from spectrnn.model.ensemble import Ensemble
from spectrnn.model.pooling import Pooling
from spectrnn.model.rnn import Encoder
from spectrnn.streaming.classifier import StreamingClassifier
from spectrnn.streaming.rolling import RollingClassifier

POOLINGS = ("last", "mean", "max", "attention", "stats")
COMBINATIONS = list(itertools.product(("logmel", "mfcc"), ("global", "none"), ("gru", "lstm"), (1, 2), POOLINGS))


def split(sound, sizes):
    """Yields blocks of these sizes, repeatedly, until the end of the signal."""
    start = 0
    for size in itertools.cycle(sizes):
        yield sound[:, start : start + size]
        start += size
        if start >= sound.shape[1]:
            return


@torch.inference_mode()
def max_difference(classifier, config, sound, sizes):
    """Maximum difference between the result after a block and that for the whole signal so far, at every 7th block."""
    streaming = StreamingClassifier(classifier, config)
    state, samples, results = streaming.initial_state(len(sound)), 0, []
    for number, block in enumerate(split(sound, sizes)):
        probabilities, state = streaming(block, state)
        samples += block.shape[1]
        if number % 7 == 0 or samples == sound.shape[1]:
            whole = classifier.probabilities(sound[:, :samples], torch.full((len(sound),), samples))
            results.append((probabilities, whole))
    assert samples == sound.shape[1]
    found, expected = (torch.stack(part) for part in zip(*results, strict=True))
    assert expected.flatten(0, 1).std(0).max() > 0.01  # not constant
    return (found - expected).abs().max()


@pytest.mark.parametrize(("features", "normalize", "model", "layers", "pooling"), COMBINATIONS)
def test_result_equals_that_of_the_whole_signal(causal, sound, features, normalize, model, layers, pooling):
    classifier, config = causal(layers, features=features, normalize=normalize, model=model, pooling=pooling)
    assert max_difference(classifier, config, sound, [0, 7, 160, 1, 320, 900]) < 1e-5


@pytest.mark.parametrize("sizes", [[1], [320], [8000, 1], [0, 7, 160, 1, 320, 900]])
def test_result_with_pcen_equals_that_of_the_whole_signal(causal, sound, sizes):
    sound = sound[:, :1500] if sizes == [1] else sound
    assert max_difference(*causal(features="pcen", pooling="attention"), sound, sizes) < 1e-5


@pytest.mark.parametrize(("model", "pooling", "normalize"), [("gru", "attention", "global"), ("lstm", "stats", "none")])
def test_result_of_an_ensemble_is_the_mean_of_those_of_its_members(causal, variants, sound, model, pooling, normalize):
    classifier, config = causal(model=model, pooling=pooling, normalize=normalize)
    members = variants(classifier, 3)
    ensemble = Ensemble(members)
    assert max_difference(ensemble, config, sound, [0, 7, 160, 1, 320, 900]) < 1e-5
    results = []
    for each in (ensemble, *members):
        rolling = RollingClassifier(StreamingClassifier(each, config), 4000, 2, 5)
        results.append([*rolling.push(sound[0]), *rolling.finish()])
    for prediction, *parts in zip(*results, strict=True):
        assert all(part[:2] == prediction[:2] for part in parts)
        mean = torch.stack([part.probabilities for part in parts]).mean(0)
        assert (prediction.probabilities - mean).abs().max() < 1e-5
    assert len(results[0]) > 10


@pytest.mark.parametrize("sizes", [[1], [160], [320], [4000], [8000, 1], torch.randint(0, 700, (50,)).tolist()])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_result_is_independent_of_block_sizes(causal, sound, sizes, pooling):
    assert max_difference(*causal(pooling=pooling), sound[:, :1500] if sizes == [1] else sound, sizes) < 1e-5


@torch.inference_mode()
def test_result_is_exact_after_ten_minutes(causal):
    classifier, config = causal(1, pooling="attention")
    streaming = StreamingClassifier(classifier, config)
    sound = torch.randn(1, 8000 * 600) * torch.linspace(0.5, 0.01, 8000 * 600)
    state = streaming.initial_state(1)
    for block in sound.split(48000, 1):
        probabilities, state = streaming(block, state)
    whole = classifier.probabilities(sound, torch.tensor([sound.shape[1]]))
    assert (probabilities - whole).abs().max() < 1e-5


@pytest.mark.parametrize("option", POOLINGS)
@torch.inference_mode()
def test_pooling_is_exact_after_ten_minutes(causal, option):
    """60,000 frames in blocks of eight with a trend, compared with float64."""
    pooling = causal(1, pooling=option)[0].pooling
    x = torch.rand(1, 60_000, 8) + torch.linspace(-1, 0, 60_000)[:, None]
    state = pooling.initial_state(1)
    for number, block in enumerate(x.split(8, 1), 1):
        state = pooling.step(block, state, torch.full((1, 1), 8.0 * number))
    expected = pooling.double()(x.double(), torch.tensor([60_000]))
    assert (pooling.output(state) - expected).abs().max() < 5e-6


@torch.inference_mode()
def test_stream_shorter_than_a_frame_is_padded_like_a_clip(causal, sound):
    classifier, config = causal()
    streaming = StreamingClassifier(classifier, config)
    probabilities, state = streaming(sound[:, :0], streaming.initial_state(3))
    expected = classifier.probabilities(sound[:, :0], torch.zeros(3, dtype=torch.int64))
    torch.testing.assert_close(probabilities, expected)
    for start, end in ((0, 1), (1, 100), (100, 199)):  # a frame has 200 samples
        probabilities, state = streaming(sound[:, start:end], state)
        expected = classifier.probabilities(sound[:, :end], torch.full((3,), end))
        torch.testing.assert_close(probabilities, expected, rtol=0, atol=1e-5)
    assert not state[1].any()


@torch.inference_mode()
def test_blocks_of_whole_hops_keep_the_shapes_of_the_state(causal, sound):
    streaming = StreamingClassifier(*causal(model="lstm", pooling="attention"))
    overlap = streaming.classifier.features.window_size - streaming.classifier.features.hop_size
    state = (sound[:, :overlap], *streaming.initial_state(3)[1:])
    probabilities, after = streaming(sound[:, overlap:][:, :160], state)
    assert [part.shape for part in after] == [part.shape for part in state]
    assert all(part.dtype == torch.float32 for part in after)
    lengths = torch.full((3,), overlap + 160)
    expected = streaming.classifier.probabilities(sound[:, : overlap + 160], lengths)
    torch.testing.assert_close(probabilities, expected, rtol=0, atol=1e-5)


def issues_of(causal, **options):
    """Lines of the error about stages that do not support streaming, without the hint."""
    classifier, config = causal(**options)
    with pytest.raises(UserError) as caught:
        StreamingClassifier(classifier, config)
    *issues, hint = str(caught.value).splitlines()
    assert hint == (
        "  The model cannot process a stream. Sliding windows take any model: spectrnn predict - window=1 hop=0.1; "
        "or train a causal one: spectrnn train experiment=streaming"
    )
    return issues


def test_backward_direction_is_rejected(causal):
    assert issues_of(causal, model="bigru") == [
        "model.bidirectional=true: processes a clip from its end, which a stream does not have; "
        "model=gru and model=lstm do not"
    ]


def test_ensemble_of_models_that_cannot_process_a_stream_is_rejected(causal, variants):
    classifier, config = causal(normalize="cmvn", model="bigru")
    with pytest.raises(UserError) as single:
        StreamingClassifier(classifier, config)
    with pytest.raises(UserError) as ensemble:
        StreamingClassifier(Ensemble(variants(classifier, 2)), config)
    assert str(ensemble.value) == str(single.value)


def test_all_streaming_issues_are_reported_at_once(causal):
    assert issues_of(causal, deltas=1, normalize="cmvn", model="crnn") == [
        "features.deltas=1: needs a lookahead of 2 frames; 0 needs none",
        "normalize=cmvn: needs the mean of the whole clip; normalize=global does not",
        "model=crnn: its convolutions need later frames; model=gru and model=lstm do not",
        "model.bidirectional=true: processes a clip from its end, which a stream does not have; "
        "model=gru and model=lstm do not",
    ]


@pytest.mark.parametrize(("interface", "sizes"), [(Normalization, ()), (Encoder, ()), (Pooling, (4,))])
def test_custom_stage_does_not_support_streaming_by_default(interface, sizes):
    class Custom(interface):
        def forward(self, x, lengths):
            return x

    assert Custom(*sizes).streaming_issues == {"": "does not support streaming"}
