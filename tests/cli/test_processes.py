"""Trainings of several processes, as torchrun starts them."""

import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

# Nothing is drawn, and no gradient is divided by its own size: then two processes take the very steps of one. Batches
# of seven and outliers of one clip leave the two with shares of different size, and with none.
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
def command(tones, tiny, tmp_path, monkeypatch):
    """The command line of a run with so many processes."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    chosen = [setting for setting in tiny if not setting.startswith("pooling")]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node"]

    def words(processes, folder, *arguments):
        start = [*torchrun, str(processes), "-m", "spectrnn"] if processes > 1 else [sys.executable, "-m", "spectrnn"]
        own = arguments if any("resume=" in word for word in arguments) else (*chosen, f"data.root={tones}", *arguments)
        place = [] if any("resume=" in word for word in arguments) else [f"hydra.run.dir={tmp_path / folder}"]
        return [*start, "train", *own, *place]

    return words


def run(words):
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stderr


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_close(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize("model", ["model=bigru", "model=crnn model.channels=[4,4]"], ids=["bigru", "crnn"])
def test_two_processes_give_the_result_of_one(command, tmp_path, model, tones):
    arguments = (*EXACT, *model.split(), "trainer.epochs=1", f"data.cache={tmp_path / 'cache'}")
    told = run(command(2, "two", *arguments))
    assert told.count("decoded 36 clips") <= 1  # it is the first process alone that tells
    assert len(list((tmp_path / "cache" / "stores").iterdir())) == 1
    assert told.count("epoch   1 ") == 1
    run(command(1, "one", *arguments))
    assert_close(weights(tmp_path / "two"), weights(tmp_path / "one"))
    names = {path.name.split(".tfevents")[0] for path in (tmp_path / "two").iterdir()}
    assert names == {path.name.split(".tfevents")[0] for path in (tmp_path / "one").iterdir()}
    assert len(list((tmp_path / "two").glob("events*"))) == 1


def test_a_run_goes_on_with_another_number_of_processes(command, tmp_path):
    run(command(1, "whole", *EXACT, "trainer.epochs=2"))
    run(command(2, "run", *EXACT, "trainer.epochs=1"))
    run(command(1, "", f"resume={tmp_path / 'run'}", "trainer.epochs=2"))
    assert_close(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_when_a_process_dies_the_others_end_with_an_error(command, tmp_path):
    words = command(2, "run", "trainer.epochs=1000")
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        for line in process.stderr:
            if "epoch   2 " in line:
                break
        children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout
        subprocess.run(["kill", "-KILL", children.split()[-1]], check=True)
        _, err = process.communicate(timeout=300)
    assert process.returncode != 0
    assert (tmp_path / "run" / "last.ckpt").exists(), err


def test_a_signal_ends_all_processes_where_they_go_on(command, tmp_path):
    words = command(2, "run", "trainer.epochs=1000", "trainer.log_every_n_steps=1")
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if "epoch   2 " in line:
                break
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=300)
    assert "goes on from there" in err
    epoch = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["state"]["progress"]["epoch"]
    run(command(2, "", f"resume={tmp_path / 'run'}", f"trainer.epochs={epoch + 1}"))
