"""Synthetic speech: a list of words in a hundred voices of eSpeak NG."""

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
from typing import Annotated

import numpy as np
import soundfile
from annotated_types import Ge, Le
from numpy.typing import NDArray

from spectrnn.config.types import NonNegativeInt, PositiveInt
from spectrnn.data.clips import Clip, DataSource
from spectrnn.errors import UserError, reject_settings
from spectrnn.files import atomic_directory
from spectrnn.progress import progress_bar

WordsPerMinute = Annotated[int, Ge(80), Le(450)]
Level0To99 = Annotated[int, Ge(0), Le(99)]
Percent = Annotated[int, Ge(0), Le(200)]

_FORMAT = 1  # of the cached folder and of the random draws
_PACKAGE = "espeakng-loader"
_REMEDY = f"pip install --force-reinstall {_PACKAGE}, which ships the library and its voices"
_MAX_PATH = 120  # bytes; the library truncates its data path at 160, and then silently searches elsewhere
_MAX_TAKES = 100_000  # per voice, of all words: ten million clips
_SILENCE = 0.01  # of full scale; takes with a lower peak are skipped
_TRIM_LEVEL = 0.01  # of the peak (-40 dB); both ends are trimmed to it
# A line of a voice file: code and, unless it is the default, priority.
_LANGUAGE = re.compile(r"^[ \t]*language[ \t]+(\S+)(?:[ \t]+([0-9]+)(?!\S))?", re.MULTILINE)
_DEFAULT_PRIORITY = 5
# Constants of eSpeak NG's speak_lib.h.
_SYNCHRONOUS, _DONT_EXIT, _UTF8, _BY_CHARACTER = 2, 0x8000, 1, 1
_PARAMETERS = {"rate": 1, "volume": 2, "pitch": 3, "pitch_range": 4}


