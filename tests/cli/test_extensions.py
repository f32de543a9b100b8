"""Classes of the user: stages, augmentations, sources, optimizers and metrics in a package outside the repository."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import spectrnn as api
from spectrnn.errors import UserError

pytestmark = pytest.mark.slow

CLASSES = '''
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from spectrnn.config.types import LayerSize, PositiveFloat
from spectrnn.data.clips import Clip, DataSource
from spectrnn.evaluation.metrics import Metric
from spectrnn.frontend.augmentation import SpectrogramAugmentation, WaveformAugmentation
from spectrnn.frontend.masking import length_mask
from spectrnn.model.pooling import Pooling
from spectrnn.model.rnn import Encoder


class SoftPooling(Pooling):
    """Mean of the frames with softmax weights."""

    def __init__(self, input_size: int, sharpness: PositiveFloat) -> None:
        super().__init__(input_size)
        self.sharpness = sharpness

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        padding = ~length_mask(lengths, x.shape[1])[:, :, None]
        return (x * (self.sharpness * x).masked_fill(padding, float("-inf")).softmax(1)).sum(1)


class FrameEncoder(Encoder):
    """A linear layer per frame."""

    def __init__(self, input_size: int, hidden_size: LayerSize) -> None:
        super().__init__()
        self.linear, self.output_size = nn.Linear(input_size, hidden_size), hidden_size

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return torch.relu(self.linear(x)), lengths


class Polarity(WaveformAugmentation):
    """Inverts the waveforms of a batch."""

    def forward(self, batch):
        return batch._replace(waveform=-batch.waveform)


class Dropout(SpectrogramAugmentation):
    """Sets random elements to zero."""

    def __init__(self, p: PositiveFloat) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return nn.functional.dropout(x, self.p)


@dataclass(kw_only=True)
class Tones(DataSource):
    """Files in folders per label."""

    root: str

    def clips(self) -> list[Clip]:
        return [Clip(str(path), path.parent.name) for path in sorted(Path(self.root).glob("*/*.wav"))]


class HalfStepSGD(torch.optim.SGD):
    """SGD with half of the learning rate."""

    def __init__(self, params, lr: float) -> None:
        super().__init__(params, lr=lr / 2, momentum=0.9)


def worst_recall() -> Metric:
    def of_counts(matrices):
        return (matrices.diagonal(axis1=-2, axis2=-1) / matrices.sum(-1).clip(1)).min(-1)

    return Metric.of_confusion(of_counts, "worst recall")
'''
CONFIGS = {
    "pooling/soft": "# Softmax\n_target_: own.parts.SoftPooling\nsharpness: 1.0   # sharpness of the softmax\n",
    "model/frames": "# Frames\n_target_: own.parts.FrameEncoder\nhidden_size: 16   # size of a state\n",
    "augment/polarity": "# @package augment.polarity\n# Polarity\n_target_: own.parts.Polarity\n",
    "augment/dropout": "# @package augment.dropout\n# Dropout\n_target_: own.parts.Dropout\np: 0.1   # probability\n",
    "data/tones": "# Tones\ndefaults: [_common, _self_]\n_target_: own.parts.Tones\nroot: ???   # folder\n",
    "optimizer/half": "# Half\n_target_: own.parts.HalfStepSGD\nlr: 0.1   # learning rate\n",
    "metrics/worst_recall": "# @package metrics.worst_recall\n# Worst recall\n_target_: own.parts.worst_recall\n",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs a command in a folder with a package and configs of the user: `run("train", ...)` -> completed process."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own").mkdir()
    (folder / "own" / "parts.py").write_text(CLASSES)
    for name, text in CONFIGS.items():
        path = folder / "configs" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["PYTHONPATH"] = str(Path(api.__file__).parents[1])

    def run(*arguments):
        command = [sys.executable, "-P", "-m", "spectrnn", *map(str, arguments)]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    run.folder = folder
    return run


@pytest.fixture(scope="module")
def trained(run, tones, tiny):
    """Folder of a run that consists of the user's classes."""
    folder = run.folder / "run"
    kept = [setting for setting in tiny if setting.partition("=")[0].split(".")[0] in ("features", "trainer")]
    options = ("model=frames", "pooling=soft", "augment=[polarity,dropout]", "data=tones", "optimizer=half")
    done = run(
        "train",
        "--config-dir",
        "configs",
        *options,
        *kept,
        "metrics=[worst_recall]",
        "trainer.metric=worst_recall",
        "optimizer.lr=0.4",
        "data.sample_rate=8000",
        f"data.root={tones}",
        f"hydra.run.dir={folder}",
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_training_uses_the_classes(trained):
    metrics = json.loads((trained / "metrics.json").read_text())
    assert {"val", "test"} <= metrics.keys()
    assert 0 <= metrics["test"]["worst_recall"] <= metrics["test"]["accuracy"]


def test_evaluation_needs_trust(trained, run):
    done = run("eval", f"run={trained}", "split=all")
    assert done.returncode == 1
    assert done.stdout == ""
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith(f"spectrnn: {trained}/model.safetensors: ")
    assert "trust=[own]" in sentence


def test_evaluation_with_trust(trained, run):
    arguments = ("eval", f"run={trained}", "trust=[own]", "metrics=[worst_recall]", "--config-dir", "configs")
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert "worst recall" in done.stdout
    results = json.loads((trained / "eval" / "test" / "metrics.json").read_text())["test"]
    expected = json.loads((trained / "metrics.json").read_text())["test"]
    assert results["accuracy"] == pytest.approx(expected["accuracy"])
    assert results["worst_recall"] == pytest.approx(expected["worst_recall"])


def test_loading_in_python_needs_trust(trained, run, monkeypatch):
    monkeypatch.syspath_prepend(str(run.folder))
    with pytest.raises(UserError, match=r"trust=\[own\]"):
        api.load(trained / "model.safetensors")
    predictor = api.load(trained / "model.safetensors", trust=["own"])
    assert type(predictor.classifier.pooling).__name__ == "SoftPooling"


def test_explain_documents_a_key_of_the_user(run):
    done = run("explain", "pooling.sharpness", "pooling=soft", "--config-dir", "configs")
    assert done.returncode == 0, done.stderr
    assert "sharpness of the softmax" in done.stdout
    assert "above 0" in done.stdout
    assert str(Path("pooling", "soft.yaml")) in done.stdout


def test_an_invalid_value_of_a_custom_class_is_reported(run, tones):
    done = run("train", "--config-dir", "configs", "pooling=soft", "pooling.sharpness=-1", "data=tones", "data.root=.")
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["spectrnn: pooling.sharpness=-1: should be greater than 0"]
