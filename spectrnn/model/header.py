"""The header of a model file: format, labels and config, as JSON. Read without torch."""

import json
from pathlib import Path
from typing import Any

from spectrnn.errors import UserError

FORMAT = 2
KEY = "spectrnn"  # in the metadata of the safetensors file


def read_header(path: Path) -> dict[str, Any]:
    """Reads a model file's header, and none of its weights.

    Args:
        path: the file.

    Returns:
        ``format``, ``labels`` and ``config``.

    Raises:
        UserError: no such file, or not a model of ours.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"{path}: no such model file")
    try:
        with safe_open(path, "np") as file:
            header = json.loads((file.metadata() or {})[KEY])
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: is no model file ({error})") from error
    except KeyError as error:
        raise UserError(f"{path}: is a safetensors file, but holds no model of spectrnn") from error
    written = header.get("format") if isinstance(header, dict) else None
    if written != FORMAT:
        raise UserError(f"{path}: is of format {written}, and this spectrnn reads format {FORMAT}")
    if not isinstance(header.get("labels"), list) or not isinstance(header.get("config"), dict):
        raise UserError(f"{path}: is incomplete; its header lacks the labels or the config")
    return header
