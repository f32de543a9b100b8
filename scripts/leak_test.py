"""Measures the recall of `spectrnn check`: injects each kind of defect and leakage into a dataset.

uv run scripts/leak_test.py                  # into the embedded dataset of synthetic voices
uv run scripts/leak_test.py --digits FSDD    # into the Free Spoken Digit Dataset
"""

import argparse
import csv
import logging
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from spectrnn.check.analysis import analyze_dataset
from spectrnn.check.check import find_issues
from spectrnn.config.instantiate import instantiate
from spectrnn.config.paths import CONFIG_DIR
from spectrnn.data.clips import Clip, DataSource
from spectrnn.data.splits import assign_splits

COUNT = 20  # injections per kind
MARK = "injected"  # in the name of every injected file

Waveform = np.ndarray
Change = Callable[[Waveform, int], tuple[Waveform, int]]


class Injection(NamedTuple):
    """Clips that are added to a dataset, and the issue that should report them.

    Attributes:
        title: Description.
        kinds: Expected kind of the issue, or several separated by " or ".
        clips: Clips to add.
        expected: Expected number of examples that name them.
        replaced: Paths of the clips that they replace.
    """

    title: str
    kinds: str
    clips: list[Clip]
    expected: int = COUNT
    replaced: frozenset[str] = frozenset()


