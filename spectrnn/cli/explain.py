"""`spectrnn explain KEY`: meaning, allowed values and default of a key, and where its value is set. Without torch."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from omegaconf import DictConfig, OmegaConf

from spectrnn.cli.help import group_defaults, option_descriptions
from spectrnn.config.compose import (
    ComposedConfig,
    YAMLEntry,
    compose,
    config_sources,
    group_options,
    has_key,
    leaf_keys,
    option_entries,
    yaml_entries,
)
from spectrnn.config.instantiate import MISSING, format_value, unknown_key
from spectrnn.config.paths import CONFIG_DIR, config_dirs
from spectrnn.config.signatures import annotations
from spectrnn.errors import UserError

USAGE = """spectrnn explain KEY [key=value ...]: meaning, allowed values and default of a key, and where it is set

  spectrnn explain optimizer.lr                   a key
  spectrnn explain hidden_size                    all keys of that name
  spectrnn explain pooling                        a config group: its options, and the keys of the chosen one
  spectrnn explain model.channels model=crnn      with other choices"""

_Sources = list[tuple[Path, str]]  # as of `config_sources`
_MAIN = "train"  # the command that has all config groups
_GLOBAL_GROUPS = ("experiment", "sweep")  # config groups that set keys of other ones
_TYPES = {bool: "true | false", int: "an integer", float: "a number", str: "text", NoneType: "null"}


def explain(arguments: Sequence[str], schemas: Mapping[str, str]) -> str:
    """Explains a key, all keys of a name, or a config group.

    Args:
        arguments: The name, and overrides and flags as for other commands.
        schemas: Dotted path of the dataclass of the config's top level, by command.

    Raises:
        UserError: No such key.
    """
    dirs = config_dirs(arguments)
    names = [a for a in arguments if re.fullmatch(r"[\w.]+=?", a) and Path(a).absolute() not in dirs]
    if not names:
        return USAGE
    if len(names) > 1:
        raise UserError(f"{names[1]}: explain takes one KEY")
    overrides = [a for a in arguments if "=" in a and not a.startswith("-") and a not in names]
    return Explainer(overrides, dirs, schemas).explain(names[0].removesuffix("="))


class Explainer:
    """Explains keys of all commands under the overrides of a command line.

    Args:
        overrides: Overrides.
        dirs: Folders of config files, as `config.paths.config_dirs`.
        schemas: As for `explain`.

    Attributes:
        commands: Commands that have a key, by full key.
        groups: Command that is explained with a config group, by group.
    """

    def __init__(self, overrides: Sequence[str], dirs: Sequence[Path], schemas: Mapping[str, str]) -> None:
        self.overrides, self.dirs, self.schemas = overrides, dirs, schemas
        self.defaults = group_defaults((CONFIG_DIR / f"{_MAIN}.yaml").read_text(encoding="utf-8"))
        self.options: dict[str, dict[str, dict[str, YAMLEntry]]] = {
            group: {option: option_entries(group, option, dirs) for option in group_options(group, dirs)}
            for group in self.defaults
            if group not in _GLOBAL_GROUPS
        }
        self.groups = {
            g: c for c in schemas for g in group_defaults((CONFIG_DIR / f"{c}.yaml").read_text(encoding="utf-8"))
        }
        self.groups |= dict.fromkeys(self.defaults, _MAIN)
        self.top = {command: yaml_entries(CONFIG_DIR / f"{command}.yaml") for command in schemas}
        self.commands: dict[str, list[str]] = {}
        for command, entries in self.top.items():
            for key in entries:
                self.commands.setdefault(key, []).append(command)
        for group, options in self.options.items():
            for entries in options.values():
                self.commands |= {f"{group}.{key}": [_MAIN] for key in entries}
        known = {*self.commands, *self.groups}
        for override in overrides:
            key = override.lstrip("+~").partition("=")[0]
            is_own = key.startswith("hydra") or key.endswith("._target_") or override.startswith(("+", "~"))
            if not is_own and not any(f"{other}.".startswith(f"{key}.") for other in known):
                raise UserError(unknown_key(key, self.commands, self.groups))

    def explain(self, name: str) -> str:
        """Explains a full key, a key without its group, or a config group or other mapping."""
        below = [key for key in self.commands if key.startswith(f"{name}.")]
        if below or name in self.groups:
            command = self.commands[below[0]][0] if below else self.groups[name]
            return self._explain_mapping(name, command, [] if name in self.groups else below)
        keys = [key for key in self.commands if (key if "." in name else key.rpartition(".")[2]) == name]
        if not keys:
            raise UserError(unknown_key(name, self.commands, self.groups))
        sections: dict[tuple[str, ...], tuple[list[str], list[str]]] = {}  # places and changes by what may be equal
        for command in dict.fromkeys(command for key in keys for command in self.commands[key]):
            own = [key for key in keys if command in self.commands[key]]
            composed, sources, choices = self._compose(command, own)
            for key in own:
                facts, places = self._describe(key, command, composed, sources)
                section = sections.setdefault((f"{key}={_value(composed.config, key)}", *facts), ([], []))
                section[0].extend(places)
                section[1].append(" ".join(filter(None, [f"spectrnn {command}", choices.get(key), f"{key}=..."])))
        texts = []
        for (headline, meaning, allowed, default, elsewhere), (places, changes) in sections.items():
            rows = {"meaning": [meaning], "allowed": [allowed], "default": [default], "set in": places}
            rows |= {"elsewhere": [elsewhere], "change": changes}
            lines = [
                f"  {'' if number else title:<11}{line}"
                for title, row in rows.items()
                for number, line in enumerate(filter(None, row))
            ]
            texts.append("\n".join([headline, "", *lines]))
        return "\n\n".join(texts)

    def _compose(self, command: str, keys: Sequence[str]) -> tuple[ComposedConfig, _Sources, dict[str, str]]:
        """Composes the config of a command with options that have the keys.

        Returns:
            The config, its files, and the chosen option by key.
        """
        roots = {c: {key.partition(".")[0] for key in entries} for c, entries in self.top.items()}
        roots[_MAIN] |= {*self.defaults}
        # Overrides that no command accepts are left to Hydra, which rejects them.
        others = set[str]().union(*roots.values()) - roots[command]
        overrides = [o for o in self.overrides if re.split("[.=]", o.lstrip("+~"), maxsplit=1)[0] not in others]
        if command != _MAIN:  # Hydra, which takes longer, is needed for config groups only
            file = CONFIG_DIR / f"{command}.yaml"
            config = OmegaConf.unsafe_merge(OmegaConf.load(file), OmegaConf.from_dotlist(overrides))
            return ComposedConfig(DictConfig(config), {}), [(file, "")], {}
        composed = compose(command, overrides, self.dirs)
        given = {o.partition("=")[0]: o for o in overrides}
        choices = {key: given[group] for key in keys if (group := key.partition(".")[0]) in {*given} & {*self.options}}
        added: dict[str, str] = {}
        for key in keys:
            if not has_key(composed.config, key):
                group, _, name = key.partition(".")
                holders = [option for option, entries in self.options[group].items() if name in entries]
                own = name.partition(".")[0]  # of an augmentation, which presets set as well
                option = own if own in holders else holders[0]
                is_list = "[" in self.defaults[group]
                choices[key] = f"{group}=[{option}]" if is_list else f"{group}={option}"
                chosen = added.get(group, given.get(group, self.defaults[group])).partition("=")[2].strip("[]")
                added[group] = f"{group}=[{','.join(filter(None, [chosen, option]))}]" if is_list else choices[key]
        overrides += added.values()
        composed = compose(command, overrides, self.dirs) if added else composed
        return composed, config_sources(command, overrides, self.dirs), choices

    def _describe(
        self, key: str, command: str, composed: ComposedConfig, sources: _Sources
    ) -> tuple[list[str], list[str]]:
        """Returns meaning, allowed values, default, and defaults of other options; and the places that set the key."""
        group, _, name = key.partition(".")
        holders = {option: entries[name] for option, entries in self.options.get(group, {}).items() if name in entries}
        chain = _chain(key, sources)
        # An experiment overrides the default.
        default = next((entry for entry in chain if entry.file.parent.name not in _GLOBAL_GROUPS), None)
        default = holders.get(composed.choices.get(group, ""), default)
        meaning = next((entry.comment for entry in [*reversed(chain), *holders.values()] if entry.comment), "")
        places = [(_place(entry), entry.value) for entry in chain]
        places += [
            ("the command line", _raw(composed.config, key))
            for o in self.overrides
            if o.partition("=")[0].lstrip("+") == key
        ]
        by_default: dict[str, list[str]] = {}
        others = (
            {}
            if "[" in self.defaults.get(group, "")
            else {o: e for o, e in holders.items() if o != composed.choices.get(group)}
        )
        for option, entry in others.items():
            text = "the same" if default and entry.value == default.value else _default(entry)
            by_default.setdefault(text, []).append(f"{group}={option}")
        elsewhere = [
            f"{text} for {f'all other options of {group}' if len(names) == len(others) > 1 else ', '.join(names)}"
            for text, names in by_default.items()
        ]
        allowed = self._allowed(key, command, composed.config)
        ordered = [place if len(places) == 1 else f"{place}: {format_value(value)}" for place, value in places]
        return [meaning, allowed, _default(default) if default else "", "; ".join(elsewhere)], ordered

    def _explain_mapping(self, name: str, command: str, keys: Sequence[str]) -> str:
        """Describes the options of a config group, and the keys of a mapping."""
        composed, sources, _ = self._compose(command, keys)
        node = OmegaConf.select(composed.config, name)
        options = option_descriptions(name, self.dirs)
        lines = [f"spectrnn {command} {name}=..."] if name in self.groups else [f"{name}.*, of spectrnn {command}"]
        chosen = [composed.choices[name]] if name in composed.choices else list(node or ())
        lines += [f"  {'*' if option in chosen else ' '} {option:<17} {text}" for option, text in options.items()]
        rows = [["key", "value", "allowed", "meaning"]]
        for key in leaf_keys(composed.config):
            if key.startswith(f"{name}.") and not key.endswith("._target_"):
                meaning = next((entry.comment for entry in reversed(_chain(key, sources)) if entry.comment), "")
                rows.append([key, _value(composed.config, key), self._allowed(key, command, composed.config), meaning])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, "", *(f"  {line}" for line in table)] if rows[1:] else lines)

    def _allowed(self, key: str, command: str, config: DictConfig) -> str:
        """Describes the allowed values, by the annotation of the constructor that the key belongs to."""
        parent, _, name = key.rpartition(".")
        node = OmegaConf.select(config, parent) if parent else None
        target = self.schemas[command] if not parent else node.get("_target_") if isinstance(node, DictConfig) else None
        return describe_type(annotations(target).get(name, Any)) if target else ""


def _chain(key: str, sources: _Sources) -> list[YAMLEntry]:
    """Returns the places in files that set a key; the last one counts."""
    found = []
    for file, package in sources:
        prefix = f"{package}." if package else ""
        if key.startswith(prefix) and (entry := yaml_entries(file).get(key.removeprefix(prefix))):
            found.append(entry)
    return found


def _default(entry: YAMLEntry) -> str:
    return "none; it must be set" if entry.value == MISSING else format_value(entry.value)


def _place(entry: YAMLEntry) -> str:
    is_own = entry.file.is_relative_to(CONFIG_DIR)
    return f"{f'configs/{entry.file.relative_to(CONFIG_DIR)}' if is_own else entry.file}, line {entry.line}"


def _raw(config: DictConfig, key: str) -> Any:
    """Returns the value of a key, interpolations unresolved."""
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    return OmegaConf.to_container(node, resolve=False)[name]  # type: ignore[index, call-overload]


def _value(config: DictConfig, key: str) -> str:
    """Formats the value of a key, and the result of an interpolation."""
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    text = format_value(_raw(config, key))
    return f"{text}, here {format_value(node[name])}" if OmegaConf.is_interpolation(node, name) else text


def describe_type(annotation: Any) -> str:
    """Describes a type: ``an integer above 0``, ``gru | lstm``; "" if no config value can have it."""
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation in _TYPES:
        return _TYPES[annotation]
    if origin is Annotated:
        words = {Gt: " above {0.gt}", Ge: " from {0.ge}", Lt: " to below {0.lt}", Le: " to {0.le}"}
        bounds = [bound for bound in args[1:] if type(bound) in words]
        text = "".join(words[type(bound)].format(bound) for bound in bounds)
        return describe_type(args[0]) + text + (" up" if [type(bound) for bound in bounds] == [Ge] else "")
    if origin is Literal:
        return " | ".join(map(format_value, args))
    if origin in (Union, UnionType):
        kinds = [kind for arg in args if arg is not NoneType and (kind := describe_type(arg))]
        return " or ".join(dict.fromkeys(kinds)) + (", or null" if NoneType in args else "")
    if origin is dict:
        return f"a mapping from {describe_type(args[0])} to ({describe_type(args[1])})"
    if origin is tuple:
        return f"a list of {len(args)}, each {describe_type(args[0])}"
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return f"a list, each {describe_type(args[0])}"
    return ""
