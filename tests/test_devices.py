"""Selection of device and precision, with PyTorch's answers replaced where a GPU would be needed."""

import pytest
import torch

from spectrnn.devices import pick_device
from spectrnn.errors import UserError


@pytest.mark.parametrize("name", ["mps", "mps:0", "meta", "cpu:0", "gpu", "xpu", "cuda:x", ""])
def test_only_cpu_and_cuda_are_supported(name):
    with pytest.raises(UserError) as error:
        pick_device(name, "trainer.device")
    assert str(error.value) == f"trainer.device={name}: not a supported device; use auto, cpu, cuda or cuda:N"


@pytest.mark.parametrize(("name", "remedy"), [("auto", "cpu"), ("cuda:0", "auto")])
def test_gpu_that_allocates_but_cannot_compute_is_reported(name, remedy, monkeypatch):
    def fail(*_, **__):
        raise torch.AcceleratorError("CUDA error: no kernel image is available\nCompile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", lambda *_, **__: torch.zeros(1))
    monkeypatch.setattr(torch.Tensor, "add", fail)
    with pytest.raises(UserError) as error:
        pick_device(name)
    reason = "not available on this machine (CUDA error: no kernel image is available)"
    assert str(error.value) == f"device=cuda:0: {reason}; use {remedy}"
