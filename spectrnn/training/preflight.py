"""Preflight: validates the config of a run by instantiating its components before any audio is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

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
)
from spectrnn.config.paths import CONFIG_DIR
from spectrnn.config.types import NonNegativeInt, NumFolds, PositiveFraction, PositiveInt
from spectrnn.data.clips import DataSource
from spectrnn.data.labels import ONE_LABEL
from spectrnn.devices import autocast_dtype, pick_device
from spectrnn.errors import ErrorCollector, UserError
from spectrnn.evaluation.metrics import Metric, metrics_of
from spectrnn.frontend.augmentation import Augmentations, SpectrogramAugmentation, WaveformAugmentation
from spectrnn.model.classifier import Stages, build_stages
from spectrnn.model.task import Task
from spectrnn.training.loggers.base import Logger
from spectrnn.training.optimizers import avoid_compiler_import
from spectrnn.training.schedules import LRSchedule
from spectrnn.training.trainer import TrainerConfig
from spectrnn.training.warm_start import FreezableStage

_NUM_BINS = 64  # input size of the encoder if features is invalid; its output size does not depend on it
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
    logger: dict[str, Any] | None = None
    init: str | None
    init_lr_factor: PositiveFraction
    freeze: list[FreezableStage]
    freeze_epochs: PositiveInt | None
    seed: NonNegativeInt
    folds: NumFolds | Literal["all", "groups"] | None
    final: Literal["refit", "ensemble"] | None
    resume: str | None


class RunComponents(NamedTuple):
    """Components of a run that do not depend on its dataset.

    Attributes:
        config: Resolved config, plain containers.
        trainer: Config group ``trainer``.
        source: Data source.
        augment: Augmentations.
        task: Task, for two classes.
        metrics: Metrics of the user, by name, in addition to those of the task.
        loggers: Loggers.
        device: Device of the run.
        precision: Type for autocast; None for float32 throughout.
    """

    config: dict[str, Any]
    trainer: TrainerConfig
    source: DataSource
    augment: Augmentations
    task: Task
    metrics: Mapping[str, Metric]
    loggers: list[Logger]
    device: torch.device
    precision: torch.dtype | None


def preflight(config: DictConfig) -> RunComponents:
    """Validates the whole config of a run, and instantiates what does not depend on the dataset.

    Args:
        config: Config as train.yaml composes it.

    Raises:
        UserError: All errors in the config, one per line, in the order of the data flow: full key, value, and what
            would be valid.
    """
    errors = ErrorCollector()
    nodes: dict[str, Any] = {}
    for name in map(str, config):
        nodes[name] = None
        with errors.catch():
            nodes[name] = _resolve(config, name)
    unresolved = {key.split(".", maxsplit=1)[0] for key in errors.by_key}
    resolved = {name: node for name, node in nodes.items() if name not in unresolved}
    with errors.catch():
        validate_kwargs(resolved, TrainConfig, "", given=dict.fromkeys(unresolved))

    def build(node: Any, key: str, kind: type | tuple[type, ...], **context: Any) -> Any:
        if key == "model" and context["input_size"] is None:
            context["input_size"] = _NUM_BINS  # so that pooling is validated even if features is invalid
        is_reported = "." not in key and not isinstance(node, dict)  # by the validation of the top level
        with errors.catch():
            return None if is_reported else instantiate(node, key, kind, **context)

    def build_each(group: str, kind: type | tuple[type, ...]) -> dict[str, Any]:
        options = nodes.get(group)
        items = options.items() if isinstance(options, dict) else ()
        return {name: build(node, f"{group}.{name}", kind) for name, node in items}

    trainer = build(nodes.get("trainer"), "trainer", TrainerConfig)
    source = build(nodes.get("data"), "data", DataSource)
    augment = build_each("augment", (WaveformAugmentation, SpectrogramAugmentation))
    stages = build_stages(nodes, 2, build)
    avoid_compiler_import()
    optimizer = build(nodes.get("optimizer"), "optimizer", Optimizer, params=[nn.Parameter(torch.zeros(1))])
    build(nodes.get("scheduler"), "scheduler", LRSchedule, optimizer=optimizer, steps=1)
    metrics = build_each("metrics", Metric)
    loggers = [*build_each("logger", Logger).values()]
    device, precision = _pick_device(nodes, errors)
    _check_sample_rates(nodes, errors)
    _check_max_seconds(nodes, stages, errors)
    if getattr(stages.head, "has_frames", False) and stages.task and stages.task.label_format is ONE_LABEL:
        errors.add("head=frames: several classes, or none, sound in a frame; set task=multi_label")
    if trainer and stages.task and trainer.metric not in {"auto", *(known := metrics_of(stages.task, metrics))}:
        is_option = (CONFIG_DIR / "metrics" / f"{trainer.metric}.yaml").is_file()
        remedy = f"metrics=[{trainer.metric}] adds it" if is_option else unknown_name(trainer.metric, known)
        errors.add(f"trainer.metric={trainer.metric}: no such metric; {remedy}")
    if trainer and trainer.steps is not None and trainer.epochs != "auto":
        length = f"trainer.steps={trainer.steps}: trainer.epochs={trainer.epochs} gives the length, too"
        errors.add(f"{length}; use trainer.epochs=auto, or trainer.steps=null")
    if nodes.get("freeze") and not nodes.get("init"):
        errors.add(f"freeze={format_value(nodes['freeze'])}: needs init, without which the weights are random")
    _sort(errors, config)
    errors.raise_if_any()
    augmentations = Augmentations([*augment.values()])
    return RunComponents(nodes, trainer, source, augmentations, stages.task, metrics, loggers, device, precision)


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


def _pick_device(nodes: Mapping[str, Any], errors: ErrorCollector) -> tuple[torch.device, torch.dtype | None]:
    """Picks device and precision, and checks that the device holds the data if that is requested."""
    name, precision = _setting(nodes, errors, "trainer.device"), _setting(nodes, errors, "trainer.precision")
    device, dtype = torch.device("cpu"), None
    if name is None:
        return device, dtype
    with errors.catch():
        device = pick_device(name, "trainer.device")
        if _setting(nodes, errors, "data.storage") == "gpu" and device.type != "cuda":
            errors.add("data.storage=gpu: the run has no GPU; use auto, ram or disk")
        if precision is not None:
            dtype = autocast_dtype(precision, device, "trainer.precision")
    return device, dtype


def _check_sample_rates(nodes: Mapping[str, Any], errors: ErrorCollector) -> None:
    """Checks that features and augmentations have the sample rate of the dataset."""
    sample_rate = _setting(nodes, errors, "data.sample_rate")
    stages = {"features": nodes.get("features")}
    stages |= {f"augment.{name}": node for name, node in (nodes.get("augment") or {}).items()}
    for key, node in stages.items():
        own = node.get("sample_rate") if isinstance(node, dict) else None
        if key == "features" and nodes.get("init") and None not in (sample_rate, own) and own != sample_rate:
            remedy = f"data.sample_rate={own} resamples the recordings"
            errors.add(
                f"init={nodes['init']}: its sample rate is {own} Hz, not data.sample_rate={sample_rate}; {remedy}"
            )
        elif None not in (sample_rate, own) and own != sample_rate:
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
        minimum = (features.window_size + features.hop_size - 2 * features.padding) / features.sample_rate
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
    positions = {str(name): position for position, name in enumerate(config)}

    def position(item: tuple[str, str]) -> int:
        return positions.get(item[0].split(".", maxsplit=1)[0], len(positions))

    errors.by_key = dict(sorted((kept or errors.by_key).items(), key=position))
