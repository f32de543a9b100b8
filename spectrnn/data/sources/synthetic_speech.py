"""Synthetic speech: a list of words in the voices of eSpeak NG and of any number of random speakers."""

import _ctypes
import ctypes
import hashlib
import json
import os
import random
import re
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import soundfile
from annotated_types import Ge, Le
from numpy.typing import NDArray

from spectrnn.config.types import NonNegativeInt, PositiveInt
from spectrnn.data.clips import Clip, DataSource
from spectrnn.errors import UserError, reject_settings
from spectrnn.files import atomic_directory, cache_folder, writable_cache
from spectrnn.progress import progress_bar

WordsPerMinute = Annotated[int, Ge(80), Le(450)]
Level0To99 = Annotated[int, Ge(0), Le(99)]
Percent = Annotated[int, Ge(0), Le(200)]
Decay = Annotated[float, Ge(0), Le(60)]
Reverberation = Annotated[float, Ge(-60), Le(10)]
NoiseLevel = Annotated[float, Ge(-100), Le(0)]
TrimFraction = Annotated[float, Ge(-1), Le(0.4)]

_FORMAT = 3  # of the cached folder and of the random draws
_PACKAGE = "espeakng-loader"
_REMEDY = f"pip install --force-reinstall {_PACKAGE}, which ships the library and its voices"
_MAX_PATH = 120  # bytes; the library truncates its data path at 160, and then silently searches elsewhere
_MAX_TAKES = 100_000  # per voice, of all words: ten million clips of the shipped voices
_MAX_CLIPS = 10_000_000  # of the random speakers
_MAX_SPEAKERS = 99_999  # as their folders have five digits
_VOICE = "spectrnn"  # the voice file that is written for each voice
_SILENCE = 0.01  # of full scale; takes with a lower peak are skipped
_TRIM_LEVEL = 0.01  # of the peak (-40 dB); both ends are trimmed to it
# A line of a voice file: code and, unless it is the default, priority.
_LANGUAGE = re.compile(r"^[ \t]*language[ \t]+(\S+)(?:[ \t]+([0-9]+)(?!\S))?", re.MULTILINE)
_DEFAULT_PRIORITY = 5
# Lowest and highest base pitch in Hz and formant scale in percent of men (twice as likely), women and children.
_PEOPLE = [(80, 150, 88, 108), (80, 150, 88, 108), (140, 220, 102, 122), (190, 280, 115, 135)]
# Phonemes of English and what speakers of other languages replace them by; no two digits or commands become the same.
_FOREIGN = {
    "t": ["tS", "t["],
    "T": ["t", "s", "f"],
    "D": ["d", "z"],
    "r": ["R", "R2", "r/"],
    "w": ["v"],
    "I": ["i"],
    "oU": ["o:", "O:"],
    "eI": ["e:", "E"],
}
# Constants of eSpeak NG's speak_lib.h.
_SYNCHRONOUS, _DONT_EXIT, _UTF8, _BY_CHARACTER = 2, 0x8000, 1, 1
_PARAMETERS = {"rate": 1, "volume": 2, "pitch": 3, "pitch_range": 4}
_RANGES = [*_PARAMETERS, "decay", "reverberation", "noise", "trim"]


