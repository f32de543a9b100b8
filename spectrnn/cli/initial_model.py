"""Overrides that ``init=`` implies: the stages of the model that a training starts from."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from spectrnn.cli.overrides import data_overrides, is_plain, value_of
from spectrnn.config.compose import group_options, option_entries, option_target, quote_override
from spectrnn.errors import UserError
from spectrnn.model.header import ENSEMBLE_FORMAT, read_header
from spectrnn.runs import find_model

_STAGES = ("features", "normalize", "model", "pooling")


def with_initial_model(overrides: Sequence[str], dirs: Sequence[Path]) -> list[str]:
    """Returns the overrides of a training with those that ``init=`` implies: the stages of the model that it names.

    The stages come first, so that settings on the command line replace theirs; a stage of which the command line names
    an option (``pooling=mean``) is not taken over. The model is named by its absolute path, which ``latest`` is not.

    Args:
        overrides: Overrides of the command line.
        dirs: Folders of config files.

    Raises:
        UserError: No such model, several of them, an ensemble, or a stage that is not an option of any folder.
    """
    init = value_of("init", overrides, None)
    if init is None or value_of("resume", overrides, None):  # a resumed run has its config already
        return list(overrides)
    if not isinstance(init, str):
        raise UserError("init: should be one run or model file; train from several of them in a command each")
    try:
        path = find_model(init).absolute()
    except UserError as error:
        raise UserError(str(error).replace("run=", "init=", 1)) from error
    header = read_header(path)
    if header["format"] == ENSEMBLE_FORMAT:
        raise UserError(f"init={init}: is an ensemble of several models; name the run of one of them")
    named = {override.partition("=")[0] for override in overrides}
    stages = [
        override
        for group in _STAGES
        if group not in named
        for override in _stage_overrides(group, header["config"].get(group), path, dirs)
    ]
    others = [override for override in overrides if override.partition("=")[0] != "init"]
    rehearsal = []
    if value_of("data.rehearsal_clips", overrides, 0):
        try:
            rehearsal = data_overrides(header["config"].get("data"), path.parent, (), "data.rehearsal")
        except UserError as error:
            raise UserError(f"init={path}: {error}") from error
    return [*stages, *rehearsal, *others, f"init={quote_override(str(path))}"]


def _stage_overrides(group: str, node: Any, path: Path, dirs: Sequence[Path]) -> Iterator[str]:
    """Yields the option of a config group that a stage is like most, and the settings in which it differs.

    Files are not trusted: the class of the stage should be that of an option in the folders of config files, its keys
    those of the option, and its values plain.
    """
    settings = dict(_flat(node)) if isinstance(node, Mapping) else {}
    target = settings.pop("_target_", None)
    candidates = [name for name in group_options(group, dirs) if option_target(group, name, dirs) == target]
    if not candidates:
        raise UserError(f"init={path}: its {group} is {target!r:.200}, which is not an option of {group}; name another")
    defaults = {
        name: {key: entry.value for key, entry in option_entries(group, name, dirs).items()} for name in candidates
    }
    option = min(candidates, key=lambda name: (len(_differences(settings, defaults[name])), name))
    yield f"{group}={option}"
    for key, value in _differences(settings, defaults[option]).items():
        if key not in defaults[option] or not all(map(is_plain, value if isinstance(value, list) else [value])):
            raise UserError(
                f"init={path}: its {group}.{key:.40} is not a key of {group}={option}, or not a plain value"
            )
        yield f"{group}.{key}={quote_override(value)}"


def _differences(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in defaults or defaults[key] != value}


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the full keys of the values in a node."""
    for name, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
