"""Hyperparameters of a run: what its loggers compare runs by."""

from collections.abc import Iterable, Mapping
from typing import Any

from omegaconf import OmegaConf

from spectrnn.config.instantiate import format_value, to_container

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
    for key in ["seed", *(override.lstrip("+~").partition("=")[0] for override in overrides)]:
        if key not in values:
            value = to_container(OmegaConf.select(nodes, key), key)
            values[key] = value if isinstance(value, bool | int | float) else format_value(value)
    return {key: value for key, value in values.items() if key.split(".")[0].split("/")[0] not in _EXCLUDED}
