"""Errors on the command line and in YAML files as sentences, whether Hydra, OmegaConf or the package found them."""

import errno
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any

import yaml
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from spectrnn.cli.help import group_defaults
from spectrnn.config.compose import compose, config_file, group_options, option_entries
from spectrnn.config.instantiate import MISSING, unknown_key, unknown_name
from spectrnn.config.paths import CONFIG_DIR, config_dirs
from spectrnn.errors import ErrorCollector, UserError
from spectrnn.messages import preview

_MAX_OPTIONS = 5  # in a message
# Parts of Hydra's messages.
_OPTION = re.compile(r"Could not (?:find|load) '([^']+)'")
_KEY = re.compile(r"Could not override '([^']+)'")
_AMBIGUOUS = re.compile(r"Ambiguous value for argument '([^']+)'")
# Errors of the system that a user can correct.
_ENVIRONMENT = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.ENOTDIR}
# Option of hydra/launcher -> extra that installs it; "" if Hydra has it.
_LAUNCHERS = {"basic": "", "joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit"}


def format_error(
    error: Exception,
    command: str,
    arguments: list[str],
    preflight: Callable[[DictConfig], Any] | None = None,
    given: Sequence[str] | None = None,
) -> str | None:
    """Returns sentences for an error, and for all others on the command line.

    Args:
        error: Exception of the command.
        command: Name of the command.
        arguments: Its flags and overrides.
        preflight: Function that validates a composed config; None if the command has none.
        given: Arguments as the user gave them, for a corrected command; None for a job of a sweep, and in Python.

    Returns:
        One line per error, which names the key or file and the closest valid name; None if it is not a user's error.
    """
    errors = ErrorCollector()
    found: Exception | None = error
    while found is not None:
        sentence = _translate(found, command, arguments, given)
        if sentence is None:
            return None
        errors.add(sentence)
        corrected = _correct(str(found), command, arguments)
        if isinstance(found, UserError) or corrected == arguments:
            break
        arguments = corrected
        found = _next_error(command, arguments, errors, preflight)
    return "\n".join(errors.by_key.values())


def _translate(error: Exception, command: str, arguments: list[str], given: Sequence[str] | None) -> str | None:
    text, cause = str(error), str(error.__cause__ or "")
    if isinstance(error, UserError):
        return text
    if place := _unwritable(error):
        return place
    if isinstance(error, yaml.YAMLError):
        return f"a YAML file cannot be read: {' '.join(text.split())}"
    if isinstance(error, ValueError) and "Config group override must be" in text:
        override = next((argument for argument in arguments if argument.endswith("=null")), "group=null")
        return f"{override}: an option is needed"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: cannot be parsed; quote a value with special characters twice, \"key='value'\""
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    dirs = config_dirs(arguments)
    if match := _OPTION.search(text):
        group, _, option = match[1].rpartition("/")
        if group == "hydra/launcher":
            if extra := _LAUNCHERS.get(option):
                return f"{group}={option} needs hydra-{extra}-launcher; pip install 'spectrnn[{extra}]'"
            return f"{group}={option}: no such option; {unknown_name(option, _LAUNCHERS)}"
        known = group_options(group, dirs) if group else []
        remedy = f"no such option; {unknown_name(option, known, f'{group}=')}"
        return f"{group}={option}: {remedy}" if known else f"{match[1]}: no such config"
    if match := _KEY.search(text):
        groups = group_defaults((CONFIG_DIR / f"{command}.yaml").read_text(encoding="utf-8"))
        if holders := _holders(command, match[1], arguments):
            return _half_command(command, match[1], holders, arguments, given)
        choices = [
            argument
            for argument in arguments
            if re.fullmatch(r"\w+=\w+", argument)
            and argument.partition("=")[0] in groups
            and config_file(argument.replace("=", "/"), dirs)
        ]
        keys = _keys(OmegaConf.to_container(compose(command, choices, dirs).config))
        key = match[1].split("@")[0]
        if key in groups:  # a config group without options, such as metrics
            override = next((argument for argument in arguments if argument.startswith(f"{key}=")), key)
            return f"{override}: no such option; {key} has options in a folder of yours only, named by --config-dir"
        return unknown_key(key, {*keys}, {*groups})
    if match := re.search(r"full_key: (\S+)", f"{text}\n{cause}"):
        first = (cause or text).splitlines()[0]
        return f"{match[1]}: {first[0].lower() + first[1:]}"
    if match := _AMBIGUOUS.search(text):
        return f"{match[1]}: several values need -m (multirun), or quotes"
    return " ".join((text.splitlines() or [type(error).__name__])[0].split())


