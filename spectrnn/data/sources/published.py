"""Published datasets with their official splits: spoken digits, speech commands, environmental and urban sounds."""

import csv
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from spectrnn.data.audio import open_audio
from spectrnn.data.clips import SPLITS, Clip, DataSource
from spectrnn.data.sources.download import Archive, fetch
from spectrnn.data.sources.tables import require_columns
from spectrnn.errors import UserError, reject_settings
from spectrnn.messages import counted

# v1.0.10 adds a sixth speaker, lucas; the checksum of v1.0.9 is published (TensorFlow Datasets, spoken_digit).
_FSDD_ARCHIVE = Archive(
    name="the Free Spoken Digit Dataset",
    url="https://github.com/Jakobovski/free-spoken-digit-dataset/archive/v1.0.9.tar.gz",
    checksum="sha256:8bc44cde129d505cbbb6b365c09f80c663f2aa77578afc634e6141a2f87100c0",
    size=11_975_353,
)
SPEECH_COMMANDS = {
    1: Archive(
        name="Speech Commands V1",
        url="https://storage.googleapis.com/download.tensorflow.org/data/speech_commands_v0.01.tar.gz",
        checksum="sha256:743935421bb51cccdb6bdd152e04c5c70274e935c82119ad7faeec31780d811d",
        size=1_489_096_277,
    ),
    2: Archive(
        name="Speech Commands V2",
        url="https://storage.googleapis.com/download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
        checksum="sha256:af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
        size=2_428_923_189,
    ),
}
# The publishers of the next two give an MD5 only. It detects damage, and a second preimage is infeasible; only the
# publisher could have made two files with the same MD5.
_ESC50_ARCHIVE = Archive(
    name="ESC-50",
    # Not master.zip, whose checksum changes with every edit of the README (soundata, issue 208).
    url="https://github.com/karolpiczak/ESC-50/archive/33c8ce9eb2cf0b1c2f8bcf322eb349b6be34dbb6.zip",
    checksum="md5:071b44018315e034b2c6e8064543d19c",
    size=647_224_334,
)
URBANSOUND8K = Archive(
    name="UrbanSound8K",
    url="https://zenodo.org/record/1203745/files/UrbanSound8K.tar.gz",
    checksum="md5:9aa69802bbf37fb986f71ec1483a196e",
    size=6_023_741_708,
)

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
WORDS_V1 = {*COMMANDS, *DIGITS, "bed", "bird", "cat", "dog", "happy", "house", "marvin", "sheila", "tree", "wow"}
WORDS = {1: WORDS_V1, 2: WORDS_V1 | {"backward", "follow", "forward", "learn", "visual"}}

_NOISE = "_background_noise_"
_NOISE_SPLIT_TENTHS = {"train": (0, 8), "val": (8, 9), "test": (9, 10)}  # part of each noise recording


@dataclass(kw_only=True)
class PublishedDataset(DataSource):
    """Base class of published datasets.

    Args:
        root: Folder of the dataset.
        download: Whether to download the dataset if the folder is missing or empty.
    """

    root: str
    download: bool

    def resolve_root(self, archive: Archive, *contents: str) -> Path:
        """Returns the folder of the dataset, after downloading it if requested.

        Args:
            archive: Archive to download.
            contents: Glob patterns, each of which must match a file in the folder.

        Raises:
            UserError: A folder or contents that are missing, or a download that fails.
        """
        root = Path(self.root).expanduser()
        if self.download and not all(any(root.glob(pattern)) for pattern in contents):
            fetch(archive, root)
        missing = [pattern for pattern in contents if not any(root.glob(pattern))]
        offer = f"data.download=true downloads {archive.name} ({archive.size / 1e6:,.0f} MB)"
        if not root.is_dir():
            raise UserError(f"data.root={self.root}: no such folder; {offer}")
        if missing:
            raise UserError(f"data.root={self.root}: contains no {' and no '.join(missing)}; {offer} into a new folder")
        return root


