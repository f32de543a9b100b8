"""Interrupted runs, full disks, and non-finite losses: nothing is lost."""

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
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from spectrnn.training import plan
from spectrnn.training.trainer import Trainer

LONG = ("trainer.epochs=400", "trainer.log_every_n_steps=1", "trainer.grad_accum_steps=2")  # longer than any test


@pytest.fixture
def started(tones, tiny_logged, tmp_path, interruptible):
    """Starts a run in a separate process, and waits for the end of its second epoch."""
    processes = []

    def start(*arguments):
        folder = tmp_path / "run"
        command = [sys.executable, "-m", "spectrnn", "train", *tiny_logged, *LONG, f"data.root={tones}", *arguments]
        command.append(f"hydra.run.dir={folder}")
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **interruptible)
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
    return progress["epoch"], progress["batches_done"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_signal_stops_a_run_that_can_be_resumed(started, number):
    process, folder = started()
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 128 + number
    assert "Traceback" not in err
    epoch, done = position(folder)
    where = f"after epoch {epoch}, {done} of 4 batches into the next" if done else f"after epoch {epoch}"
    assert err.endswith(f"spectrnn: stopped {where}; spectrnn train resume={folder} continues it\n"), err
    assert done % 2 == 0  # between two updates, each of which has two batches
    # In a new process, as TensorBoard orders the files of a folder by second and process.
    resume = [sys.executable, "-m", "spectrnn", "train", f"resume={folder}", f"trainer.epochs={epoch + 1}"]
    subprocess.run(resume, check=True, capture_output=True)
    curve = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload().Scalars("step/loss")
    steps = [event.step for event in curve]
    assert steps == sorted(set(steps))
    assert len(steps) == 4 * (epoch + 1)  # batches


def signal_at_second_batch(monkeypatch, *numbers):
    """Sends signals to this process before the second batch of the second epoch is trained on."""
    original = Trainer.train_step

    def train_step(self, batch):
        if (self.epoch, self.batches_done) == (1, 2):
            for number in numbers:
                os.kill(os.getpid(), number)
        return original(self, batch)

    monkeypatch.setattr(Trainer, "train_step", train_step)


def test_second_signal_stops_a_run_at_once(spectrnn, tones, tiny, tmp_path, monkeypatch):
    signal_at_second_batch(monkeypatch, signal.SIGINT, signal.SIGINT)
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background job of a shell
    try:
        outcome = spectrnn("train", *tiny, f"data.root={tones}", f"hydra.run.dir={tmp_path / 'run'}")
    finally:
        signal.signal(signal.SIGINT, previous)
    assert outcome.code == 130
    assert position(tmp_path / "run") == (1, 0)


@pytest.mark.parametrize(
    "options",
    [
        ("trainer.ema_decay=0.9",),
        ("trainer.average_last=2", "model=crnn", "model.channels=[4,4,4]", "data.sampling=balanced", "features=pcen"),
    ],
    ids=["moving average", "average of epochs"],
)
def test_run_resumed_within_an_epoch_equals_an_uninterrupted_one(spectrnn, tones, tiny, tmp_path, monkeypatch, options):
    arguments = (
        *tiny,
        f"data.root={tones}",
        "augment=[speech,rir,codec,stretch,mixup]",
        *options,
        "trainer.epochs=3",
        "trainer.log_every_n_steps=3",
    )
    assert spectrnn("train", *arguments, f"hydra.run.dir={tmp_path / 'whole'}").code == 0
    with monkeypatch.context() as patch:
        signal_at_second_batch(patch, signal.SIGTERM)
        assert spectrnn("train", *arguments, f"hydra.run.dir={tmp_path / 'run'}").code == 143
    assert position(tmp_path / "run") == (1, 2)
    outcome = spectrnn("train", f"resume={tmp_path / 'run'}")
    assert "resuming after epoch 1, batch 2\n" in outcome.err
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_run_of_automatic_length_continues_with_its_length(spectrnn, tones, tiny, tmp_path, monkeypatch):
    automatic = ("trainer.epochs=auto", "trainer.steps=5", "trainer.batch_size=auto", "trainer.grad_accum_steps=2")
    arguments = (*tiny, f"data.root={tones}", *automatic)
    outcome = spectrnn("train", *arguments, f"hydra.run.dir={tmp_path / 'whole'}")
    # 27 clips, in batches of clips of similar length.
    line = "training: 3 epochs of 3 batches of at most 16 clips (6 steps), trainer.epochs=auto, trainer.batch_size=auto"
    assert f"{line}, trainer.patience=auto\n" in outcome.err
    with monkeypatch.context() as patch:
        signal_at_second_batch(patch, signal.SIGTERM)
        assert spectrnn("train", *arguments, f"hydra.run.dir={tmp_path / 'run'}").code == 143
    monkeypatch.setattr(plan, "_BATCH_SIZES", {0: 4})  # as in another version
    assert spectrnn("train", f"resume={tmp_path / 'run'}").code == 0
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    metrics, config = (
        yaml.safe_load((tmp_path / "run" / name).read_text()) for name in ("metrics.json", "config.yaml")
    )
    assert (metrics["epochs"], metrics["max_epochs"], metrics["steps"], metrics["batch_size"]) == (3, 3, 6, 16)
    assert (config["trainer"]["epochs"], config["trainer"]["batch_size"]) == (3, 16)

    both = spectrnn("train", f"resume={tmp_path / 'run'}", "trainer.epochs=4").error()
    assert both.startswith("spectrnn: trainer.steps=5: trainer.epochs=4 gives the length, too; ")
    for change, epochs in ((("trainer.steps=7",), 4), (("trainer.epochs=5", "trainer.steps=null"), 5)):
        assert spectrnn("train", f"resume={tmp_path / 'run'}", *change).code == 0
        assert yaml.safe_load((tmp_path / "run" / "metrics.json").read_text())["epochs"] == epochs


@pytest.mark.slow
def test_checkpoints_are_saved_within_an_epoch(started):
    process, folder = started("trainer.checkpoint_every_minutes=0", "trainer.batch_size=1")
    found = set()
    while not any(done for _, done in found):
        assert process.poll() is None
        found.add(position(folder))


def test_run_killed_before_its_first_checkpoint_is_restarted(spectrnn, trained_run, tmp_path):
    copy = shutil.copytree(trained_run, tmp_path / "copy")
    for name in ("last.ckpt", "model.safetensors", "metrics.json"):
        (copy / name).unlink()
    (copy / ".last.ckpt.123.tmp").write_text("half")
    assert spectrnn("train", f"resume={copy}").code == 0
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (copy, trained_run))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not list(copy.glob(".*.tmp"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"needs permission to mount: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_full_disk_does_not_damage_the_checkpoint(spectrnn, trained_run, small_disk):
    run = shutil.copytree(trained_run, small_disk / "run")
    before = hashlib.sha256((run / "last.ckpt").read_bytes()).digest()
    with (small_disk / "filler").open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            pass
        filler.truncate(filler.tell() - 40_000)  # for the log and the events
    message = spectrnn("train", f"resume={run}", "trainer.epochs=9").error()
    assert "No space left" in message or "cannot be written" in message
    assert str(run) in message
    assert hashlib.sha256((run / "last.ckpt").read_bytes()).digest() == before
    assert not list(run.glob(".*.tmp"))
    (small_disk / "filler").unlink()
    assert spectrnn("train", f"resume={run}", "trainer.epochs=3").code == 0


@pytest.fixture
def poisoned(monkeypatch):
    """`poisoned(epoch, number, value)`: multiplies the loss of a batch, counted from 1, of an epoch, counted from 0."""

    def poison(epoch, number, value):
        original = Trainer.train_step

        def train_step(self, batch):
            with monkeypatch.context() as patch:
                if (self.epoch, self.batches_done) == (epoch, number):
                    loss = self.classifier.task.loss
                    patch.setattr(self.classifier.task, "loss", lambda *arguments: value * loss(*arguments))
                return original(self, batch)

        monkeypatch.setattr(Trainer, "train_step", train_step)

    return poison


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("log_every_n_steps", [1, 10])
def test_non_finite_loss_stops_the_run_and_names_the_clips(
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
    assert outcome.error() == (
        "spectrnn: non-finite loss or gradient; last.ckpt predates it. Try a lower optimizer.lr, or "
        "trainer.on_nan=skip. It occurred in batch 2 of epoch 2:"
    )
    assert len(re.findall(rf"^  {re.escape(str(tones))}/\w+/\d+\.wav$", outcome.err, re.MULTILINE)) in range(1, 9)
    assert position(folder) == (1, 0)
    assert all(value.isfinite().all() for value in load_file(folder / "model.safetensors").values())


def test_batch_with_a_non_finite_loss_can_be_skipped(spectrnn, tones, tiny, tmp_path, poisoned):
    poisoned(0, 2, np.nan)
    folder = tmp_path / "run"
    outcome = spectrnn("train", *tiny, f"data.root={tones}", f"hydra.run.dir={folder}", "trainer.on_nan=skip")
    assert outcome.code == 0
    assert outcome.err.count("skipped, with a non-finite loss or gradient: batch 2 of epoch 1:\n") == 1
    assert all(value.isfinite().all() for value in load_file(folder / "model.safetensors").values())


def test_runs_started_in_the_same_second_have_different_folders(spectrnn, tones, tiny, tmp_path, monkeypatch):
    fixed = ("hydra.run.dir=${new_folder:runs/one}", "trainer.epochs=1")
    for _ in range(2):
        assert spectrnn("train", *tiny, f"data.root={tones}", *fixed).code == 0
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"one", "one-2"}
    assert all((path / "metrics.json").exists() for path in (tmp_path / "runs").iterdir())


@pytest.mark.parametrize(
    "damage",
    [
        lambda saved: saved.update(state=[]),
        lambda saved: saved.update(state={}),
        lambda saved: saved["state"].update(progress={"device": "cuda"}),
        lambda saved: saved["state"].update(meter={}),
        lambda saved: saved["state"].update(optimizer={}),
        lambda saved: saved["state"]["classifier"].update(max_train_samples=torch.zeros(3)),
    ],
    ids=["list", "empty", "progress", "meter", "optimizer", "tensor"],
)
def test_invalid_checkpoint_is_reported(spectrnn, trained_run, tmp_path, damage):
    copy = shutil.copytree(trained_run, tmp_path / "copy")
    saved = torch.load(copy / "last.ckpt", weights_only=True)
    damage(saved)
    torch.save(saved, copy / "last.ckpt")
    message = spectrnn("train", f"resume={copy}", "trainer.epochs=3").error()
    assert message.startswith(
        (
            "spectrnn: resume: last.ckpt does not fit the run (",
            "spectrnn: resume: the dataset has other labels or clips",
        )
    )
    assert (copy / "metrics.json").exists()
