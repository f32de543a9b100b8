"""Training on speech: synthetic voices, and recordings of people."""

import json

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.study
def test_classifier_of_synthetic_speech_generalizes_to_recordings(spectrnn, real_digits, tmp_path):
    run = tmp_path / "run"
    words = 'data.words=["zero","one","six","seven"]'
    speakers = ("data.speakers=100", "data.shipped_voices=false")
    length = ("trainer.epochs=12", "trainer.report=false", f"hydra.run.dir={run}")
    outcome = spectrnn("train", words, *speakers, "model.hidden_size=48", *length)
    assert outcome.code == 0, outcome.err
    assert json.loads((run / "metrics.json").read_text())["test"]["accuracy"] > 0.85
    arguments = ("data=fsdd", f"data.root={real_digits}", "split=all", f"run={run}", f"out={tmp_path / 'out'}")
    outcome = spectrnn("eval", *arguments)
    assert outcome.code == 0, outcome.err
    assert "'two' (300 clips)" in outcome.err
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["all"]["accuracy"] > 0.4


def test_recorded_digits_are_learned(spectrnn, real_digits, tmp_path):
    run = tmp_path / "run"
    arguments = ("trainer.epochs=3", "model.hidden_size=64", "augment=[]", "task.label_smoothing=0")
    outcome = spectrnn("train", "data=fsdd", f"data.root={real_digits}", f"hydra.run.dir={run}", *arguments)
    assert outcome.code == 0, outcome.err
    assert json.loads((run / "metrics.json").read_text())["test"]["accuracy"] > 0.8
