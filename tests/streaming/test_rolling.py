"""Every answer about a stream without an end is the one about its last stretch as a clip."""

import pytest
import torch

from spectrnn.streaming.classifier import StreamingClassifier
from spectrnn.streaming.rolling import RollingClassifier

WINDOW, LISTENERS, EVERY = 1600, 4, 3  # samples; frames


@pytest.fixture
def stream(sound):
    """Three seconds (24003,)."""
    return sound.flatten()


def heard(classifier, config, stream, sizes, window=WINDOW, num_replicas=LISTENERS, every=EVERY):
    rolling = RollingClassifier(StreamingClassifier(classifier, config), window, num_replicas, every)
    return [answer for packet in stream.split(sizes) for answer in rolling.hear(packet)]


@pytest.mark.parametrize("pooling", ["last", "mean", "max", "attention", "stats"])
def test_answers_are_the_offline_ones_about_the_last_stretch(causal, stream, pooling):
    classifier, config = causal(pooling=pooling)
    answers = heard(classifier, config, stream, 160)
    for answer in answers:
        clip = stream[None, answer.start : answer.end]
        expected = classifier.probabilities(clip, torch.tensor([clip.shape[1]]))[0]
        torch.testing.assert_close(answer.probabilities, expected, rtol=0, atol=1e-5)
    assert torch.stack([answer.probabilities for answer in answers]).std(0).max() > 0.01


@pytest.mark.parametrize("num_replicas", [1, 2, 4, 5])
def test_stretches_reach_from_most_of_the_window_to_all_of_it(causal, stream, num_replicas):
    classifier, config = causal()
    answers = heard(classifier, config, stream, 160, num_replicas=num_replicas)
    # All that can be answered: the first frame ends at 200 samples, the next ones 80 later each.
    assert [answer.end for answer in answers] == [*range(200 + 80 * (EVERY - 1), 24004, 80 * EVERY)]
    lengths = [answer.end - answer.start for answer in answers if answer.end > WINDOW]
    assert max(lengths) <= WINDOW
    assert min(lengths) >= (1 - 1 / num_replicas) * (WINDOW - 80 * num_replicas)
    assert [answer.start for answer in answers] == sorted(answer.start for answer in answers)


@pytest.mark.parametrize("sizes", [1, 7, 333, [0, 5000, 1, 0, 19002], 24003])
def test_answers_depend_on_no_packets(causal, stream, sizes):
    classifier, config = causal(pooling="attention")
    stream = stream[:4000] if sizes == 1 else stream
    found, expected = heard(classifier, config, stream, sizes), heard(classifier, config, stream, 160)
    assert [answer[:2] for answer in found] == [answer[:2] for answer in expected]
    for answer, other in zip(found, expected, strict=True):
        torch.testing.assert_close(answer.probabilities, other.probabilities, rtol=0, atol=1e-5)


def test_a_window_of_a_frame_for_each_listener_at_least(causal, stream):
    answers = heard(*causal(), stream[:2000], 160, window=1, every=1)
    assert max(answer.end - answer.start for answer in answers) == 200 + 3 * 80


@pytest.mark.parametrize("samples", [1, 100, 199, 200, 441, 1999, 4321])
def test_the_end_of_a_stream_is_answered_for(causal, stream, samples):
    classifier, config = causal(pooling="attention")
    rolling = RollingClassifier(StreamingClassifier(classifier, config), WINDOW, LISTENERS, EVERY)
    answers = [*rolling.hear(stream[:samples]), *rolling.finish()]
    last = answers[-1]
    assert last.end <= samples < max(last.end, 200) + 80  # but for what is no whole frame
    clip = stream[None, last.start : last.end]
    expected = classifier.probabilities(clip, torch.tensor([clip.shape[1]]))[0]
    torch.testing.assert_close(last.probabilities, expected, rtol=0, atol=1e-5)
    assert len({answer.end for answer in answers}) == len(answers)


def test_no_sound_has_no_end_to_answer_for(causal):
    classifier, config = causal()
    assert RollingClassifier(StreamingClassifier(classifier, config), WINDOW, LISTENERS, EVERY).finish() == []
