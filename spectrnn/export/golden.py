"""Golden clips: recordings with the model's probabilities, which verify an export on the target machine."""

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import DictConfig

from spectrnn.config.instantiate import to_container, validate_kwargs
from spectrnn.errors import UserError
from spectrnn.export.onnx_model import Array, load_onnx
from spectrnn.messages import counted

log = logging.getLogger(__name__)

FOLDER = "golden"
_INDEX = "golden.json"
_TOLERANCE = 1e-4  # of probabilities; processors round differently


@dataclass(kw_only=True)
class VerifyConfig:
    """Top level of verify.yaml."""

    file: str


class GoldenClip(NamedTuple):
    """Clip of the dataset, or silence.

    Attributes:
        label: Label; None for silence.
        waveform: Samples in [-1, 1), float32 (samples,).
    """

    label: str | None
    waveform: Array


def write_golden(clips: Sequence[GoldenClip], probabilities: Array, sample_rate: int, folder: Path) -> None:
    """Writes ``golden/``: a 16-bit WAV file per clip, and ``golden.json`` with the probabilities.

    Args:
        clips: Golden clips.
        probabilities: Probabilities of the exported model, (clips, classes).
        sample_rate: Sample rate in Hz.
        folder: Folder of the export.
    """
    import soundfile

    (folder / FOLDER).mkdir()
    rows = []
    for number, (clip, row) in enumerate(zip(clips, probabilities, strict=True)):
        name = f"{number}-" + re.sub(r"[^\w-]", "_", clip.label or "silence")[:40] + ".wav"
        soundfile.write(folder / FOLDER / name, clip.waveform, sample_rate, subtype="PCM_16")
        rows.append({"file": name, "label": clip.label, "probabilities": [float(value) for value in row]})
    text = json.dumps({"tolerance": _TOLERANCE, "clips": rows}, indent=1, ensure_ascii=False)
    (folder / FOLDER / _INDEX).write_text(text + "\n", encoding="utf-8")


def verify(node: DictConfig) -> float:
    """Verifies an exported model with the golden clips next to it. Needs onnxruntime, but not torch.

    Args:
        node: Config as verify.yaml composes it.

    Returns:
        The largest difference of a probability.

    Raises:
        UserError: A model or golden clips that cannot be read, or probabilities that differ.
    """
    config = VerifyConfig(**validate_kwargs(to_container(node, ""), VerifyConfig, ""))
    path = Path(config.file).expanduser()
    exported = load_onnx(path)
    tolerance, clips = _read_index(path.parent / FOLDER / _INDEX)
    largest = 0.0
    for clip, expected in clips:
        actual = exported([_read_waveform(clip, exported.metadata["sample_rate"])])[0]
        if actual.shape != expected.shape:
            raise UserError(f"{path}: computes {len(actual)} probabilities, but {clip} has {len(expected)}")
        difference = float(abs(actual - expected).max())
        if not difference <= tolerance:  # also rejects NaN
            raise UserError(
                f"{path}: probabilities of {clip} differ by {difference:.2g} from those at export; the tolerance is "
                f"{tolerance:g}"
            )
        largest = max(largest, difference)
    log.info(
        "%s: verified with %s, largest difference of a probability %.1e",
        path,
        counted(len(clips), "golden clip"),
        largest,
    )
    return largest


def _read_index(path: Path) -> tuple[float, list[tuple[Path, Array]]]:
    """Reads the tolerance, and the path and probabilities of each clip."""
    if not path.is_file():
        raise UserError(f"{path}: missing; verification needs the golden clips next to the exported model")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        clips = [
            (path.parent / Path(row["file"]).name, np.array(row["probabilities"], float)) for row in content["clips"]
        ]
        tolerance = float(content["tolerance"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{path}: is damaged ({type(error).__name__}: {error})") from error
    if not clips or not all(expected.shape == clips[0][1].shape for _, expected in clips):
        raise UserError(f"{path}: is damaged (no clips, or different numbers of classes)")
    return tolerance, clips


def _read_waveform(path: Path, sample_rate: int) -> Array:
    import soundfile

    try:
        waveform, rate = soundfile.read(path, dtype="float32")
    except (OSError, soundfile.SoundFileError) as error:
        raise UserError(f"{path}: is missing or damaged ({error})") from error
    if rate != sample_rate or waveform.ndim != 1 or not len(waveform):
        raise UserError(f"{path}: is not a golden clip, which is mono and has {sample_rate} Hz")
    return waveform
