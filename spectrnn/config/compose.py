"""Composition of a command's config, and its YAML files with their lines and comments."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from omegaconf import DictConfig, OmegaConf, open_dict

from spectrnn.config.paths import CONFIG_DIR, config_dirs

if TYPE_CHECKING:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException


_YAMLLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the first is written in C, and several times as fast


class YAMLEntry(NamedTuple):
    """A key in a YAML file.

    Attributes:
        file: YAML file.
        line: Line number, from 1.
        value: Value, interpolations unresolved.
        comment: Comment after the value, or "".
    """

    file: Path
    line: int
    value: Any
    comment: str


class ComposedConfig(NamedTuple):
    """Config of a command.

    Attributes:
        config: Values, interpolations unresolved.
        choices: Chosen option of each config group with a single one.
    """

    config: DictConfig
    choices: dict[str, str]


def compose(command: str, overrides: Sequence[str], dirs: Sequence[Path]) -> ComposedConfig:
    """Composes the config of a command.

    Args:
        command: Name of a primary config, such as ``train``.
        overrides: Overrides of the command line.
        dirs: Folders of config files, as `paths.config_dirs`.

    Raises:
        HydraException: An invalid override or config file.
    """
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = hydra.compose(command, _with_search_path(overrides, dirs), return_hydra_config=True)
    with open_dict(config):
        chosen = config.pop("hydra").runtime.choices
    return ComposedConfig(config, {group: str(option) for group, option in chosen.items() if option is not None})


def config_sources(command: str, overrides: Sequence[str], dirs: Sequence[Path]) -> list[tuple[Path, str]]:
    """Returns the files of a command's config, which takes about as long as composing it; arguments as for `compose`.

    Returns:
        Files, in order of precedence, the last one highest, with the key that contains their keys.

    Raises:
        HydraException: An invalid override or config file.
    """
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        defaults = loader.compute_defaults_list(command, _with_search_path(overrides, dirs), RunMode.RUN)
    files = [(config_file(str(item.config_path), dirs), item.package or "") for item in defaults.defaults]
    return [(file, package) for file, package in files if file]


@contextmanager
def composed_once(arguments: Sequence[str]) -> Iterator[None]:
    """Spares Hydra from composing a config a first time to read hydra.mode, unless something of the user may set it."""
    from hydra._internal.hydra import Hydra

    original = Hydra.get_mode
    if config_dirs(arguments) == [CONFIG_DIR] and not any("hydra.mode" in argument for argument in arguments):
        Hydra.get_mode = lambda *_, **__: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Hydra.get_mode = original  # type: ignore[method-assign]


def compose_jobs(
    command: str, overrides: Sequence[str], dirs: Sequence[Path]
) -> list[tuple[list[str], "DictConfig | HydraException | OmegaConfBaseException"]]:
    """Composes the configs of the jobs of a sweep; arguments as for `compose`.

    Returns:
        The overrides of each job, and its config or its error. Of jobs that differ in their `seed`, there is one.

    Raises:
        HydraException: An invalid override or config file of the sweep itself.
    """
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf.errors import OmegaConfBaseException

    GlobalHydra.instance().clear()
    jobs: dict[tuple[str, ...], tuple[list[str], DictConfig | HydraException | OmegaConfBaseException]] = {}
    with hydra.initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        sweep = loader.load_configuration(command, _with_search_path(overrides, dirs), RunMode.MULTIRUN)
        for job in job_overrides(sweep):
            key = tuple(override for override in job if not re.fullmatch(r"seed=\d+", override))
            if key in jobs:
                continue
            try:
                config = loader.load_sweep_config(sweep, job)
            except (HydraException, OmegaConfBaseException) as error:
                jobs[key] = job, error
                continue
            OmegaConf.set_struct(config, False)
            jobs[key] = job, OmegaConf.masked_copy(config, [name for name in map(str, config) if name != "hydra"])
    return list(jobs.values())


def job_overrides(sweep: DictConfig) -> list[list[str]]:
    """Returns the overrides of each job of a sweep, as Hydra's own sweeper would; none for another sweeper.

    Args:
        sweep: Config of the sweep, with the key ``hydra``, while Hydra is initialized.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if "max_batch_size" not in sweep.hydra.sweeper:
        return []
    params = [f"{key}={value}" for key, value in (sweep.hydra.sweeper.params or {}).items()]
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())
    (jobs,) = BasicSweeper.split_arguments(parser.parse_overrides([*params, *sweep.hydra.overrides.task]), None)
    return [list(job) for job in jobs]


