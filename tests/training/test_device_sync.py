"""A training step never waits for the GPU, and launches few kernels: on a fake GPU, and on a real one."""

import pytest
import torch
from torch import nn

from spectrnn.data import samples
from spectrnn.data.samples import GPUSamples, load_samples
from spectrnn.frontend import augmentation, masking, normalization
from spectrnn.training.meter import Meter

ENCODERS = ["gru", "bigru", "lstm", "bilstm", "crnn", "conv1d_rnn"]
POOLINGS = ["last", "mean", "max", "attention", "stats"]
ALL_AUGMENTATIONS = "augment=[noise,gain,shift,speed,mixup,specaugment]"
EFFECTS = ("augment=[rir,codec,bandpass,stretch,pitch]", "augment.stretch.p=1", "augment.pitch.p=1")
SMALL = ("model=gru", "augment=[gain]")  # builds and trains in a third of the time of the default
COPIES = 3  # of a step: samples or their positions, lengths, targets
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def fake_trainer(fake_gpu, make_trainer):
    """Builds a trainer on the fake GPU, with a gradient scaler as for half precision."""

    def make(*settings, storage="gpu"):
        on_host = "disk" if storage == "gpu" else storage
        fixed = ("trainer.device=cpu", f"data.storage={on_host}", "trainer.batch_size=8")
        trainer = make_trainer(*fixed, *settings, device=fake_gpu.device)
        assert not [problem for problem in fake_gpu.problems if not problem.startswith("blocking copy")]
        trainer.scaler = torch.amp.GradScaler(fake_gpu.device.type)
        if storage == "gpu":
            content = load_samples(trainer.dataset.cache.samples, torch.device("cpu"))
            trainer.train.samples = GPUSamples(content.to(fake_gpu.device))
        fake_gpu.reset()
        return trainer

    return make


@pytest.mark.parametrize(
    ("settings", "launches"),
    [
        ((), 480),
        (("model=bigru", ALL_AUGMENTATIONS, "augment.speed.p=1"), 375),
        *(((f"model={model}", "augment=[]"), 345 if model in ("crnn", "conv1d_rnn") else 220) for model in ENCODERS),
        *((("model=bigru", "normalize=global", f"pooling={pooling}", "augment=[]"), 210) for pooling in POOLINGS),
        (("model=bigru", "normalize=cmvn", "features.deltas=2", "augment=[]"), 280),
        (("model=bigru", "normalize=global", "features=pcen", "augment=[]"), 260),
        (("model=bigru", "normalize=global", *EFFECTS), 420),
        (
            (
                "model=bigru",
                "normalize=global",
                "features=mfcc",
                "optimizer=sgd",
                "task.class_weights=balanced",
                "augment=[]",
            ),
            260,
        ),
        (
            ("model=bigru", "normalize=global", "trainer.ema_decay=0.99", "trainer.grad_accum_steps=2", "augment=[]"),
            230,
        ),
    ],
    ids=lambda value: " ".join(value) or "default" if isinstance(value, tuple) else "",
)
def test_step_does_not_wait_and_launches_few_kernels(settings, launches, fake_gpu, fake_trainer, train_epoch):
    trainer = fake_trainer(*settings)
    for number in train_epoch(trainer, 0):
        assert fake_gpu.problems == []
        assert fake_gpu.copies <= COPIES
        assert number <= trainer.config.grad_accum_steps or fake_gpu.launches <= launches  # the first one has more
        fake_gpu.reset()


@pytest.mark.parametrize("storage", ["disk", "ram"])
def test_batches_from_the_host_are_copied_once_without_waiting(storage, fake_gpu, fake_trainer, train_epoch):
    for _ in train_epoch(fake_trainer(storage=storage), 0):
        assert fake_gpu.problems == []
        assert fake_gpu.copies <= COPIES
        fake_gpu.reset()