@dataclass(kw_only=True)
class SyntheticSpeech(DataSource):
    """Words synthesized by eSpeak NG (https://github.com/espeak-ng/espeak-ng), once, into the cache.

    The label is the word, the group is the voice (similar voices are one group): drawn splits are voice-disjoint.

    Args:
        words: Words, in any script; one class each.
        language: eSpeak NG's code of the language, such as ``en-us``.
        accents: Whether to draw from all accents of the language.
        takes: Number of takes per voice and word.
        rate: Minimum and maximum speaking rate in words per minute.
        pitch: Minimum and maximum base pitch, 0 to 99, where 50 is the voice's own.
        pitch_range: Minimum and maximum intonation, 0 (monotone) to 99, where 50 is the voice's own.
        volume: Minimum and maximum volume in percent of eSpeak NG's default.
        seed: Seed of the random draws.
    """

    words: list[str]
    language: str
    accents: bool
    takes: PositiveInt
    rate: tuple[WordsPerMinute, WordsPerMinute]
    pitch: tuple[Level0To99, Level0To99]
    pitch_range: tuple[Level0To99, Level0To99]
    volume: tuple[Percent, Percent]
    seed: NonNegativeInt

    def __post_init__(self) -> None:
        words = [word.strip() for word in self.words]
        empty = words.index("") + 1 if "" in words else 0
        twice = sorted({word for word in words if words.count(word) > 1})
        most = _MAX_TAKES // max(1, len(words))
        too_many = f"more than {_MAX_TAKES:,} takes per voice for {len(words)} words; use at most {most:,}"
        ranges = [(name, getattr(self, name)) for name in _PARAMETERS]
        reject_settings(
            ("words", len(words) < 2, "a classifier needs two words or more"),
            ("words", empty, f"word {empty} is empty"),
            ("words", twice, f"{', '.join(twice)} given twice; each word is one class"),
            ("takes", len(words) * self.takes > _MAX_TAKES, too_many),
            *((name, low > high, "the minimum should come first") for name, (low, high) in ranges),
        )

    def clips(self) -> list[Clip]:
        """Returns the clip table, sorted by voice, word and take; synthesized at the first call (about 1 ms per clip).

        Raises:
            UserError: An invalid setting, eSpeak NG cannot be loaded, or the cache cannot be written.
        """
        words = [word.strip() for word in self.words]
        folder = Path(self.cache).expanduser() / "synthetic_speech" / self._cache_key(words)
        if not folder.is_dir():
            self._synthesize(words, folder)
        clips = []
        for path in sorted(folder.glob("*/*.wav"), key=lambda path: (path.parent.name, path.name)):
            # The voices klatt2 and klatt6 are similar and one group; f1 and f2 are two people.
            group = re.sub(r"(?<=[A-Za-z]{2})[0-9]+$", "", path.parent.name)
            clips.append(Clip(str(path), words[int(path.name.split("_")[0])], group=group))
        return clips

    def _cache_key(self, words: list[str]) -> str:
        """Returns a key of the recordings, which changes whenever a sample could."""
        try:
            version = metadata.version(_PACKAGE)
        except metadata.PackageNotFoundError as error:
            raise UserError(f"data=synthetic_speech: {_PACKAGE} is not installed; {_REMEDY}") from error
        ranges = [getattr(self, name) for name in _PARAMETERS]
        values = [_FORMAT, version, self.language, self.accents, words, self.takes, ranges, self.seed]
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]

    def _synthesize(self, words: list[str], folder: Path) -> None:
        """Synthesizes all takes into a new folder: ``{voice}/{word}_{take}.wav``."""
        audible = set()
        try:
            with atomic_directory(folder) as temporary, _espeak() as espeak:
                accents = espeak.accents(self.language) if self.accents else [espeak.identifier(self.language)]
                takes = list(product(espeak.voices(), enumerate(words), range(self.takes)))
                for voice, (index, word), take in progress_bar(len(takes), "synthesizing", "clip", iterable=takes):
                    accent, parameters, noise_seed = self._draw(voice, word, take, accents)
                    samples = trim_silence(espeak.synthesize(word, f"{accent}+{voice}", parameters, noise_seed))
                    if samples.size:
                        path = temporary / voice / f"{index:05d}_{take:05d}.wav"
                        path.parent.mkdir(parents=True, exist_ok=True)
                        soundfile.write(path, samples, espeak.sample_rate, subtype="PCM_16")
                        audible.add(word)
                if silent := [repr(word) for word in words if word not in audible]:
                    raise UserError(f"data.words: eSpeak NG has no audio for {', '.join(silent)} in {self.language}")
        except (OSError, soundfile.SoundFileError) as error:
            raise UserError(f"data.cache={self.cache}: the recordings cannot be written: {error}") from error

    def _draw(self, voice: str, word: str, take: int, accents: list[str]) -> tuple[str, dict[str, int], int]:
        """Draws accent, parameters and noise seed of a take, a function of seed, voice, word and take only."""
        # random.Random hashes strings identically on every machine and in every version of Python.
        generator = random.Random(json.dumps([self.seed, voice, word, take]))
        accent = accents[generator.randrange(len(accents))]
        parameters = {name: generator.randint(*getattr(self, name)) for name in _PARAMETERS}
        return accent, parameters, generator.randrange(2**31)