def main() -> None:
    """Prints a row per kind of injection."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digits", type=Path, help="folder of the Free Spoken Digit Dataset")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # the manifests are stored apart from the recordings on purpose
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = _source("fsdd", root=str(options.digits)) if options.digits else _source("synthetic_speech")
        clips = assign_splits(source.clips(), source)
        start = time.perf_counter()
        clean = _examples(clips, folder)
        seconds = time.perf_counter() - start
        print(f"clean: {len(clips)} clips, {len(clips) / seconds:.0f} clips/s, {len(clean)} issues", *clean, sep="\n  ")
        print(f"\n{'injection':<34}{'issue':<34}{'injected':>9}{'found':>7}{'false':>7}")
        for title, kinds, added, expected, replaced in _injections(clips, folder):
            kept = [clip for clip in clips if clip.path not in replaced]
            examples = _examples([*kept, *added], folder) - clean
            named = {(kind, text) for kind, text in examples if MARK in text or kind.startswith("predictable from")}
            found = sum(kind in kinds.split(" or ") for kind, _ in named)
            print(f"{title:<34}{kinds[:33]:<34}{expected:>9}{found:>7}{len(examples - named):>7}", flush=True)


def _examples(clips: list[Clip], folder: Path) -> set[tuple[str, str]]:
    """Kind and text of all examples of errors and warnings, without folders, which depend on the other clips."""
    table = folder / "table.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split", "group"])
        writer.writerows([clip.path, clip.label, clip.split, clip.group] for clip in clips)
    limits = instantiate(OmegaConf.load(CONFIG_DIR / "check.yaml").limits, "limits")
    source = _source("manifest", path=str(table), sample_rate=8000)
    issues = find_issues(analyze_dataset(source), limits, source.sample_rate)
    return {(x.kind, re.sub(r"[^ ]*/", "", text)) for x in issues if x.level != "note" for text in x.examples}


def _injections(clips: list[Clip], folder: Path) -> Iterator[Injection]:
    generator = np.random.default_rng(0)
    train = [clip for clip in clips if clip.split == "train"]
    originals = [train[row] for row in generator.choice(len(train), COUNT, replace=False)]
    labels = sorted({clip.label for clip in clips})

    def changed(clip: Clip, number: int, change: Change, ending: str = "wav", **settings: str) -> Clip:
        path = folder / f"{MARK}-{number}.{ending}"
        waveform, rate = change(*soundfile.read(clip.path, dtype="float32"))
        soundfile.write(path, waveform, rate, **settings)
        return clip._replace(path=str(path), group=None)

    noise = _noise(generator, 0.1)

    def upsampled(wave: Waveform, rate: int) -> tuple[Waveform, int]:
        return soxr.resample(noise(wave, rate)[0][: len(wave) // 4 + 500], rate // 4, rate), rate

    defects: list[tuple[str, str, Change, dict[str, str]]] = [
        ("silent", "silent", _noise(generator, 1e-4), {}),
        ("clipped", "clipped", lambda wave, rate: (np.clip(4 * wave / np.abs(wave).max(), -0.9, 0.9), rate), {}),
        ("DC offset", "DC offset", lambda wave, rate: (noise(wave, rate)[0] + 0.1, rate), {}),
        ("upsampled by 4", "bandwidth", upsampled, {}),
        ("NaN", "unreadable", lambda wave, rate: (np.append(wave, np.nan), rate), {"subtype": "FLOAT"}),
    ]
    for title, kind, change, settings in defects:
        yield Injection(title, kind, [changed(clip, n, change, **settings) for n, clip in enumerate(originals)])
    for title, content in (("empty file", b""), ("text in a file", b"no sound\n" * 99)):
        broken = [clip._replace(path=str(folder / f"{MARK}-{n}.wav")) for n, clip in enumerate(originals)]
        for clip in broken:
            Path(clip.path).write_bytes(content)
        yield Injection(title, "unreadable", broken)
    for title, kinds, change, ending, settings in _copies():
        copies = [changed(clip, n, change, ending, **settings) for n, clip in enumerate(originals)]
        yield Injection(f"in test: {title}", kinds, [clip._replace(split="test") for clip in copies])
    mislabeled = [
        changed(clip, n, _copy)._replace(label=labels[labels.index(clip.label) - 1]) for n, clip in enumerate(originals)
    ]
    yield Injection("in train: copy, another label", "duplicates with different labels", mislabeled)
    grouped = [
        changed(clip, n, noise)._replace(group=f"{MARK} {n // 2}", split=("train", "test")[n % 2])
        for n, clip in enumerate([*originals, *originals])
    ]
    yield Injection("groups in two splits", "groups across splits", grouped)
    yield _cut_recordings(labels, folder, generator)
    members = [clip for clip in clips if clip.label == labels[0]]
    for title, feature, change, ending in (
        ("MP3", "format", _copy, "mp3"),
        ("44.1 kHz", "sample rate", _resampled(44100), "wav"),
        ("6 dB louder", "level", lambda wave, rate: (np.clip(2 * wave, -1, 1), rate), "wav"),
        ("0.5 s long", "duration", lambda wave, rate: (np.resize(wave, rate // 2), rate), "wav"),
    ):
        kind = f"predictable from {feature}"
        new = [changed(clip, n, change, ending)._replace(group=clip.group) for n, clip in enumerate(members)]
        yield Injection(f"class {labels[0]!r}: {title}", kind, new, 1, frozenset(clip.path for clip in members))
    few = [changed(clip, n, noise)._replace(label=MARK) for n, clip in enumerate(originals[:5])]
    yield Injection("class of 5 clips", "small classes", few, 1)


def _copy(waveform: Waveform, rate: int) -> tuple[Waveform, int]:
    return waveform, rate


def _padded(waveform: Waveform, rate: int) -> tuple[Waveform, int]:
    return np.pad(waveform, (777, 999)), rate


def _resampled(to: int) -> Change:
    return lambda waveform, rate: (soxr.resample(waveform, rate, to), to)


def _noise(generator: np.random.Generator, level: float) -> Change:
    return lambda waveform, rate: (generator.normal(0, level, len(waveform)).astype(np.float32), rate)


def _copies() -> list[tuple[str, str, Change, str, dict[str, str]]]:
    """Copies of clips: title, kind of the issue, change, file name extension, settings of soundfile.write."""
    exact, near = "duplicates across splits", "near-duplicates across splits"
    part = f"overlaps across splits or {near}"  # what is cut off may be almost silent
    return [
        ("copy", exact, _copy, "wav", {}),
        ("FLAC", exact, _copy, "flac", {}),
        ("padded with silence", exact, _padded, "wav", {}),
        ("8 dB lower", near, lambda wave, rate: (0.4 * wave, rate), "wav", {}),
        ("8 dB lower, padded, MP3", near, lambda wave, rate: _padded(0.4 * wave, rate), "mp3", {}),
        ("MP3", near, _copy, "mp3", {}),
        ("Vorbis", near, _copy, "ogg", {}),
        ("Opus", near, _resampled(16000), "ogg", {"subtype": "OPUS"}),
        ("mu-law", near, _copy, "wav", {"subtype": "ULAW"}),
        ("8 bits", near, _copy, "wav", {"subtype": "PCM_U8"}),
        ("44.1 kHz", near, _resampled(44100), "wav", {}),
        ("without the first third", part, lambda wave, rate: (wave[len(wave) // 3 :], rate), "wav", {}),
        ("the middle half", part, lambda wave, rate: (wave[len(wave) // 4 : -len(wave) // 4], rate), "wav", {}),
    ]


def _cut_recordings(labels: list[str], folder: Path, generator: np.random.Generator) -> Injection:
    """Recordings of a changing background, cut into clips, of which every fifth is a test clip."""
    clips = []
    for number in range(COUNT // 4):
        loudness = np.interp(np.arange(20 * 4000), np.arange(0, 20 * 4000, 3000), generator.uniform(0.5, 30, 27))
        waveform = generator.normal(0, 0.005, 20 * 4000) * loudness
        for part in range(20):
            path = folder / f"{MARK}{number}_{part:03d}.wav"
            soundfile.write(path, waveform[part * 4000 : (part + 1) * 4000], 8000)
            clips.append(Clip(str(path), labels[part % len(labels)], "train" if part % 5 else "test"))
    return Injection("recordings cut into 20 clips", "cut recordings across splits", clips, COUNT // 4)


def _source(name: str, **settings: object) -> DataSource:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        data = compose(overrides=[f"+data={name}"]).data
    return instantiate(OmegaConf.merge(data, settings), "data")


if __name__ == "__main__":
    main()