def _with_search_path(overrides: Sequence[str], dirs: Sequence[Path]) -> list[str]:
    given = [override for override in overrides if not override.startswith("hydra.searchpath=")]
    added = [f"file://{folder}" for folder in dirs if folder != CONFIG_DIR]
    return [f"hydra.searchpath={quote_override(added)}", *given] if added else given


def quote_override(value: Any) -> str:
    """Formats a value in the grammar of Hydra's overrides."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{quote_override(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(quote_override, value)) + "]"
    if isinstance(value, str):
        # Backslashes are escapes only before a quote, including the closing one.
        return "'" + re.sub(r"(\\*)('|\Z)", lambda match: 2 * match[1] + match[2].replace("'", "\\'"), value) + "'"
    return json.dumps(value)


def config_file(name: str, dirs: Sequence[Path]) -> Path | None:
    """Returns the YAML file of a config, such as ``model/gru``; None if there is none."""
    return next((folder / f"{name}.yaml" for folder in dirs if (folder / f"{name}.yaml").is_file()), None)


def group_options(group: str, dirs: Sequence[Path]) -> list[str]:
    """Returns the options of a config group."""
    return sorted({file.stem for folder in dirs for file in (folder / group).glob("[!_]*.yaml")})


def leaf_keys(config: DictConfig) -> Iterator[str]:
    """Yields the full keys of a config's values."""
    for name in map(str, config):
        value = None if OmegaConf.is_missing(config, name) else config._get_node(name)
        if isinstance(value, DictConfig) and value:
            yield from (f"{name}.{key}" for key in leaf_keys(value))
        else:
            yield name


def has_key(config: DictConfig, key: str) -> bool:
    """Whether a config has a value or mapping of a full key."""
    return any(f"{known}.".startswith(f"{key}.") for known in leaf_keys(config))


def load_yaml(file: Path) -> Any:
    """Returns the content of a YAML file."""
    return yaml.load(file.read_text(encoding="utf-8"), Loader=_YAMLLoader)


def yaml_entries(file: Path) -> dict[str, YAMLEntry]:
    """Returns the keys of a YAML file, those of mappings with dots, without its defaults list and Hydra's own keys."""
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines()
    loader = _YAMLLoader(text)
    entries = {}
    for key, node in _leaves(loader.get_single_node(), ""):
        end = node.end_mark
        comment = lines[end.line][end.column :].strip().removeprefix("#").strip()
        value = loader.construct_object(node, deep=True)
        entries[key] = YAMLEntry(file, node.start_mark.line + 1, value, comment)
    return entries


def option_entries(group: str, option: str, dirs: Sequence[Path]) -> dict[str, YAMLEntry]:
    """Returns the keys of an option, including those that it inherits from the options in its defaults list."""
    return {key: entry for file in _option_files(group, option, dirs) for key, entry in yaml_entries(file).items()}


def option_target(group: str, option: str, dirs: Sequence[Path]) -> str | None:
    """Returns the dotted path of the class of an option, its own or inherited; None if it has none."""
    nodes = [load_yaml(file) for file in _option_files(group, option, dirs)]
    return next((node["_target_"] for node in reversed(nodes) if "_target_" in node), None)


def _option_files(group: str, option: str, dirs: Sequence[Path]) -> Iterator[Path]:
    """Yields the files of an option: those in its defaults list, and its own."""
    file = config_file(f"{group}/{option}", dirs)
    if file is None:
        return
    for parent in load_yaml(file).get("defaults") or []:
        if isinstance(parent, str) and parent != "_self_":
            yield from _option_files(group, parent, dirs)
    yield file


def _leaves(node: yaml.Node | None, prefix: str) -> Iterator[tuple[str, yaml.Node]]:
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        name = f"{prefix}{key.value}"
        if name in ("defaults", "hydra") or key.value == "_target_":
            continue
        if isinstance(value, yaml.MappingNode) and value.value:
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value
