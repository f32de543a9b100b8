"""Preflight: validates the config of a run by instantiating its components before any audio is read."""

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
    unknown_name,
    validate_kwargs,
    with_full_keys,
)
from spectrnn.config.types import NonNegativeInt
from spectrnn.data.clips import DataSource
from spectrnn.devices import autocast_dtype, pick_device
from spectrnn.errors import ErrorCollector, SettingError, UserError
from spectrnn.evaluation.metrics import Metric, metrics_of
from spectrnn.frontend.augmentation import Augmentations, SpectrogramAugmentation, WaveformAugmentation
from spectrnn.model.classifier import Stages, build_stages
from spectrnn.training.schedules import LRSchedule
from spectrnn.training.trainer import TrainerConfig

_MAX_FRAMES = 1000  # of the dummy clip that the encoder is tested with


@dataclass(kw_only=True)
class TrainConfig:
    """Top level of train.yaml."""

    data: dict[str, Any]
    augment: dict[str, Any] | None = None
    features: dict[str, Any]
    normalize: dict[str, Any]
    model: dict[str, Any]
    pooling: dict[str, Any]
    task: dict[str, Any]
    metrics: dict[str, Any] | None = None
    head: dict[str, Any]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    trainer: dict[str, Any]
    seed: NonNegativeInt
    resume: str | None


class RunComponents(NamedTuple):
    """Components of a run that do not depend on its dataset.

    Attributes:
        trainer: Config group ``trainer``.
        source: Data source.
        augment: Augmentations.
        metrics: Metrics of the user, by name, in addition to those of the task.
        device: Device of the run.
    """

    trainer: TrainerConfig
    source: DataSource
    augment: Augmentations
    metrics: Mapping[str, Metric]
    device: torch.device


def preflight(config: DictConfig) -> RunComponents:
    """Validates the whole config of a run, and instantiates what does not depend on the dataset.

    Args:
        config: Config as train.yaml composes it.

    Raises:
        UserError: All errors in the config, one per line, in the order of the data flow: full key, value, and what
            would be valid.
    """
    errors = ErrorCollector()
    nodes = {str(name): errors.collect(_resolve, config, str(name)) for name in config}
    unresolved = {key.split(".", maxsplit=1)[0] for key in errors.by_key}
    resolved = {name: node for name, node in nodes.items() if name not in unresolved}
    errors.collect(validate_kwargs, resolved, TrainConfig, "", given=dict.fromkeys(unresolved))

    def build(node: Any, key: str, kind: type | tuple[type, ...], **context: Any) -> Any:
        is_reported = "." not in key and not isinstance(node, dict)  # by the validation of the top level
        return None if is_reported else errors.collect(instantiate, node, key, kind, **context)

    def build_each(group: str, kind: type | tuple[type, ...]) -> dict[str, Any]:
        options = nodes.get(group) if isinstance(nodes.get(group), dict) else {}
        return {name: build(node, f"{group}.{name}", kind) for name, node in options.items()}

    trainer = build(nodes.get("trainer"), "trainer", TrainerConfig)
    source = build(nodes.get("data"), "data", DataSource)
    augment = build_each("augment", (WaveformAugmentation, SpectrogramAugmentation))
    stages = build_stages(nodes, 2, build)
    optimizer = build(nodes.get("optimizer"), "optimizer", Optimizer, params=[nn.Parameter(torch.zeros(1))])
    build(nodes.get("scheduler"), "scheduler", LRSchedule, optimizer=optimizer, steps=1)
    metrics = build_each("metrics", Metric)
    device = errors.collect(_pick_device, nodes, errors)
    _check_sample_rates(nodes, errors)
    _check_max_seconds(nodes, stages, errors)
    if trainer and stages.task and trainer.metric not in (known := metrics_of(stages.task, metrics)):
        errors.add(f"trainer.metric={trainer.metric}: no such metric; {unknown_name(trainer.metric, known)}")
    _sort(errors, config)
    errors.raise_if_any()
    return RunComponents(trainer, source, Augmentations([*augment.values()]), metrics, device)


