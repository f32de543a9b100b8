"""The config as Hydra composes it, without running anything, and the YAML files behind it, with lines and comments."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import DictConfig, OmegaConf

from spectrnn.config.paths import CONFIG_DIR

_NOT_STAGE_GROUPS = ("experiment", "sweep", "hydra")  # folders whose files set keys of other groups


class YAMLEntry(NamedTuple):
    """A key in a YAML file.

    Attributes:
        file: where it is.
        line: of the file, from 1.
        value: plain; interpolations as they are written.
        comment: beside the value, or "".
    """

    file: Path
    line: int
    value: Any
    comment: str


class ComposedConfig(NamedTuple):
    """A command's config.

    Attributes:
        config: the keys' values, interpolations unresolved.
        choices: the option of each group.
        layers: the files, each of which outweighs those before it, with the key that theirs are below.
    """

    config: DictConfig
    choices: dict[str, str]
    layers: list[tuple[Path, str]]


def config_dirs(arguments: Sequence[str]) -> list[Path]:
    """Where YAML files are looked for: the folder that ``--config-dir`` names, if it is given, and ours."""
    arguments = [
        part for argument in arguments for part in (argument.split("=", 1) if argument.startswith("--") else [argument])
    ]
    own = [Path(value) for flag, value in pairwise(arguments) if flag in ("--config-dir", "-cd")]
    return [*own, CONFIG_DIR]


def compose(command: str, overrides: Sequence[str], places: Sequence[Path]) -> ComposedConfig:
    """Composes the config of a command.

    Args:
        command: the name of a primary config, such as ``train``.
        overrides: as on the command line.
        places: as `config_dirs` gives them.

    Raises:
        HydraException: as the command would.
    """
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    own = [f"hydra.searchpath=[{','.join(f'file://{place.resolve()}' for place in places[:-1])}]"] if places[1:] else []
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = hydra.compose(command, overrides=[*own, *overrides], return_hydra_config=True)
        loader = GlobalHydra.instance().config_loader()
        found = loader.compute_defaults_list(command, overrides=[*own, *overrides], run_mode=RunMode.RUN).defaults
    choices = {str(group): str(option) for group, option in config.hydra.runtime.choices.items()}
    files = [(config_file(str(item.config_path), places), item.package or "") for item in found if item.config_path]
    OmegaConf.set_struct(config, False)
    config.pop("hydra")
    return ComposedConfig(config, choices, [(file, package) for file, package in files if file])


def config_file(name: str, places: Sequence[Path]) -> Path | None:
    """The YAML file of a config's name, such as ``model/gru``."""
    return next((place / f"{name}.yaml" for place in places if (place / f"{name}.yaml").is_file()), None)


def config_groups(places: Sequence[Path]) -> list[str]:
    """The config groups whose options are stages of a run."""
    found = {folder.name for place in places for folder in place.iterdir() if folder.is_dir()}
    return sorted(found - {*_NOT_STAGE_GROUPS})


def group_options(group: str, places: Sequence[Path]) -> list[str]:
    """The options of a group."""
    return sorted({file.stem for place in places for file in (place / group).glob("[!_]*.yaml")})


def yaml_entries(file: Path) -> dict[str, YAMLEntry]:
    """The keys of a YAML file, those of mappings dotted."""
    text = file.read_text()
    lines = text.splitlines()
    found = {}
    for key, node in _leaves(yaml.compose(text), ""):
        start, end = node.start_mark, node.end_mark
        comment = lines[end.line][end.column :].strip().removeprefix("#").strip()
        found[key] = YAMLEntry(file, start.line + 1, yaml.safe_load(text[start.index : end.index]), comment)
    return found


def option_entries(group: str, option: str, places: Sequence[Path]) -> dict[str, YAMLEntry]:
    """The keys of an option with their defaults, those included that it takes over from its own defaults list."""
    file = config_file(f"{group}/{option}", places)
    if file is None:
        return {}
    own = yaml_entries(file)
    parents = yaml.safe_load(file.read_text()).get("defaults") or []
    found: dict[str, YAMLEntry] = {}
    for parent in [name for name in parents if isinstance(name, str) and name != "_self_"]:
        found |= option_entries(group, parent, places)
    return found | own


def _leaves(node: yaml.Node | None, prefix: str) -> Iterator[tuple[str, yaml.Node]]:
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        name = f"{prefix}{key.value}"
        if name in ("defaults", "hydra") or key.value == "_target_":
            continue
        if isinstance(value, yaml.MappingNode) and value.value:
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value
