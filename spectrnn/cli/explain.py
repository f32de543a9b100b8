"""`spectrnn explain KEY`: what a setting means, what it may be, its default, and where its value is set."""

import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt
from omegaconf import DictConfig, OmegaConf

from spectrnn.cli.config_errors import unknown_key
from spectrnn.cli.help import first_comment
from spectrnn.config.compose import (
    ComposedConfig,
    YAMLEntry,
    compose,
    config_dirs,
    config_file,
    config_groups,
    group_options,
    option_entries,
    yaml_entries,
)
from spectrnn.config.instantiate import MISSING, format_value, locate
from spectrnn.config.paths import CONFIG_DIR
from spectrnn.errors import UserError

USAGE = """spectrnn explain KEY [key=value ...]: what a setting means, what it may be, and where its value is set

  spectrnn explain optimizer.lr                   a key
  spectrnn explain hidden_size                    a key without its group, if that is clear
  spectrnn explain pooling                        a group: its options, and the keys of the chosen one
  spectrnn explain model.channels model=crnn      under other choices"""

# What a comment may begin with.
_UNITS = (
    "Hz",
    "ms",
    "s",
    "dB",
    "frames and bins",
    "frames",
    "bins",
    "clips",
    "epochs",
    "steps",
    "batches",
    "points",
    "words a minute",
    "share",
    "coefficients",
    "labels",
)
_TOP = {
    "train": "spectrnn.training.preflight.TrainConfig",
    "eval": "spectrnn.evaluation.evaluate.EvalConfig",
    "predict": "spectrnn.inference.predict.PredictConfig",
    "check": "spectrnn.check.check.CheckConfig",
    "stream": "spectrnn.streaming.stream.StreamConfig",
    "export": "spectrnn.export.export.ExportConfig",
    "demo": "spectrnn.demo.demo.DemoConfig",
}
_KINDS = {bool: "true | false", int: "a whole number", float: "a number", str: "text", NoneType: "null"}


class ResolvedKey(NamedTuple):
    """A key in the config of a command.

    Attributes:
        key: the full key.
        command: whose it is.
        overrides: that the config is composed with.
        composed: that config.
    """

    key: str
    command: str
    overrides: list[str]
    composed: ComposedConfig


def explain(arguments: Sequence[str]) -> str:
    """The explanation of a key or a group.

    Args:
        arguments: the key, and overrides and flags as other commands take them.

    Raises:
        UserError: there is no such key.
    """
    places = config_dirs(arguments)
    names = [a for a in arguments if not a.startswith("-") and re.fullmatch(r"[\w.]+=?", a) and Path(a) not in places]
    if len(names) != 1:
        return USAGE
    overrides = [a for a in arguments if "=" in a and not a.startswith("-") and a not in names]
    found = _find(names[0].rstrip("="), overrides, places)
    node = OmegaConf.select(found.composed.config, found.key) if _has(found.composed.config, found.key) else None
    if isinstance(node, DictConfig) or found.key in found.composed.choices or found.key in _all_groups(places):
        return _group(found, places)
    return _setting(found, places)


def _find(name: str, overrides: list[str], places: Sequence[Path]) -> ResolvedKey:
    """Looks for a name in the commands' configs, then in the options that are not chosen, then without its group."""
    commands = ["train", *sorted({file.stem for file in CONFIG_DIR.glob("*.yaml")} - {"train"})]
    configs = {commands[0]: compose(commands[0], overrides, places)}
    if _has(configs["train"].config, name) or name in configs["train"].choices:
        return ResolvedKey(name, "train", overrides, configs["train"])
    group = name.split(".", maxsplit=1)[0]
    for option in group_options(group, places) if group in config_groups(places) else ():
        if name.removeprefix(f"{group}.") in _keys_under(group, option, places):
            chosen = [*overrides, f"{group}=[{option}]" if group == "augment" else f"{group}={option}"]
            return ResolvedKey(name, "train", chosen, compose("train", chosen, places))
    for command in commands[1:]:
        configs[command] = compose(command, [], places)
        if _has(configs[command].config, name):
            return ResolvedKey(name, command, [], configs[command])
    known = _all_keys(configs, places)
    same = [key for key in known if key.rpartition(".")[2] == name]
    if len(same) == 1:
        return _find(same[0], overrides, places)
    if same:
        raise UserError(f"{name}: several keys end so: {', '.join(same)}")
    raise UserError(unknown_key(name, set(known), {*config_groups(places)}))