@dataclass(kw_only=True)
class SyntheticSpeech(DataSource):
    """Words synthesized by eSpeak NG (https://github.com/espeak-ng/espeak-ng), once, into the cache.

    The label is the word, the group is the voice (similar voices are one group): drawn splits are voice-disjoint.
    The voices are random speakers (`random_speaker`) and, if `shipped_voices`, those of eSpeak NG itself. Each take is
    recorded in a room (`in_room`) and cut out of its recording (`cut_out`).

    Args:
        words: Words, in any script; one class each.
        language: eSpeak NG's code of the language, such as ``en-us``.
        accents: Whether to draw from all accents of the language.
        speakers: Number of random speakers.
        shipped_voices: Whether to add the voices that eSpeak NG ships, with its whispers and robots.
        takes: Number of takes per voice and word.
        rate: Minimum and maximum speaking rate in words per minute.
        pitch: Minimum and maximum base pitch, 0 to 99, where 50 is the voice's own.
        pitch_range: Minimum and maximum intonation, 0 (monotone) to 99, where 50 is the voice's own.
        volume: Minimum and maximum volume in percent of eSpeak NG's default.
        decay: Minimum and maximum fall of the level in dB over the last part of a word.
        reverberation: Minimum and maximum level of a room's reverberation relative to the voice in dB.
        noise: Minimum and maximum level of the background noise relative to the voice in dB.
        trim: Minimum and maximum fraction of a take that is cut off at each of its ends; a negative one is a pause.
        seed: Seed of the random draws.
    """

    group_noun: ClassVar[str] = "voice"

    words: list[str]
    language: str
    accents: bool
    speakers: Annotated[int, Ge(0), Le(_MAX_SPEAKERS)]
    shipped_voices: bool
    takes: PositiveInt
    rate: tuple[WordsPerMinute, WordsPerMinute]
    pitch: tuple[Level0To99, Level0To99]
    pitch_range: tuple[Level0To99, Level0To99]
    volume: tuple[Percent, Percent]
    decay: tuple[Decay, Decay]
    reverberation: tuple[Reverberation, Reverberation]
    noise: tuple[NoiseLevel, NoiseLevel]
    trim: tuple[TrimFraction, TrimFraction]
    seed: NonNegativeInt

    def __post_init__(self) -> None:
        words = [word.strip() for word in self.words]
        empty = words.index("") + 1 if "" in words else 0
        twice = sorted({word for word in words if words.count(word) > 1})
        most = _MAX_TAKES // max(1, len(words))
        too_many = f"more than {_MAX_TAKES:,} takes per voice for {len(words)} words; use at most {most:,}"
        ranges = [(name, getattr(self, name)) for name in _RANGES]
        reject_settings(
            ("words", len(words) < (1 if self.negatives else 2), "needs two words or more, or one and data.negatives"),
            ("words", empty, f"word {empty} is empty"),
            ("words", twice, f"{', '.join(twice)} given twice; each word is one class"),
            (
                "speakers",
                not (self.speakers or self.shipped_voices),
                "no voices; use 1 or more, or shipped_voices=true",
            ),
            ("takes", len(words) * self.takes > _MAX_TAKES, too_many),
            ("speakers", self.speakers * len(words) * self.takes > _MAX_CLIPS, f"more than {_MAX_CLIPS:,} clips"),
            *((name, low > high, "the minimum should come first") for name, (low, high) in ranges),
        )

    def clips(self) -> list[Clip]:
        """Returns the clip table, sorted by voice, word and take; synthesized at the first call (about 1 ms per clip).

        Raises:
            UserError: An invalid setting, eSpeak NG cannot be loaded, or the cache cannot be written.
        """
        words = [word.strip() for word in self.words]
        cache, name = cache_folder(self.cache), f"synthetic_speech/{self._cache_key(words)}"
        folder = cache / name
        if not folder.is_dir():
            folder = writable_cache(cache) / name
        if not folder.is_dir():
            self._synthesize(words, folder)
        clips = []
        for path in sorted(folder.glob("*/*.wav"), key=lambda path: (path.parent.name, path.name)):
            # The voices klatt2 and klatt6 are similar and one group; f1 and f2 are two people, as are the speakers.
            group = re.sub(r"(?<=[A-Za-z]{2})[0-9]+$", "", path.parent.name)
            clips.append(Clip(str(path), words[int(path.name.split("_")[0])], group=group))
        return clips

    def _cache_key(self, words: list[str]) -> str:
        """Returns a key of the recordings, which changes whenever a sample could."""
        try:
            version = metadata.version(_PACKAGE)
        except metadata.PackageNotFoundError as error:
            raise UserError(f"data=synthetic_speech: {_PACKAGE} is not installed; {_REMEDY}") from error
        voices, ranges = [self.speakers, self.shipped_voices], [getattr(self, name) for name in _RANGES]
        values = [_FORMAT, version, self.language, self.accents, words, voices, self.takes, ranges, self.seed]
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]

    def _synthesize(self, words: list[str], folder: Path) -> None:
        """Synthesizes all takes into a new folder: ``{voice}/{word}_{take}.wav``."""
        audible = set()
        try:
            with atomic_directory(folder) as temporary, _espeak() as espeak:
                accents = espeak.accents(self.language) if self.accents else [espeak.identifier(self.language)]
                english = self.accents and _language_and_script(accents[0])[0] == "en"
                speakers = range(self.speakers)
                voices = {f"speaker_{index:05d}": random_speaker(self.seed, index, english) for index in speakers}
                if self.shipped_voices:
                    voices |= espeak.voices()
                takes = list(product(sorted(voices), enumerate(words), range(self.takes)))
                for voice, (index, word), take in progress_bar(len(takes), "synthesizing", "clip", iterable=takes):
                    accent, parameters, noise_seed = self._draw(voice, word, take, accents)
                    samples = trim_silence(espeak.synthesize(word, accent, voices[voice], parameters, noise_seed))
                    if samples.size:
                        generator = np.random.default_rng(noise_seed)
                        decay, level = generator.uniform(*self.decay), generator.uniform(*self.reverberation)
                        samples = trim_silence(in_room(samples, espeak.sample_rate, decay, level, generator))
                        samples = cut_out(samples, self.trim, generator.uniform(*self.noise), generator)
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

    def voices(self) -> dict[str, str]:
        """Returns the shipped voices ("variants" in eSpeak NG), which support every language: their files by name."""
        paths = [path for path in (self._data / "voices" / "!v").iterdir() if path.name[0] != "."]
        return {path.name: path.read_text(encoding="utf-8", errors="replace") for path in paths if path.name != _VOICE}

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

    def synthesize(
        self, text: str, language: str, voice: str, parameters: dict[str, int], noise_seed: int
    ) -> NDArray[np.int16]:
        """Synthesizes a text.

        Args:
            text: Text.
            language: Identifier of a language, such as ``gmw/en-US``.
            voice: Voice file, its lines.
            parameters: Values by their names in `_PARAMETERS`.
            noise_seed: Seed of breath and whisper noise.

        Returns:
            Samples at `sample_rate`, int16 (samples,); empty if the language cannot be loaded.
        """
        self._chunks.clear()
        # The library reads a voice from its data folder at each selection, and has room for 350 files in it: one is
        # written again and again.
        (self._data / "voices" / "!v" / _VOICE).write_text(voice, encoding="utf-8", newline="\n")
        if self._library.espeak_SetVoiceByName(f"{language}+{_VOICE}".encode()) == 0:
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

    Its data folder (19 MB) is copied, to a short path and to add a voice file.

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
        parent = tempfile.gettempdir()
        parent = parent if len(os.fsencode(parent)) < _MAX_PATH - 40 else "/tmp"
        try:
            copy = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="espeak-", dir=parent)), "data")
            shutil.copytree(data, copy)
        except OSError as error:
            raise UserError(f"data=synthetic_speech: {data} cannot be copied to {parent}: {error}") from error
        yield _Espeak(library, copy, stack.enter_context(ThreadPoolExecutor(1)))