@dataclass(kw_only=True)
class FSDD(PublishedDataset):
    """Free Spoken Digit Dataset (Jackson et al., 2018, doi:10.5281/zenodo.1342401): ten digits, a few speakers, 8 kHz.

    The labels are the digits as words. Without a fold the splits are the official ones: recordings 0 to 4 of every
    speaker and digit for testing, the others for training; all speakers are in both. The speakers are the folds; with
    ``fold=<speaker>``, or folds of a cross-validation, they are the groups as well.
    """

    group_noun: ClassVar[str] = "speaker"

    def clips(self) -> list[Clip]:
        """Returns the clip table, sorted by name: ``<digit>_<speaker>_<index>.wav`` in `root` or in its recordings."""
        root = self.resolve_root(_FSDD_ARCHIVE, "**/*.wav")
        paths = sorted(root.glob("recordings/[!.]*.wav")) or sorted(root.glob("[!.]*.wav"))
        if not paths:
            raise UserError(f"data.root={self.root}: contains no recordings/*.wav and no *.wav")
        clips = []
        for path in paths:
            match = re.fullmatch(r"([0-9])_([^_]+)_([0-9]+)\.wav", path.name)
            if match is None:
                raise UserError(f"{path}: the name should be <digit>_<speaker>_<index>.wav")
            digit, speaker, index = int(match[1]), match[2], int(match[3])
            clip = Clip(str(path), DIGITS[digit], "test" if index < 5 else "train", fold=speaker)
            is_official = self.fold is None and self.folds is None
            clips.append(clip if is_official else clip._replace(split=None, group=speaker))
        return clips


@dataclass(kw_only=True)
class SpeechCommands(PublishedDataset):
    """Speech Commands (Warden, 2018, arXiv:1804.03209): one-second words, 16 kHz, split by the official lists.

    The groups are the speakers, from the hash in the file names. With all 35 words (V1: 30) every word is a class. The
    12 classes are ten commands, ``unknown`` and ``silence``. With n, a tenth of a split's command clips, rounded up:

    - ``unknown`` consists of n clips of the other words, drawn by `split_seed`;
    - ``silence`` consists of n excerpts of 1 s of the recordings in ``_background_noise_`` (of 10 s or more), evenly
      spaced, at their original level: from the first 80 % of each recording for training, the next 10 % for validation,
      and the last 10 % for testing. They overlap within a split, but never between two.

    The sizes are those of the paper (V2 has 408 test clips of either class). Its own selection of unknown and silent
    test clips is a separate download, and not used.

    Args:
        version: Version of the dataset.
        classes: Number of classes: 12, or all words of the version, 30 or 35.
    """

    group_noun: ClassVar[str] = "speaker"

    version: Literal[1, 2]
    classes: Literal[12, 30, 35]

    def __post_init__(self) -> None:
        words = len(WORDS[self.version])
        message = f"version={self.version} has 12 or {words} classes"
        reject_settings(("classes", self.classes not in (12, words), message))

    def clips(self) -> list[Clip]:
        """Returns the clip table, sorted by word and file name; with 12 classes by split first."""
        noises = [f"{_NOISE}/*.wav"] if self.classes == 12 else []
        root = self.resolve_root(SPEECH_COMMANDS[self.version], "validation_list.txt", "testing_list.txt", *noises)
        words = {entry.name for entry in root.iterdir() if entry.is_dir() and entry.name[0] != "."} - {_NOISE}
        if words != WORDS[self.version]:
            difference = f"data.version={self.version}: {', '.join(sorted(words ^ WORDS[self.version]))}"
            raise UserError(f"data.root={self.root}: its words differ from those of {difference}")
        lists = {"val": root / "validation_list.txt", "test": root / "testing_list.txt"}
        listed = {line: split for split, path in lists.items() for line in path.read_text("utf-8").split()}
        clips = []
        for word in sorted(words):
            for name in sorted(path.name for path in (root / word).glob("[!.]*.wav")):
                speaker, mark, _ = name.partition("_nohash_")
                if not mark:
                    raise UserError(f"{root / word / name}: the name should be <speaker>_nohash_<number>.wav")
                clips.append(Clip(str(root / word / name), word, listed.pop(f"{word}/{name}", "train"), group=speaker))
        if listed:
            of = "of its own lists"
            missing = f"{counted(len(listed), f'file {of} is', f'files {of} are')} missing, such as {min(listed)}"
            raise UserError(f"data.root={self.root}: {missing}")
        return _twelve_class_task(clips, sorted(root.glob(noises[0])), self.split_seed) if noises else clips


