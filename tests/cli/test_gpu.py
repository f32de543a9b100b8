"""Training on a real GPU: each precision learns, and a resumed run continues exactly."""

import json

import pytest
import torch
from safetensors.torch import load_file

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
PRECISIONS = ["fp32", "bf16", "fp16"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_each_precision_learns_recorded_digits(spectrnn, real_digits, tmp_path, precision):
    run = tmp_path / "run"
    settings = ("trainer.epochs=3", "model.hidden_size=64", "augment=[]", "task.label_smoothing=0")
    device = ("trainer.device=cuda", f"trainer.precision={precision}")
    outcome = spectrnn("train", "data=fsdd", f"data.root={real_digits}", f"hydra.run.dir={run}", *settings, *device)
    assert outcome.code == 0, outcome.err
    assert f"), {precision}\n" in outcome.err
    accuracy = json.loads((run / "metrics.json").read_text())["test"]["accuracy"]
    assert accuracy > 0.8
    assert spectrnn("eval", f"run={run}", "device=cpu", "report=false", f"out={tmp_path / 'cpu'}").code == 0
    on_cpu = json.loads((tmp_path / "cpu" / "metrics.json").read_text())["test"]["accuracy"]
    assert on_cpu == pytest.approx(accuracy, abs=0.005)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("storage", ["gpu", "ram", "disk"])
def test_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(spectrnn, tiny, tones, tmp_path, precision, storage):
    schedule = ("scheduler=constant", "scheduler.warmup_fraction=0")  # which does not depend on the number of epochs
    settings = (*schedule, "augment=[speech,gain,mixup]", "trainer.device=cuda", f"trainer.precision={precision}")
    base = ("train", *tiny, f"data.root={tones}", f"data.storage={storage}", *settings)
    for folder, epochs in (("whole", 2), ("parts", 1)):
        outcome = spectrnn(*base, f"trainer.epochs={epochs}", f"hydra.run.dir={tmp_path / folder}")
        assert outcome.code == 0, outcome.err
    assert spectrnn("train", f"resume={tmp_path / 'parts'}", "trainer.epochs=2").code == 0
    whole, parts = (load_file(tmp_path / folder / "model.safetensors") for folder in ("whole", "parts"))
    for name in whole:
        assert torch.equal(whole[name], parts[name]), name
