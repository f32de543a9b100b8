"""The search space of `spectrnn tune`: hyperparameters by the key that they override, each a range or a list."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from spectrnn.config.compose import ComposedConfig, compose, group_options, has_key, leaf_keys, quote_override
from spectrnn.config.instantiate import (
    format_value,
    to_container,
    unknown_key,
    unknown_name,
    validate_kwargs,
    validate_node,
    with_full_keys,
)
from spectrnn.config.types import PositiveFloat
from spectrnn.errors import ErrorCollector, SettingError, UserError, reject_settings
from spectrnn.training.preflight import preflight

if TYPE_CHECKING:
    from optuna.trial import Trial

# With other clips or another metric, the values of two trials could not be compared.
_COMPARABLE = re.compile(
    r"(?!(data|metrics|experiment|sweep|folds|final|resume|trainer\.metric|hydra)\b)|data\.(max_seconds|sample_rate|sampling)"
)


@dataclass(kw_only=True)
class Range:
    """Range of a number.

    Args:
        type: ``float``, drawn with three significant digits, or ``int``.
        low: Lowest value.
        high: Highest value.
        log: Whether values are drawn from the logarithm of the range.
        step: Distance between values; None for any value, or any integer.
    """

    type: Literal["float", "int"]
    low: float
    high: float
    log: bool = False
    step: PositiveFloat | None = None

    def __post_init__(self) -> None:
        numbers = (self.low, self.high, self.step or 1)
        reject_settings(
            ("low", self.low > self.high, f"above high={self.high:g}; at most that"),
            ("low", self.log and self.low <= 0, "must be above 0 with log=true"),
            ("step", self.log and self.step is not None, "cannot be combined with log=true; remove one of them"),
            ("type", self.type == "int" and any(x != round(x) for x in numbers), "needs integers low, high and step"),
        )

    @property
    def ends(self) -> list[float]:
        """Lowest and highest value."""
        return [round(end) if self.type == "int" else end for end in (self.low, self.high)]

    def suggest(self, trial: "Trial", key: str) -> float:
        """Draws a value."""
        if self.type == "int":
            low, high, step = round(self.low), round(self.high), round(self.step or 1)
            return trial.suggest_int(key, low, high, step=step, log=self.log)
        value = trial.suggest_float(key, self.low, self.high, step=self.step, log=self.log)
        digits = 3 if self.step is None else 12  # a multiple of the step may be 0.30000000000000004
        return min(max(float(f"{value:.{digits}g}"), self.low), self.high)


class Space:
    """Hyperparameters of a search. Keys that the command line sets are not searched.

    Args:
        node: Range or choices by key, plain containers: the config group ``space``.
        given: Overrides of the command line for train.yaml.
        dirs: Folders of config files, as `config.paths.config_dirs`.

    Attributes:
        parameters: Range, or list of choices as the text of an override, by key.
        fixed: Keys of the node that the command line sets.

    Raises:
        UserError: Nodes that are neither a range nor a list, and nothing left to search.
    """

    def __init__(self, node: Mapping[str, Any], given: Sequence[str], dirs: Sequence[Path]) -> None:
        self.given, self.dirs = list(given), list(dirs)
        set_keys = {re.split("[=@]", override.lstrip("+~"), maxsplit=1)[0] for override in given}
        self.fixed = [key for key in node if key in set_keys]
        errors = ErrorCollector()
        nodes = {str(key): value for key, value in node.items() if key not in set_keys}
        self.parameters: dict[str, Range | list[str]] = {
            key: errors.collect(_parameter, value, f"space.{key}") for key, value in nodes.items()
        }
        errors.raise_if_any()
        if not nodes:
            raise UserError("space: nothing to search; it is empty, or the command line sets all of its keys")
        self._nodes = nodes
        self._composed: dict[tuple[str, ...], ComposedConfig] = {}

    def compose(self, drawn: Sequence[str] = ()) -> ComposedConfig:
        """Composes the config of a trial from the given overrides and those that were drawn."""
        key = tuple(drawn)
        if key not in self._composed:
            self._composed[key] = compose("train", [*self.given, *drawn], self.dirs)
        return self._composed[key]

    def suggest(self, trial: "Trial") -> dict[str, Any]:
        """Draws a value per key: first the options of config groups, then the keys that the chosen options have."""
        groups, others = self._groups()
        values = {key: self._suggest(trial, key) for key in groups}
        config = self.compose(self.overrides(values)).config
        return values | {key: self._suggest(trial, key) for key in others if has_key(config, key)}

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """Returns the overrides of a trial's values, in the order of the space."""
        return [f"{key}={values[key]}" for key in self.parameters if key in values]

    def validate(self) -> None:
        """Validates keys, ends of ranges, and choices, which are composed one at a time.

        Raises:
            UserError: One sentence per key.
        """
        errors = ErrorCollector()
        groups, others = self._groups()
        configs = [self.compose().config]
        for key in self.parameters:
            if not _COMPARABLE.match(key):
                errors.add(f"space.{key}: cannot be searched, as the values of trials could then not be compared")
        for key in groups:
            if isinstance(self.parameters[key], Range):
                errors.add(f"space.{key}: is a config group; list the options to choose from")
            else:
                configs += filter(None, [self._compose_choice(key, choice, errors) for choice in self._nodes[key]])
        known = {name for config in configs for name in leaf_keys(config)}
        for key in others:
            config = next((config for config in configs if has_key(config, key)), None)
            if config is None:
                errors.add(f"space.{unknown_key(key, known, {name for name in configs[0] if isinstance(name, str)})}")
            else:
                parameter = self.parameters[key]
                for value in parameter.ends if isinstance(parameter, Range) else self._nodes[key]:
                    with errors.catch():
                        _validate_value(config, key, value)
        errors.raise_if_any()

    def _groups(self) -> tuple[list[str], list[str]]:
        groups = [key for key in self.parameters if "." not in key and group_options(key, self.dirs)]
        return groups, [key for key in self.parameters if key not in groups]

    def _suggest(self, trial: "Trial", key: str) -> Any:
        parameter = self.parameters[key]
        if isinstance(parameter, Range):
            return parameter.suggest(trial, key)
        return trial.suggest_categorical(key, parameter)

    def _compose_choice(self, group: str, choice: Any, errors: ErrorCollector) -> DictConfig | None:
        known = group_options(group, self.dirs)
        for option in choice if isinstance(choice, list) else [choice]:
            if option not in known:
                errors.add(f"space.{group}={option}: no such option; {unknown_name(str(option), known, f'{group}=')}")
                return None
        text = _override_text(choice)
        try:
            config = self.compose([f"{group}={text}"]).config
            preflight(config)
        except (HydraException, OmegaConfBaseException, UserError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            errors.add(f"space.{group}={text}: does not fit the other settings ({reason[0].lower() + reason[1:]})")
            return None
        return config


def _parameter(node: Any, key: str) -> Range | list[str]:
    if isinstance(node, list) and node:
        return [_override_text(choice) for choice in node]
    if not isinstance(node, dict):
        raise UserError(
            f"{key}={format_value(node)}: should be a list of choices, or {{type: float, low: .., high: ..}}"
        )
    settings = validate_kwargs(node, Range, key)
    try:
        return Range(**settings)
    except SettingError as error:
        raise with_full_keys(error, node, key) from error


def _validate_value(config: DictConfig, key: str, value: Any) -> None:
    """Validates a value against the constructor that its key belongs to."""
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else None
    if not isinstance(node, DictConfig) or "_target_" not in node:
        return
    try:
        validate_node({**to_container(node, parent), name: value}, parent)
    except UserError as error:  # also about arguments that are known only at run time
        for sentence in str(error).splitlines():
            if sentence.startswith(f"{key}="):
                raise UserError(f"space.{sentence}") from error


def _override_text(value: Any) -> str:
    """Formats a value as an override, with quotes only if they are needed."""
    if isinstance(value, list):
        return "[" + ",".join(map(_override_text, value)) + "]"
    if isinstance(value, str) and re.fullmatch(r"[\w./-]+", value) and yaml.safe_load(value) == value:
        return value
    return quote_override(value)
