"""The certification: what it asks, and that it refuses a file which says something else."""

import numpy as np
import pytest
import torch

from spectrnn.errors import UserError
from spectrnn.export.certify import TOLERANCE, Case, cases, certify, differences, race
from spectrnn.export.graph import facts, write_onnx
from spectrnn.export.runtime import Exported


@pytest.fixture
def exported(classifier, tmp_path):
    made = classifier()
    write_onnx(made, tmp_path / "model.onnx", facts(made, None))
    return made, Exported(tmp_path / "model.onnx", threads=1)


def test_lengths_batches_and_extremes_are_asked(classifier, sounds):
    asked = cases(classifier(), sounds)
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
    found = certify(made, file, cases(made, sounds))
    assert len(found) == len({case.name for case in cases(made, sounds)})
    assert 0 < max(found.values()) < TOLERANCE


def test_a_file_that_says_something_else_is_refused(exported, sounds):
    made, file = exported
    made.head[1].bias.data[0] += 0.01
    with pytest.raises(UserError, match="not certified, and was not kept: its probabilities differ from PyTorch's by"):
        certify(made, file, cases(made, sounds))


def test_a_file_that_depends_on_padding_is_refused(exported, sounds):
    made, file = exported

    def padded(waveforms):
        longest = max(map(len, waveforms))
        batch = np.stack([np.pad(waveform, (0, longest - len(waveform))) for waveform in waveforms])
        return file.run(batch, np.full(len(batch), longest))

    assert max(differences(made, padded, [Case("alone", sounds[:1])]).values()) < TOLERANCE
    with pytest.raises(UserError, match=r"\(together\)"):
        certify(made, padded, [Case("together", sounds)])


def test_what_is_no_number_is_refused(exported, sounds):
    made, _ = exported
    asked = [Case("same", sounds[:1]), Case("same", sounds[1:2])]
    answers = iter([np.full((1, 3), np.nan), made.probabilities(torch.zeros(1, 1), torch.tensor([1])).detach().numpy()])
    with pytest.raises(UserError, match=r"by nan \(same\)"):
        certify(made, lambda waveforms: next(answers), asked)


def test_files_are_timed_clip_by_clip(exported, sounds):
    _, file = exported
    times = race([file, file], sounds)
    assert times.shape == (len(sounds), 2)
    assert (times > 0).all()
