"""The rehearsal: a run's stages are built once on nothing, before any audio is read, and all errors told at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn
from torch.optim import Optimizer

from spectrnn.config.instantiate import (
    format_value,
    instantiate,
    to_container,
    validate_kwargs,
    with_full_keys,
)
from spectrnn.config.types import NonNegativeInt
from spectrnn.data.clips import DataSource
from spectrnn.devices import autocast_dtype, pick_device
from spectrnn.errors import ErrorCollector, SettingError, UserError
from spectrnn.frontend.augmentation import Augmentations, SpectrogramAugmentation, WaveformAugmentation
from spectrnn.frontend.features import LogMelSpectrogram
from spectrnn.model.classifier import build_stages
from spectrnn.model.rnn import Encoder
from spectrnn.training.schedules import LRSchedule
from spectrnn.training.trainer import TrainerConfig

_FRAMES = 1000  # that an encoder is tried on, at most


@dataclass(kw_only=True)
class TrainConfig:
    """The top level of train.yaml."""

    data: dict[str, Any]
    augment: dict[str, Any] | None = None
    features: dict[str, Any]
    normalize: dict[str, Any]
    model: dict[str, Any]
    pooling: dict[str, Any]
    head: dict[str, Any]
    task: dict[str, Any]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    trainer: dict[str, Any]
    seed: NonNegativeInt
    resume: str | None


class RunComponents(NamedTuple):
    """What a run needs before its dataset is open."""

    settings: TrainerConfig
    source: DataSource
    device: torch.device
    augment: Augmentations


def preflight(config: DictConfig) -> RunComponents:
    """Checks the whole config of a run.

    Args:
        config: as train.yaml composes it.

    Returns:
        Those of its parts that need no dataset.

    Raises:
        UserError: all errors in it, a line each: full key, value, what is wrong, and what would be right.
    """
    errors = ErrorCollector()
    nodes = {str(name): errors.collect(_resolved, config, str(name)) for name in config}
    broken = {key.split(".", maxsplit=1)[0] for key in errors.by_key}
    sound = {name: node for name, node in nodes.items() if name not in broken}
    errors.collect(validate_kwargs, sound, TrainConfig, "", given=dict.fromkeys(broken))
    rehearsal = _Preflight(nodes, errors)
    parts = RunComponents(
        rehearsal.stage("trainer", TrainerConfig),
        rehearsal.stage("data", DataSource),
        rehearsal.device(),
        Augmentations([stage for stage in rehearsal.augment() if stage is not None]),
    )
    features, encoder = rehearsal.classifier()
    rehearsal.optimization()
    rehearsal.rates()
    if features and encoder:
        rehearsal.longest_clip(features, encoder)
    _sort(errors, config)
    errors.raise_if_any()
    return parts


class _Preflight:
    """Builds stages from nodes as far as these are right, and notes what is not.

    Args:
        nodes: the config's top level, plain; None where a node cannot be resolved.
        errors: that were found so far, and will be.
    """

    def __init__(self, nodes: Mapping[str, Any], errors: ErrorCollector) -> None:
        self.nodes, self.errors = nodes, errors

    def stage(self, key: str, kind: type | tuple[type, ...], **runtime: Any) -> Any:
        """A stage, or None. Where a runtime value is None, as not known, the stage's settings alone are checked."""
        group, _, name = key.partition(".")
        node: Any = self.nodes.get(group)
        node = node[name] if name else node
        if not name and not isinstance(node, dict):
            return None  # the top level has told
        return self.errors.collect(instantiate, node, key, kind, **runtime)

    def value(self, key: str) -> Any:
        """A setting, or None where it is wrong or there is none."""
        group, _, name = key.rpartition(".")
        node = self.nodes.get(group)
        return node.get(name) if isinstance(node, dict) and key not in self.errors.by_key else None

    def augment(self) -> list[Any]:
        """The augmentations."""
        names = self.nodes.get("augment") or {}
        return [self.stage(f"augment.{name}", (WaveformAugmentation, SpectrogramAugmentation)) for name in names]

    def device(self) -> Any:
        """The device, with what is asked of it."""
        name, precision, storage = map(self.value, ("trainer.device", "trainer.precision", "data.storage"))
        device = self.errors.collect(pick_device, name, "trainer.device") if name is not None else None
        if device is None:
            return None
        if precision is not None:
            self.errors.collect(_check_precision, precision, device)
        if storage == "gpu" and device.type != "cuda":
            self.errors.add("data.storage=gpu: the run has no GPU; use auto, ram or disk")
        return device

    def classifier(self) -> tuple[LogMelSpectrogram | None, Encoder | None]:
        """Builds its stages, and returns features and encoder."""
        stages = build_stages(self.nodes, 2, lambda _, key, kind, **context: self.stage(key, kind, **context))
        return stages.features, stages.encoder

    def optimization(self) -> None:
        """Builds optimizer and schedule for a single weight."""
        optimizer = self.stage("optimizer", Optimizer, params=[nn.Parameter(torch.zeros(1))])
        self.stage("scheduler", LRSchedule, optimizer=optimizer, steps=1)

    def rates(self) -> None:
        """Features and augmentation must take the dataset's sample rate."""
        rate = self.value("data.sample_rate")
        nodes = {"features": self.nodes.get("features")}
        nodes |= {f"augment.{name}": node for name, node in (self.nodes.get("augment") or {}).items()}
        for key, node in nodes.items():
            own = node.get("sample_rate") if isinstance(node, dict) else None
            if None not in (rate, own) and own != rate:
                self.errors.add(f"{key}.sample_rate={own}: the dataset has data.sample_rate={rate} Hz; the same")

    @torch.no_grad()
    def longest_clip(self, features: LogMelSpectrogram, encoder: Encoder) -> None:
        """The longest clip that `data.max_seconds` allows must leave the recurrent layers more than one frame."""
        seconds = self.value("data.max_seconds")
        if seconds is None:
            return
        clip = f"data.max_seconds={seconds:g}"
        frames = features.num_frames(torch.tensor([round(seconds * features.sample_rate)])).clamp(max=_FRAMES)
        if frames == 1:
            least = (features.window_size + features.hop_size) / features.sample_rate
            self.errors.add(
                f"{clip}: holds one frame of features.window_ms, and recurrent layers need several; "
                f"at least {least:g} s"
            )
        elif encoder.eval()(torch.zeros(1, int(frames), features.output_size), frames)[1] == 1:
            strides = self.value("model.time_strides")
            key = f"model.time_strides={format_value(strides)}" if strides else "model"
            self.errors.add(
                f"{key}: leaves one of the {int(frames)} frames of {clip}, and recurrent layers need "
                f"several; a product below {int(frames)}"
            )


