"""The embedded source: eSpeak NG speaks a list of words in a hundred voices."""

import _ctypes
import ctypes
import hashlib
import json
import os
import random
import re
import tempfile
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import soundfile
from annotated_types import Ge, Le
from numpy.typing import NDArray

from spectrnn.config.types import NonNegativeInt, PositiveInt
from spectrnn.data.clips import Clip, DataSource
from spectrnn.errors import UserError, reject_settings
from spectrnn.files import atomic_directory
from spectrnn.progress import progress_bar

WordsAMinute = Annotated[int, Ge(80), Le(450)]
Step = Annotated[int, Ge(0), Le(99)]
Percent = Annotated[int, Ge(0), Le(200)]

_FORMAT = 1  # of the cached folder and of the draws; raise it when either changes
_PACKAGE = "espeakng-loader"
_REMEDY = f"pip install --force-reinstall {_PACKAGE}, which ships the library and its voices"
_LONGEST_PATH = 120  # bytes; the library cuts its data path at 160, and silently looks elsewhere then
_MOST_TAKES = 100_000  # a voice, of all words: ten million clips
_SILENT = 0.01  # of full scale; a take whose peak is below this is left out
_EDGE = 0.01  # of the take's peak (-40 dB); what is below this at either end is cut off
# Constants of eSpeak NG's speak_lib.h
_SYNCHRONOUS, _DONT_EXIT, _UTF8, _BY_CHARACTER = 2, 0x8000, 1, 1
_PARAMETERS = {"rate": 1, "volume": 2, "pitch": 3, "pitch_range": 4}


@dataclass(kw_only=True)
class SyntheticSpeech(DataSource):
    """Words spoken by the formant synthesizer eSpeak NG (https://github.com/espeak-ng/espeak-ng), once, into the cache.

    The label is the word, the group is the voice (voices that sound alike are one): drawn splits are voice-disjoint.

    Args:
        words: what is spoken, in any script; one class each.
        language: eSpeak NG's code of a language, such as ``en-us``.
        accents: whether takes draw from all accents of the language, or keep to ``language``.
        takes: per voice and word.
        rate: lowest and highest speaking rate, words a minute.
        pitch: lowest and highest base pitch, 0 to 99, where 50 is the voice's own.
        pitch_range: least and most intonation, 0 (monotone) to 99, where 50 is the voice's own.
        volume: lowest and highest volume, percent of eSpeak NG's own.
        seed: of the draws.
    """

    words: list[str]
    language: str
    accents: bool
    takes: PositiveInt
    rate: tuple[WordsAMinute, WordsAMinute]
    pitch: tuple[Step, Step]
    pitch_range: tuple[Step, Step]
    volume: tuple[Percent, Percent]
    seed: NonNegativeInt

    def __post_init__(self) -> None:
        words = [word.strip() for word in self.words]
        twice = sorted({word for word in words if words.count(word) > 1})
        reject_settings(
            words=(len(words) < 2 and "a classifier needs two words or more")
            or (not all(words) and f"word {words.index('') + 1} is empty")
            or (bool(twice) and f"{', '.join(twice)} given twice; every word is one class"),
            takes=len(words) * self.takes > _MOST_TAKES
            and f"{len(words)} words make more than {_MOST_TAKES:,} takes a voice; fewer",
            **{
                name: low > high and "the lowest should come first"
                for name in _PARAMETERS
                for low, high in [getattr(self, name)]
            },
        )

    def clips(self) -> list[Clip]:
        """The clip table, sorted by voice, word and take; the first call records it (about 1 ms a clip).

        Raises:
            UserError: a setting is wrong, eSpeak NG cannot be loaded, or the cache cannot be written.
        """
        words = [word.strip() for word in self.words]
        folder = Path(self.cache).expanduser() / "synthetic_speech" / self._fingerprint(words)
        if not folder.is_dir():
            self._record(words, folder)
        files = sorted(folder.glob("*/*.wav"), key=lambda path: (path.parent.name, path.name))
        return [
            Clip(str(path), words[int(path.name.split("_")[0])], group=_speaker_group(path.parent.name))
            for path in files
        ]

    def _fingerprint(self, words: list[str]) -> str:
        """Names the recordings: all that changes a sample is in it."""
        drawn = [getattr(self, name) for name in _PARAMETERS]
        facts = [_FORMAT, _version(), self.language, self.accents, words, self.takes, drawn, self.seed]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def _record(self, words: list[str], folder: Path) -> None:
        """Speaks everything into a temporary sibling, which then takes the folder's name."""
        try:
            with atomic_directory(folder) as whole:
                self._speak(words, whole)
        except (OSError, soundfile.SoundFileError) as error:
            raise UserError(f"data.cache={self.cache}: cannot hold the recordings: {error}") from error

    def _speak(self, words: list[str], folder: Path) -> None:
        heard = set()
        with _espeak() as espeak:
            accents = espeak.accents(self.language) if self.accents else [espeak.identifier(self.language)]
            takes = list(product(espeak.voices(), enumerate(words), range(self.takes)))
            for voice, (index, word), take in progress_bar(len(takes), "eSpeak NG speaks", "clip", iterable=takes):
                samples = trim_silence(espeak.say(word, voice, self._draw(voice, word, take, accents)))
                if samples.size:
                    path = folder / voice / f"{index:05d}_{take:05d}.wav"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    soundfile.write(path, samples, espeak.sample_rate, subtype="PCM_16")
                    heard.add(word)
        silent = [word for word in words if word not in heard]
        if silent:
            raise UserError(f"data.words: eSpeak NG says nothing for {', '.join(map(repr, silent))} in {self.language}")

    def _draw(self, voice: str, word: str, take: int, accents: list[str]) -> "_VoiceSettings":
        """How a take is spoken: a function of seed, voice, word and take, whatever was spoken before."""
        # random.Random hashes strings the same on every machine and Python
        generator = random.Random(json.dumps([self.seed, voice, word, take]))
        accent = accents[generator.randrange(len(accents))]
        parameters = {name: generator.randint(*getattr(self, name)) for name in _PARAMETERS}
        return _VoiceSettings(accent, parameters, noise_seed=generator.randrange(2**31))


