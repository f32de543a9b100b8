"""The page as a folder: static files, runtime, model, its settings, and examples."""

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import soundfile

from spectrnn.demo.examples import Example
from spectrnn.detection.settings import DEFAULTS
from spectrnn.evaluation.metrics import METRICS
from spectrnn.export.onnx_model import StreamingOnnxModel
from spectrnn.inference.predictor import Predictor
from spectrnn.runs import METRICS as METRICS_FILE
from spectrnn.runs import MODEL
from spectrnn.training.loggers.base import run_name

_PAGE = Path(__file__).resolve().parent / "page"
_NUM_REPLICAS = 4  # of a causal model for the microphone, as of spectrnn stream
_LIVE_HOP = 0.15  # s between classifications of the microphone, without tuned thresholds


def write_page(
    folder: Path,
    predictor: Predictor,
    model: Path,
    window: float | None,
    onnx: Path,
    stream: StreamingOnnxModel | None,
    runtime: Path,
    examples: Sequence[Example],
) -> None:
    """Writes the page.

    Args:
        folder: Empty folder.
        predictor: Model of the page.
        model: Its file, beside which the metrics of its run are.
        window: Window length in s; None for that of the tuned thresholds, else the longest training clip.
        onnx: The model, exported with its intermediates.
        stream: The same for streams; None if it is not causal.
        runtime: Folder of onnxruntime-web.
        examples: Example clips.
    """
    shutil.copytree(_PAGE, folder, dirs_exist_ok=True)
    shutil.copytree(runtime, folder / "runtime")
    shutil.copyfile(onnx, folder / "model.onnx")
    streaming = None
    if stream is not None:
        shutil.copyfile(stream.path, folder / "stream.onnx")
        streaming = {name: stream.metadata[name] for name in ("window", "hop", "state")}
        streaming["num_replicas"] = _NUM_REPLICAS
    entries = []
    for number, example in enumerate(examples):
        file = f"examples/{number}.wav"  # not a name from the dataset, which may be unsafe
        (folder / "examples").mkdir(exist_ok=True)
        soundfile.write(folder / file, example.waveform, predictor.sample_rate, subtype="PCM_16")
        entries.append({"file": file, "label": example.label})
    about = about_run(model, predictor.classifier.task.metrics[0])
    content = model_json(predictor, window) | about | {"examples": entries, "stream": streaming}
    text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False)
    (folder / "model.json").write_text(text + "\n", encoding="utf-8")


def model_json(predictor: Predictor, window: float | None) -> dict[str, Any]:
    """Returns the settings of the page.

    Returns:
        ``labels``; ``sample_rate`` in Hz; ``center_frequencies`` of the feature bins in Hz, or None for cepstral
        coefficients; ``window_seconds``; ``hop_seconds`` between classifications of the microphone;
        ``smoothing_windows``, the number of windows that live probabilities are averaged over; ``thresholds``, the
        detection threshold of each class, None for background classes, or None if there are none; ``exclusive``,
        whether one class excludes the others; and ``offset_ratio`` and ``min_event_seconds`` of events.
    """
    tuned, labels, features = predictor.tuned_thresholds, predictor.labels, predictor.classifier.features
    own = None if predictor.thresholds is None else predictor.thresholds.tolist()
    frequencies = features.bin_frequencies
    return {
        "labels": labels,
        "sample_rate": predictor.sample_rate,
        "center_frequencies": None if frequencies is None else [round(f, 2) for f in frequencies.tolist()],
        "window_seconds": window or (tuned.window if tuned else predictor.window / predictor.sample_rate),
        "hop_seconds": tuned.hop if tuned else _LIVE_HOP,
        "smoothing_windows": tuned.smoothing_windows if tuned else 1,
        "thresholds": [tuned.by_label.get(label) for label in labels] if tuned else own,
        "exclusive": own is None,
        **{name: getattr(tuned, name, DEFAULTS[name]) for name in ("offset_ratio", "min_event_seconds")},
    }


def about_run(model: Path, main_metric: str) -> dict[str, Any]:
    """Returns the name of a model, and two metrics of its run: the main one of its task, and macro F1.

    Returns:
        ``name``; and ``results``: the ``split``, and of each of its ``metrics`` title, value and 95 % interval; None if
        there is no metrics.json of a run beside the model.
    """
    about: dict[str, Any] = {"name": run_name(model.parent) if model.name == MODEL else model.stem, "results": None}
    with suppress(OSError, ValueError, TypeError, AttributeError):  # a file of the same name that is not that of a run
        content = json.loads((model.parent / METRICS_FILE).read_text(encoding="utf-8"))
        split = next((split for split in ("test", "pooled", "val") if content.get(split)), None)
        intervals = content.get("intervals_95", {}).get(split, {})
        metrics = [
            {
                "title": METRICS[name].title,
                "value": float(content[split][name]),
                "interval": [float(limit) for limit in intervals[name]] if name in intervals else None,
            }
            for name in (main_metric, "macro_f1")
            if split and name in content[split]
        ]
        titles = {"test": "the test split", "pooled": "the left-out folds", "val": "the validation split"}
        if split and metrics:
            about["results"] = {"split": titles[split], "metrics": metrics}
    return about
