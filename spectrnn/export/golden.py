"""Golden clips: sounds with what the model says of them, for a look on the machine that it was made for."""

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spectrnn.errors import UserError
from spectrnn.export.onnx_model import Array, load_onnx

log = logging.getLogger(__name__)

FOLDER = "golden"
_LIST = "golden.json"
_TOLERANCE = 1e-4  # of probabilities: other processors round otherwise


class GoldenClip(NamedTuple):
    """A clip that the dataset holds, or silence: float32 waveform (samples,), and its label, None for silence."""

    label: str | None
    waveform: Array


def write_golden(clips: Sequence[GoldenClip], probabilities: Array, sample_rate: int, folder: Path) -> None:
    """Writes ``golden/``: a WAV file a clip, and ``golden.json`` with what the model says of each.

    Args:
        clips: to write, with 16 bits a sample.
        probabilities: (clips, classes).
        sample_rate: Hz.
        folder: of the export.
    """
    import soundfile

    (folder / FOLDER).mkdir()
    rows = []
    for number, (clip, row) in enumerate(zip(clips, probabilities, strict=True)):
        name = f"{number}-" + re.sub(r"[^\w-]", "_", clip.label or "silence")[:40] + ".wav"
        soundfile.write(folder / FOLDER / name, clip.waveform, sample_rate, subtype="PCM_16")
        rows.append({"file": name, "label": clip.label, "probabilities": [float(value) for value in row]})
    text = json.dumps({"tolerance": _TOLERANCE, "clips": rows}, indent=1, ensure_ascii=False)
    (folder / FOLDER / _LIST).write_text(text + "\n", encoding="utf-8")


def verify(file: str) -> float:
    """Runs the golden clips that lie beside an exported model. Needs onnxruntime, and no torch.

    Args:
        file: the ONNX file.

    Returns:
        The largest difference of a probability.

    Raises:
        UserError: the model or its golden clips cannot be read, or the model says other than it said.
    """
    path = Path(file).expanduser()
    exported = load_onnx(path)
    tolerance, clips = _read(path.parent / FOLDER / _LIST)
    largest = 0.0
    for clip, expected in clips:
        found = exported([_waveform(clip, exported.metadata["sample_rate"])])[0]
        if found.shape != expected.shape:
            raise UserError(f"{path}: gives {len(found)} probabilities, where {clip} expects {len(expected)}")
        difference = float(abs(found - expected).max())
        if not difference <= tolerance:  # nor is one that is no number
            raise UserError(
                f"{path}: says other than when it was exported; of {clip} its probabilities are off by "
                f"{difference:.2g}, where {tolerance:g} is allowed"
            )
        largest = max(largest, difference)
    log.info("%s: ok, %d golden clips, largest difference of a probability %.1e", path, len(clips), largest)
    return largest


def _read(path: Path) -> tuple[float, list[tuple[Path, Array]]]:
    """The tolerance, and each clip's path and probabilities."""
    if not path.is_file():
        raise UserError(f"{path}: missing; a model is verified against the golden clips of its export, beside it")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        clips = [
            (path.parent / Path(row["file"]).name, np.array(row["probabilities"], float)) for row in content["clips"]
        ]
        tolerance = float(content["tolerance"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{path}: is damaged ({type(error).__name__}: {error})") from error
    if not clips or not all(expected.shape == clips[0][1].shape for _, expected in clips):
        raise UserError(f"{path}: is damaged (its clips are none, or expect different classes)")
    return tolerance, clips


def _waveform(path: Path, sample_rate: int) -> Array:
    import soundfile

    try:
        waveform, rate = soundfile.read(path, dtype="float32")
    except (OSError, soundfile.SoundFileError) as error:
        raise UserError(f"{path}: is missing or damaged ({error})") from error
    if rate != sample_rate or waveform.ndim != 1 or not len(waveform):
        raise UserError(f"{path}: is no golden clip; one has a channel, at {sample_rate} Hz")
    return waveform
