"""The ONNX graph of a stream: packets and state, against the classifier on all that was heard."""

import numpy as np
import pytest
import torch

from spectrnn.export.graph import model_metadata
from spectrnn.export.onnx_model import StreamingOnnxModel, load_onnx
from spectrnn.export.quantize import quantize_weights
from spectrnn.export.streaming import streaming_differences, write_streaming_onnx
from spectrnn.streaming.classifier import StreamingClassifier


def exported(made, path):
    write_streaming_onnx(StreamingClassifier(made, {}), path, model_metadata(made, None))
    file = load_onnx(path, threads=1)
    assert isinstance(file, StreamingOnnxModel)
    return file


@pytest.mark.parametrize(
    ("model", "pooling", "features", "normalize"),
    [
        ("gru", "last", "logmel", "global"),
        ("lstm", "mean", "mfcc", "none"),
        ("gru", "attention", "mfcc", "global"),
        ("lstm", "stats", "logmel", "global"),
        ("gru", "max", "logmel", "none"),
    ],
)
def test_every_answer_is_the_classifiers_to_all_that_was_heard(
    classifier, sounds, tmp_path, model, pooling, features, normalize
):
    made = classifier(
        f"model={model}", f"pooling={pooling}", f"features={features}", "features.deltas=0", f"normalize={normalize}"
    )
    file = exported(made, tmp_path / "model.onnx")
    streams = np.stack([sounds[0], sounds[-1][:4000][::-1]])
    for hops in (1, 5):
        answers = list(file.packets(streams, hops))
        assert [heard for heard, _ in answers] == sorted({200, *range(200, 3960, 80 * hops), 3960})
        for heard, found in answers[:: 7 if hops == 1 else 2]:
            with torch.inference_mode():
                prefix = torch.from_numpy(streams[:, :heard].copy())
                expected = made.probabilities(prefix, torch.full((2,), heard)).numpy()
            assert abs(found - expected).max() < 1e-5
    whole = np.concatenate([file([clip]) for clip in sounds])
    assert abs(file(sounds) - whole).max() < 1e-5
    assert whole.std(0).max() > 0.01
    assert max(streaming_differences(made, file, sounds).values()) < 1e-5


def test_a_stream_that_forgets_is_found(classifier, sounds, tmp_path, monkeypatch):
    made = classifier("model=gru", "pooling=mean", "features.deltas=0")
    file = exported(made, tmp_path / "model.onnx")
    run = file.session.run

    class Forgetful:
        def run(self, outputs, inputs):
            return run(outputs, inputs | {"state_1": np.zeros_like(inputs["state_1"])})

    monkeypatch.setattr(file, "session", Forgetful())
    assert min(streaming_differences(made, file, sounds).values()) > 1e-4


def test_a_stream_may_have_int8_weights(classifier, sounds, tmp_path):
    made = classifier("model=lstm", "pooling=attention", "features.deltas=0")
    file = exported(made, tmp_path / "model.onnx")
    quantize_weights(tmp_path / "model.onnx", tmp_path / "int8.onnx")
    smaller = load_onnx(tmp_path / "int8.onnx", threads=1)
    assert isinstance(smaller, StreamingOnnxModel)
    assert 0 < abs(smaller(sounds) - file(sounds)).max() < 0.1