def _all_keys(configs: Mapping[str, ComposedConfig], places: Sequence[Path]) -> list[str]:
    """All keys of the commands, and of all options."""
    known = dict.fromkeys(
        f"{group}.{key}"
        for group in config_groups(places)
        for option in group_options(group, places)
        for key in option_entries(group, option, places)
    )
    for command in configs:
        known |= dict.fromkeys(yaml_entries(CONFIG_DIR / f"{command}.yaml"))
    return [*known]


def _keys_under(group: str, option: str, places: Sequence[Path]) -> set[str]:
    """The keys of an option and the mappings that hold them."""
    keys = option_entries(group, option, places)
    return {*keys, *(key.rpartition(".")[0] for key in keys if "." in key)}


def _setting(found: ResolvedKey, places: Sequence[Path]) -> str:
    key, command, overrides, composed = found
    group, _, name = key.partition(".")
    defaults = (
        {option: option_entries(group, option, places) for option in group_options(group, places)} if name else {}
    )
    holders = {option: of_option[name] for option, of_option in defaults.items() if name in of_option}
    chain = _chain(key, composed)
    # An experiment outweighs what is the default elsewhere.
    default = next((entry for entry in chain if entry.file.parent.name != "experiment"), None)
    default = holders.get(composed.choices.get(group, ""), default)
    meaning = next((entry.comment for entry in [*reversed(chain), *holders.values()] if entry.comment), "")
    given = any(override.lstrip("+").split("=", 1)[0] == key for override in overrides)
    value = _value(composed.config, key)
    place = "on the command line" if given else _place(chain[-1]) if chain else ""
    unit = next((unit for unit in _UNITS if re.match(rf"{unit}\b", meaning)), "")
    rows = {
        "meaning": meaning,
        "unit": unit,
        "allowed": _allowed_at(found),
        "default": default and f"{_default(default)}, in {_place(default)}",
        "value": f"{value}, set {place if given else f'in {place}'}",
        "elsewhere": _elsewhere(group, holders, composed.choices.get(group, "")),
        "change": f"spectrnn {command} {' '.join([*_chosen(overrides, key), ''])}{key}=...",
    }
    return "\n".join([f"{key}={value}", "", *(f"  {title:<11}{text}" for title, text in rows.items() if text)])


def _chosen(overrides: Sequence[str], key: str) -> list[str]:
    """The options that a key needs beside it."""
    return [override for override in overrides if override.split("=")[0] == key.split(".", maxsplit=1)[0]]


def _chain(key: str, composed: ComposedConfig) -> list[YAMLEntry]:
    """The files that set a key; the last one counts."""
    found = []
    for file, package in composed.layers:
        below = f"{package}." if package else ""
        if key.startswith(below) and (entry := yaml_entries(file).get(key.removeprefix(below))):
            found.append(entry)
    return found


def _default(entry: YAMLEntry) -> str:
    return "none: it must be set" if entry.value == MISSING else format_value(entry.value)


def _value(config: DictConfig, key: str) -> str:
    """A key's value, and what an interpolation comes to."""
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    raw = OmegaConf.to_container(node, resolve=False)[name]  # type: ignore[index, call-overload]
    if not OmegaConf.is_interpolation(node, name):
        return format_value(raw)
    return f"{raw}, here {format_value(node[name])}"


def _place(entry: YAMLEntry) -> str:
    file = f"configs/{entry.file.relative_to(CONFIG_DIR)}" if entry.file.is_relative_to(CONFIG_DIR) else str(entry.file)
    return f"{file}, line {entry.line}"


