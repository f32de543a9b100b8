"""The page as a folder: the package's own files, the runtime, the model, what is to be known of it, and examples."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from spectrnn.demo.examples import Example
from spectrnn.frontend.features import MFCC, LogMelSpectrogram
from spectrnn.inference.predictor import Predictor

_PAGE = Path(__file__).resolve().parent / "page"
_LIVE_HOP = 0.15  # s from one look at the microphone to the next, where no thresholds say otherwise


def write_page(
    folder: Path, predictor: Predictor, window: float | None, onnx: Path, runtime: Path, examples: Sequence[Example]
) -> None:
    """Writes the page.

    Args:
        folder: an empty one.
        predictor: the model.
        window: that is classified at once, s; None for the one of its thresholds, or its longest clip.
        onnx: that model, exported with its inside.
        runtime: the folder of onnxruntime-web.
        examples: clips to offer.
    """
    shutil.copytree(_PAGE, folder, dirs_exist_ok=True)
    shutil.copytree(runtime, folder / "runtime")
    shutil.copyfile(onnx, folder / "model.onnx")
    offered = []
    for number, example in enumerate(examples):
        file = f"examples/{number}.wav"  # never a name that came with a dataset
        (folder / "examples").mkdir(exist_ok=True)
        soundfile.write(folder / file, example.waveform, predictor.sample_rate, subtype="PCM_16")
        offered.append({"file": file, "label": example.label})
    text = json.dumps(model_json(predictor, window) | {"examples": offered}, ensure_ascii=False, indent=1)
    (folder / "model.json").write_text(text + "\n", encoding="utf-8")


def model_json(predictor: Predictor, window: float | None) -> dict[str, Any]:
    """What the page is told of a model.

    Returns:
        ``labels``; ``sample_rate``, Hz; ``centres`` of the features' bins, Hz, or None where they are no frequencies;
        ``window_seconds`` that are classified at once; ``hop_seconds`` from one look at the microphone to the next;
        ``smoothing_windows``, the windows that a live probability is the mean of; and ``thresholds``, the probability from which
        on each class is heard, None for those that are no events, or None altogether.
    """
    tuned_thresholds, labels = predictor.tuned_thresholds, predictor.labels
    return {
        "labels": labels,
        "sample_rate": predictor.sample_rate,
        "centres": centres(predictor.classifier.features),
        "window_seconds": window
        or (tuned_thresholds.window if tuned_thresholds else predictor.window / predictor.sample_rate),
        "hop_seconds": tuned_thresholds.hop if tuned_thresholds else _LIVE_HOP,
        "smoothing_windows": tuned_thresholds.smoothing_windows if tuned_thresholds else 1,
        "thresholds": [tuned_thresholds.thresholds.get(label) for label in labels] if tuned_thresholds else None,
    }


def centres(features: LogMelSpectrogram) -> list[float] | None:
    """The middle of each mel band, Hz: (bins,), rising; None for cepstral coefficients."""
    if isinstance(features, MFCC):
        return None
    filters = features.filters[::2].double()  # each row is there twice, for both parts of the spectrum
    points = np.arange(len(filters)) * features.sample_rate / features.n_fft
    weights = filters.cpu().numpy()
    return [round(float(middle), 2) for middle in points @ weights / weights.sum(0)]
