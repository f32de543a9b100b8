"""The header of a model file: format, labels, config, splits and tuned_thresholds, as JSON. Read without torch."""

import json
from pathlib import Path
from typing import Any

from spectrnn.errors import UserError

FORMAT = 4
KEY = "spectrnn"  # in the metadata of the safetensors file
MAX_HEADER_BYTES = 1 << 22  # bytes of a header: a few thousand labels and tensors are a tenth of that


def read_header(path: Path) -> dict[str, Any]:
    """Reads a model file's header, and none of its weights.

    Args:
        path: the file.

    Returns:
        ``format``, ``labels`` and ``config``; ``splits`` where the file says what it was trained on, and ``tuned_thresholds``
        where thresholds were chosen for it.

    Raises:
        UserError: no such file, or not a model of ours.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"{path}: no such model file")
    try:
        _check_size(path)
        with safe_open(path, "np") as file:
            header = json.loads((file.metadata() or {})[KEY])
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: is no model file ({error})") from error
    except KeyError as error:
        raise UserError(f"{path}: is a safetensors file, but holds no model of spectrnn") from error
    _check_format(path, header.get("format") if isinstance(header, dict) else None)
    config = header.get("config")
    if not isinstance(header.get("labels"), list) or not isinstance(config, dict):
        raise UserError(f"{path}: is incomplete; its header lacks the labels or the config")
    return header


def _check_size(path: Path) -> None:
    """Holds the header's length, which its first 8 bytes claim, against what headers need, before any of it is read."""
    with path.open("rb") as file:
        claimed = int.from_bytes(file.read(8), "little")
    if claimed > MAX_HEADER_BYTES:
        raise ValueError(f"its header claims {claimed} bytes, where at most {MAX_HEADER_BYTES} are read")


def _check_format(path: Path, written: Any) -> None:
    if type(written) is not int:
        raise UserError(f"{path}: is of format {written!r:.40}, and this spectrnn reads format {FORMAT}")
    if written > FORMAT:
        raise UserError(f"{path}: is of format {written}, and this spectrnn reads format {FORMAT}: update spectrnn")
    if written < FORMAT:
        raise UserError(f"{path}: is of format {written}, and this spectrnn reads format {FORMAT}: train it again")