class _VoiceSettings(NamedTuple):
    """How one take is spoken."""

    accent: str  # identifier of an eSpeak NG language, such as gmw/en-US
    parameters: dict[str, int]  # by their names in _PARAMETERS
    noise_seed: int  # of breath and whisper


class _Espeak:
    """The initialized library.

    Args:
        library: the library, freshly loaded.
        data: the path of its data folder, within ``_LONGEST_PATH``.
        thread: speaks. Ctrl-C reaches only the main thread: in the callback it would be lost, and some sound with it.
    """

    def __init__(self, library: ctypes.CDLL, data: str, thread: Executor) -> None:
        self._library, self._data, self._thread = library, Path(data), thread
        self.sample_rate: int = library.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(data), _DONT_EXIT)
        if self.sample_rate <= 0:
            raise UserError(f"data=synthetic_speech: eSpeak NG does not start with its data in {data}; {_REMEDY}")
        self._chunks: list[bytes] = []
        # The library keeps only the address of the callback: it must live as long as this object
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
        self._callback = kind(self._collect)
        library.espeak_SetSynthCallback(self._callback)
        self._languages = {
            path.relative_to(self._data / "lang").as_posix(): _codes(path)
            for path in (self._data / "lang").rglob("*")
            if path.is_file()
        }

    def _collect(self, samples: int | None, count: int, events: int) -> int:
        if samples and count > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * count))
        return 0  # go on

    def voices(self) -> list[str]:
        """The names of the voices (eSpeak NG calls them variants), which speak every language."""
        return sorted(path.name for path in (self._data / "voices" / "!v").iterdir() if path.name[0] != ".")

    def identifier(self, language: str) -> str:
        """The identifier of the voice file that speaks a language best: ``gmw/en-US`` for ``en-us``."""
        code = language.strip().lower().replace("_", "-")
        fitting = [(priority, name) for name, codes in self._languages.items() for priority, c in codes if c == code]
        if not fitting:
            known = sorted({code for codes in self._languages.values() for _, code in codes})
            near = get_close_matches(code, known, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"
            raise UserError(f"data.language={language}: eSpeak NG speaks no such language; {hint}")
        return min(fitting)[1]

    def accents(self, language: str) -> list[str]:
        """The identifiers of all voice files of the same language and script, sorted."""
        family = _language_and_script(self.identifier(language))
        return sorted(name for name in self._languages if _language_and_script(name) == family)

    def say(self, text: str, voice: str, manner: _VoiceSettings) -> NDArray[np.int16]:
        """Speaks a text; empty where the voice cannot be loaded.

        Returns:
            Samples (samples,), int16 at ``sample_rate`` Hz.
        """
        self._chunks.clear()
        if self._library.espeak_SetVoiceByName(f"{manner.accent}+{voice}".encode()) == 0:
            for name, value in manner.parameters.items():
                self._library.espeak_SetParameter(_PARAMETERS[name], value, 0)
            # Breath comes from the C library's generator, or, in part and in later versions, from eSpeak NG's own
            for name in ("srand", "espeak_ng_SetRandSeed"):
                if hasattr(self._library, name):
                    getattr(self._library, name)(ctypes.c_long(manner.noise_seed))
            data = text.encode() + b"\0"
            where = (ctypes.c_size_t(len(data)), 0, _BY_CHARACTER, 0)  # all of it
            self._thread.submit(self._library.espeak_Synth, data, *where, _UTF8, None, None).result()
        return np.frombuffer(b"".join(self._chunks), dtype=np.int16)


def trim_silence(samples: NDArray[np.int16]) -> NDArray[np.int16]:
    """Cuts the near-silence at both ends, as in datasets of isolated words.

    Args:
        samples: (samples,), int16.

    Returns:
        (samples,), int16: from the first to the last sample above -40 dB of the peak; empty where nothing is audible.
    """
    level = np.abs(samples.astype(np.int32))
    peak = level.max(initial=0)
    if peak < _SILENT * 2**15:
        return samples[:0]
    loud = np.flatnonzero(level >= _EDGE * peak)
    return samples[loud[0] : loud[-1] + 1]


@contextmanager
def _espeak() -> Iterator[_Espeak]:
    """eSpeak NG, loaded afresh.

    The library holds state from one word to the next (pitch flutter, gain control) that its own start does not reset.
    Loading and unloading does, so that a process records the same each time.
    """
    try:
        import espeakng_loader

        data, library = espeakng_loader.get_data_path(), ctypes.CDLL(espeakng_loader.get_library_path())
    except (ImportError, OSError, RuntimeError) as error:
        raise UserError(f"data=synthetic_speech: eSpeak NG cannot be loaded ({error}); {_REMEDY}") from error
    try:
        with _short_path(data) as short, ThreadPoolExecutor(1) as thread:
            yield _Espeak(library, short, thread)
    finally:
        library.espeak_Terminate()
        (getattr(_ctypes, "FreeLibrary", None) or _ctypes.dlclose)(library._handle)  # on Windows, elsewhere


@contextmanager
def _short_path(folder: str) -> Iterator[str]:
    """A path to the folder that the library can hold: where its own is too long, a temporary link to it."""
    if len(os.fsencode(folder)) <= _LONGEST_PATH:
        yield folder
        return
    temporary = tempfile.gettempdir()
    parent = temporary if len(os.fsencode(temporary)) < _LONGEST_PATH - 40 else "/tmp"
    with ExitStack() as stack:
        try:
            link = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="espeak-", dir=parent)), "data")
            link.symlink_to(folder, target_is_directory=True)
        except OSError as error:
            reason = f"{folder} is too long a path for eSpeak NG, and cannot be linked from {parent} ({error})"
            raise UserError(
                f"data=synthetic_speech: {reason}; install spectrnn in a folder with a shorter path"
            ) from error
        yield str(link)


def _codes(path: Path) -> list[tuple[int, str]]:
    """The codes in a language's file, each with its priority; lower is nearer, 5 is the usual."""
    lines = [line.split() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    return [
        (int(line[2]) if line[2:] and line[2].isdecimal() else 5, line[1].lower())
        for line in lines
        if line[:1] == ["language"] and line[1:]
    ]


def _speaker_group(voice: str) -> str:
    """The group of a voice: ``klatt2`` and ``klatt6`` sound alike and are one, ``f1`` and ``f2`` are two people."""
    return re.sub(r"(?<=[A-Za-z]{2})[0-9]+$", "", voice)


def _language_and_script(identifier: str) -> tuple[str, list[str]]:
    """Language and script of an identifier: by BCP 47 its first part, and its parts of four letters (``en-Shaw``)."""
    language, *parts = identifier.rpartition("/")[2].split("-")
    return language, [part for part in parts if len(part) == 4 and part.isalpha()]


def _version() -> str:
    try:
        return metadata.version(_PACKAGE)
    except metadata.PackageNotFoundError as error:
        raise UserError(f"data=synthetic_speech: {_PACKAGE} is not installed; {_REMEDY}") from error
