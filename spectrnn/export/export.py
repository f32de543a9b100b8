"""An export: the model's file, certified, with its card, an example, and golden clips beside it."""

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from omegaconf import DictConfig

from spectrnn.config.instantiate import instantiate, to_container, validate_kwargs
from spectrnn.config.types import Fraction, PositiveInt
from spectrnn.data.batches import BucketedBatches
from spectrnn.data.clips import DataSource
from spectrnn.data.dataset import Dataset, open_for_evaluation
from spectrnn.detection.thresholds import read_thresholds
from spectrnn.errors import ErrorCollector, UserError
from spectrnn.evaluation.evaluate import compute_metrics, predict_batches, warn_about_train_overlap
from spectrnn.export.card import ModelCard, ModelStats, write_card
from spectrnn.export.golden import FOLDER, GoldenClip, write_golden
from spectrnn.export.graph import model_metadata, write_onnx
from spectrnn.export.onnx_model import Array, OnnxModel, StreamingOnnxModel, import_optional, load_onnx
from spectrnn.export.parity import interleaved_timings, max_abs_differences, parity_cases, require_parity
from spectrnn.export.quantize import quantize_weights
from spectrnn.export.streaming import streaming_differences, write_streaming_onnx
from spectrnn.files import replace_directory
from spectrnn.model import serialization as model_file
from spectrnn.model.classifier import Classifier
from spectrnn.runs import find_model
from spectrnn.streaming.classifier import StreamingClassifier

log = logging.getLogger(__name__)
MODEL = "model.onnx"
_GOLDEN = 5  # clips of the dataset, of different classes
_CPU = torch.device("cpu")


@dataclass(kw_only=True)
class ExportConfig:
    """export.yaml."""

    data: dict[str, Any] | None
    run: str
    format: Literal["onnx"]
    quantize: Literal["int8"] | None
    streaming: bool
    split: Literal["train", "val", "test", "all"]
    clips: PositiveInt
    max_int8_accuracy_drop: Fraction
    license: str
    out: str | None
    batch_size: PositiveInt
    verify: str | None


def export(node: DictConfig) -> None:
    """Exports a model, or verifies an export.

    Args:
        node: as export.yaml composes it.

    Raises:
        UserError: any mistake in the config, the model or the dataset; or a file that says other than it should.
    """
    config = ExportConfig(**validate_kwargs({"data": None, **to_container(node, "")}, ExportConfig, ""))
    if config.verify is not None:
        from spectrnn.export.golden import verify

        verify(config.verify)
    else:
        from spectrnn.export.export import export_run

        export_run(config)


def export_run(config: ExportConfig) -> Path:
    """Exports a model, or leaves nothing.

    Args:
        config: export.yaml.

    Returns:
        The folder of the export; the one that was there before is replaced.

    Raises:
        UserError: any mistake in the config, the model or the dataset; or a file that is not certified.
    """
    errors = ErrorCollector()
    for name in ("onnx", "onnxruntime"):
        errors.collect(import_optional, name)
    path: Path = errors.collect(find_model, config.run)
    source: DataSource = errors.collect(instantiate, config.data, "data")
    errors.raise_if_any()
    out = _folder(config, path)
    classifier, trained = model_file.load(path)
    if source.sample_rate != classifier.sample_rate:
        raise UserError(f"data.sample_rate={source.sample_rate}: the model takes {classifier.sample_rate} Hz")
    stream = StreamingClassifier(classifier, trained) if config.streaming else None
    dataset, _ = open_for_evaluation(source, config.split, classifier.labels, _CPU)
    warn_about_train_overlap(config.data or {}, trained.get("data"), path, dataset, config.split)
    tuned_thresholds = read_thresholds(path)
    clips = sample_clips(dataset, config.split, config.clips)
    with _out_dir(out) as folder:
        if stream:
            write_streaming_onnx(stream, folder / MODEL, model_metadata(classifier, tuned_thresholds))
        else:
            write_onnx(classifier, folder / MODEL, model_metadata(classifier, tuned_thresholds))
        findings = _findings(config, classifier, dataset, [clip.waveform for clip in clips], folder)
        golden = [*_golden(clips), GoldenClip(None, np.zeros(int(classifier.max_train_samples), np.float32))]
        shipped = load_onnx(folder / MODEL)
        expected = np.concatenate([shipped([clip.waveform]) for clip in golden])
        write_golden(golden, expected, classifier.sample_rate, folder)
        example = "example_streaming.py" if stream else "example.py"
        shutil.copyfile(Path(__file__).with_name(example), folder / "example.py")
        card = ModelCard(
            classifier=classifier,
            config=trained,
            source=source,
            settings=config.data or {},
            dataset=dataset,
            split=config.split,
            tuned_thresholds=tuned_thresholds,
            license=config.license,
            findings=findings,
            state=shipped.metadata.get("state"),
        )
        write_card(card, folder / "README.md")
    log.info("%s\n\nthe export is in %s", "\n".join(_summary_lines(findings, config.split)), out)
    return out


