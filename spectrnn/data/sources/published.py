"""Published datasets that know their own splits: spoken digits, speech commands, environmental and urban sounds."""

import csv
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import soundfile

from spectrnn.data.clips import SPLITS, Clip, DataSource
from spectrnn.data.sources.download import Archive, fetch
from spectrnn.data.sources.local import subfolders
from spectrnn.errors import UserError, reject_settings

# The later v1.0.10 adds a sixth speaker, lucas; of v1.0.9 the checksum is known (TensorFlow Datasets, spoken_digit).
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
# Of the next two, the publishers name an md5 alone. It tells of damage, and nobody can yet make another file with a
# given md5, which takes a second preimage; only who chose the archive could have made two of them.
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
_NOISE_TENTHS = {"train": (0, 8), "val": (8, 9), "test": (9, 10)}  # of every noise recording, from and to


@dataclass(kw_only=True)
class PublishedDataset(DataSource):
    """A published dataset in a folder of its own.

    Args:
        root: the folder.
        download: fetch the dataset into `root` where that is missing or empty.
    """

    root: str
    download: bool

    def located(self, archive: Archive, *contents: str) -> Path:
        """`root` as a path, downloaded where it is to be.

        Args:
            archive: the dataset as a download.
            contents: glob patterns below `root`; each must find a file.

        Raises:
            UserError: the folder or some of its contents are missing, or the download fails.
        """
        root = Path(self.root).expanduser()
        missing = _missing(root, contents)
        if missing and self.download:
            fetch(archive, root)
            missing = _missing(root, contents)
        offer = f"data.download=true fetches {archive.name} ({archive.size / 1e6:,.0f} MB)"
        if not root.is_dir():
            raise UserError(f"data.root={self.root}: no such folder; {offer}")
        if missing:
            raise UserError(f"data.root={self.root}: holds no {' and no '.join(missing)}; {offer} into a new folder")
        return root


def _missing(root: Path, patterns: Sequence[str]) -> list[str]:
    return [pattern for pattern in patterns if next(root.glob(pattern), None) is None]


@dataclass(kw_only=True)
class FSDD(PublishedDataset):
    """Free Spoken Digit Dataset (Jackson et al., 2018, doi:10.5281/zenodo.1342401): ten digits, a few speakers, 8 kHz.

    The labels are the digits as words. Without a fold the split is the official one: of every speaker and digit, the
    recordings 0 to 4 test and the rest train; all speakers are on both sides. With ``fold=<speaker>`` that speaker
    tests, the others train, and the speakers are the groups.
    """

    def clips(self) -> list[Clip]:
        """The clip table, sorted by name: ``{digit}_{speaker}_{index}.wav`` in ``root/recordings``, or in `root`."""
        root = self.located(_FSDD_ARCHIVE, "**/*.wav")
        files = sorted(root.glob("recordings/[!.]*.wav")) or sorted(root.glob("[!.]*.wav"))
        if not files:
            raise UserError(f"data.root={self.root}: holds no recordings/*.wav and no *.wav")
        recordings = [(path, *_digit_speaker_index(path)) for path in files]
        if self.fold is None:
            return [
                Clip(str(path), DIGITS[digit], "test" if index < 5 else "train") for path, digit, _, index in recordings
            ]
        speakers = sorted({speaker for _, _, speaker, _ in recordings})
        if str(self.fold) not in speakers:
            raise UserError(f"data.fold={self.fold}: no such speaker; the speakers are {', '.join(speakers)}")
        return [Clip(str(path), DIGITS[digit], fold=speaker, group=speaker) for path, digit, speaker, _ in recordings]


def _digit_speaker_index(path: Path) -> tuple[int, str, int]:
    match = re.fullmatch(r"([0-9])_([^_]+)_([0-9]+)\.wav", path.name)
    if match is None:
        raise UserError(f"{path}: the name should be <digit>_<speaker>_<index>.wav")
    return int(match[1]), match[2], int(match[3])


