"""Location of the YAML configs that are shipped with the package."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
# A wheel contains the configs; in a checkout they are next to the package.
CONFIG_DIR = next((path for path in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if path.is_dir()), _PACKAGE)
