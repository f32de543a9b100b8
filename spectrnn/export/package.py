"""An export: the model's file, certified, with its card, an example, and golden clips beside it."""

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spectrnn.config import build
from spectrnn.data.batches import Batches
from spectrnn.data.clips import Source
from spectrnn.data.corpus import Corpus, open_for_evaluation
from spectrnn.errors import Mistakes, UserError
from spectrnn.export.card import Card, Finding, write_card
from spectrnn.export.certify import cases, certify, differences, race
from spectrnn.export.golden import FOLDER, Golden, write_golden
from spectrnn.export.graph import facts, write_onnx
from spectrnn.export.quantize import quantize
from spectrnn.export.runtime import Array, Exported, Streaming, library, opened
from spectrnn.export.settings import ExportConfig
from spectrnn.export.streaming import streaming_differences, write_streaming_onnx
from spectrnn.files import replaced_folder
from spectrnn.inference.evaluate import classify, full_report, warn_of_other_clips
from spectrnn.model import file as model_file
from spectrnn.model.classifier import Classifier
from spectrnn.model.decisions import read_decisions
from spectrnn.runs import find_model
from spectrnn.streaming.classifier import StreamingClassifier

log = logging.getLogger(__name__)

MODEL = "model.onnx"
_GOLDEN = 5  # clips of the corpus, of different classes
_CPU = torch.device("cpu")


def export_run(config: ExportConfig) -> Path:
    """Exports a model, or leaves nothing.

    Args:
        config: export.yaml.

    Returns:
        The folder of the export; the one that was there before is replaced.

    Raises:
        UserError: any mistake in the config, the model or the corpus; or a file that is not certified.
    """
    mistakes = Mistakes()
    for name in ("onnx", "onnxruntime"):
        mistakes.attempt(library, name)
    path: Path = mistakes.attempt(find_model, config.run)
    source: Source = mistakes.attempt(build, config.data, "data")
    mistakes.tell()
    out = _folder(config, path)
    classifier, trained = model_file.load(path)
    if source.sample_rate != classifier.sample_rate:
        raise UserError(f"data.sample_rate={source.sample_rate}: the model takes {classifier.sample_rate} Hz")
    stream = StreamingClassifier(classifier, trained) if config.streaming else None
    corpus, _ = open_for_evaluation(source, config.split, classifier.labels, _CPU)
    warn_of_other_clips(config.data or {}, trained.get("data"), path, corpus, config.split)
    decisions = read_decisions(path)
    clips = drawn(corpus, config.split, config.clips)
    with _written(out) as folder:
        if stream:
            write_streaming_onnx(stream, folder / MODEL, facts(classifier, decisions))
        else:
            write_onnx(classifier, folder / MODEL, facts(classifier, decisions))
        findings = _findings(config, classifier, corpus, [clip.waveform for clip in clips], folder)
        golden = [*_golden(clips), Golden(None, np.zeros(int(classifier.longest), np.float32))]
        shipped = opened(folder / MODEL)
        expected = np.concatenate([shipped([clip.waveform]) for clip in golden])
        write_golden(golden, expected, classifier.sample_rate, folder)
        example = "example_streaming.py" if stream else "example.py"
        shutil.copyfile(Path(__file__).with_name(example), folder / "example.py")
        card = Card(classifier=classifier, config=trained, source=source, settings=config.data or {}, corpus=corpus,
                    split=config.split, decisions=decisions, license=config.license, findings=findings,
                    state=shipped.metadata.get("state"))  # fmt: skip
        write_card(card, folder / "README.md")
    log.info("%s\n\nthe export is in %s", "\n".join(_told(findings, config.split)), out)
    return out


def drawn(corpus: Corpus, part: str, count: int) -> list[Golden]:
    """Clips of a split, of all its classes in turn.

    Args:
        corpus: that holds them.
        part: train, val, test or all.
        count: at most.

    Returns:
        The clips, the shortest first.
    """
    rows = corpus.rows(part)
    rows = rows[corpus.targets(rows).argsort(kind="stable")]
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int))]
    batches = Batches(corpus.store, corpus.wave, rows, corpus.targets(rows), len(corpus.labels), 1,
                      corpus.max_seconds, None, _CPU)  # fmt: skip
    return [Golden(corpus.clips[int(batch.rows)].label, batch.waveform[0].numpy()) for batch in batches.epoch()]


