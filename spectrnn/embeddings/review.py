"""`spectrnn review`: the recordings or windows that are most worth labelling, as clips, a table, and a page."""

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from omegaconf import DictConfig

from spectrnn.config.instantiate import to_container, validate_kwargs
from spectrnn.config.types import HopSeconds, PositiveInt, WindowSeconds
from spectrnn.data.audio import load_audio, open_audio, to_float
from spectrnn.data.labels import LABEL_SET, SEPARATOR
from spectrnn.devices import reporting_out_of_memory
from spectrnn.embeddings.embed import embedding_task, list_recordings, write_recordings
from spectrnn.embeddings.selection import Candidates, choose, most_uncertain
from spectrnn.embeddings.table import Embeddings, open_embeddings
from spectrnn.errors import UserError
from spectrnn.evaluation.report.html import media_blocks, render_page
from spectrnn.evaluation.report.media import render_waveform
from spectrnn.files import atomic_write, reporting_write_errors
from spectrnn.inference.predict import report_failures
from spectrnn.inference.predictor import Predictor, embedding_hash, load, top_classes
from spectrnn.inference.shards import Shard
from spectrnn.messages import counted
from spectrnn.runs import find_model
from spectrnn.version import __version__

TABLE, PAGE, CLIPS, EMBEDDINGS = "labels.csv", "review.html", "clips", "embeddings.npz"

_SCRIPTS = ("page.js", "players.js", "list.js", "review.js")
_TOP_K = 5  # probabilities per clip
_PAGE_BYTES = 100_000_000  # for audio and spectrograms


@dataclass(kw_only=True)
class ReviewConfig:
    """Top level of review.yaml."""

    paths: list[str]
    run: str
    n: PositiveInt
    window: WindowSeconds | None
    hop: HopSeconds | None
    out: str
    batch_size: PositiveInt
    device: str
    trust: list[str]


class ReviewClip(NamedTuple):
    """A clip to label.

    Attributes:
        path: File of its audio, relative to the table.
        group: Recording that it is a part of.
        start, end: Its place there in s.
        predicted: Label by the model.
        probabilities: Probabilities (classes,).
        uncertainty: Uncertainty of the model, from 0 to 1.
        media: ``audio`` and ``spectrogram`` as data URLs.
        seconds: Length in s.
    """

    path: str
    group: str
    start: float
    end: float
    predicted: list[str]
    probabilities: Any
    uncertainty: float
    media: dict[str, str]
    seconds: float


@reporting_out_of_memory("batch_size")
def review(node: DictConfig) -> None:
    """Writes a folder of clips to label as a review.yaml defines it.

    Raises:
        UserError: No recordings, a model that cannot be loaded, a folder that cannot be written; or, after all others
            have been processed, recordings that cannot be read.
    """
    config = ReviewConfig(**validate_kwargs(to_container(node, ""), ReviewConfig, ""))
    out, paths = Path(config.out).expanduser(), list_recordings(config.paths, "review")
    if (out / TABLE).exists():
        raise UserError(f"out={config.out}: has a {TABLE} already, which may hold your labels; name another folder")
    model = find_model(config.run)
    predictor = load(model, config.device, config.trust)
    task, file = embedding_task(predictor, config.window, config.hop), out / EMBEDDINGS
    failed, total = write_recordings(
        file, embedding_hash(model), task, paths, "float32", config.batch_size, Shard(1, 1)
    )
    if failed < total:
        embeddings = open_embeddings(file, "out")
        candidates = most_uncertain(embeddings, predictor)
        chosen = candidates.take(np.array(choose(candidates.vectors, candidates.uncertainty, config.n)))
        with reporting_write_errors(f"out={config.out}"):
            clips = _cut(out, embeddings, chosen, predictor)
            _write_page(out, clips, predictor, model)
            _write_table(out / TABLE, clips)
        print(f"{out / PAGE}: {counted(len(clips), 'clip')} of {len(embeddings.paths):,} to label")
        print(f"then: spectrnn train data=manifest data.path={out / TABLE}")
    report_failures(failed, total, "embedded")


def _cut(out: Path, embeddings: Embeddings, chosen: Candidates, predictor: Predictor) -> list[ReviewClip]:
    """Cuts the chosen rows to files, at the sample rates of their recordings."""
    (out / CLIPS).mkdir(parents=True, exist_ok=True)
    clips = []
    for number, (row, _, probabilities, uncertainty) in enumerate(zip(*chosen, strict=True), 1):
        recording, start, end = str(embeddings.paths[row]), float(embeddings.starts[row]), float(embeddings.ends[row])
        with open_audio(recording) as opened:
            rate = opened.reader.sample_rate
        path = f"{CLIPS}/{number:04d}.wav"
        with atomic_write(out / path) as temporary:
            soundfile.write(temporary, load_audio(recording, rate, start, end), rate, format="WAV")
        predicted = predictor.detected(probabilities)
        samples = to_float(load_audio(out / path, predictor.sample_rate))
        media, seconds = render_waveform(predictor.classifier, samples), len(samples) / predictor.sample_rate
        clips.append(
            ReviewClip(path, recording, start, end, predicted, probabilities, float(uncertainty), media, seconds)
        )
    return clips


def _write_table(path: Path, clips: list[ReviewClip]) -> None:
    """Writes a manifest with an empty label, beside the label by the model."""
    with (
        atomic_write(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "label", "predicted", "uncertainty", "group", "from_seconds", "to_seconds"])
        for clip in clips:
            label = SEPARATOR.join(clip.predicted)
            cells = [f"{clip.uncertainty:.4f}", clip.group, f"{clip.start:.3f}", f"{clip.end:.3f}"]
            writer.writerow([clip.path, "", label, *cells])


def _write_page(out: Path, clips: list[ReviewClip], predictor: Predictor, model: Path) -> None:
    has_sets = predictor.classifier.task.label_format is LABEL_SET
    data = {
        "model": str(model),
        "labels": predictor.labels,
        "has_sets": has_sets,
        "table": TABLE,
        "base": os.path.join(os.path.abspath(out), ""),
        "frequencies": [round(hertz, 1) for hertz in predictor.classifier.features.picture.center_frequencies.tolist()],
        "clips": [_page_row(clip) for clip in clips],
        "imprint": f"spectrnn {__version__}. {' → '.join(predictor.classifier.architecture)}",
    }
    blocks = media_blocks(enumerate(clip.media for clip in clips), _PAGE_BYTES)
    with atomic_write(out / PAGE) as temporary:
        temporary.write_bytes(render_page("review.html", _SCRIPTS, f"{len(clips)} clips to label", data, blocks))


def _page_row(clip: ReviewClip) -> list[Any]:
    top = top_classes(clip.probabilities, _TOP_K).tolist()
    scores = [[label, round(float(clip.probabilities[label]), 4)] for label in top]
    return [clip.path, clip.group, clip.start, clip.end, clip.seconds, round(clip.uncertainty, 4), scores]
