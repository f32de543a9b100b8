"""The header of a model file: format, labels, config, splits and thresholds as JSON. Read without torch."""

import json
from pathlib import Path
from typing import Any

from spectrnn.errors import UserError

FORMAT, ENSEMBLE_FORMAT = 4, 5  # of a single classifier, and of an ensemble, which earlier versions cannot read
MAX_MEMBERS = 100  # of an ensemble
KEY = "spectrnn"  # in the metadata of the safetensors file
MAX_HEADER_BYTES = 1 << 22  # a few thousand labels and tensors take a tenth of it


def read_header(path: Path) -> dict[str, Any]:
    """Reads the header of a model file, without its weights.

    Returns:
        ``format``, ``labels`` and ``config``; ``splits``, the checksums of the splits that it was trained with;
        ``tuned_thresholds`` if thresholds were tuned for it; and ``members``, their number, if it is an ensemble.

    Raises:
        UserError: No such file, or not a spectrnn model file of these formats.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"{path}: no such model file")
    try:
        with path.open("rb") as raw:
            size = int.from_bytes(raw.read(8), "little")
        if size > MAX_HEADER_BYTES:
            raise ValueError(f"its header announces {size} bytes, but at most {MAX_HEADER_BYTES} are read")
        with safe_open(path, "np") as file:
            header = json.loads((file.metadata() or {})[KEY])
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not a model file ({error})") from error
    except KeyError as error:
        raise UserError(f"{path}: is a safetensors file, but not a spectrnn model") from error
    version = header.get("format") if isinstance(header, dict) else None
    if type(version) is not int or version not in (FORMAT, ENSEMBLE_FORMAT):
        remedy = "train it again" if isinstance(version, int) and version < FORMAT else "update spectrnn"
        formats = f"formats {FORMAT} and {ENSEMBLE_FORMAT}"
        raise UserError(f"{path}: has format {version!r:.40}, but this version reads {formats}; {remedy}")
    if not isinstance(header.get("labels"), list) or not isinstance(header.get("config"), dict):
        raise UserError(f"{path}: is incomplete; its header lacks the labels or the config")
    members = header.get("members")
    if version == ENSEMBLE_FORMAT and not (type(members) is int and 1 <= members <= MAX_MEMBERS):
        raise UserError(f"{path}: is an ensemble of {members!r:.40} members, not of 1 to {MAX_MEMBERS}")
    return header
