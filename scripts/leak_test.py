"""What `spectrnn check` finds: plants every kind of defect and leak into a dataset, and counts what was found.

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

from spectrnn.check.check import all_issues, analyse_dataset, build_limits
from spectrnn.check.issues import Issue
from spectrnn.config.instantiate import instantiate
from spectrnn.config.paths import CONFIG_DIR
from spectrnn.data.clips import Clip, DataSource
from spectrnn.data.splits import assign_splits

COUNT = 20  # planted of each kind of defect
MARK = "planted"  # in the name of every planted file

Wave = np.ndarray
Change = Callable[[Wave, int], tuple[Wave, int]]


class Planted(NamedTuple):
    """Clips to add to a dataset or to put in another's place, and the finding that should name them."""

    kind: str
    clips: list[Clip]
    units: int  # examples that should name them
    instead: frozenset[str] = frozenset()  # paths that go


def main() -> None:
    """Prints a row for every kind of plant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digits", type=Path, help="the folder of the Free Spoken Digit Dataset")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # its tables lie apart from the sounds, on purpose
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = _source("fsdd", root=str(options.digits)) if options.digits else _source("synthetic_speech")
        clips = assign_splits(source.clips(), source)
        start = time.perf_counter()
        clean = _examples(_checked(clips, folder))
        seconds = time.perf_counter() - start
        print(f"clean: {len(clips)} clips, {len(clips) / seconds:.0f} clips/s, {len(clean)} alarms", *clean, sep="\n  ")
        print(f"\n{'planted':<34}{'finding':<34}{'planted':>8}{'found':>7}{'false':>7}")
        for title, planted in _plants(clips, folder):
            kept = [clip for clip in clips if clip.path not in planted.instead]
            examples = _examples(_checked([*kept, *planted.clips], folder)) - clean
            named = {(kind, text) for kind, text in examples if MARK in text or kind.startswith(("told by", "tiny"))}
            found = sum(kind in planted.kind.split(" or ") for kind, _ in named)
            print(
                f"{title:<34}{planted.kind[:33]:<34}{planted.units:>8}{found:>7}{len(examples - named):>7}", flush=True
            )


def _checked(clips: list[Clip], folder: Path) -> list[Issue]:
    """The errors and warnings of a table."""
    table = folder / "table.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split", "group"])
        writer.writerows([clip.path, clip.label, clip.split, clip.group] for clip in clips)
    source = _source("manifest", path=str(table), sample_rate=8000)
    limits = build_limits(OmegaConf.load(CONFIG_DIR / "check.yaml").limits)
    findings = all_issues(analyse_dataset(source), limits, source.sample_rate)
    return [finding for finding in findings if finding.level != "note"]


def _examples(findings: list[Issue]) -> set[tuple[str, str]]:
    """Kind and text of every example, without folders: what else is in a table changes how they are shown."""
    return {(f.kind, re.sub(r"[^ ]*/", "", example)) for f in findings for example in f.examples}


def _plants(clips: list[Clip], folder: Path) -> Iterator[tuple[str, Planted]]:
    generator = np.random.default_rng(0)
    train = [clip for clip in clips if clip.split == "train"]
    victims = [train[row] for row in generator.choice(len(train), COUNT, replace=False)]

    def written(clip: Clip, number: object, change: Change, ending: str = "wav", **settings: str) -> Clip:
        path = folder / f"{MARK}-{number}.{ending}"
        wave, rate = change(*soundfile.read(clip.path, dtype="float32"))
        soundfile.write(path, wave, rate, **settings)
        return clip._replace(path=str(path), group=None)

    for title, kind, change in _defects(generator):
        yield title, Planted(kind, [written(clip, n, change) for n, clip in enumerate(victims)], COUNT)
    nan = [
        written(clip, n, lambda wave, rate: (np.append(wave, np.nan), rate), subtype="FLOAT")
        for n, clip in enumerate(victims)
    ]
    yield "NaN", Planted("broken", nan, COUNT)
    for title, content in (("empty file", b""), ("text in a file", b"no sound\n" * 99)):
        broken = [clip._replace(path=str(folder / f"{MARK}-{n}.wav")) for n, clip in enumerate(victims)]
        for clip in broken:
            Path(clip.path).write_bytes(content)
        yield title, Planted("broken", broken, COUNT)
    for title, kind, change, ending, settings in _copies():
        copies = [written(clip, n, change, ending, **settings)._replace(split="test") for n, clip in enumerate(victims)]
        yield f"in test: {title}", Planted(kind, copies, COUNT)
    other = sorted({clip.label for clip in clips})
    torn = [
        written(clip, n, _same)._replace(label=other[other.index(clip.label) - 1]) for n, clip in enumerate(victims)
    ]
    yield "in train: copy, another label", Planted("duplicates with different labels", torn, COUNT)
    grouped = [
        written(clip, n, _noise(generator, 0.1))._replace(group=f"{MARK} {n // 2}", split=("train", "test")[n % 2])
        for n, clip in enumerate([*victims, *victims])
    ]
    yield "groups on both sides", Planted("groups across splits", grouped, COUNT)
    yield "recordings cut into 20 clips", _cut(clips, folder, generator)
    label = other[0]
    mine = [clip for clip in clips if clip.label == label]
    for title, kind, change, ending in _metadata(generator):
        changed = [written(clip, n, change, ending)._replace(group=clip.group) for n, clip in enumerate(mine)]
        yield f"class {label!r}: {title}", Planted(kind, changed, 1, frozenset(clip.path for clip in mine))
    few = [written(clip, n, _noise(generator, 0.1))._replace(label=MARK) for n, clip in enumerate(victims[:5])]
    yield "class of 5 clips", Planted("tiny classes", few, 1)


def _same(wave: Wave, rate: int) -> tuple[Wave, int]:
    return wave, rate


def _resampled(to: int) -> Change:
    return lambda wave, rate: (soxr.resample(wave, rate, to), to)


def _noise(generator: np.random.Generator, level: float) -> Change:
    return lambda wave, rate: (generator.normal(0, level, len(wave)).astype(np.float32), rate)


def _defects(generator: np.random.Generator) -> list[tuple[str, str, Change]]:
    """Files that are new, and bad: noise, changed."""
    noise = _noise(generator, 0.1)

    return [
        ("silent", "silent", _noise(generator, 1e-4)),
        ("clipped", "clipped", lambda wave, rate: (np.clip(4 * wave / np.abs(wave).max(), -0.9, 0.9), rate)),
        ("DC offset", "offset", lambda wave, rate: (noise(wave, rate)[0] + 0.1, rate)),
        (
            "upsampled from a quarter",
            "bandwidth",
            lambda wave, rate: (soxr.resample(noise(wave, rate)[0][: len(wave) // 4 + 500], rate // 4, rate), rate),
        ),
    ]


def _copies() -> list[tuple[str, str, Change, str, dict[str, str]]]:
    exact, near = "duplicates across splits", "near-duplicates across splits"
    part = f"overlaps across splits or {near}"  # what is cut off may be near silence

    def padded(wave: Wave, rate: int) -> tuple[Wave, int]:
        return np.concatenate([np.zeros(777), wave, np.zeros(999)]), rate

    return [
        ("copy", exact, _same, "wav", {}),
        ("FLAC", exact, _same, "flac", {}),
        ("silence around it", exact, padded, "wav", {}),
        ("8 dB lower", near, lambda wave, rate: (0.4 * wave, rate), "wav", {}),
        ("8 dB lower, padded, MP3", near, lambda wave, rate: padded(0.4 * wave, rate), "mp3", {}),
        ("MP3", near, _same, "mp3", {}),
        ("Vorbis", near, _same, "ogg", {}),
        ("Opus", near, _resampled(16000), "ogg", {"subtype": "OPUS"}),
        ("mu-law", near, _same, "wav", {"subtype": "ULAW"}),
        ("8 bits", near, _same, "wav", {"subtype": "PCM_U8"}),
        ("44.1 kHz", near, _resampled(44100), "wav", {}),
        ("without the first third", part, lambda wave, rate: (wave[len(wave) // 3 :], rate), "wav", {}),
        ("the middle half", part, lambda wave, rate: (wave[len(wave) // 4 : -len(wave) // 4], rate), "wav", {}),
    ]


def _cut(clips: list[Clip], folder: Path, generator: np.random.Generator) -> Planted:
    """Recordings of a changing background, cut into clips; every fifth tests."""
    parts = []
    labels = sorted({clip.label for clip in clips})
    for number in range(COUNT // 4):
        loudness = np.interp(np.arange(20 * 4000), np.arange(0, 20 * 4000, 3000), generator.uniform(0.5, 30, 27))
        wave = generator.normal(0, 0.005, 20 * 4000) * loudness
        for part in range(20):
            path = folder / f"{MARK}{number}_{part:03d}.wav"
            soundfile.write(path, wave[part * 4000 : (part + 1) * 4000], 8000)
            parts.append(Clip(str(path), labels[part % len(labels)], "train" if part % 5 else "test"))
    return Planted("cut recordings across splits", parts, COUNT // 4)


def _metadata(generator: np.random.Generator) -> list[tuple[str, str, Change, str]]:
    """Changes of a whole class."""
    return [
        ("MP3", "told by format", _same, "mp3"),
        ("44.1 kHz", "told by rate", _resampled(44100), "wav"),
        ("6 dB louder", "told by level", lambda wave, rate: (np.clip(2 * wave, -1, 1), rate), "wav"),
        ("half a second long", "told by length", lambda wave, rate: (np.resize(wave, rate // 2), rate), "wav"),
    ]


def _source(name: str, **settings: object) -> DataSource:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        data = compose(overrides=[f"+data={name}"]).data
    return instantiate(OmegaConf.merge(data, settings), "data")


if __name__ == "__main__":
    main()