def sample_clips(dataset: Dataset, part: str, count: int) -> list[GoldenClip]:
    """Clips of a split, of all its classes in turn.

    Args:
        dataset: that holds them.
        part: train, val, test or all.
        count: at most.

    Returns:
        The clips, the shortest first.
    """
    rows = dataset.rows(part)
    rows = rows[dataset.targets(rows).argsort(kind="stable")]
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int))]
    batches = BucketedBatches(
        dataset.store,
        dataset.wave,
        rows,
        dataset.targets(rows),
        len(dataset.labels),
        1,
        dataset.max_seconds,
        None,
        _CPU,
    )
    return [GoldenClip(dataset.clips[int(batch.rows)].label, batch.waveform[0].numpy()) for batch in batches.epoch()]


def _golden(clips: Sequence[GoldenClip]) -> list[GoldenClip]:
    """The shortest clip of each of a few classes."""
    first: dict[str | None, GoldenClip] = {}
    for clip in clips:
        first.setdefault(clip.label, clip)
    return list(first.values())[:_GOLDEN]


def _findings(
    config: ExportConfig, classifier: Classifier, dataset: Dataset, clips: Sequence[Array], folder: Path
) -> dict[str, ModelStats]:
    """Certifies the file in the folder, and makes it smaller where that is asked for; kind of weights -> finding."""
    runners = {"float32": load_onnx(folder / MODEL, threads=1)}
    sizes = {"float32": (folder / MODEL).stat().st_size}
    distances = {"float32": _parity(classifier, runners["float32"], clips)}
    require_parity(distances["float32"])
    if config.quantize:
        quantize_weights(folder / MODEL, folder / MODEL)
        runners["int8"] = load_onnx(folder / MODEL, threads=1)
        sizes["int8"] = (folder / MODEL).stat().st_size
        distances["int8"] = _parity(classifier, runners["int8"], clips)
    seconds = interleaved_timings(list(runners.values()), clips)
    sound = sum(map(len, clips)) / classifier.sample_rate
    findings: dict[str, ModelStats] = {}
    parts = [part for part in dict.fromkeys(["val", str(config.split)]) if len(dataset.rows(part))]
    for name, runner in runners.items():
        batches = {part: dataset.batches(part, config.batch_size, _CPU) for part in parts}
        reports = {
            part: _report(classifier if name == "float32" else runner, batches[part], classifier.labels)
            for part in parts
        }
        rate = sound / seconds[len(findings)]
        findings[name] = ModelStats(size=sizes[name], reports=reports, differences=distances[name], rate=rate)
    _require_int8_accuracy(findings, config)
    return findings


def _parity(classifier: Classifier, exported: OnnxModel, clips: Sequence[Array]) -> dict[str, float]:
    found = max_abs_differences(classifier, exported, parity_cases(classifier, clips))
    if isinstance(exported, StreamingOnnxModel):
        found |= streaming_differences(classifier, exported, clips)
    return found


def _report(model: Classifier | OnnxModel, batches: BucketedBatches, labels: list[str]) -> dict[str, Any]:
    if isinstance(model, Classifier):
        return compute_metrics(*predict_batches(model, batches, progress=True), labels)
    heard = [(model.run(batch.waveform.numpy(), batch.lengths.numpy()), batch.rows) for batch in batches.epoch()]
    order = torch.cat([rows for _, rows in heard]).numpy().argsort()
    return compute_metrics(np.concatenate([values for values, _ in heard])[order], batches.targets, labels)


def _require_int8_accuracy(findings: dict[str, ModelStats], config: ExportConfig) -> None:
    before, after = (
        finding.reports[config.split]["accuracy"] for finding in (findings["float32"], list(findings.values())[-1])
    )
    if before - after > config.max_int8_accuracy_drop:
        raise UserError(
            f"quantize=int8: accuracy on the {config.split} split falls from {before:.4f} to {after:.4f}, "
            f"by more than max_int8_accuracy_drop={config.max_int8_accuracy_drop:g}; quantize=null exports "
            "float32"
        )


def _folder(config: ExportConfig, model: Path) -> Path:
    """Where the export goes.

    Raises:
        UserError: there is something else, which replacing it would destroy.
    """
    name = "-".join(["export", *filter(None, ["streaming" * config.streaming, config.quantize])])
    out = Path(config.out).expanduser() if config.out else model.parent / name
    ours = {MODEL, "README.md", "example.py", FOLDER}
    if out.exists() and not (out.is_dir() and {path.name for path in out.iterdir()} <= ours):
        raise UserError(f"out={out}: is there already, and is no export; name another folder")
    return out


@contextmanager
def _out_dir(out: Path) -> Iterator[Path]:
    try:
        with replace_directory(out) as folder:
            yield folder
    except OSError as error:
        raise UserError(f"out={out}: cannot be written ({error.strerror})") from error


def _summary_lines(findings: dict[str, ModelStats], split: str) -> list[str]:
    """A line a case of the certification, and one for each kind of weights."""
    certified = findings["float32"].differences
    lines = ["certified: the largest difference of a probability between onnxruntime and PyTorch"]
    lines += [f"  {name:<42}{difference:.1e}" for name, difference in certified.items()]
    for name, finding in findings.items():
        lines.append(
            f"{name}: {finding.size / 1e6:.2f} MB, accuracy {finding.reports[split]['accuracy']:.4f} "
            f"({split}), largest difference {max(finding.differences.values()):.1e}, "
            f"{finding.rate:.0f} s of sound a second on one core"
        )
    return lines
