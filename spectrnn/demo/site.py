"""The page as a folder: static files, runtime, model, its settings, and examples."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import soundfile

from spectrnn.demo.examples import Example
from spectrnn.inference.predictor import Predictor

_PAGE = Path(__file__).resolve().parent / "page"
_LIVE_HOP = 0.15  # s between classifications of the microphone, without tuned thresholds


def write_page(
    folder: Path, predictor: Predictor, window: float | None, onnx: Path, runtime: Path, examples: Sequence[Example]
) -> None:
    """Writes the page.

    Args:
        folder: Empty folder.
        predictor: Model of the page.
        window: Window length in s; None for that of the tuned thresholds, else the longest training clip.
        onnx: The model, exported with its intermediates.
        runtime: Folder of onnxruntime-web.
        examples: Example clips.
    """
    shutil.copytree(_PAGE, folder, dirs_exist_ok=True)
    shutil.copytree(runtime, folder / "runtime")
    shutil.copyfile(onnx, folder / "model.onnx")
    entries = []
    for number, example in enumerate(examples):
        file = f"examples/{number}.wav"  # not a name from the dataset, which may be unsafe
        (folder / "examples").mkdir(exist_ok=True)
        soundfile.write(folder / file, example.waveform, predictor.sample_rate, subtype="PCM_16")
        entries.append({"file": file, "label": example.label})
    text = json.dumps(model_json(predictor, window) | {"examples": entries}, ensure_ascii=False, indent=1)
    (folder / "model.json").write_text(text + "\n", encoding="utf-8")


def model_json(predictor: Predictor, window: float | None) -> dict[str, Any]:
    """Returns the settings of the page.

    Returns:
        ``labels``; ``sample_rate`` in Hz; ``center_frequencies`` of the feature bins in Hz, or None for cepstral
        coefficients; ``window_seconds``; ``hop_seconds`` between classifications of the microphone;
        ``smoothing_windows``, the number of windows that live probabilities are averaged over; and ``thresholds``, the
        detection threshold of each class, None for background classes, or None if no thresholds were tuned.
    """
    tuned, labels, features = predictor.tuned_thresholds, predictor.labels, predictor.classifier.features
    frequencies = features.bin_frequencies
    return {
        "labels": labels,
        "sample_rate": predictor.sample_rate,
        "center_frequencies": None if frequencies is None else [round(f, 2) for f in frequencies.tolist()],
        "window_seconds": window or (tuned.window if tuned else predictor.window / predictor.sample_rate),
        "hop_seconds": tuned.hop if tuned else _LIVE_HOP,
        "smoothing_windows": tuned.smoothing_windows if tuned else 1,
        "thresholds": [tuned.by_label.get(label) for label in labels] if tuned else None,
    }
