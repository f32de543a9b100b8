"""Distributed training, as torchrun starts it."""

import shutil
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

# Without randomness, and with an optimizer that does not normalize gradients, two processes take the same steps as one.
# Batches of seven clips, and of a single outlier, give the two processes shards of different sizes, one of them empty.
EXACT = (
    "augment=[]",
    "model.dropout=0",
    "head.dropout=0",
    "pooling=mean",
    "optimizer=sgd",
    "trainer.batch_size=7",
    "task.class_weights=balanced",
    "trainer.grad_accum_steps=2",
    "scheduler=constant",
    "scheduler.warmup_fraction=0",
)


@pytest.fixture
def command(tones, tone, tiny_logged, tmp_path, monkeypatch):
    """`command(processes, folder, *arguments)`: command line of a new run in a folder, with a clip like no other."""
    root = shutil.copytree(tones, tmp_path / "tones")
    tone(root / "low" / "outlier.wav", 1.0)  # in the training split
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    base = [setting for setting in tiny_logged if not setting.startswith("pooling")] + ["trainer.device=cpu"]

    def make(processes, folder, *arguments):
        return [*launcher(processes), *base, f"data.root={root}", *arguments, f"hydra.run.dir={tmp_path / folder}"]

    return make


def launcher(processes):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
    return [sys.executable, *(torchrun if processes > 1 else ()), "-m", "spectrnn", "train"]


def run(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stderr


def assert_same_weights(folder, expected_folder):
    weights, expected = (load_file(path / "model.safetensors") for path in (folder, expected_folder))
    assert weights.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(weights[name], expected[name], atol=1e-5, rtol=0, msg=name)


def history(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)["state"]["progress"]["history"]


needs_two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_two_gpus)])
@pytest.mark.parametrize(
    "model",
    [
        pytest.param("model=bigru", marks=pytest.mark.study, id="bigru"),
        pytest.param("model=crnn model.channels=[4,4,4] data.max_seconds=0.25", id="crnn-crops"),
    ],
)
def test_two_processes_give_the_result_of_one(spectrnn, command, tmp_path, model, device):
    arguments = (*EXACT, *model.split(), "trainer.epochs=1", f"data.cache={tmp_path / 'cache'}")
    arguments += (f"trainer.device={device}", "trainer.precision=fp32")
    text = run(command(2, "two", *arguments))
    assert text.count("decoded 37 clips") <= 1  # only rank 0 logs, while any rank may decode
    assert text.count("epoch   1 ") == 1
    assert len(list((tmp_path / "cache" / "datasets").iterdir())) == 1
    assert spectrnn(*command(1, "one", *arguments)[3:]).code == 0
    assert_same_weights(tmp_path / "two", tmp_path / "one")
    two, one = (history(tmp_path / name) for name in ("two", "one"))
    assert two[0]["val"] == pytest.approx(one[0]["val"], abs=1e-5)
    names = {path.name.split(".tfevents")[0] for path in (tmp_path / "two").iterdir()}
    assert names == {path.name.split(".tfevents")[0] for path in (tmp_path / "one").iterdir()}
    assert len(list((tmp_path / "two").glob("events*"))) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_torchrun_with_a_single_gpu_gives_the_result_without_it(command, tmp_path):
    arguments = (*EXACT, "trainer.epochs=1", "trainer.device=cuda", "trainer.precision=fp32")
    run(command(1, "alone", *arguments))
    torchrun = command(2, "torchrun", *arguments)
    run(["1" if argument == "2" else argument for argument in torchrun])
    assert_same_weights(tmp_path / "torchrun", tmp_path / "alone")


@pytest.mark.study
def test_run_is_resumed_with_another_number_of_processes(spectrnn, command, tmp_path, trained_run):
    arguments = (*EXACT, f"init={trained_run}", "freeze=[model]", "freeze_epochs=1")
    assert spectrnn(*command(1, "whole", *arguments, "trainer.epochs=2")[3:]).code == 0
    run(command(2, "run", *arguments, "trainer.epochs=1"))
    assert spectrnn("train", f"resume={tmp_path / 'run'}", "trainer.epochs=2").code == 0
    assert_same_weights(tmp_path / "run", tmp_path / "whole")


@pytest.mark.study
def test_cross_validation_of_two_processes_is_finished_once(command, tmp_path):
    arguments = (*EXACT, "trainer.epochs=1", "folds=2", "final=refit", "data.val_fraction=0")
    run(command(2, "study", *arguments))
    assert (tmp_path / "study" / "model.safetensors").exists()
    before = (tmp_path / "study" / "metrics.json").stat().st_mtime_ns
    assert "is finished" in run(command(2, "study", *arguments))
    assert (tmp_path / "study" / "metrics.json").stat().st_mtime_ns == before


def wait_for_second_epoch(process):
    for line in process.stderr:
        if "epoch   2 " in line:
            return
    raise AssertionError("the run ended")


@pytest.mark.study
def test_run_fails_if_a_process_is_killed(command, tmp_path):
    arguments = command(2, "run", "trainer.epochs=1000")
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        wait_for_second_epoch(process)
        children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout
        subprocess.run(["kill", "-KILL", children.split()[-1]], check=True)
        _, err = process.communicate(timeout=300)
    assert process.returncode != 0
    assert (tmp_path / "run" / "last.ckpt").exists(), err


@pytest.mark.study
def test_signal_stops_all_processes_of_a_run_that_can_be_resumed(command, tmp_path):
    arguments = command(2, "run", "trainer.epochs=1000", "trainer.log_every_n_steps=1")
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process:
        wait_for_second_epoch(process)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=300)
    assert f"spectrnn train resume={tmp_path / 'run'} continues it\n" in err
    epoch = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["state"]["progress"]["epoch"]
    run([*launcher(2), f"resume={tmp_path / 'run'}", f"trainer.epochs={epoch + 1}"])
