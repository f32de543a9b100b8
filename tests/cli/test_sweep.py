"""Sweeps: with every launcher, killed and continued, interrupted, with jobs that fail."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import joblib
import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.types import RunMode
from omegaconf import OmegaConf
from safetensors.torch import load_file

from spectrnn.config.paths import CONFIG_DIR
from spectrnn.study.sweep import ParallelSweep

JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
SUBMITIT = ("hydra/launcher=submitit_local", "hydra.sweeper.max_batch_size=2")
FOLDER = "outputs/sweep"
FAULT = """
import os

from spectrnn.frontend.augmentation import WaveformAugmentation


class Fault(WaveformAugmentation):
    def __init__(self, is_on: bool) -> None:
        super().__init__()
        self.is_on = is_on

    def forward(self, batch):
        if self.is_on:
            raise RuntimeError(f"a fault, with GPUs {os.environ.get('CUDA_VISIBLE_DEVICES')}")
        return batch
"""


@pytest.fixture
def start(tones, tiny_logged, tmp_path):
    """Starts `spectrnn train` in a process group of its own; returns the process."""
    processes = []

    def start(*arguments):
        base = (
            () if "resume" in arguments[0] else ("-m", *tiny_logged, f"data.root={tones}", f"hydra.sweep.dir={FOLDER}")
        )
        command = [sys.executable, "-m", "spectrnn", "train", *base, *arguments]
        with (tmp_path / "output").open("w") as file:
            processes.append(subprocess.Popen(command, stdout=file, stderr=file, cwd=tmp_path, start_new_session=True))
        return processes[-1]

    yield start
    for process in processes:
        if members(process):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def members(process):
    """Returns the processes that run in the group of a process."""
    found = subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True, text=True, check=False)
    return found.stdout.split()


def wait_for(condition, process=None):
    deadline = time.monotonic() + 120
    while not condition():
        assert process is None or process.poll() is None, "ended early"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def has_line(path, text):
    return path.exists() and text in path.read_text()


@pytest.mark.slow
@pytest.mark.study
@pytest.mark.parametrize(
    ("launcher", "again"),
    [
        ((), ()),
        (("seed=0,1", *JOBLIB), ("resume=latest",)),
        (SUBMITIT, (f"resume={FOLDER}",)),
    ],
    ids=["basic", "joblib", "submitit_local"],
)
def test_killed_sweep_continues_where_it_stopped(spectrnn, tones, tiny, tmp_path, start, launcher, again):
    arguments = ("trainer.epochs=1,25", "optimizer.lr=0.02,1e30", *launcher)  # the last of every two jobs diverges
    folder = tmp_path / FOLDER
    number = 4 if "seed=0,1" in launcher else 2  # of the long job
    process = start(*arguments)
    wait_for(lambda: has_line(folder / str(number) / "train.log", "epoch   2 "), process)
    assert (folder / "0" / "metrics.json").exists()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / str(number) / "metrics.json").exists()
    before = (folder / "0" / "model.safetensors").stat().st_mtime_ns

    process = start(*(again or arguments))
    assert process.wait() == 1
    output = (tmp_path / "output").read_text()
    assert "Traceback" not in output
    assert (folder / "0" / "model.safetensors").stat().st_mtime_ns == before
    assert has_line(folder / str(number) / "train.log", "resuming after epoch ")
    diverged = folder / str(number // 2)
    log = (diverged / "train.log").read_text()
    assert "non-finite loss or gradient" in log
    assert (diverged / "error.txt").read_text().splitlines()[0] in log

    count = 2 * number
    heading, table, errors, end = output.rstrip("\n").split("\n\n")[-4:]
    assert heading == f"{count} runs in {FOLDER}"
    rows = [line.split() for line in table.splitlines()]
    keys = ["seed"] * (count == 8) + ["epochs", "lr"]
    assert sorted(rows[0][: len(keys)]) == sorted(keys)
    values = [float(row[len(keys)]) for row in rows[1 : count // 2 + 1]]
    assert values == sorted(values, reverse=True)
    assert [row[-2] for row in rows[count // 2 + 1 :]] == ["failed"] * (count // 2)
    assert len(re.findall(r"^\d: non-finite loss", errors, re.MULTILINE)) == count // 2
    assert end == f"spectrnn: {count // 2} of {count} jobs have not finished"

    seed = ("seed=0",) if count == 8 else ()
    whole = tmp_path / "whole"
    overrides = (*tiny, f"data.root={tones}", *seed, "trainer.epochs=25", "optimizer.lr=0.02")
    assert spectrnn("train", *overrides, f"hydra.run.dir={whole}").code == 0
    ours, theirs = (load_file(path / "model.safetensors") for path in (folder / str(number), whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.study
@pytest.mark.slow
@pytest.mark.parametrize("launcher", [JOBLIB, SUBMITIT], ids=["joblib", "submitit_local"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_signal_ends_parallel_jobs_that_are_saved(tmp_path, start, launcher, number):
    process = start("trainer.epochs=9999", "seed=0,1,2,3", *launcher)
    logs = [tmp_path / FOLDER / job / "train.log" for job in "01"]
    wait_for(lambda: all(has_line(log, "epoch   2 ") for log in logs), process)
    if number == signal.SIGINT:  # a terminal sends it to all processes
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    assert process.wait(timeout=120) == 128 + number
    output = (tmp_path / "output").read_text()
    assert output.endswith(f"\nspectrnn: interrupted; spectrnn train resume={FOLDER} continues the sweep\n"), output
    assert "Traceback" not in output
    assert all(has_line(log, "INFO stopped after epoch ") for log in logs)
    assert not (tmp_path / FOLDER / "2" / "last.ckpt").exists()
    wait_for(lambda: not members(process))


@pytest.mark.study
@pytest.mark.slow
@pytest.mark.parametrize("launcher", [JOBLIB, SUBMITIT], ids=["joblib", "submitit_local"])
def test_killed_job_ends_a_parallel_sweep_with_a_sentence(tmp_path, start, launcher):
    process = start("trainer.epochs=9999", "seed=0,1", *launcher)
    folder = tmp_path / FOLDER
    wait_for(lambda: all(has_line(folder / job / "train.log", "epoch   2 ") for job in "01"), process)
    events = next((folder / "0").glob("events.*"))
    os.kill(int(events.name.split(".")[-2]), signal.SIGKILL)
    assert process.wait(timeout=120) == 1
    output = (tmp_path / "output").read_text()
    assert "Traceback" not in output
    assert re.search(r"^1 +unfinished +1$", output, re.MULTILINE), output
    assert (
        "\nspectrnn: a job was killed, for example because the memory was full; "
        f"spectrnn train resume={FOLDER} continues the sweep\n"
    ) in output
    wait_for(lambda: not members(process))


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["optimizer.lr=1e-3,banana"], ["optimizer.lr=banana: should be a valid number"]),
        (["seed=0,x"], ["seed=x: should be a valid integer"]),
        (["model=gru,gruu", "seed=0,1"], ["model=gruu: no such option; did you mean model=gru?"]),
        (
            ["model=bigru", "model.hidden_size=16,17", "pooling.num_heads=4"],
            ["pooling.num_heads=4: does not divide the "],
        ),
        (
            ["model=gru,crnn", "model.channels=[8,8,8]", "trainer.epochs=0,1"],
            [
                "several errors",
                "  model.channels: not a key of model=gru, but of model=conv1d_rnn, crnn, crnn_large",
                "  trainer.epochs=0: should be ",
            ],
        ),
    ],
)
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_values_are_checked_before_the_first_job(spectrnn, tones, tiny, tmp_path, launcher, arguments, messages):
    plain = [override for override in tiny if not override.startswith(("model", "pooling"))]
    outcome = spectrnn("train", "-m", *plain, f"data.root={tones}", f"hydra/launcher={launcher}", *arguments)
    assert outcome.code == 1
    lines = outcome.err.removeprefix("spectrnn: ").splitlines()
    assert len(lines) == len(messages), lines
    assert all(line.startswith(message) for line, message in zip(lines, messages, strict=True)), lines
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "launcher",
    [(), pytest.param(("hydra/launcher=submitit_local",), marks=pytest.mark.slow)],
    ids=["basic", "submitit_local"],
)
def test_unexpected_error_in_a_job_does_not_stop_the_others(spectrnn, tones, tiny, tmp_path, monkeypatch, launcher):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")  # submitit would hide all GPUs
    (tmp_path / "faults.py").write_text(FAULT)
    fault = ("+augment.fault._target_=faults.Fault", "+augment.fault.is_on=true,false")
    arguments = (*tiny, f"data.root={tones}", f"hydra.sweep.dir={FOLDER}", "trainer.epochs=1", "trainer.device=cpu")
    outcome = spectrnn("train", "-m", *arguments, *fault, *launcher)
    assert outcome.code == 1
    assert re.search(r"^0: RuntimeError: a fault, with GPUs 1,0$", outcome.err, re.MULTILINE)
    assert "raise RuntimeError" in (tmp_path / FOLDER / "0" / "train.log").read_text()  # with the traceback
    assert (tmp_path / FOLDER / "1" / "metrics.json").exists()


@pytest.mark.slow
def test_sweep_of_cross_validations_compares_pooled_metrics(spectrnn, tones, tiny):
    arguments = (*tiny, f"data.root={tones}", f"hydra.sweep.dir={FOLDER}", "trainer.epochs=1", "folds=3")
    outcome = spectrnn("train", "-m", *arguments, "seed=0,1")
    assert outcome.code == 0, outcome.err
    assert re.search(r"^seed +pooled accuracy +95 % CI +time +folder$", outcome.err, re.MULTILINE)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["hydra/launcher=joblib"], {"launcher.n_jobs": 10}),
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], {"launcher.n_jobs": 2}),
        (["hydra/launcher=submitit_local"], {"sweeper.max_batch_size": 10, "threads": "1"}),
        (
            ["hydra/launcher=submitit_local", "hydra.launcher.cpus_per_task=4"],
            {"sweeper.max_batch_size": 4, "threads": "4"},
        ),
        (
            ["hydra/launcher=submitit_local", "hydra.sweeper.max_batch_size=3"],
            {"sweeper.max_batch_size": 3, "threads": "5"},
        ),
    ],
)
def test_parallel_jobs_divide_the_cores(monkeypatch, tmp_path, settings, expected):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 16)
    monkeypatch.setattr(joblib, "effective_n_jobs", lambda n: 16 if n == -1 else n)
    overrides = ["model=gru,lstm", "sweep=seeds", f"hydra.sweep.dir={tmp_path}", *settings]
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):  # of ten jobs
        config = GlobalHydra.instance().config_loader().load_configuration("train", overrides, RunMode.MULTIRUN)
        sweep = ParallelSweep(tmp_path, config.hydra.runtime.choices["hydra/launcher"])
        sweep.start(config)
        found = {
            key: os.environ["OMP_NUM_THREADS"] if key == "threads" else OmegaConf.select(config.hydra, key)
            for key in expected
        }
        sweep.close()
    assert found == expected
    assert "OMP_NUM_THREADS" not in os.environ


@pytest.mark.parametrize(
    ("launcher", "message"),
    [
        ("joblib", "hydra/launcher=joblib needs hydra-joblib-launcher; pip install 'spectrnn[joblib]'"),
        (
            "submitit_slurm",
            "hydra/launcher=submitit_slurm needs hydra-submitit-launcher; pip install 'spectrnn[submitit]'",
        ),
        ("jobib", "hydra/launcher=jobib: no such option; did you mean joblib?"),
    ],
)
def test_launcher_that_is_not_installed_is_named(spectrnn, monkeypatch, launcher, message):
    Plugins.instance()
    monkeypatch.delitem(ConfigStore.instance().repo["hydra"]["launcher"], f"{launcher}.yaml", raising=False)
    arguments = ("seed=0,1", f"hydra/launcher={launcher}", "hydra.launcher.n_jobs=2")
    assert spectrnn("train", "-m", *arguments).error() == f"spectrnn: {message}"


@pytest.mark.skipif(shutil.which("srun") is not None, reason="needs a machine without Slurm")
def test_launcher_without_its_cluster_is_reported(spectrnn, tones, tiny):
    arguments = (*tiny, f"data.root={tones}", f"hydra.sweep.dir={FOLDER}", "hydra/launcher=submitit_slurm")
    outcome = spectrnn("train", "-m", *arguments, "seed=0,1")
    assert outcome.error().startswith("spectrnn: hydra/launcher=submitit_slurm: Could not detect")
