"""Hyperparameters of a run: what its loggers compare runs by."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from spectrnn.config.instantiate import format_value, to_container
from spectrnn.runs import SWEEP, original_overrides, sweep_overrides

_EXCLUDED = ("hydra", "logger", "resume", "sweep")  # which do not change what is trained


def hyperparameters(
    config: Mapping[str, Any], choices: Mapping[str, str | None], overrides: Iterable[str]
) -> dict[str, bool | int | float | str]:
    """Returns the option of each config group, the seed, and all keys that were overridden or swept.

    Runs of a sweep have the same names, as Hydra lists swept keys with the overrides of each run.

    Args:
        config: Resolved config, plain containers.
        choices: Chosen option of each config group with a single one; None for none.
        overrides: Overrides as given, such as ``+model.channels=[8]``.

    Returns:
        Numbers, booleans and text, into which lists are converted, by group or full key.
    """
    values: dict[str, bool | int | float | str] = {group: option or "none" for group, option in choices.items()}
    values["augment"] = ",".join(config.get("augment") or ()) or "none"
    nodes = OmegaConf.create(dict(config))
    for key in ["seed", *map(_key, overrides)]:
        if key not in values:
            value = to_container(OmegaConf.select(nodes, key), key)
            values[key] = value if isinstance(value, bool | int | float) else format_value(value)
    return {key: value for key, value in values.items() if _is_compared(key)}


def own_overrides(folder: Path) -> dict[str, str]:
    """Returns the overrides of a run, as text by key; of a run of a sweep, those that not all its runs have.

    Args:
        folder: Folder of the run.
    """
    common: set[str] = set()
    if (folder.parent / SWEEP).is_file():
        given = OverridesParser.create().parse_overrides(sweep_overrides(folder.parent)[0])
        common = {override.key_or_group for override in given if not override.is_sweep_override()}
    overrides = {_key(text): text.partition("=")[2] for text in map(str, original_overrides(folder) or [])}
    return {key: value for key, value in overrides.items() if _is_compared(key) and key not in common}


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _is_compared(key: str) -> bool:
    return re.split("[./]", key, maxsplit=1)[0] not in _EXCLUDED
