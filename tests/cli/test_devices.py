"""The device of each command: logged, refused if it is not supported, and a full memory is reported."""

import shutil

import pytest
import torch

from spectrnn.model.classifier import Classifier

COMMANDS = {
    "train": ("trainer.device", "hydra.run.dir=run"),
    "eval": ("device", "report=false", "out=out"),
    "tune-thresholds": ("device", "window=0.2", "hop=0.1", "negatives=[{tones}/low]", "out=out"),
    "predict": ("device", "{tones}/low"),
    "stream": ("device", "source=-"),
}


@pytest.fixture
def run(spectrnn, tiny, tones, trained_run, tmp_path):
    """Runs a command on the tones: `run("eval", "device=cpu")`; those that change the model file get a copy of it."""
    model = shutil.copy(trained_run / "model.safetensors", tmp_path)

    def call(command, *arguments):
        base = (*tiny, f"data.root={tones}") if command == "train" else (f"run={model}",)
        fixed = (argument.format(tones=tones) for argument in COMMANDS[command][1:])
        return spectrnn(command, *base, *fixed, *arguments)

    return call


@pytest.mark.parametrize("command", COMMANDS)
def test_unsupported_device_is_refused(run, command):
    key = COMMANDS[command][0]
    message = f"spectrnn: {key}=mps: not a supported device; use auto, cpu, cuda or cuda:N"
    assert run(command, f"{key}=mps").error() == message


@pytest.mark.parametrize("command", ["train", "eval", "predict"])
def test_device_and_precision_are_logged(run, command):
    outcome = run(command, f"{COMMANDS[command][0]}=cpu")
    assert outcome.code == 0, outcome.err
    threads = torch.get_num_threads()
    assert f"computing on cpu ({threads} thread{'s' * (threads > 1)}), fp32\n" in outcome.err


@pytest.fixture
def full_memory(monkeypatch):
    """A GPU whose memory is full from the given forward pass on: `full_memory(first)`."""
    forward = Classifier.trace
    passes = 0

    def make(first):
        def trace(self, waveform, lengths):
            nonlocal passes
            passes += 1
            if passes >= first:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return forward(self, waveform, lengths)

        monkeypatch.setattr(Classifier, "trace", trace)

    return make


@pytest.mark.parametrize("command", ["eval", "tune-thresholds", "predict"])
def test_full_memory_names_the_batch_size(run, full_memory, command):
    full_memory(first=2)  # after the pass that checks a model file
    message = "spectrnn: batch_size: a batch does not fit in the memory of the GPU; lower it"
    assert run(command).error() == message


def test_full_memory_ends_a_training_whose_checkpoint_remains(run, full_memory, tmp_path):
    full_memory(first=7)  # within the first epoch
    assert run("train").error() == (
        "spectrnn: trainer.batch_size: a batch does not fit in the memory of the GPU; lower it, "
        "or set a lower data.max_seconds"
    )
    progress = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["state"]["progress"]
    assert (progress["epoch"], progress["batches_done"]) == (0, 0)
