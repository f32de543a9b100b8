"""Phonemes of eSpeak NG: what is taken for each other, and words that differ in one phoneme."""

import json
import random
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from spectrnn.data.sources.espeak import Espeak

# Phonemes of English and what speakers of other languages replace them by; no two digits or commands become the same.
FOREIGN = {
    "t": ["tS", "t["],
    "T": ["t", "s", "f"],
    "D": ["d", "z"],
    "r": ["R", "R2", "r/"],
    "w": ["v"],
    "I": ["i"],
    "oU": ["o:", "O:"],
    "eI": ["e:", "E"],
}
# Consonants of the same voice that are close in place or manner.
_CLOSE = ["p t k tS", "b d g dZ", "tS S", "dZ Z", "f T s S h", "v D z Z", "m n N", "l r", "r w", "w j"]
_NOT_ANYWHERE = {"h", "N"}  # in a word; they are replaced, but do not replace others
# Vowels by the first letters of what is near them: as they are in English, and as in a language without that one.
_VOWELS = {"iI": ("i:", "i"), "eE": ("E", "e"), "aA0V": ("a", "A"), "oO0": ("O:", "o"), "uU": ("u:", "u")}
_STRESS_AND_SOUND = re.compile(r"([',%=]*)(.*)")
_CONSONANT = re.compile(r"(tS|dZ|[A-Za-z])[^A-Za-z@]*")  # with a mark of its allophone, as in t# and l/2


class ConfusableWord(NamedTuple):
    """A word that differs from another one in a phoneme.

    Attributes:
        word: The other one.
        phonemes: Phonemes, in the mnemonics of eSpeak NG.
        ipa: Phonemes, in the International Phonetic Alphabet.
    """

    word: str
    phonemes: str
    ipa: str


def confusable_words(
    espeak: Espeak, words: Sequence[str], language: str, accents: Sequence[str], count: int, seed: int
) -> list[ConfusableWord]:
    """Draws words that differ from some words in one phoneme, and in no accent sound like any of them.

    Args:
        espeak: Library.
        words: Words.
        language: Identifier of the language, such as ``gmw/en-US``.
        accents: Identifiers of the accents that the words are read in.
        count: Number of words for each word; fewer if there are no more.
        seed: Seed of the draw.
    """
    known = {espeak.phonemes(word, accent, ipa=True) for word in words for accent in [language, *accents]}
    found: list[ConfusableWord] = []
    for word in words:
        candidates = list(replaced_phonemes(espeak.phonemes(word, language)))
        random.Random(json.dumps([seed, "confusable", word])).shuffle(candidates)
        own: list[ConfusableWord] = []
        for alternatives in candidates:
            # A phoneme that the language does not have is not read as itself.
            readable = (text for text in alternatives if espeak.phonemes(f"[[{text}]]", language) == text)
            if len(own) < count and (text := next(readable, None)):
                ipa = [espeak.phonemes(f"[[{text}]]", accent, ipa=True) for accent in [language, *accents]]
                if known.isdisjoint(ipa):
                    known.update(ipa)
                    own.append(ConfusableWord(word, text, ipa[0]))
        found += own
    return found


def replaced_phonemes(phonemes: str) -> Iterator[tuple[str, ...]]:
    """Replaces one phoneme: each consonant by each close one, and each vowel that is not reduced by each distant one.

    What speakers of other languages replace by each other (`FOREIGN`) is not replaced, as their words would be equal.

    Args:
        phonemes: Mnemonics of eSpeak NG, separated by ``|`` or blanks, such as ``T|r|'i:``.

    Yields:
        Mnemonics, with alternatives for a vowel that a language may not have.
    """
    parts = re.split(r"([| ])", phonemes)
    for position, part in enumerate(parts):
        match = _STRESS_AND_SOUND.fullmatch(part)
        assert match
        stress, sound = match.groups()
        before, after = "".join(parts[:position]) + stress, "".join(parts[position + 1 :])
        for alternatives in [*_close_consonants(sound), *_distant_vowels(sound)]:
            yield tuple(before + other + after for other in alternatives)


def _close_consonants(sound: str) -> list[tuple[str]]:
    match = _CONSONANT.fullmatch(sound)
    base = match[1] if match else sound
    close = {other for group in _CLOSE if base in group.split() for other in group.split()} - _NOT_ANYWHERE - {base}
    return [
        (other,) for other in sorted(close) if other not in FOREIGN.get(base, []) and base not in FOREIGN.get(other, [])
    ]


def _distant_vowels(sound: str) -> list[tuple[str, ...]]:
    is_vowel = any(letter in near for near in _VOWELS for letter in sound[:1])
    return [vowels for near, vowels in _VOWELS.items() if is_vowel and sound[0] not in near]
