"""Comparison of an export with its classifier: which inputs, and that differences are rejected."""

import numpy as np
import pytest
import torch

from spectrnn.errors import UserError
from spectrnn.export.graph import model_metadata, write_onnx
from spectrnn.export.onnx_model import OnnxModel
from spectrnn.export.parity import (
    TOLERANCE,
    ParityCase,
    interleaved_timings,
    max_abs_differences,
    parity_cases,
    require_parity,
)


@pytest.fixture
def exported(make_classifier, tmp_path):
    """A classifier and its export."""
    classifier = make_classifier()
    write_onnx(classifier, tmp_path / "model.onnx", model_metadata(classifier, None))
    return classifier, OnnxModel(tmp_path / "model.onnx", threads=1)


def test_cases_include_lengths_batches_and_extremes(make_classifier, waveforms):
    cases = parity_cases(make_classifier(), waveforms)
    single = [len(case.waveforms[0]) for case in cases if case.name.startswith("noise,") and len(case.waveforms) == 1]
    assert single == [1, 100, 200, 280, 2000, 4000, 12000]
    mixed = [[len(waveform) for waveform in case.waveforms] for case in cases if "batch of" in case.name]
    assert sorted(map(len, mixed)) == [3, 8]
    assert all(len(set(lengths)) == len(lengths) for lengths in mixed)
    extremes = {case.name: case.waveforms[0] for case in cases if "scale" in case.name or case.name == "silence"}
    assert not extremes.pop("silence").any()
    assert len(extremes) == 2
    assert all((abs(waveform) == 1).all() for waveform in extremes.values())
    for name in ("clips of the dataset, one by one", "clips of the dataset, in batches of 8"):
        lengths = [len(waveform) for case in cases if case.name == name for waveform in case.waveforms]
        assert lengths == list(map(len, waveforms))


def test_equal_model_is_accepted(exported, waveforms):
    classifier, model = exported
    cases = parity_cases(classifier, waveforms)
    differences = max_abs_differences(classifier, model, cases)
    require_parity(differences)
    assert differences.keys() == {case.name for case in cases}
    assert 0 < max(differences.values()) < TOLERANCE


def test_different_model_is_rejected(exported, waveforms):
    classifier, model = exported
    classifier.head[1].bias.data[0] += 0.01
    message = (
        r"^format=onnx: the exported model failed verification and was deleted: its probabilities differ from those of "
        r"PyTorch by 0.00\d+ \(.*\); the tolerance is 0.0001$"
    )
    with pytest.raises(UserError, match=message):
        require_parity(max_abs_differences(classifier, model, parity_cases(classifier, waveforms)))


def test_model_that_depends_on_padding_is_rejected(exported, waveforms):
    classifier, model = exported

    def ignore_lengths(waveforms):
        longest = max(map(len, waveforms))
        batch = np.stack([np.pad(waveform, (0, longest - len(waveform))) for waveform in waveforms])
        return model.run(batch, np.full(len(batch), longest))

    single, batch = ParityCase("single", waveforms[:1]), ParityCase("batch", waveforms)
    require_parity(max_abs_differences(classifier, ignore_lengths, [single]))
    with pytest.raises(UserError, match=r"\(batch\)"):
        require_parity(max_abs_differences(classifier, ignore_lengths, [single, batch]))


def test_nan_is_rejected(exported, waveforms):
    classifier, _ = exported
    cases = [ParityCase("same", waveforms[:1]), ParityCase("same", waveforms[1:2])]
    expected = classifier.probabilities(torch.from_numpy(waveforms[1])[None], torch.tensor([1])).detach().numpy()
    results = iter([np.full((1, 3), np.nan), expected])
    with pytest.raises(UserError, match=r"by nan \(same\)"):
        require_parity(max_abs_differences(classifier, lambda waveforms: next(results), cases))


def test_models_are_timed_relative_to_the_first(waveforms, monkeypatch):
    now = 0.0

    class Model:
        def __init__(self, seconds_per_sample):
            self.seconds_per_sample = seconds_per_sample

        def __call__(self, waveforms):
            nonlocal now
            now += self.seconds_per_sample * len(waveforms[0])

    monkeypatch.setattr("spectrnn.export.parity.time.perf_counter", lambda: now)
    total = sum(map(len, waveforms))
    assert interleaved_timings([Model(2.0), Model(0.5)], waveforms) == pytest.approx([2.0 * total, 0.5 * total])
