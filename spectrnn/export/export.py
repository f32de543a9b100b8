"""`spectrnn export`: an ONNX file verified against PyTorch, with model card, example script and golden clips."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from omegaconf import DictConfig

from spectrnn.config.instantiate import to_container, validate_kwargs
from spectrnn.config.types import Fraction, PositiveInt
from spectrnn.data.batches import BucketedBatches
from spectrnn.data.dataset import Dataset
from spectrnn.detection.thresholds import read_thresholds
from spectrnn.errors import ErrorCollector, UserError, import_optional
from spectrnn.evaluation.evaluate import OpenedModel, compute_metrics, mean_over_crops, open_model, predict_batches
from spectrnn.evaluation.metrics import Outcome, metrics_of
from spectrnn.export.card import ModelStats, write_card
from spectrnn.export.conditions import accuracy_by_condition
from spectrnn.export.golden import FOLDER, GoldenClip, write_golden
from spectrnn.export.graph import model_metadata, write_onnx
from spectrnn.export.onnx_model import Array, OnnxModel, StreamingOnnxModel, load_onnx
from spectrnn.export.parity import interleaved_timings, max_abs_differences, parity_cases, require_parity
from spectrnn.export.quantize import quantize_weights
from spectrnn.export.streaming import streaming_differences, write_streaming_onnx
from spectrnn.files import replace_directory, reporting_write_errors
from spectrnn.model.classifier import Classifier
from spectrnn.streaming.classifier import StreamingClassifier

log = logging.getLogger(__name__)

MODEL = "model.onnx"
_NUM_GOLDEN = 5  # clips of the dataset, of different classes
_CPU = torch.device("cpu")


@dataclass(kw_only=True)
class ExportConfig:
    """Top level of export.yaml."""

    data: dict[str, Any] | None
    run: str
    format: Literal["onnx"]
    quantize: Literal["int8"] | None
    streaming: bool
    split: Literal["train", "val", "test", "all"]
    num_parity_clips: PositiveInt
    max_int8_accuracy_drop: Fraction
    license: str
    out: str | None
    batch_size: PositiveInt
    trust: list[str]


def export(node: DictConfig) -> Path:
    """Exports a model; writes nothing if it cannot be verified.

    Args:
        node: Config as export.yaml composes it.

    Returns:
        Folder of the export, which replaces an earlier one.

    Raises:
        UserError: An error in the config, the model or the dataset; or an exported model that differs from PyTorch.
    """
    config = ExportConfig(**validate_kwargs({"data": None, **to_container(node, "")}, ExportConfig, ""))
    errors = ErrorCollector()
    for name in ("onnx", "onnxruntime"):
        errors.collect(import_optional, name)
    model = open_model(node, errors, _CPU)
    classifier = model.classifier
    out = _output_folder(config, model.path)
    stream = StreamingClassifier(classifier, model.config) if config.streaming else None
    tuned_thresholds = read_thresholds(model.path)
    metadata = model_metadata(classifier, tuned_thresholds)
    clips = sample_clips(model.dataset, config.split, config.num_parity_clips)
    with reporting_write_errors(f"out={out}"), replace_directory(out) as folder:
        if stream:
            write_streaming_onnx(stream, folder / MODEL, metadata)
        else:
            write_onnx(classifier, folder / MODEL, metadata)
        stats = _verify_and_measure(config, model, [clip.waveform for clip in clips], folder / MODEL)
        shortest: dict[str | None, GoldenClip] = {}  # of each class
        for clip in clips:
            shortest.setdefault(clip.label, clip)
        silence = GoldenClip(None, np.zeros(int(classifier.max_train_samples), np.float32))
        golden = [*list(shortest.values())[:_NUM_GOLDEN], silence]
        exported = load_onnx(folder / MODEL)
        probabilities = np.concatenate([exported([clip.waveform]) for clip in golden])
        write_golden(golden, probabilities, classifier.sample_rate, folder)
        example = "example_streaming.py" if stream else "example.py"
        shutil.copyfile(Path(__file__).with_name(example), folder / "example.py")
        write_card(
            folder / "README.md",
            model=model,
            settings=config.data or {},
            split=config.split,
            tuned_thresholds=tuned_thresholds,
            license=config.license,
            state=exported.metadata.get("state"),
            stats=stats,
            conditions=accuracy_by_condition(
                model.source, model.dataset, model.batches, [*stats.values()][-1].is_correct
            ),
        )
    log.info("%s\n\nexported to %s", "\n".join(_summary(stats, config.split)), out)
    return out


def sample_clips(dataset: Dataset, split: str, count: int) -> list[GoldenClip]:
    """Returns up to `count` clips of a split, evenly spread over its classes, the shortest first."""
    rows = dataset.rows(split)
    labels = [dataset.clips[row].label for row in rows]
    rows = rows[np.argsort(labels, kind="stable")]
    rows = np.unique(rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)])
    batches = dataset.batches(rows, 1, _CPU).epoch()
    return [GoldenClip(dataset.clips[int(batch.rows)].label, batch.waveform[0].numpy()) for batch in batches]


def _verify_and_measure(
    config: ExportConfig, model: OpenedModel, clips: Sequence[Array], path: Path
) -> dict[str, ModelStats]:
    """Verifies an exported file, quantizes it if requested, and returns its measurements by type of weights."""
    classifier, dataset = model.classifier, model.dataset
    models = {"float32": load_onnx(path, threads=1)}
    sizes = {"float32": path.stat().st_size}
    differences = {"float32": _differences(classifier, models["float32"], clips)}
    require_parity(differences["float32"])
    if config.quantize:
        quantize_weights(path, path)
        models["int8"] = load_onnx(path, threads=1)
        sizes["int8"] = path.stat().st_size
        differences["int8"] = _differences(classifier, models["int8"], clips)
    seconds = interleaved_timings(list(models.values()), clips)
    audio_seconds = sum(map(len, clips)) / classifier.sample_rate
    batches = {"val": dataset.batches("val", config.batch_size, _CPU, cover=True)} if len(dataset.rows("val")) else {}
    batches[config.split] = model.batches
    metrics = metrics_of(classifier.task)
    stats = {}
    for (name, exported), model_seconds in zip(models.items(), seconds, strict=True):
        # The float32 file has just been verified to compute what the classifier does, which is faster in batches.
        used = classifier if name == "float32" else exported
        results = {split: _predict(classifier, used, split_batches) for split, split_batches in batches.items()}
        stats[name] = ModelStats(
            size=sizes[name],
            reports={split: compute_metrics(result, classifier.labels, metrics) for split, result in results.items()},
            is_correct=results[config.split].correct,
            differences=differences[name],
            speed=audio_seconds / model_seconds,
        )
    main = classifier.task.metrics[0]
    accuracies = [measured.reports[config.split][main] for measured in stats.values()]
    if accuracies[0] - accuracies[-1] > config.max_int8_accuracy_drop:
        raise UserError(
            f"quantize=int8: {main} on the {config.split} split drops from {accuracies[0]:.4f} to "
            f"{accuracies[-1]:.4f}, by more than max_int8_accuracy_drop={config.max_int8_accuracy_drop:g}; "
            f"quantize=null exports float32"
        )
    return stats


def _differences(classifier: Classifier, exported: OnnxModel, clips: Sequence[Array]) -> dict[str, float]:
    differences = max_abs_differences(classifier, exported, parity_cases(classifier, clips))
    if isinstance(exported, StreamingOnnxModel):
        differences |= streaming_differences(classifier, exported, clips)
    return differences


def _predict(classifier: Classifier, model: Classifier | OnnxModel, batches: BucketedBatches) -> Outcome:
    """Evaluates either model on a split."""
    if isinstance(model, Classifier):
        return predict_batches(model, batches, progress=True)
    outputs = [
        (model.run(batch.waveform.numpy(), batch.lengths.numpy()), batch.rows.numpy(), batch.weights.numpy())
        for batch in batches.epoch()
    ]
    columns = (np.concatenate(column) for column in zip(*outputs, strict=True))
    probabilities = mean_over_crops(classifier.task, *columns)
    return Outcome.of(classifier.task, probabilities, batches.targets, batches.seconds)


def _output_folder(config: ExportConfig, model: Path) -> Path:
    """Returns the folder of the export; rejects one with other files, which an export would replace."""
    name = "-".join(["export", *filter(None, ["streaming" * config.streaming, config.quantize])])
    out = Path(config.out).expanduser() if config.out else model.parent / name
    own_names = {MODEL, "README.md", "example.py", FOLDER}
    if out.exists() and not (out.is_dir() and {path.name for path in out.iterdir()} <= own_names):
        raise UserError(f"out={out}: exists and is not an export; name another folder")
    return out


def _summary(stats: dict[str, ModelStats], split: str) -> list[str]:
    """Formats a line per parity case, and one per type of weights."""
    lines = ["verified: largest difference of a probability between onnxruntime and PyTorch"]
    lines += [f"  {name:<42}{difference:.1e}" for name, difference in stats["float32"].differences.items()]
    for name, values in stats.items():
        report = values.reports[split]
        main, metric = next(iter(report["metrics"].items()))
        lines.append(
            f"{name}: {values.size / 1e6:.2f} MB, {metric['title']} {report[main]:.4f} ({split}), largest difference "
            f"{max(values.differences.values()):.1e}, {values.speed:.0f} s of audio per second on one core"
        )
    return lines
