"""Confusable words of synthetic speech, which differ in one phoneme and have no label."""

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from spectrnn.config.instantiate import instantiate
from spectrnn.config.paths import CONFIG_DIR
from spectrnn.data.labels import LABEL_SET
from spectrnn.data.sources.espeak import open_espeak
from spectrnn.data.sources.phonemes import confusable_words, replaced_phonemes
from spectrnn.data.splits import assign_splits
from spectrnn.errors import UserError

pytest.importorskip("espeakng_loader")

VOWELS = [("E", "e"), ("a", "A"), ("O:", "o"), ("u:", "u")]  # far from that of "three"


@pytest.fixture
def speech(tmp_path):
    overrides = ["data.words=[computer]", "data.speakers=12", "data.shipped_voices=false", "data.confusable=2"]
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        node = compose("data/synthetic_speech", [*overrides, f"data.cache={tmp_path}"])
    return instantiate(node.data, "data")


def test_one_phoneme_is_replaced_by_a_close_consonant_or_a_distant_vowel():
    vowels = [tuple(f"T|r|'{vowel}" for vowel in alternatives) for alternatives in VOWELS]
    # Not f, s and t for th, as speakers of other languages have it.
    assert list(replaced_phonemes("T|r|'i:")) == [("S|r|'i:",), ("T|l|'i:",), ("T|w|'i:",), *vowels]
    assert list(replaced_phonemes("s|@")) == [("S|@",), ("f|@",)]  # a schwa is not replaced
    assert list(replaced_phonemes("h|@ t#|@")) == [  # a mark of an allophone belongs to its consonant
        *((f"{other}|@ t#|@",) for other in ("S", "T", "f", "s")),
        ("h|@ k|@",),
        ("h|@ p|@",),
    ]


def test_confusable_words_differ_from_their_words_in_one_phoneme():
    words = ["computer", "three", "two", "coo"]
    with open_espeak() as espeak:
        language, accents = espeak.identifier("en-us"), ["gmw/en-029", "gmw/en-GB-scotland"]
        found = confusable_words(espeak, words, language, accents, 4, 0)
        assert [other.word for other in found] == [word for word in words for _ in range(4)]
        assert len({other.ipa for other in found}) == len(found)
        for other in found:
            pairs = zip(
                re.split("[| ]", other.phonemes), re.split("[| ]", espeak.phonemes(other.word, language)), strict=True
            )
            assert sum(new != old for new, old in pairs) == 1
        for accent in [language, *accents]:
            known = {espeak.phonemes(word, accent, ipa=True) for word in words}
            assert not known & {espeak.phonemes(f"[[{other.phonemes}]]", accent, ipa=True) for other in found}
        assert confusable_words(espeak, words, language, accents, 4, 0) == found
        assert confusable_words(espeak, words, language, accents, 4, 1) != found
        every = {other.phonemes for other in confusable_words(espeak, ["two"], language, [], 99, 0)}
        assert every == {"k|'u:", "p|'u:", "t|'i:", "t|'E", "t|'a", "t|'O:"}
        every = {other.phonemes for other in confusable_words(espeak, ["two", "coo"], language, [], 99, 0)}
        assert not {"k|'u:", "t|'u:"} & every


def test_phonemes_are_synthesized_as_their_word():
    parameters = {"rate": 150, "volume": 100, "pitch": 50, "pitch_range": 50}

    def recording(text: str) -> bytes:
        with open_espeak() as espeak:
            return espeak.synthesize(text, "gmw/en-US", "language variant\nflutter 0\n", parameters, 0).tobytes()

    assert recording("[[k|@|m|p|j|'u:|t#|3]]") == recording("computer") != recording("[[p|@|m|p|j|'u:|t#|3]]")


def test_clips_of_confusable_words_have_no_label_and_are_in_every_split(speech, caplog):
    caplog.set_level("INFO")
    clips = assign_splits(speech.labelled_clips(LABEL_SET), speech, LABEL_SET)
    voices = {clip.group for clip in clips}
    assert len(voices) == 12
    words: dict[str, list] = {}
    for clip in clips:
        words.setdefault(Path(clip.path).name.split("_")[0], []).append(clip)
    assert [{clip.label for clip in words[name]} for name in sorted(words)] == [{"computer"}, {""}, {""}]
    for own in words.values():
        assert {clip.group for clip in own} == voices
        assert {clip.split for clip in own} == {"train", "val", "test"}
    groups = [{clip.group for clip in clips if clip.split == split} for split in ("train", "val", "test")]
    assert sum(map(len, groups)) == 12
    (path,) = Path(speech.cache).glob("synthetic_speech/*/confusable.csv")
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    assert [row["word"] for row in rows] == ["computer"] * 2
    listed = ", ".join(f"/{row['ipa']}/" for row in rows)
    assert f"2 confusable words without a label: {listed}; all are in {path}" in caplog.text


def test_invalid_use_is_reported(speech):
    with pytest.raises(UserError, match=r"^data\.confusable=2: confusable words have no label; set task=multi_label$"):
        speech.labelled_clips()
    with pytest.raises(UserError, match=r"^words: needs two words or more, or one and data\.negatives or data\.conf"):
        replace(speech, confusable=0)
    none = r"^data\.confusable=2: none differs from 'xin chào' in one phoneme of vi; use longer words, or 0$"
    with pytest.raises(UserError, match=none):
        replace(speech, words=["xin chào"], language="vi").clips()