@dataclass(kw_only=True)
class SpeechCommands(PublishedDataset):
    """Speech Commands (Warden, 2018, arXiv:1804.03209): one-second words, 16 kHz, split by the official lists.

    The groups are the speakers, by the hash in the file names. With all 35 words (V1: 30) every word is a class. The 12
    classes are ten commands, ``unknown`` and ``silence``. In each split, n is a tenth of its command clips, rounded up:

    - ``unknown`` is n clips of the other words, drawn by `split_seed`, once and for all;
    - ``silence`` is n excerpts of 1 s from the recordings in ``_background_noise_`` (of 10 s or more), spread evenly
      and as loud as they are. Training takes them from the first 80 % of every recording, validation from the next
      10 %, testing from the last 10 %. They overlap within a split, never between two.

    The sizes are the paper's (V2 tests on 408 clips of either class). Its own choice of unknown and silent test clips
    is a separate download, and not used.

    Args:
        version: of the dataset.
        classes: 12, or all words of the version: 30 or 35.
    """

    version: Literal[1, 2]
    classes: Literal[12, 30, 35]

    def __post_init__(self) -> None:
        words = len(WORDS[self.version])
        reject_settings(classes=self.classes not in (12, words) and f"version={self.version} has 12 or {words} classes")

    def clips(self) -> list[Clip]:
        """The clip table, sorted by word and file name; with 12 classes by split first."""
        noises = [f"{_NOISE}/*.wav"] if self.classes == 12 else []
        root = self.located(SPEECH_COMMANDS[self.version], "validation_list.txt", "testing_list.txt", *noises)
        words = self._words(root)
        return _twelve_class_task(words, sorted(root.glob(noises[0])), self.split_seed) if noises else words

    def _words(self, root: Path) -> list[Clip]:
        words = {folder.name for folder in subfolders(root)} - {_NOISE}
        if words != WORDS[self.version]:
            odd = ", ".join(sorted(words ^ WORDS[self.version]))
            raise UserError(f"data.root={self.root}: its words differ from those of data.version={self.version}: {odd}")
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
            raise UserError(f"data.root={self.root}: lacks {len(listed)} files of its own lists, such as {min(listed)}")
        return clips


def _twelve_class_task(words: Sequence[Clip], noises: Sequence[Path], seed: int) -> list[Clip]:
    """The ten commands of every split, and as many unknown words and silences as an average command has clips."""
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
    """Clips of 1 s, spread evenly over the split's stretch of every noise recording in turn."""
    begin, end = _NOISE_TENTHS[split]
    # In whole milliseconds: the end of one split is then exactly the start of the next, and not almost.
    durations = [(path, _milliseconds(path)) for path in noises]
    long_enough = [(path, duration) for path, duration in durations if duration >= 10_000]
    if not long_enough:
        raise UserError(f"{noises[0].parent}: holds no recording of 10 s or more to cut silence from")
    clips = []
    for number in range(count):
        path, duration = long_enough[number % len(long_enough)]
        first, last = duration * begin // 10, duration * end // 10 - 1000
        start = first + (last - first) * number // max(count - 1, 1)
        clips.append(Clip(str(path), "silence", split, start=start / 1000, end=(start + 1000) / 1000))
    return clips


def _milliseconds(path: Path) -> int:
    try:
        return int(1000 * soundfile.info(path).duration)
    except soundfile.SoundFileError as error:
        raise UserError(f"{path}: cannot be read as audio ({error})") from error


@dataclass(kw_only=True)
class ESC50(PublishedDataset):
    """ESC-50 (Piczak, 2015, doi:10.1145/2733373.2806390): 50 environmental sounds, 5 s each, 44.1 kHz, 5 folds.

    The groups are the Freesound recordings that the clips were cut from.
    """

    def clips(self) -> list[Clip]:
        """The clip table, in the order of ``meta/esc50.csv``."""
        root = self.located(_ESC50_ARCHIVE, "meta/esc50.csv", "audio/*.wav")
        rows = _table(root / "meta/esc50.csv", "filename", "category", "fold", "src_file")
        return [
            Clip(str(root / "audio" / name), category, fold=fold, group=recording)
            for name, category, fold, recording in rows
        ]


@dataclass(kw_only=True)
class UrbanSound8K(PublishedDataset):
    """UrbanSound8K (Salamon, Jacoby and Bello, 2014, doi:10.1145/2647868.2655045): 10 sounds of the street, 10 folds.

    The clips are up to 4 s long, at many sample rates. The groups are the Freesound recordings they were cut from.
    """

    def clips(self) -> list[Clip]:
        """The clip table, in the order of ``metadata/UrbanSound8K.csv``."""
        root = self.located(URBANSOUND8K, "metadata/UrbanSound8K.csv", "audio/fold*/*.wav")
        rows = _table(root / "metadata/UrbanSound8K.csv", "slice_file_name", "class", "fold", "fsID")
        return [
            Clip(str(root / "audio" / f"fold{fold}" / name), sound, fold=fold, group=recording)
            for name, sound, fold, recording in rows
        ]


def _table(path: Path, *columns: str) -> list[list[str]]:
    """The given columns of a CSV file, row by row."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = [column for column in columns if column not in (reader.fieldnames or ())]
        if missing:
            raise UserError(f"{path}: no column {' and no column '.join(missing)}")
        rows = []
        for row in reader:
            if not all(row[column] for column in columns):
                raise UserError(f"{path}, line {reader.line_num}: is incomplete")
            rows.append([row[column] for column in columns])
    if not rows:
        raise UserError(f"{path}: holds no clips")
    return rows