class _Espeak:
    """The initialized library.

    Args:
        library: Library, freshly loaded.
        data: Its data folder, with a path of at most `_MAX_PATH` bytes.
        thread: Executor of the synthesis. In the main thread a Ctrl-C would be lost in the callback, with some audio.
    """

    def __init__(self, library: ctypes.CDLL, data: Path, thread: Executor) -> None:
        self._library, self._data, self._thread = library, data, thread
        self.sample_rate: int = library.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(data), _DONT_EXIT)
        if self.sample_rate <= 0:
            raise UserError(f"data=synthetic_speech: eSpeak NG does not start with its data in {data}; {_REMEDY}")
        self._chunks: list[bytes] = []
        # The library stores only the address of the callback: it must live as long as this object.
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
        self._callback = kind(self._collect)
        library.espeak_SetSynthCallback(self._callback)
        self._languages = {  # identifier, such as gmw/en-US -> language codes, each with its priority; lower is better
            path.relative_to(data / "lang").as_posix(): [
                (int(priority or _DEFAULT_PRIORITY), code.lower())
                for code, priority in _LANGUAGE.findall(path.read_text(encoding="utf-8", errors="replace"))
            ]
            for path in (data / "lang").rglob("*")
            if path.is_file()
        }

    def _collect(self, samples: int | None, count: int, events: int) -> int:
        if samples and count > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * count))
        return 0  # continue

    def voices(self) -> list[str]:
        """Returns the names of the voices ("variants" in eSpeak NG), which support every language."""
        return sorted(path.name for path in (self._data / "voices" / "!v").iterdir() if path.name[0] != ".")

    def identifier(self, language: str) -> str:
        """Returns the identifier of the best voice file for a language: ``gmw/en-US`` for ``en-us``."""
        code = language.strip().lower().replace("_", "-")
        candidates = [(priority, name) for name, codes in self._languages.items() for priority, c in codes if c == code]
        if not candidates:
            known = sorted({code for codes in self._languages.values() for _, code in codes})
            near = get_close_matches(code, known, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
            raise UserError(f"data.language={language}: eSpeak NG does not support this language; {hint}")
        return min(candidates)[1]

    def accents(self, language: str) -> list[str]:
        """Returns the identifiers of all voice files of the same language and script, sorted."""
        family = _language_and_script(self.identifier(language))
        return sorted(name for name in self._languages if _language_and_script(name) == family)

    def synthesize(self, text: str, voice: str, parameters: dict[str, int], noise_seed: int) -> NDArray[np.int16]:
        """Synthesizes a text.

        Args:
            text: Text.
            voice: Identifier of a language and name of a voice, such as ``gmw/en-US+f1``.
            parameters: Values by their names in `_PARAMETERS`.
            noise_seed: Seed of breath and whisper noise.

        Returns:
            Samples at `sample_rate`, int16 (samples,); empty if the voice cannot be loaded.
        """
        self._chunks.clear()
        if self._library.espeak_SetVoiceByName(voice.encode()) == 0:
            for name, value in parameters.items():
                self._library.espeak_SetParameter(_PARAMETERS[name], value, 0)
            # Breath noise comes from the C library's generator, in later versions partly from eSpeak NG's own.
            for name in ("srand", "espeak_ng_SetRandSeed"):
                if hasattr(self._library, name):
                    getattr(self._library, name)(ctypes.c_long(noise_seed))
            data = text.encode() + b"\0"
            extent = (ctypes.c_size_t(len(data)), 0, _BY_CHARACTER, 0)  # the whole text
            self._thread.submit(self._library.espeak_Synth, data, *extent, _UTF8, None, None).result()
        return np.frombuffer(b"".join(self._chunks), dtype=np.int16)


def _language_and_script(identifier: str) -> tuple[str, list[str]]:
    """Language and script of an identifier: its first part, and its parts of four letters (``en-Shaw``; BCP 47)."""
    language, *parts = identifier.rpartition("/")[2].split("-")
    return language, [part for part in parts if len(part) == 4 and part.isalpha()]


@contextmanager
def _espeak() -> Iterator[_Espeak]:
    """Loads eSpeak NG.

    The library keeps state between words (pitch flutter, gain control) that its initialization does not reset. Loading
    and unloading it does, so that a process synthesizes the same samples each time.
    """
    with ExitStack() as stack:
        try:
            import espeakng_loader

            data, library = Path(espeakng_loader.get_data_path()), ctypes.CDLL(espeakng_loader.get_library_path())
        except (ImportError, OSError, RuntimeError) as error:
            raise UserError(f"data=synthetic_speech: eSpeak NG cannot be loaded ({error}); {_REMEDY}") from error
        unload = getattr(_ctypes, "FreeLibrary", None) or _ctypes.dlclose  # on Windows, elsewhere
        stack.callback(unload, library._handle)
        stack.callback(library.espeak_Terminate)
        if len(os.fsencode(data)) > _MAX_PATH:
            parent = tempfile.gettempdir()
            parent = parent if len(os.fsencode(parent)) < _MAX_PATH - 40 else "/tmp"
            try:
                link = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="espeak-", dir=parent)), "data")
                link.symlink_to(data, target_is_directory=True)
            except OSError as error:
                raise UserError(
                    f"data=synthetic_speech: {data} is too long a path for eSpeak NG, and cannot be linked from "
                    f"{parent} ({error}); install spectrnn in a folder with a shorter path"
                ) from error
            data = link
        yield _Espeak(library, data, stack.enter_context(ThreadPoolExecutor(1)))


def trim_silence(samples: NDArray[np.int16]) -> NDArray[np.int16]:
    """Trims int16 (samples,) at both ends to -40 dB of the peak, as in datasets of isolated words.

    Nothing remains of samples that are not audible.
    """
    level = np.abs(samples.astype(np.int32))
    peak = level.max(initial=0)
    if peak < _SILENCE * 2**15:
        return samples[:0]
    loud = np.flatnonzero(level >= _TRIM_LEVEL * peak)
    return samples[loud[0] : loud[-1] + 1]
