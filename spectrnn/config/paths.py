"""Locations of config files and modules, found without importing anything."""

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
# A wheel contains the configs; in a checkout they are next to the package.
CONFIG_DIR = next((path for path in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if path.is_dir()), _PACKAGE)


def config_dirs(arguments: Sequence[str]) -> list[Path]:
    """Returns the folders that are searched for config files, in order of precedence.

    Args:
        arguments: Command line, which may add folders by ``--config-dir`` and ``hydra.searchpath=[...]``.
    """
    dirs, search_path = [CONFIG_DIR], []
    for argument, following in pairwise([*arguments, ""]):
        name, _, value = argument.partition("=")
        if name in ("--config-dir", "-cd"):
            dirs.append(Path(value or following).expanduser().absolute())
        elif name == "hydra.searchpath":
            search_path += [entry.strip(" '\"") for entry in value.strip("[]'\" ").split(",")]
    for entry in filter(None, search_path):
        scheme, _, place = entry.rpartition("://")
        folder = module_path(place.replace("/", ".")) if scheme == "pkg" else Path(place)
        dirs.append((folder or Path(place)).absolute())
    return dirs


def module_path(name: str) -> Path | None:
    """Returns the file of a module without its suffix, or the folder of a package; None if it is not installed.

    Args:
        name: Dotted name. The package itself is not imported.
    """
    from importlib.util import find_spec

    top, *rest = name.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or not (spec.origin or spec.submodule_search_locations):
        return None
    folders = spec.submodule_search_locations
    path = Path(folders[0]) if folders else Path(os.path.splitext(str(spec.origin))[0])
    return path.joinpath(*rest)