def _holders(command: str, key: str, arguments: Sequence[str]) -> list[str]:
    """Returns the options of a key's config group that have the key, the most likely one first.

    That is the one of the same name in a list, or one that requires the key, of these the one with the fewest keys.
    """
    group, _, name = key.partition(".")
    if not name or group not in group_defaults((CONFIG_DIR / f"{command}.yaml").read_text(encoding="utf-8")):
        return []
    dirs = config_dirs(arguments)
    entries = {option: option_entries(group, option, dirs) for option in group_options(group, dirs)}
    found = [option for option, own in entries.items() if name in own]
    own = name.partition(".")[0]
    return (
        [own]
        if own in found
        else sorted(found, key=lambda option: (entries[option][name].value != MISSING, len(entries[option])))
    )


def _half_command(
    command: str, key: str, holders: Sequence[str], arguments: Sequence[str], given: Sequence[str] | None
) -> str:
    """Returns the sentence about a key that other options of its group have, with the whole command if it is known."""
    group = key.partition(".")[0]
    default = group_defaults((CONFIG_DIR / f"{command}.yaml").read_text(encoding="utf-8"))[group]
    choices = [argument.partition("=")[2] for argument in arguments if argument.startswith(f"{group}=")]
    chosen = choices[-1] if choices else default
    sentence = f"{key}: not a key of {group}={chosen}, but of {group}={preview(holders, _MAX_OPTIONS)}"
    if given is None or "--multirun" in arguments:
        return sentence
    best = holders[0]
    if "[" in default:
        best = f"[{','.join(filter(None, [chosen.strip('[]'), best]))}]"
    words = [argument for argument in given if not argument.startswith(f"{group}=")]
    place = next((at for at, word in enumerate(words) if word.lstrip("+").startswith(f"{group}.")), len(words))
    words.insert(place, f"{group}={best}")
    return f"{sentence}, as in: {shlex.join(['spectrnn', command, *words])}"


def _unwritable(error: BaseException | None) -> str:
    """Names a file or folder that this user may not read or write, or a full disk; "" for other errors."""
    while error is not None:
        if isinstance(error, OSError) and error.filename and error.errno in _ENVIRONMENT:
            return f"{error.filename}: {error.strerror}"
        error = error.__cause__ or error.__context__
    return ""


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    for name, value in node.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{name}.")


def _correct(text: str, command: str, arguments: list[str]) -> list[str]:
    """Returns the arguments with the closest option, or without the override, that Hydra's message is about.

    Of an override that another option has, all others of that option are left out, too.
    """
    if match := _OPTION.search(text):
        group, _, option = match[1].rpartition("/")
        near = get_close_matches(option, group_options(group, config_dirs(arguments)), n=1, cutoff=0.5)
        if near:
            return [re.sub(rf"\b{re.escape(option)}\b", near[0], argument) for argument in arguments]
        of_group = re.compile(rf"[+~]*{re.escape(group)}[.=@]")
        return [argument for argument in arguments if not of_group.match(argument)]
    match = _KEY.search(text) or _AMBIGUOUS.search(text)
    key = match[1].split("=")[0] if match else ""
    wrong = {key}
    if holders := _holders(command, key, arguments):
        group, dirs = key.partition(".")[0], config_dirs(arguments)
        wrong |= {f"{group}.{name}" for name in option_entries(group, holders[0], dirs)}
    return [argument for argument in arguments if argument.lstrip("+~").split("=")[0] not in wrong]


def _next_error(
    command: str, arguments: list[str], errors: ErrorCollector, preflight: Callable[[DictConfig], Any] | None
) -> Exception | None:
    """Returns Hydra's next error with corrected arguments; if there is none, adds those of the config itself."""
    is_sweep = "--multirun" in arguments
    overrides = [argument for argument in arguments if "=" in argument and not argument.startswith("-")]
    try:
        config = compose(command, overrides, config_dirs(arguments)).config
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        return None if is_sweep else error
    if preflight and not is_sweep:
        # A misspelled key is not reported as missing, too.
        meant = {name for text in errors.by_key.values() for name in re.findall(r"did you mean (.*)\?", text)}
        others = ErrorCollector()
        others.collect(preflight, config)
        for key, sentence in others.by_key.items():
            if key not in meant:
                errors.add(sentence)
    return None
