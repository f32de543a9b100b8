"""From packet to packet the answers are those to the whole, and what cannot stream is refused."""

import itertools

import pytest
import torch

from spectrnn.errors import UserError
from spectrnn.frontend.normalization import Normalization
from spectrnn.model.pooling import Pooling
from spectrnn.model.rnn import Encoder
from spectrnn.streaming.classifier import StreamingClassifier

POOLINGS = ("last", "mean", "max", "attention", "stats")
WAYS = list(itertools.product(("logmel", "mfcc"), ("global", "none"), ("gru", "lstm"), (1, 2), POOLINGS))


def packets(sound, sizes):
    """The sound in packets of these sizes, over and over."""
    begun = 0
    for size in itertools.cycle(sizes):
        yield sound[:, begun : begun + size]
        begun += size
        if begun >= sound.shape[1]:
            return


@torch.inference_mode()
def differences(classifier, config, sound, sizes):
    """How far the answer after each packet is from that to all so far, for some of them."""
    streaming = StreamingClassifier(classifier, config)
    state, heard, answers = streaming.initial(len(sound)), 0, []
    for number, packet in enumerate(packets(sound, sizes)):
        probabilities, state = streaming(packet, state)
        heard += packet.shape[1]
        if number % 7 == 0 or heard == sound.shape[1]:
            whole = classifier.probabilities(sound[:, :heard], torch.full((len(sound),), heard))
            answers.append((probabilities, whole))
    assert heard == sound.shape[1]
    found, expected = (torch.stack(part) for part in zip(*answers, strict=True))
    assert expected.flatten(0, 1).std(0).max() > 0.01  # they are worth comparing
    return (found - expected).abs().max()


@pytest.mark.parametrize(("features", "normalize", "model", "layers", "pooling"), WAYS)
def test_any_packets_give_what_the_whole_gives(causal, sound, features, normalize, model, layers, pooling):
    classifier, config = causal(layers, features=features, normalize=normalize, model=model, pooling=pooling)
    assert differences(classifier, config, sound, [0, 7, 160, 1, 320, 900]) < 1e-5


@pytest.mark.parametrize("sizes", [[1], [160], [320], [4000], [8000, 1], torch.randint(0, 700, (50,)).tolist()])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_whatever_the_sizes_of_packets(causal, sound, sizes, pooling):
    assert differences(*causal(pooling=pooling), sound[:, :1500] if sizes == [1] else sound, sizes) < 1e-5


@torch.inference_mode()
def test_ten_minutes_later_it_still_does(causal):
    classifier, config = causal(1, pooling="attention")
    streaming = StreamingClassifier(classifier, config)
    sound = torch.randn(1, 8000 * 600) * torch.linspace(0.5, 0.01, 8000 * 600)
    state = streaming.initial(1)
    for packet in sound.split(48000, 1):
        probabilities, state = streaming(packet, state)
    whole = classifier.probabilities(sound, torch.tensor([sound.shape[1]]))
    assert (probabilities - whole).abs().max() < 1e-5


@pytest.mark.parametrize("option", POOLINGS)
@torch.inference_mode()
def test_pools_that_run_for_ten_minutes_are_exact(causal, option):
    """60,000 frames, eight a packet, whose first ones are unlike the last ones; against float64."""
    pooling = causal(1, pooling=option)[0].pooling
    x = torch.rand(1, 60_000, 8) + torch.linspace(-1, 0, 60_000)[:, None]
    state = pooling.initial_state(1)
    for number, packet in enumerate(x.split(8, 1), 1):
        state = pooling.step(packet, state, torch.full((1, 1), 8.0 * number))
    expected = pooling.double()(x.double(), torch.tensor([60_000]))
    assert (pooling.output(state) - expected).abs().max() < 5e-6


@torch.inference_mode()
def test_before_the_first_frame_a_stream_is_padded_as_a_clip_is(causal, sound):
    classifier, config = causal()
    streaming = StreamingClassifier(classifier, config)
    nothing, state = streaming(sound[:, :0], streaming.initial(3))
    torch.testing.assert_close(nothing, classifier.probabilities(sound[:, :0], torch.zeros(3, dtype=torch.int64)))
    for begun, heard in ((0, 1), (1, 100), (100, 199)):  # of the 200 of a frame
        probabilities, state = streaming(sound[:, begun:heard], state)
        expected = classifier.probabilities(sound[:, :heard], torch.full((3,), heard))
        torch.testing.assert_close(probabilities, expected, rtol=0, atol=1e-5)
    assert not state[1].any()


@torch.inference_mode()
def test_packets_of_whole_hops_keep_the_shapes_of_the_state(causal, sound):
    streaming = StreamingClassifier(*causal(model="lstm", pooling="attention"))
    overlap = streaming.classifier.features.window_size - streaming.classifier.features.hop_size
    state = (sound[:, :overlap], *streaming.initial(3)[1:])
    probabilities, after = streaming(sound[:, overlap:][:, :160], state)
    assert [part.shape for part in after] == [part.shape for part in state]
    assert all(part.dtype == torch.float32 for part in after)
    heard = torch.full((3,), overlap + 160)
    expected = streaming.classifier.probabilities(sound[:, : overlap + 160], heard)
    torch.testing.assert_close(probabilities, expected, rtol=0, atol=1e-5)


def refusal(causal, deltas=0, **options):
    classifier, config = causal(**options)
    classifier.features.deltas = config["features"]["deltas"] = deltas
    with pytest.raises(UserError) as error:
        StreamingClassifier(classifier, config)
    *reasons, way_out = str(error.value).splitlines()
    assert "predict - window=" in way_out
    assert "experiment=streaming" in way_out
    return [reason.partition(": ") for reason in reasons]


def test_a_backward_direction_is_refused(causal):
    ((key, _, reason),) = refusal(causal, model="bigru")
    assert key == "model.bidirectional=true"
    assert "backward" in reason


def test_all_obstacles_are_told_at_once(causal):
    keys = [key for key, _, _ in refusal(causal, deltas=1, normalize="cmvn", model="crnn", pooling="mean")]
    assert keys == ["features.deltas=1", "normalize=cmvn", "model=crnn", "model.bidirectional=true"]


@pytest.mark.parametrize(("interface", "sizes"), [(Normalization, ()), (Encoder, ()), (Pooling, (4,))])
def test_a_new_stage_that_says_nothing_of_streams_is_refused(interface, sizes):
    class New(interface):
        def forward(self, x, frames):
            return x

    assert New(*sizes).streaming_issues == {"": "has no way to go on from packet to packet"}
