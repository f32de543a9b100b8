"""The measurements of scripts/benchmark.py, on commands whose results are known."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.commands import SPECTRNN, run
from benchmarks.steps import Stages, compose_train, train_epoch
from spectrnn.data.dataset import open_dataset
from spectrnn.progress import Stopwatch
from spectrnn.training.preflight import preflight
from spectrnn.training.train import build_trainer
from spectrnn.training.trainer import Trainer

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


def test_commands_run_without_settings_of_spectrnn():
    code = "import os, benchmarks; print(os.environ['GOMP_SPINCOUNT'], 'GOMP_SPINCOUNT' in benchmarks.ENVIRONMENT)"
    removed = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in removed}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, [SCRIPTS, SCRIPTS.parent]))
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "1000 False\n"


def test_another_version_is_not_that_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("here", "checkout"):
        (tmp_path / name / "spectrnn").mkdir(parents=True)
        (tmp_path / name / "spectrnn" / "__init__.py").touch()
        (tmp_path / name / "spectrnn" / "__main__.py").write_text(f"print('{name}')")
    monkeypatch.chdir(tmp_path / "here")
    assert run(SPECTRNN, PYTHONPATH=str(tmp_path / "checkout")).text == "checkout\n"


@pytest.fixture
def build(tones: Path) -> Callable[..., Trainer]:
    def build_tiny(*overrides: str) -> Trainer:
        dataset = ["data=folder", f"data.root={tones}", "data.sample_rate=8000", "features.n_mels=8"]
        small = ["model.hidden_size=4", "trainer.batch_size=8", "trainer.device=cpu"]
        components = preflight(compose_train([*dataset, *small, *overrides]))
        return build_trainer(components, open_dataset(components.source, components.device), Stopwatch(), is_new=True)

    return build_tiny


def test_stages_measure_the_step_of_the_trainer(build: Callable[..., Trainer]):
    measured, plain = build(), build()
    stages = Stages(measured)
    stages.train_epoch(0)
    train_epoch(plain, 0)
    for ours, theirs in zip(measured.classifier.parameters(), plain.classifier.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert min(stages.seconds.values()) > 0
    assert [*stages.seconds] == [
        "gather",
        "augmentation",
        "features",
        "encoder forward",
        "pooling, head and loss",
        "encoder backward",
        "optimizer",
    ]


def test_operations_are_those_of_the_matrix_products(build: Callable[..., Trainer]):
    stages = Stages(build("augment=[]"))
    stages.train_epoch(0)
    # Three gates of 4 units in two directions, for 8 bins and then for the 8 values of both directions. Each product
    # occurs in the forward pass, for the gradient of the weights, and for that of the inputs but not of the features.
    first, second = 3 * 4 * (3 * 4 + 2 * 8), 3 * 4 * (3 * 4 + 3 * 8)
    assert stages.operations == 2 * 2 * (first + second) * stages.num_frames


def test_operations_of_convolutions(build: Callable[..., Trainer]):
    with_one, with_two = (
        Stages(build("augment=[]", "model=crnn", f"model.channels={channels}", "model.time_strides=[1,1]"))
        for channels in ("[1,1]", "[2,1]")
    )
    with_one.train_epoch(0)
    with_two.train_epoch(0)
    # The second channel of the first layer has 3 x 3 weights for 4 of the 8 bins, in two passes; the second layer has
    # 9 weights more for 2 bins, in three passes.
    assert with_two.operations - with_one.operations == 2 * 9 * (2 * 4 + 3 * 2) * with_one.num_padded
