"""One sentence for a mistake on the command line or in a YAML file, whoever found it."""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from spectrnn.config.compose import compose, config_dirs, config_file, group_options
from spectrnn.config.instantiate import unknown_name
from spectrnn.errors import ErrorCollector, UserError

_OPTION = re.compile(r"Could not (?:find|load) '([^']+)'")
_KEY = re.compile(r"Could not override '([^']+)'")
_AMBIGUOUS = re.compile(r"Ambiguous value for argument '([^']+)'")


def format_error(error: Exception, command: str, arguments: list[str]) -> str | None:
    """What to tell the user: what a command ended with, and whatever else is wrong on its command line.

    Args:
        error: what a command ended with.
        command: the sub-command.
        arguments: its flags and overrides.

    Returns:
        A line a mistake, which names the key or file and the nearest valid name; None where the mistake is ours.
    """
    errors = ErrorCollector()
    found: Exception | None = error
    while found is not None:
        told = _translate(found, command, arguments)
        if told is None:
            return None
        errors.add(told)
        mended = _without_bad_override(str(found), arguments)
        if isinstance(found, UserError) or mended == arguments:
            break
        arguments = mended
        found = _next_error(command, arguments, errors)
    return "\n".join(errors.by_key.values())


def _translate(error: Exception, command: str, arguments: list[str]) -> str | None:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, yaml.YAMLError):
        return f"a YAML file cannot be read: {' '.join(str(error).split())}"
    if isinstance(error, ValueError) and "Config group override must be" in str(error):
        nothing = next((argument for argument in arguments if argument.endswith("=null")), "group=null")
        return f"{nothing}: a stage of that kind is needed; choose an option"
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    if isinstance(error, OverrideParseException):
        return f"{error.override}: cannot be read; quote a value with special characters twice, \"key='value'\""
    text = str(error)
    cause = str(error.__cause__ or "")
    if match := _OPTION.search(text):
        return _no_such_option(match[1], config_dirs(arguments))
    if match := _KEY.search(text):
        return _no_such_key(match[1].split("@")[0], command, arguments)
    if match := re.search(r"full_key: (\S+)", text + "\n" + cause):
        first = (cause or text).splitlines()[0]
        return f"{match[1]}: {first[0].lower() + first[1:]}"
    if match := _AMBIGUOUS.search(text):
        return f"{match[1]}: several values need -m (multirun), or quotes"
    return " ".join((text.splitlines() or [type(error).__name__])[0].split())


def _without_bad_override(text: str, arguments: list[str]) -> list[str]:
    """The arguments without that which Hydra's message is about; with the nearest option where there is one."""
    if match := _OPTION.search(text):
        group, _, option = match[1].rpartition("/")
        near = get_close_matches(option, group_options(group, config_dirs(arguments)), n=1, cutoff=0.5)
        below = re.compile(rf"[+~]*{re.escape(group)}[.=@]")
        return [
            re.sub(rf"\b{re.escape(option)}\b", near[0], argument)
            if near
            else ""
            if below.match(argument)
            else argument
            for argument in arguments
        ]
    match = _KEY.search(text) or _AMBIGUOUS.search(text)
    key = match[1].split("=")[0] if match else None
    return [argument for argument in arguments if argument.lstrip("+~").split("=")[0] != key]


def _next_error(command: str, arguments: list[str], errors: ErrorCollector) -> Exception | None:
    """What is wrong with the command line besides: for Hydra, or else for the run that it would start."""
    overrides = [argument for argument in arguments if "=" in argument and not argument.startswith("-")]
    sweeps = bool({"-m", "--multirun"} & set(arguments))
    try:
        composed = compose(command, overrides, config_dirs(arguments))
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        return None if sweeps else error
    if command == "train" and not sweeps:
        from spectrnn.training.preflight import preflight

        meant = {name for told in errors.by_key.values() for name in re.findall(r"did you mean (.*)\?", told)}
        others = ErrorCollector()
        others.collect(preflight, composed.config)
        for key, told in others.by_key.items():
            if key not in meant:
                errors.add(told)
    return None


def _no_such_option(path: str, places: list[Path]) -> str:
    group, _, option = path.rpartition("/")
    known = group_options(group, places)
    if not group or not known:
        return f"{path}: no such config"
    return f"{group}={option}: no such option; " + unknown_name(option, known, f"{group}=")


def _no_such_key(key: str, command: str, arguments: list[str]) -> str:
    places = config_dirs(arguments)
    known = set(_keys(OmegaConf.to_container(_composed(command, arguments, places))))
    groups = {path.name for place in places for path in place.iterdir() if path.is_dir() and path.name != "hydra"}
    return unknown_key(key, known, groups)


def unknown_key(key: str, known: set[str], groups: set[str]) -> str:
    """The sentence on a key that does not exist, with the nearest that does.

    Args:
        key: as it was given.
        known: the full keys that there are.
        groups: the config groups that there are.
    """
    parent, _, name = key.rpartition(".")
    siblings = {k.rpartition(".")[2] for k in known if k.rpartition(".")[0] == parent} | (set() if parent else groups)
    if near := get_close_matches(name, siblings, n=1, cutoff=0.6):
        return f"{key}: no such key; did you mean {f'{parent}.' if parent else ''}{near[0]}?"
    others = {k for k in known if not parent or parent not in (k, k.rpartition(".")[0])}
    near = get_close_matches(key, others | (set() if siblings and parent else groups), n=1, cutoff=0.6)
    elsewhere = [k for k in sorted(known) if k.rpartition(".")[2] == name]
    if elsewhere or near:
        return f"{key}: no such key; did you mean {(elsewhere or near)[0]}?"
    listed = ", ".join(sorted(siblings - {"_target_"})) or ", ".join(sorted(k for k in known if "." not in k))
    return f"{key}: no such key; known here: {listed}"


def _composed(command: str, arguments: list[str], places: list[Path]) -> DictConfig:
    """The command's config, with the options that its arguments choose as far as they are valid."""
    choices = [
        argument
        for argument in arguments
        if re.fullmatch(r"(\w+)=(\w+)", argument) and config_file(argument.replace("=", "/"), places)
    ]
    return compose(command, choices, places).config


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    for name, value in node.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{name}.")