class Fault(nn.Module):
    """A faulty augmentation."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, batch):
        self.function(batch.waveform, batch.lengths)
        return batch


def draw_on_cpu(waveform, _):
    return waveform * torch.rand(len(waveform), 1).to(waveform.device)


def many_kernels(waveform, _):
    for _ in range(400):
        waveform = waveform * 2


AUGMENTATION_FAULTS = {
    "value read": (lambda waveform, lengths: lengths.max().item(), "DataDependentOutputException"),
    "condition": (lambda waveform, lengths: 1 if (lengths > 5).all() else 2, "DataDependentOutputException"),
    "list": (lambda waveform, lengths: lengths.tolist(), "DataDependentOutputException"),
    "copy back": (lambda waveform, lengths: lengths.cpu(), "copy back"),
    "boolean mask": (lambda waveform, lengths: waveform[lengths > 5], "DynamicOutputShapeException"),
    "nonzero": (lambda waveform, lengths: lengths.nonzero(), "DynamicOutputShapeException"),
    "arange on the CPU": (
        lambda waveform, lengths: torch.arange(9) < lengths[:, None],
        "FakeTensorDeviceMismatchError",
    ),
    "draw on the CPU": (draw_on_cpu, "blocking copy"),
    "unpinned copy": (lambda waveform, _: torch.zeros(3).to(waveform.device, non_blocking=True), "unpinned copy"),
    "in-place copy": (lambda waveform, _: waveform[0].copy_(torch.zeros(waveform.shape[1])), "blocking copy"),
    "tensor of a list": (lambda waveform, _: torch.tensor([1, 2], device=waveform.device), "blocking copy"),
    "tensor of a number": (lambda waveform, _: torch.tensor(1.0, device=waveform.device), "blocking copy"),
    "index on the CPU": (lambda waveform, _: waveform[torch.tensor([0, 1])], "operation across devices"),
    "many kernels": (many_kernels, "launches"),
    "many copies": (lambda waveform, _: [samples.to_device(torch.ones(1), waveform.device)] * 9, "copies"),
}


def problems_of_steps(trainer, monitor, train_epoch):
    """Everything that `test_step_does_not_wait_and_launches_few_kernels` would reject, as text."""
    try:
        for number in train_epoch(trainer, 0):
            counts = {"copies": monitor.copies > COPIES, "launches": number > 1 and monitor.launches > 481}
            if found := [*monitor.problems, *(name for name, is_exceeded in counts.items() if is_exceeded)]:
                return str(found)
            monitor.reset()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


@pytest.mark.parametrize("fault", AUGMENTATION_FAULTS)
def test_faults_in_an_augmentation_are_detected(fault, fake_gpu, fake_trainer, train_epoch):
    trainer = fake_trainer(*SMALL)
    function, expected = AUGMENTATION_FAULTS[fault]
    trainer.classifier.augment.waveform_transforms.append(Fault(function))
    assert expected in problems_of_steps(trainer, fake_gpu, train_epoch)


def read_loss(original):
    return lambda self, number, correct, loss, clips: original(self, number, correct, loss.item() * loss, clips)


FAULTS = {
    "meter that reads the loss": (Meter, "update", read_loss, "DataDependentOutputException"),
    "meter that reads the norm": (
        Meter,
        "record_grad_norm",
        lambda _: lambda self, norm, check: float(norm),
        "DataDependentOutputException",
    ),
    "mask on the CPU": (
        masking,
        "length_mask",
        lambda _: lambda lengths, size: torch.arange(size) < lengths[:, None],
        "FakeTensorDeviceMismatchError",
    ),
    "copy of a batch that blocks": (
        samples,
        "to_device",
        lambda _: lambda tensor, device: tensor.to(device),
        "blocking copy",
    ),
    "dataset indexed from the CPU": (
        samples,
        "to_device",
        lambda _: lambda tensor, device: tensor,
        "operation across devices",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_the_trainer_are_detected(fault, fake_gpu, fake_trainer, train_epoch, monkeypatch):
    trainer = fake_trainer()
    place, name, replace, expected = FAULTS[fault]
    replacement = replace(getattr(place, name))
    for module in (place, augmentation, normalization) if name == "length_mask" else (place,):
        monkeypatch.setattr(module, name, replacement)
    assert expected in problems_of_steps(trainer, fake_gpu, train_epoch)


def test_without_a_fault_nothing_is_detected(fake_gpu, fake_trainer, train_epoch):
    trainer = fake_trainer(*SMALL)
    trainer.classifier.augment.waveform_transforms.append(Fault(lambda waveform, lengths: waveform * 2))
    assert problems_of_steps(trainer, fake_gpu, train_epoch) == ""


@needs_gpu
@pytest.mark.parametrize("augment", [(ALL_AUGMENTATIONS, "augment.speed.p=1"), EFFECTS], ids=["speed", "effects"])
@pytest.mark.parametrize("storage", ["gpu", "ram", "disk"])
@pytest.mark.parametrize("model", ENCODERS)
def test_step_on_a_gpu_does_not_synchronize(augment, model, storage, make_trainer, train_epoch):
    settings = (f"data.storage={storage}", f"model={model}", "trainer.batch_size=8", "trainer.device=cuda")
    trainer = make_trainer(*settings, *augment)
    list(train_epoch(trainer, 0))  # lazy initialization may synchronize
    torch.cuda.set_sync_debug_mode("error")
    try:
        list(train_epoch(trainer, 1))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.meter.read()["loss"] > 0