def _resolved(config: DictConfig, name: str) -> Any:
    try:
        return to_container(OmegaConf.select(config, name), name)
    except OmegaConfBaseException as error:
        raise UserError(f"{name}: {str(error).splitlines()[0]}") from error


def _check_precision(name: str, device: torch.device) -> None:
    try:
        autocast_dtype(name, device)
    except SettingError as error:
        raise with_full_keys(error, {"precision": name}, "trainer") from error


def _sort(errors: ErrorCollector, config: DictConfig) -> None:
    """Leaves out a value that is taken over from another key, and wrong there; the rest in the config's order."""
    taken = [key for key, told in errors.by_key.items() if told.startswith(f"{key}=") and _is_taken_over(config, key)]
    if len(taken) < len(errors.by_key):
        for key in taken:
            del errors.by_key[key]
    groups = [str(name) for name in config]
    errors.by_key = dict(sorted(errors.by_key.items(), key=lambda item: _group_order(groups, item[0])))


def _group_order(groups: list[str], key: str) -> int:
    """Of a key in the order of the groups, which is that of the data's flow."""
    group = key.split(".", maxsplit=1)[0]
    return groups.index(group) if group in groups else len(groups)


def _is_taken_over(config: DictConfig, key: str) -> bool:
    group, _, name = key.rpartition(".")
    node = OmegaConf.select(config, group) if group else config
    return isinstance(node, DictConfig) and name in node and OmegaConf.is_interpolation(node, name)
