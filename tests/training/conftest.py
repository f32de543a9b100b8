"""A GPU that is not there: PyTorch's fake tensors, watched for everything that makes a training step wait."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from spectrnn.config.paths import CONFIG_DIR
from spectrnn.data import samples as samples_module
from spectrnn.data.clips import Clip
from spectrnn.data.dataset import Dataset, open_dataset
from spectrnn.data.labels import ONE_LABEL
from spectrnn.progress import Stopwatch
from spectrnn.training.preflight import RunComponents, preflight
from spectrnn.training.train import build_trainer
from spectrnn.training.trainer import Trainer

# PyTorch's own name for a device without kernels: on a fake "cuda", backward passes need a driver.
_FAKE = torch.device("lazy", 0)

aten = torch.ops.aten
# Operations that neither launch a kernel nor copy: memory, and other views of it.
_FREE = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided, aten.detach}
_FREE |= {aten.lift_fresh, aten._unsafe_view, torch.ops.prim.device, aten._reshape_alias, aten.is_pinned}
_COPIES = {aten._to_copy, aten.copy_}
# Of operations for which PyTorch has none.
_FAKE_KERNELS = {aten._sample_dirichlet: torch.empty_like, aten._fused_sgd_: lambda *_, **__: None}


@pytest.fixture(scope="session")
def dataset_of() -> Callable[..., Dataset]:
    """Makes a dataset without samples, from the numbers of training, validation and test clips by label."""
    return _dataset_of


class GPUMonitor(TorchDispatchMode):
    """Counts kernel launches and copies of the fake GPU, and lists what would wait for it. What is on the CPU is real.

    Attributes:
        device: The fake GPU.
        launches: Number of kernels on the GPU.
        copies: Number of copies from the CPU to the GPU.
        problems: Descriptions of copies that wait, of copies back, and of operations across devices.
    """

    def __init__(self) -> None:
        super().__init__()
        self.device = _FAKE
        self.reset()

    def reset(self) -> None:
        """Starts to count again."""
        self.launches, self.copies, self.problems = 0, 0, list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        leaves = tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        devices = {tensor.device.type for tensor in tensors if tensor.ndim or func._overloadpacket in _COPIES}
        targets = {leaf.type for leaf in leaves if isinstance(leaf, torch.device)}
        if _FAKE.type not in targets | {tensor.device.type for tensor in tensors}:
            is_pinned = bool(kwargs.pop("pin_memory", None))
            with unset_fake_temporarily():
                result = func(*args, **kwargs)
            if is_pinned:
                result.is_fake_pinned = True
            return result
        if func._overloadpacket in _COPIES:
            self._check_copy(func, args, kwargs)
        elif len(devices) > 1:
            self.problems.append(f"operation across devices: {func}")
        if func._overloadpacket not in _FREE and not func.is_view:
            self.launches += 1
        return _FAKE_KERNELS.get(func._overloadpacket, func)(*args, **kwargs)

    def _check_copy(self, func: Any, args: Any, kwargs: Any) -> None:
        is_in_place = func._overloadpacket is aten.copy_
        source = args[1] if is_in_place else args[0]
        target = args[0].device if is_in_place else torch.device(kwargs.get("device") or source.device)
        is_asynchronous = args[2] if is_in_place and len(args) > 2 else kwargs.get("non_blocking", False)
        if target.type == source.device.type:
            return
        if target.type == "cpu":
            self.problems.append(f"copy back: {tuple(source.shape)}")
            return
        self.copies += 1
        if not is_asynchronous or not getattr(source, "is_fake_pinned", False):
            how = "blocking" if not is_asynchronous else "unpinned"
            self.problems.append(f"{how} copy: {tuple(source.shape)}")


def _pin_memory(tensor: Tensor) -> Tensor:
    pinned = tensor.clone()
    pinned.is_fake_pinned = True  # type: ignore[attr-defined]
    return pinned


def _recurrent_layer(x: Tensor, states: Any, weights: list[Tensor], *_: Any) -> tuple[Tensor, ...]:
    """Stands in for cuDNN's kernel: an output (frames, batch, hidden) that depends on all inputs."""
    w_ih, w_hh, b_ih, b_hh = weights
    states = states if isinstance(states, tuple) else (states,)
    size = w_hh.shape[1]
    output = x @ w_ih[:size].T + (b_ih + b_hh + w_hh.sum(1))[:size] + sum(states)
    return output, *(output[-1:] for _ in states)


@contextmanager
def _fake_gpu() -> Iterator[GPUMonitor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples_module, "_GPU_TYPES", ("cuda", _FAKE.type))
        patch.setattr(samples_module, "prefetch", lambda items, _: iter(items))  # modes hold for one thread
        patch.setattr(torch.Tensor, "pin_memory", _pin_memory)
        patch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
        for name in ("gru", "lstm"):
            patch.setattr(torch._VF, name, lambda x, hx, weights, *_: _recurrent_layer(x, hx, weights))
        patch.setattr(_foreach_utils, "_get_foreach_kernels_supported_devices", lambda: ["cpu", _FAKE.type])
        patch.setattr(
            import_module("torch.optim.optimizer"), "_get_fused_kernels_supported_devices", lambda: ["cpu", _FAKE.type]
        )
        patch.setattr(FakeTensorMode, "__deepcopy__", lambda mode, _: mode, raising=False)  # copied with a tensor
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            with FakeTensorMode(allow_non_fake_inputs=True), GPUMonitor() as monitor:
                yield monitor
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(False)


@pytest.fixture
def fake_gpu() -> Iterator[GPUMonitor]:
    """The monitor of a fake GPU, `monitor.device`, which exists during the test."""
    with _fake_gpu() as monitor:
        yield monitor


@pytest.fixture(scope="session")
def components(tones: Path) -> Callable[..., RunComponents]:
    """Components of a run on the tones: `components("model=gru")`."""

    def build(*settings: str) -> RunComponents:
        return preflight(_config("data=folder", f"data.root={tones}", "data.sample_rate=8000", *settings))

    return build


@pytest.fixture(scope="session")
def make_trainer(components: Callable[..., RunComponents]) -> Callable[..., Trainer]:
    """Builds a trainer on the tones: `make_trainer("model=gru")`; on a device other than the config's with `device`."""

    def make(*settings: str, device: torch.device | None = None) -> Trainer:
        run = components(*settings)
        run = run._replace(device=device or run.device)
        return build_trainer(run, open_dataset(run.source, run.device), Stopwatch(), is_new=True)

    return make


@pytest.fixture(scope="session")
def train_epoch() -> Callable[[Trainer, int], Iterator[int]]:
    """Runs the steps of an epoch, and yields the number of each: `for number in train_epoch(trainer, 0)`."""

    def run(trainer: Trainer, epoch: int) -> Iterator[int]:
        trainer.epoch = epoch
        for number, batch in enumerate(trainer.train.epoch(trainer.version), 1):
            trainer.batches_done = number
            trainer.train_step(batch)
            yield number

    return run


@functools.cache
def _config(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = compose("train", overrides=[*overrides])
    OmegaConf.set_readonly(config, True)
    return config


def _dataset_of(counts: dict[str, tuple[int, int, int]], **fields: str) -> Dataset:
    clips = [
        Clip(f"{label}/{split}{number}.wav", label, split, **fields)
        for label, of_splits in counts.items()
        for split, count in zip(("train", "val", "test"), of_splits, strict=True)
        for number in range(count)
    ]
    missing: Any = None
    return Dataset(clips, missing, missing, sorted(counts), ONE_LABEL, None, [])