def random_speaker(seed: int, index: int, english: bool) -> str:
    """Draws a speaker: a man, a woman or a child, in the lines of a voice file of eSpeak NG.

    The ranges are those of people, not of a dataset. Peterson and Barney (1952) measured a mean fundamental frequency
    of 132, 223 and 264 Hz in men, women and children, and formants of women and children about a sixth and a third
    above those of men. All other lines are described at https://github.com/espeak-ng/espeak-ng/blob/master/docs/voices.md.

    Args:
        seed: Seed of the corpus.
        index: Number of the speaker.
        english: Whether the speaker may read English with the sounds of another language.

    Returns:
        Lines of a voice file.
    """
    generator = random.Random(json.dumps([seed, "speaker", index]))

    def draw(low: float, high: float) -> int:
        return round(low + (high - low) * generator.random())

    # Lowest and highest fundamental frequency in Hz, vocal tract: formants in percent of the synthesizer's man.
    low, high, shortest, longest = _PEOPLE[draw(0, len(_PEOPLE) - 1)]
    base, tract = draw(low, high), draw(shortest, longest)
    tilt = draw(-45, 15)  # of the spectrum, of each of the three steps of the curve `tone`
    tone = [min(255, max(20, level + step * tilt + draw(-15, 15))) for step, level in enumerate((170, 150, 135, 125))]
    breath = draw(-15, 20)  # two of five speakers have none
    lines = [
        "language variant",
        f"pitch {base} {base + base * draw(15, 60) // 100}",
        f"formant 0 {tract} {draw(80, 180)} {draw(80, 130)}",
        *(f"formant {n} {tract + draw(-6, 6)} {draw(85, 115)} {draw(80, 130)}" for n in (1, 2, 3)),
        *(f"formant {n} {tract + draw(-10, 10)} {draw(40, 130)} {draw(70, 160)}" for n in (4, 5)),
        f"tone 500 {tone[0]} 1200 {tone[1]} 2000 {tone[2]} 3200 {tone[3]}",
        f"flutter {draw(0, 12)}",
        f"roughness {draw(0, 4)}",
        f"consonants {draw(50, 150)} {draw(50, 150)}",
        f"stressAdd {' '.join(str(draw(-60, 60)) for _ in range(8))}",
    ]
    if breath > 0:
        lines += [f"breath {' '.join(str(draw(0, breath)) for _ in range(6))}", f"voicing {100 - 2 * breath}"]
    if generator.random() < 0.25:
        lines.append(f"klatt {draw(1, 5)}")  # another synthesizer of vowels, with one of its five glottal sources
    if english and generator.random() < 0.6:
        lines += [
            f"replace 00 {sound} {others[draw(0, len(others) - 1)]}"
            for sound, others in _FOREIGN.items()
            if generator.random() < 0.5
        ]
    return "\n".join(lines) + "\n"


