"""Synthetic speech: a list of words in the voices of eSpeak NG and of any number of random speakers."""

import csv
import hashlib
import json
import logging
import random
import re
from dataclasses import dataclass
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
from spectrnn.data.labels import ONE_LABEL, LabelFormat
from spectrnn.data.sources.espeak import PACKAGE, PARAMETERS, REMEDY, Espeak, language_and_script, open_espeak
from spectrnn.data.sources.phonemes import FOREIGN, ConfusableWord, confusable_words
from spectrnn.errors import UserError, reject_settings
from spectrnn.files import atomic_directory, cache_folder, writable_cache
from spectrnn.messages import counted, preview
from spectrnn.progress import progress_bar

log = logging.getLogger(__name__)

WordsPerMinute = Annotated[int, Ge(80), Le(450)]
Level0To99 = Annotated[int, Ge(0), Le(99)]
Percent = Annotated[int, Ge(0), Le(200)]
Decay = Annotated[float, Ge(0), Le(60)]
Reverberation = Annotated[float, Ge(-60), Le(10)]
NoiseLevel = Annotated[float, Ge(-100), Le(0)]
TrimFraction = Annotated[float, Ge(-1), Le(0.4)]

_FORMAT = 3  # of the cached folder and of the random draws
_CONFUSABLE = "confusable.csv"  # list of the confusable words
_NUM_EXAMPLES = 5  # of them in a message
_MAX_TAKES = 100_000  # per voice, of all words: ten million clips of the shipped voices
_MAX_CLIPS = 10_000_000  # of the random speakers
_MAX_SPEAKERS = 99_999  # as their folders have five digits
_SILENCE = 0.01  # of full scale; takes with a lower peak are skipped
_TRIM_LEVEL = 0.01  # of the peak (-40 dB); both ends are trimmed to it
# Lowest and highest base pitch in Hz and formant scale in percent of men (twice as likely), women and children.
_PEOPLE = [(80, 150, 88, 108), (80, 150, 88, 108), (140, 220, 102, 122), (190, 280, 115, 135)]
_RANGES = [*PARAMETERS, "decay", "reverberation", "noise", "trim"]


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
        confusable: Number of words per word that differ from it in one phoneme; their clips have no label.
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
    confusable: NonNegativeInt
    seed: NonNegativeInt

    def __post_init__(self) -> None:
        words = [word.strip() for word in self.words]
        empty = words.index("") + 1 if "" in words else 0
        twice = sorted({word for word in words if words.count(word) > 1})
        count = len(words) * (1 + self.confusable)
        most = _MAX_TAKES // max(1, count)
        too_many = f"more than {_MAX_TAKES:,} takes per voice for {count} words; use at most {most:,}"
        fewest, or_one = (1 if self.negatives or self.confusable else 2), "or one and data.negatives or data.confusable"
        ranges = [(name, getattr(self, name)) for name in _RANGES]
        reject_settings(
            ("words", len(words) < fewest, f"needs two words or more, {or_one}"),
            ("words", empty, f"word {empty} is empty"),
            ("words", twice, f"{', '.join(twice)} given twice; each word is one class"),
            (
                "speakers",
                not (self.speakers or self.shipped_voices),
                "no voices; use 1 or more, or shipped_voices=true",
            ),
            ("takes", count * self.takes > _MAX_TAKES, too_many),
            ("speakers", self.speakers * count * self.takes > _MAX_CLIPS, f"more than {_MAX_CLIPS:,} clips"),
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
        if self.confusable:
            with (folder / _CONFUSABLE).open(encoding="utf-8", newline="") as file:
                sounds = [f"/{row['ipa']}/" for row in csv.DictReader(file)]
            listed = f"{preview(sounds, _NUM_EXAMPLES)}; all are in {folder / _CONFUSABLE}"
            log.info("%s without a label: %s", counted(len(sounds), "confusable word"), listed)
        clips = []
        for path in sorted(folder.glob("*/*.wav"), key=lambda path: (path.parent.name, path.name)):
            # The voices klatt2 and klatt6 are similar and one group; f1 and f2 are two people, as are the speakers.
            group = re.sub(r"(?<=[A-Za-z]{2})[0-9]+$", "", path.parent.name)
            index = int(path.name.split("_")[0])
            clips.append(Clip(str(path), words[index] if index < len(words) else "", group=group))
        return clips

    def labelled_clips(self, label_format: LabelFormat = ONE_LABEL) -> list[Clip]:
        """Returns the clip table as `DataSource.labelled_clips`; confusable words need a format of label sets."""
        if self.confusable and label_format is ONE_LABEL:
            raise UserError(f"data.confusable={self.confusable}: confusable words have no label; set task=multi_label")
        return super().labelled_clips(label_format)

    def _cache_key(self, words: list[str]) -> str:
        """Returns a key of the recordings, which changes whenever a sample could."""
        try:
            version = metadata.version(PACKAGE)
        except metadata.PackageNotFoundError as error:
            raise UserError(f"data=synthetic_speech: {PACKAGE} is not installed; {REMEDY}") from error
        voices, ranges = [self.speakers, self.shipped_voices], [getattr(self, name) for name in _RANGES]
        values = [_FORMAT, version, self.language, self.accents, words, voices, self.takes, ranges, self.seed]
        if self.confusable:
            values.append(self.confusable)
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]

    def _synthesize(self, words: list[str], folder: Path) -> None:
        """Synthesizes all takes into a new folder: ``{voice}/{word}_{take}.wav``, with confusable words the last."""
        audible = set()
        try:
            with atomic_directory(folder) as temporary, open_espeak() as espeak:
                accents = espeak.accents(self.language) if self.accents else [espeak.identifier(self.language)]
                english = self.accents and language_and_script(accents[0])[0] == "en"
                speakers = range(self.speakers)
                voices = {f"speaker_{index:05d}": random_speaker(self.seed, index, english) for index in speakers}
                if self.shipped_voices:
                    voices |= espeak.voices()
                spoken = [*words, *self._confusable_words(espeak, words, accents, temporary)]
                takes = list(product(sorted(voices), enumerate(spoken), range(self.takes)))
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

    def _confusable_words(self, espeak: Espeak, words: list[str], accents: list[str], folder: Path) -> list[str]:
        """Draws the confusable words, lists them in a file, and returns them as texts for the synthesis."""
        if not self.confusable:
            return []
        language = espeak.identifier(self.language)
        found = confusable_words(espeak, words, language, accents, self.confusable, self.seed)
        if without := [repr(word) for word in words if word not in {other.word for other in found}]:
            problem = f"none differs from {', '.join(without)} in one phoneme of {self.language}"
            raise UserError(f"data.confusable={self.confusable}: {problem}; use longer words, or 0")
        with (folder / _CONFUSABLE).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([ConfusableWord._fields, *found])
        return [f"[[{word.phonemes}]]" for word in found]

    def _draw(self, voice: str, word: str, take: int, accents: list[str]) -> tuple[str, dict[str, int], int]:
        """Draws accent, parameters and noise seed of a take, a function of seed, voice, word and take only."""
        # random.Random hashes strings identically on every machine and in every version of Python.
        generator = random.Random(json.dumps([self.seed, voice, word, take]))
        accent = accents[generator.randrange(len(accents))]
        parameters = {name: generator.randint(*getattr(self, name)) for name in PARAMETERS}
        return accent, parameters, generator.randrange(2**31)


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
            for sound, others in FOREIGN.items()
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