def _resolve(config: DictConfig, name: str) -> Any:
    try:
        return to_container(OmegaConf.select(config, name), name)
    except OmegaConfBaseException as error:
        raise UserError(f"{name}: {str(error).splitlines()[0]}") from error


def _setting(nodes: Mapping[str, Any], errors: ErrorCollector, key: str) -> Any:
    """Returns a setting; None if it is invalid or missing."""
    group, _, name = key.rpartition(".")
    node = nodes.get(group)
    return node.get(name) if isinstance(node, dict) and key not in errors.by_key else None


def _pick_device(nodes: Mapping[str, Any], errors: ErrorCollector) -> torch.device | None:
    """Picks the device, and checks that it supports the precision and holds the data if that is requested."""
    name, precision = _setting(nodes, errors, "trainer.device"), _setting(nodes, errors, "trainer.precision")
    if name is None:
        return None
    device = pick_device(name, "trainer.device")
    if precision is not None:
        try:
            autocast_dtype(precision, device)
        except SettingError as error:
            errors.add(str(with_full_keys(error, {"precision": precision}, "trainer")))
    if _setting(nodes, errors, "data.storage") == "gpu" and device.type != "cuda":
        errors.add("data.storage=gpu: the run has no GPU; use auto, ram or disk")
    return device


def _check_sample_rates(nodes: Mapping[str, Any], errors: ErrorCollector) -> None:
    """Checks that features and augmentations have the sample rate of the dataset."""
    sample_rate = _setting(nodes, errors, "data.sample_rate")
    stages = {"features": nodes.get("features")}
    stages |= {f"augment.{name}": node for name, node in (nodes.get("augment") or {}).items()}
    for key, node in stages.items():
        own = node.get("sample_rate") if isinstance(node, dict) else None
        if None not in (sample_rate, own) and own != sample_rate:
            errors.add(f"{key}.sample_rate={own}: differs from data.sample_rate={sample_rate}; use the same")


@torch.no_grad()
def _check_max_seconds(nodes: Mapping[str, Any], stages: Stages, errors: ErrorCollector) -> None:
    """Checks that the longest clip that `data.max_seconds` allows gives the recurrent layers more than one frame."""
    seconds, features, encoder = _setting(nodes, errors, "data.max_seconds"), stages.features, stages.encoder
    if seconds is None or features is None or encoder is None:
        return
    clip = f"data.max_seconds={seconds:g}"
    frames = features.num_frames(torch.tensor([round(seconds * features.sample_rate)])).clamp(max=_MAX_FRAMES)
    if frames == 1:
        minimum = (features.window_size + features.hop_size) / features.sample_rate
        errors.add(
            f"{clip}: a clip has a single frame of features.window_ms, but recurrent layers need several; "
            f"at least {minimum:g} s"
        )
    elif encoder.eval()(torch.zeros(1, int(frames), features.output_size), frames)[1] == 1:
        strides = _setting(nodes, errors, "model.time_strides")
        key = f"model.time_strides={format_value(strides)}" if strides else "model"
        errors.add(
            f"{key}: reduces the {int(frames)} frames of {clip} to one, but recurrent layers need several; "
            f"a product below {int(frames)}"
        )


def _sort(errors: ErrorCollector, config: DictConfig) -> None:
    """Drops values that are interpolated from another, invalid key, and sorts the rest in the order of the config."""

    def is_interpolated(key: str, message: str) -> bool:
        group, _, name = key.rpartition(".")
        node = OmegaConf.select(config, group) if group else config
        is_value = isinstance(node, DictConfig) and name in node and message.startswith(f"{key}=")
        return is_value and OmegaConf.is_interpolation(node, name)

    kept = {key: message for key, message in errors.by_key.items() if not is_interpolated(key, message)}
    groups = [str(name) for name in config]

    def group_index(key: str) -> int:
        group = key.split(".", maxsplit=1)[0]
        return groups.index(group) if group in groups else len(groups)

    errors.by_key = dict(sorted((kept or errors.by_key).items(), key=lambda item: group_index(item[0])))