def _golden(clips: Sequence[Golden]) -> list[Golden]:
    """The shortest clip of each of a few classes."""
    first: dict[str | None, Golden] = {}
    for clip in clips:
        first.setdefault(clip.label, clip)
    return list(first.values())[:_GOLDEN]


def _findings(
    config: ExportConfig, classifier: Classifier, corpus: Corpus, clips: Sequence[Array], folder: Path
) -> dict[str, Finding]:
    """Certifies the file in the folder, and makes it smaller where that is asked for; kind of weights -> finding."""
    runners = {"float32": opened(folder / MODEL, threads=1)}
    sizes = {"float32": (folder / MODEL).stat().st_size}
    distances = {"float32": _distances(classifier, runners["float32"], clips)}
    certify(distances["float32"])
    if config.quantize:
        quantize(folder / MODEL, folder / MODEL)
        runners["int8"] = opened(folder / MODEL, threads=1)
        sizes["int8"] = (folder / MODEL).stat().st_size
        distances["int8"] = _distances(classifier, runners["int8"], clips)
    seconds = race(list(runners.values()), clips)
    sound = sum(map(len, clips)) / classifier.sample_rate
    findings: dict[str, Finding] = {}
    parts = [part for part in dict.fromkeys(["val", str(config.split)]) if len(corpus.rows(part))]
    for name, runner in runners.items():
        batches = {part: corpus.batches(part, config.batch_size, _CPU) for part in parts}
        reports = {part: _report(classifier if name == "float32" else runner, batches[part], classifier.labels)
                   for part in parts}  # fmt: skip
        rate = sound / seconds[len(findings)]
        findings[name] = Finding(size=sizes[name], reports=reports, differences=distances[name], rate=rate)
    _refuse_worse(findings, config)
    return findings


def _distances(classifier: Classifier, exported: Exported, clips: Sequence[Array]) -> dict[str, float]:
    found = differences(classifier, exported, cases(classifier, clips))
    if isinstance(exported, Streaming):
        found |= streaming_differences(classifier, exported, clips)
    return found


def _report(model: Classifier | Exported, batches: Batches, labels: list[str]) -> dict[str, Any]:
    if isinstance(model, Classifier):
        return full_report(*classify(model, batches, progress=True), labels)
    heard = [(model.run(batch.waveform.numpy(), batch.lengths.numpy()), batch.rows) for batch in batches.epoch()]
    order = torch.cat([rows for _, rows in heard]).numpy().argsort()
    return full_report(np.concatenate([values for values, _ in heard])[order], batches.targets, labels)


def _refuse_worse(findings: dict[str, Finding], config: ExportConfig) -> None:
    before, after = (finding.reports[config.split]["accuracy"] for finding in
                     (findings["float32"], list(findings.values())[-1]))  # fmt: skip
    if before - after > config.int8_accuracy_drop:
        raise UserError(f"quantize=int8: accuracy on the {config.split} split falls from {before:.4f} to {after:.4f}, "
                        f"by more than int8_accuracy_drop={config.int8_accuracy_drop:g}; quantize=null exports "
                        "float32")  # fmt: skip


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
def _written(out: Path) -> Iterator[Path]:
    try:
        with replaced_folder(out) as folder:
            yield folder
    except OSError as error:
        raise UserError(f"out={out}: cannot be written ({error.strerror})") from error


def _told(findings: dict[str, Finding], split: str) -> list[str]:
    """A line a case of the certification, and one for each kind of weights."""
    certified = findings["float32"].differences
    lines = ["certified: the largest difference of a probability between onnxruntime and PyTorch"]
    lines += [f"  {name:<42}{difference:.1e}" for name, difference in certified.items()]
    for name, finding in findings.items():
        lines.append(f"{name}: {finding.size / 1e6:.2f} MB, accuracy {finding.reports[split]['accuracy']:.4f} "
                     f"({split}), largest difference {max(finding.differences.values()):.1e}, "
                     f"{finding.rate:.0f} s of sound a second on one core")  # fmt: skip
    return lines
