"""Runs that are stopped, run out of disk or meet numbers that are not finite: nothing is lost."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from spectrnn.training.trainer import Learner

LONG = ("trainer.epochs=400", "trainer.log_every_n_steps=1", "trainer.grad_accum_steps=2")  # nobody waits for its end


@pytest.fixture
def started(tones, tiny, tmp_path):
    """Starts a run in a process of its own, and waits until it has trained for two epochs."""
    processes = []

    def start(*arguments):
        folder = tmp_path / "run"
        command = [sys.executable, "-m", "spectrnn", "train", *tiny, *LONG, f"data.root={tones}", *arguments]
        process = subprocess.Popen([*command, f"hydra.run.dir={folder}"], stderr=subprocess.PIPE, text=True)
        processes.append(process)
        for line in process.stderr:
            if "epoch   2 " in line:
                return process, folder
        raise AssertionError("ended early")

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def position(folder):
    progress = torch.load(folder / "last.ckpt", weights_only=True)["state"]["progress"]
    return progress["epoch"], progress["done"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_ends_a_run_where_it_goes_on(started, spectrnn, number):
    process, folder = started()
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 128 + number
    assert "Traceback" not in err
    epoch, done = position(folder)
    where = f"after epoch {epoch}, {done} of 4 batches into the next" if done else f"after epoch {epoch}"
    assert re.search(f"spectrnn: stopped {where}; spectrnn train resume=.*run goes on from there", err), err
    assert done % 2 == 0  # between two steps of the optimizer, not in the midst of its batches
    assert spectrnn("train", f"resume={folder}", f"trainer.epochs={epoch + 1}").code == 0
    curve = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload().Scalars("step/loss")
    steps = [event.step for event in curve]
    assert steps == sorted(set(steps))
    assert len(steps) == 4 * (epoch + 1)  # batches


def test_a_second_signal_ends_a_run_at_once(spectrnn, tones, tiny, tmp_path, monkeypatch):
    original = Learner.learn

    def interrupted(self, epoch, number, batch, meter):
        if (epoch, number) == (1, 2):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, epoch, number, batch, meter)

    monkeypatch.setattr(Learner, "learn", interrupted)
    outcome = spectrnn("train", *tiny, f"data.root={tones}", f"hydra.run.dir={tmp_path / 'run'}")
    assert outcome.code == 130
    assert position(tmp_path / "run") == (1, 0)


def test_a_run_stopped_within_an_epoch_ends_as_one_that_never_stopped(spectrnn, tones, tiny, tmp_path, monkeypatch):
    arguments = (
        *tiny,
        f"data.root={tones}",
        "augment=[speech,gain,mixup]",
        "trainer.ema_decay=0.9",
        "trainer.log_every_n_steps=3",
    )
    assert spectrnn("train", *arguments, f"hydra.run.dir={tmp_path / 'whole'}").code == 0
    original = Learner.learn

    def signalled(self, epoch, number, batch, meter):
        if (epoch, number) == (1, 2):
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, epoch, number, batch, meter)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "learn", signalled)
        assert spectrnn("train", *arguments, f"hydra.run.dir={tmp_path / 'run'}").code == 143
    assert position(tmp_path / "run") == (1, 2)
    outcome = spectrnn("train", f"resume={tmp_path / 'run'}")
    assert "going on after epoch 1, batch 2" in outcome.err
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_is_saved_every_few_minutes(started):
    process, folder = started("trainer.checkpoint_every_minutes=0", "trainer.batch_size=1")
    found = set()
    while not any(done for _, done in found):
        assert process.poll() is None
        found.add(position(folder))


def test_a_run_killed_before_its_first_checkpoint_begins_again(spectrnn, trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "copy")
    for name in ("last.ckpt", "model.safetensors", "metrics.json"):
        (copy / name).unlink()
    (copy / ".last.ckpt.123.tmp").write_text("half")
    assert spectrnn("train", f"resume={copy}").code == 0
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (copy, trained))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not list(copy.glob(".*.tmp"))


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_leaves_the_checkpoint_whole(spectrnn, trained, small_disk):
    run = shutil.copytree(trained, small_disk / "run")
    before = hashlib.sha256((run / "last.ckpt").read_bytes()).digest()
    with (small_disk / "filler").open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            pass
        filler.truncate(filler.tell() - 40_000)  # for the log and the events
    told = spectrnn("train", f"resume={run}", "trainer.epochs=9").mistake()
    assert "No space left" in told or "cannot be written" in told
    assert f"{run}" in told
    assert hashlib.sha256((run / "last.ckpt").read_bytes()).digest() == before
    assert not list(run.glob(".*.tmp"))
    (small_disk / "filler").unlink()
    assert spectrnn("train", f"resume={run}", "trainer.epochs=3").code == 0


@pytest.fixture
def poisoned(monkeypatch):
    """Makes the loss of a batch what nobody can learn from."""

    def poison(epoch, number, value):
        original = Learner._forward

        def forward(self, batch):
            logits, targets, loss = original(self, batch)
            self.batches_seen = getattr(self, "batches_seen", 0) + 1
            bad = self.batches_seen == epoch * len(self.batches) + number
            return logits, targets, loss * value if bad else loss

        monkeypatch.setattr(Learner, "_forward", forward)

    return poison


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("log_every_n_steps", [1, 10])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_clips(
    spectrnn, tones, tiny, tmp_path, poisoned, value, log_every_n_steps
):
    poisoned(1, 2, value)
    folder = tmp_path / "run"
    outcome = spectrnn(
        "train",
        *tiny,
        f"data.root={tones}",
        f"hydra.run.dir={folder}",
        f"trainer.log_every_n_steps={log_every_n_steps}",
    )
    assert "not finite" in outcome.mistake()
    assert "batch 2 of epoch 2" in outcome.mistake()
    assert len(re.findall(rf"^  {re.escape(str(tones))}/\w+/\d+\.wav$", outcome.err, re.MULTILINE)) in range(1, 9)
    assert position(folder) == (1, 0)
    assert all(value.isfinite().all() for value in load_file(folder / "model.safetensors").values())


def test_a_batch_that_is_not_finite_can_be_left_out(spectrnn, tones, tiny, tmp_path, poisoned):
    poisoned(0, 2, np.nan)
    folder = tmp_path / "run"
    outcome = spectrnn("train", *tiny, f"data.root={tones}", f"hydra.run.dir={folder}", "trainer.on_nan=skip")
    assert outcome.code == 0
    assert outcome.err.count("left out: batch 2 of epoch 1") == 1
    assert all(value.isfinite().all() for value in load_file(folder / "model.safetensors").values())


def test_two_runs_of_one_second_have_two_folders(spectrnn, tones, tiny, tmp_path, monkeypatch):
    fixed = ("hydra.run.dir=${new_folder:runs/one}", "trainer.epochs=1")
    for _ in range(2):
        assert spectrnn("train", *tiny, f"data.root={tones}", *fixed).code == 0
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"one", "one-2"}
    assert all((path / "metrics.json").exists() for path in (tmp_path / "runs").iterdir())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda saved: saved.update(state=[]),
        lambda saved: saved.update(state={}),
        lambda saved: saved["state"].update(progress={"device": "cuda"}),
        lambda saved: saved["state"].update(meter={}),
        lambda saved: saved["state"]["learner"].update(optimizer={}),
        lambda saved: saved["state"]["learner"]["classifier"].update(longest=torch.zeros(3)),
    ],
    ids=["list", "empty", "progress", "meter", "optimizer", "tensor"],
)
def test_a_checkpoint_that_is_none_of_ours_ends_in_a_sentence(spectrnn, trained, tmp_path, spoil):
    copy = shutil.copytree(trained, tmp_path / "copy")
    saved = torch.load(copy / "last.ckpt", weights_only=True)
    spoil(saved)
    torch.save(saved, copy / "last.ckpt")
    assert "resume" in spectrnn("train", f"resume={copy}", "trainer.epochs=3").mistake()
    assert (copy / "metrics.json").exists()
