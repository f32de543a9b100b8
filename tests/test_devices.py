"""Selection of device and precision, with PyTorch's answers replaced where a GPU would be needed."""

import logging

import pytest
import torch

from spectrnn import devices
from spectrnn.devices import autocast_dtype, log_device, pick_device
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


@pytest.mark.parametrize(
    ("name", "environment", "expected"),
    [
        ("auto", {}, "cuda:0"),
        ("auto", {"SPECTRNN_JOB": "3"}, "cuda:1"),
        ("cuda", {"SPECTRNN_JOB": "4"}, "cuda:0"),
        ("cuda:0", {"SPECTRNN_JOB": "3"}, "cuda:0"),
        ("auto", {"SPECTRNN_JOB": "3", "LOCAL_RANK": "0"}, "cuda:0"),
    ],
)
def test_processes_on_a_machine_use_its_gpus_in_turn(monkeypatch, name, environment, expected):
    for key in ("SPECTRNN_JOB", "LOCAL_RANK"):
        monkeypatch.delenv(key, raising=False)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch, "ones", lambda *_, **__: torch.zeros(1))
    assert pick_device(name) == torch.device(expected)


TOO_OLD = "The NVIDIA driver on your system is too old (found version 12020). Please update it"


@pytest.fixture
def old_driver(monkeypatch, tmp_path):
    """A machine with an NVIDIA GPU, and a driver that is too old for this PyTorch."""

    def fail():
        raise RuntimeError(TOO_OLD)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", fail)
    monkeypatch.setattr(devices, "_NVIDIA_FILES", (str(tmp_path),))


@pytest.mark.usefixtures("old_driver")
def test_falling_back_to_the_cpu_beside_a_gpu_is_warned_about(caplog):
    assert pick_device("auto") == torch.device("cpu")
    warning = f"computing on the CPU, as PyTorch cannot use this machine's NVIDIA GPU: {TOO_OLD}"
    assert [(record.levelno, record.message) for record in caplog.records] == [(logging.WARNING, warning)]


@pytest.mark.usefixtures("old_driver")
@pytest.mark.parametrize("reason", ["cpu requested", "hidden", "no gpu", "no cuda"])
def test_choosing_the_cpu_is_not_warned_about(reason, caplog, monkeypatch, tmp_path):
    if reason == "hidden":
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    elif reason == "no gpu":
        monkeypatch.setattr(devices, "_NVIDIA_FILES", (str(tmp_path / "missing"),))
        monkeypatch.setenv("PATH", str(tmp_path))
    elif reason == "no cuda":
        monkeypatch.setattr(torch.version, "cuda", None)
    assert pick_device("cpu" if reason == "cpu requested" else "auto") == torch.device("cpu")
    assert not caplog.records


@pytest.mark.parametrize(
    ("device", "threads", "dtype", "line"),
    [
        ("cpu", 3, None, "computing on cpu (3 threads), fp32"),
        ("cpu", 1, None, "computing on cpu (1 thread), fp32"),
        ("cuda:1", 3, torch.bfloat16, "computing on cuda:1 (NVIDIA H100 80GB HBM3), bf16"),
        ("cuda:1", 3, torch.float16, "computing on cuda:1 (NVIDIA H100 80GB HBM3), fp16"),
    ],
)
def test_device_and_precision_are_logged(device, threads, dtype, line, caplog, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(torch.cuda, "get_device_name", {torch.device("cuda:1"): "NVIDIA H100 80GB HBM3"}.get)
    with caplog.at_level(logging.INFO):
        log_device(torch.device(device), dtype)
    assert [record.message for record in caplog.records] == [line]


@pytest.mark.parametrize(
    ("device", "has_bf16", "dtype"),
    [("cpu", False, None), ("cuda:0", True, torch.bfloat16), ("cuda:0", False, torch.float16)],
)
def test_automatic_precision_is_the_fastest_of_the_device(device, has_bf16, dtype, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    assert autocast_dtype("auto", torch.device(device), "precision") == dtype


def test_half_precision_on_the_cpu_needs_its_instructions(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert autocast_dtype("bf16", cpu, "precision") == torch.bfloat16
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    with pytest.raises(UserError, match=r"^precision=bf16: this CPU has no bf16 products \(AVX512_BF16 or AMX\)"):
        autocast_dtype("bf16", cpu, "precision")
    with pytest.raises(UserError, match=r"^precision=fp16: needs a GPU, but this run is on the CPU; use fp32 or auto"):
        autocast_dtype("fp16", cpu, "precision")