def _twelve_class_task(words: Sequence[Clip], noises: Sequence[Path], seed: int) -> list[Clip]:
    """The ten commands of every split, and as many unknown words and silences as the average command has clips."""
    clips: list[Clip] = []
    for split in SPLITS:
        commands = [clip for clip in words if clip.split == split and clip.label in COMMANDS]
        others = [clip for clip in words if clip.split == split and clip.label not in COMMANDS]
        count = math.ceil(len(commands) / len(COMMANDS))
        unknown = random.Random(f"{seed} {split}").sample(others, min(count, len(others)))
        clips += commands
        clips += sorted(clip._replace(label="unknown") for clip in unknown)
        clips += _silence_clips(noises, split, count)
    return clips


def _silence_clips(noises: Sequence[Path], split: str, count: int) -> list[Clip]:
    """Clips of 1 s, evenly spaced over the split's part of each noise recording in turn."""
    durations = []  # in integer milliseconds, so that the end of one split is exactly the start of the next
    for path in noises:
        with open_audio(path) as recording:
            milliseconds = int(1000 * recording.reader.seconds)
        if milliseconds >= 10_000:
            durations.append((path, milliseconds))
    if not durations:
        raise UserError(f"{noises[0].parent}: contains no recording of 10 s or more for the class silence")
    begin, end = _NOISE_SPLIT_TENTHS[split]
    clips = []
    for number in range(count):
        path, duration = durations[number % len(durations)]
        first, last = duration * begin // 10, duration * end // 10 - 1000
        start = first + (last - first) * number // max(count - 1, 1)
        clips.append(Clip(str(path), "silence", split, start=start / 1000, end=(start + 1000) / 1000))
    return clips


@dataclass(kw_only=True)
class ESC50(PublishedDataset):
    """ESC-50 (Piczak, 2015, doi:10.1145/2733373.2806390): 50 environmental sounds, 5 s each, 44.1 kHz, 5 folds.

    The groups are the Freesound recordings that the clips are excerpts of.
    """

    group_noun: ClassVar[str] = "Freesound recording"

    def clips(self) -> list[Clip]:
        """Returns the clip table, in the order of ``meta/esc50.csv``."""
        root = self.resolve_root(_ESC50_ARCHIVE, "meta/esc50.csv", "audio/*.wav")
        rows = _table(root / "meta/esc50.csv", "filename", "category", "fold", "src_file")
        return [Clip(str(root / "audio" / name), label, fold=fold, group=group) for name, label, fold, group in rows]


@dataclass(kw_only=True)
class UrbanSound8K(PublishedDataset):
    """UrbanSound8K (Salamon, Jacoby and Bello, 2014, doi:10.1145/2647868.2655045): 10 urban sounds, 10 folds.

    Clips of up to 4 s at many sample rates. The groups are the Freesound recordings that the clips are excerpts of.
    """

    group_noun: ClassVar[str] = "Freesound recording"

    def clips(self) -> list[Clip]:
        """Returns the clip table, in the order of ``metadata/UrbanSound8K.csv``."""
        root = self.resolve_root(URBANSOUND8K, "metadata/UrbanSound8K.csv", "audio/fold*/*.wav")
        rows = _table(root / "metadata/UrbanSound8K.csv", "slice_file_name", "class", "fold", "fsID")
        audio = root / "audio"
        return [Clip(str(audio / f"fold{n}" / name), label, fold=n, group=group) for name, label, n, group in rows]


def _table(path: Path, *columns: str) -> list[list[str]]:
    """Reads columns of a CSV file, row by row."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        require_columns(reader.fieldnames or (), columns, str(path))
        rows = []
        for row in reader:
            if not all(row[column] for column in columns):
                raise UserError(f"{path}, line {reader.line_num}: is incomplete")
            rows.append([row[column] for column in columns])
    if not rows:
        raise UserError(f"{path}: contains no clips")
    return rows