def in_room(
    samples: NDArray[np.int16], sample_rate: int, decay: float, level: float, generator: np.random.Generator
) -> NDArray[np.int16]:
    """Lets a word fade and reverberate as people's do; the synthesizer's ends abruptly, and its pauses are silent.

    The reverberation is noise that falls exponentially, by 60 dB in 0.1 to 0.5 s, the range of furnished rooms.

    Args:
        samples: Word, int16 (samples,).
        sample_rate: Sample rate in Hz.
        decay: Fall of the level in dB, linear from a random point in the word (30 to 80 %) to its end.
        level: Level of the reverberation relative to the word in dB.
        generator: Random number generator.

    Returns:
        The word and the tail of its reverberation, with the same peak, int16 (longer,).
    """
    start = generator.uniform(0.3, 0.8)
    position = np.arange(samples.size) / samples.size
    voice = samples * 10 ** (-decay / 20 * np.maximum(0, position - start) / (1 - start))
    seconds = generator.uniform(0.1, 0.5)
    tail = np.arange(round(seconds * sample_rate))
    response = generator.standard_normal(tail.size) * 10 ** (-3 * tail / tail.size)
    response *= 10 ** (level / 20) / np.sqrt(np.sum(response**2))
    response[0] += 1
    length = samples.size + tail.size
    points = 1 << length.bit_length()
    wet = np.fft.irfft(np.fft.rfft(voice, points) * np.fft.rfft(response, points), points)[:length]
    peak = np.abs(samples.astype(np.int32)).max()
    return np.rint(wet * (peak / np.abs(wet).max())).clip(-(2**15), 2**15 - 1).astype(np.int16)


def cut_out(
    samples: NDArray[np.int16], trim: tuple[float, float], level: float, generator: np.random.Generator
) -> NDArray[np.int16]:
    """Cuts a word out of a noisy recording, too early or too late at either end, as recorders and programs do.

    Args:
        samples: Word, int16 (samples,).
        trim: Minimum and maximum fraction of the word that is cut off at either end; a negative one is a pause.
        level: Level of the noise relative to the word in dB; its spectrum is between that of white and brown noise.
        generator: Random number generator.

    Returns:
        The recording, int16 (other length,).
    """
    start, end = (int(samples.size * generator.uniform(*trim)) for _ in range(2))
    padded = np.pad(samples.astype(np.float64), (max(0, -start), max(0, -end)))
    padded = padded[max(0, start) : padded.size - max(0, end)]
    spectrum = np.fft.rfft(generator.standard_normal(padded.size))
    spectrum /= np.maximum(1, np.arange(spectrum.size)) ** generator.uniform(0, 1)
    noise = np.fft.irfft(spectrum, padded.size)
    noise *= np.std(samples) * 10 ** (level / 20) / np.maximum(np.std(noise), 1e-9)
    return np.rint(padded + noise).clip(-(2**15), 2**15 - 1).astype(np.int16)


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
