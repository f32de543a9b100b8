"""The certification: what it asks, and that it refuses a file which says something else."""

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
def exported(classifier, tmp_path):
    made = classifier()
    write_onnx(made, tmp_path / "model.onnx", model_metadata(made, None))
    return made, OnnxModel(tmp_path / "model.onnx", threads=1)


def test_lengths_batches_and_extremes_are_asked(classifier, sounds):
    asked = parity_cases(classifier(), sounds)
    alone = [len(case.waveforms[0]) for case in asked if case.name.startswith("noise,") and len(case.waveforms) == 1]
    assert alone == [1, 100, 200, 280, 2000, 4000, 12000]
    mixed = [[len(waveform) for waveform in case.waveforms] for case in asked if "batch of" in case.name]
    assert sorted(map(len, mixed)) == [3, 8]
    assert all(len(set(lengths)) == len(lengths) for lengths in mixed)
    extremes = {case.name: case.waveforms[0] for case in asked if "scale" in case.name or case.name == "silence"}
    assert not extremes.pop("silence").any()
    assert len(extremes) == 2
    assert all((abs(waveform) == 1).all() for waveform in extremes.values())
    for way in ("one by one", "in batches of 8"):
        heard = [waveform for case in asked if way in case.name for waveform in case.waveforms]
        assert list(map(len, heard)) == list(map(len, sounds))


def test_a_file_that_says_the_same_is_certified(exported, sounds):
    made, file = exported
    found = max_abs_differences(made, file, parity_cases(made, sounds))
    require_parity(found)
    assert len(found) == len({case.name for case in parity_cases(made, sounds)})
    assert 0 < max(found.values()) < TOLERANCE


def test_a_file_that_says_something_else_is_refused(exported, sounds):
    made, file = exported
    made.head[1].bias.data[0] += 0.01
    with pytest.raises(UserError, match="not certified, and was not kept: its probabilities differ from PyTorch's by"):
        require_parity(max_abs_differences(made, file, parity_cases(made, sounds)))


def test_a_file_that_depends_on_padding_is_refused(exported, sounds):
    made, file = exported

    def padded(waveforms):
        longest = max(map(len, waveforms))
        batch = np.stack([np.pad(waveform, (0, longest - len(waveform))) for waveform in waveforms])
        return file.run(batch, np.full(len(batch), longest))

    assert max(max_abs_differences(made, padded, [ParityCase("alone", sounds[:1])]).values()) < TOLERANCE
    with pytest.raises(UserError, match=r"\(together\)"):
        require_parity(max_abs_differences(made, padded, [ParityCase("together", sounds)]))


def test_what_is_no_number_is_refused(exported, sounds):
    made, _ = exported
    asked = [ParityCase("same", sounds[:1]), ParityCase("same", sounds[1:2])]
    answers = iter([np.full((1, 3), np.nan), made.probabilities(torch.zeros(1, 1), torch.tensor([1])).detach().numpy()])
    with pytest.raises(UserError, match=r"by nan \(same\)"):
        require_parity(max_abs_differences(made, lambda waveforms: next(answers), asked))


def test_files_are_timed_against_each_other(sounds, monkeypatch):
    now = 0.0

    class Runner:
        def __init__(self, seconds):
            self.seconds = seconds

        def __call__(self, waveforms):
            nonlocal now
            now += self.seconds * len(waveforms[0])

    monkeypatch.setattr("spectrnn.export.parity.time.perf_counter", lambda: now)
    total = sum(map(len, sounds))
    assert interleaved_timings([Runner(2.0), Runner(0.5)], sounds) == pytest.approx([2.0 * total, 0.5 * total])