def _elsewhere(group: str, holders: Mapping[str, YAMLEntry], chosen: str) -> str:
    """The other options of the group that have the key, by their defaults."""
    by_default: dict[str, list[str]] = {}
    for option, entry in holders.items():
        if option != chosen and group != "augment":
            by_default.setdefault(_default(entry), []).append(f"{group}={option}")
    return "; ".join(f"{value} for {', '.join(names)}" for value, names in by_default.items())


def _group(found: ResolvedKey, places: Sequence[Path]) -> str:
    key, command, overrides, composed = found
    node = OmegaConf.select(composed.config, key)
    chosen = [composed.choices[key]] if key in composed.choices else list(node or ())  # augment's are in a list
    lines = [f"spectrnn {command} {key}=..."] if group_options(key, places) else [f"{key}.*, of spectrnn {command}"]
    lines += [
        f"  {'* ' if option in chosen else '  '}{option:<17} {first_comment(file)}"
        for option in group_options(key, places)
        if (file := config_file(f"{key}/{option}", places))
    ]
    keys = [k for k in _flat(composed.config) if k.startswith(f"{key}.") and not k.endswith("._target_")]
    rows = [
        [
            k,
            _value(composed.config, k),
            _allowed_at(ResolvedKey(k, command, overrides, composed)),
            _meaning(k, composed),
        ]
        for k in keys
    ]
    return (
        "\n".join([*lines, "", *_table([["key", "value", "allowed", "meaning"], *rows])]) if rows else "\n".join(lines)
    )


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _meaning(key: str, composed: ComposedConfig) -> str:
    return next((entry.comment for entry in reversed(_chain(key, composed)) if entry.comment), "")


def _allowed_at(found: ResolvedKey) -> str:
    """What a key may be, by the annotation of the constructor that it goes to."""
    parent, _, name = found.key.rpartition(".")
    node = OmegaConf.select(found.composed.config, parent) if parent else None
    path = node.get("_target_") if isinstance(node, DictConfig) else None if parent else _TOP.get(found.command)
    if not path:
        return ""
    target = locate(path, f"{parent}._target_")
    hints = get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    return describe_type(hints.get(name, Any))


def describe_type(annotation: Any) -> str:
    """A type in words: ``a whole number above 0``, ``gru | lstm``; "" where no YAML can hold it."""
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation in _KINDS:
        return _KINDS[annotation]
    if origin is Annotated:
        return describe_type(args[0]) + _range(args[1:])
    if origin is Literal:
        return " | ".join(map(format_value, args))
    if origin in (Union, UnionType):
        kinds = [kind for arg in args if arg is not NoneType and (kind := describe_type(arg))]
        return " or ".join(dict.fromkeys(kinds)) + (", or null" if NoneType in args else "")
    if origin is tuple:
        return f"a list of {len(args)}, each {describe_type(args[0])}"
    if origin is not None and issubclass(origin, Sequence):
        return f"a list, each {describe_type(args[0])}"
    return ""


def _range(bounds: Sequence[Any]) -> str:
    words = {Gt: " above {0.gt}", Ge: " from {0.ge}", Lt: " to below {0.lt}", Le: " to {0.le}"}
    said = "".join(words[type(bound)].format(bound) for bound in bounds if type(bound) in words)
    return said + (" up" if [type(bound) for bound in bounds] == [Ge] else "")


def _flat(node: DictConfig) -> list[str]:
    """The full keys below a node."""
    found: list[str] = []
    for name in map(str, node):
        value = None if OmegaConf.is_missing(node, name) else node._get_node(name)
        found += [f"{name}.{key}" for key in _flat(value)] if isinstance(value, DictConfig) and value else [name]
    return found


def _has(config: DictConfig, key: str) -> bool:
    """Whether a config holds a key, or keys below it."""
    return any(f"{known}.".startswith(f"{key}.") for known in _flat(config))


def _all_groups(places: Sequence[Path]) -> list[str]:
    return [*config_groups(places), "experiment", "sweep"]
