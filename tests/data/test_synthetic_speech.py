"""The data source `synthetic_speech`: words synthesized by eSpeak NG."""

import importlib
import os
import re
import sys
import tempfile
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hydra import compose, initialize_config_dir

from spectrnn.config.instantiate import instantiate
from spectrnn.config.paths import CONFIG_DIR
from spectrnn.data.clips import Clip
from spectrnn.data.sources.espeak import open_espeak
from spectrnn.data.sources.phonemes import FOREIGN
from spectrnn.data.sources.published import DIGITS
from spectrnn.data.sources.synthetic_speech import (
    SyntheticSpeech,
    cut_out,
    in_room,
    random_speaker,
    trim_silence,
)
from spectrnn.errors import UserError

espeakng_loader = pytest.importorskip("espeakng_loader")

TINY = ["data.words=[three, four]", "data.speakers=3", "data.takes=1"]


@pytest.fixture
def speech(tmp_path):
    """Source with the defaults, but two words and three random speakers, and an empty cache."""
    return configured(tmp_path / "cache", *TINY)


@pytest.fixture(scope="module")
def cached_speech(tmp_path_factory):
    """The same source with its recordings in the cache; read-only."""
    source = configured(tmp_path_factory.mktemp("cached"), *TINY)
    source.clips()
    return source


def configured(cache: Path, *overrides: str) -> SyntheticSpeech:
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        node = compose("data/synthetic_speech", [*overrides, f"data.cache={cache}"])
    source = instantiate(node.data, "data")
    assert isinstance(source, SyntheticSpeech)
    return source


def contents(clips: list[Clip]) -> list[tuple[str, str, bytes]]:
    return [(clip.label, str(clip.group), Path(clip.path).read_bytes()) for clip in clips]


def voice(clip: Clip) -> str:
    return Path(clip.path).parent.name


def folders(source: SyntheticSpeech) -> list[Path]:
    return sorted(Path(source.cache, "synthetic_speech").iterdir())


def test_defaults_are_ten_digits_at_8_khz(tmp_path):
    source = configured(tmp_path)
    assert source.words == list(DIGITS)
    assert (source.sample_rate, source.language) == (8000, "en-us")


def test_every_voice_has_every_word(cached_speech):
    clips = cached_speech.clips()
    voices = {voice(clip) for clip in clips}
    assert len(voices) >= 90
    for word in cached_speech.words:
        assert {voice(clip) for clip in clips if clip.label == word} == voices
    assert all(clip.split is None for clip in clips)  # to be drawn by group
    assert clips == sorted(clips, key=lambda clip: (voice(clip), cached_speech.words.index(clip.label)))


def test_similar_voices_are_one_group(cached_speech):
    groups = {voice(clip): clip.group for clip in cached_speech.clips()}
    assert {groups[name] for name in groups if name.startswith("klatt")} == {"klatt"}
    assert len({groups[name] for name in ("f1", "f2", "f5", "m1", "m3")}) == 5
    assert len({groups[f"speaker_{index:05d}"] for index in range(3)}) == 3
    assert 80 <= len(set(groups.values())) < len(groups)


def test_recordings_have_plausible_level_and_length(cached_speech):
    for clip in cached_speech.clips():
        info = soundfile.info(clip.path)
        samples, _ = soundfile.read(clip.path)
        assert (info.subtype, info.channels, info.samplerate) == ("PCM_16", 1, 22050)
        assert 0.1 < info.duration < 2
        assert np.sqrt(np.mean(samples**2)) > 0.003


def test_voices_words_and_takes_differ(speech):
    clips = [clip for clip in replace(speech, takes=2).clips() if voice(clip) in ("f1", "klatt", "speaker_00001")]
    assert len(clips) == 3 * 2 * 2
    assert all(first[2] != second[2] for first, second in combinations(contents(clips), 2))


def test_recordings_depend_on_the_seed_only(cached_speech, speech):
    first = contents(cached_speech.clips())
    assert contents(speech.clips()) == first
    assert contents(replace(speech, seed=1).clips()) != first


def test_number_of_voices(cached_speech, speech):
    only = contents(replace(speech, speakers=2, shipped_voices=False).clips())
    assert [group for _, group, _ in only] == ["speaker_00000"] * 2 + ["speaker_00001"] * 2
    # The noise and pitch of a voice depend a little on the words before it, the files of the first speaker on nothing.
    first = [clip for clip in cached_speech.clips() if voice(clip) == "speaker_00000"]
    assert len(first) == 2
    shipped = replace(speech, speakers=0)
    assert {voice(clip) for clip in shipped.clips()} == {voice(clip) for clip in cached_speech.clips()} - {
        f"speaker_{index:05d}" for index in range(3)
    }


def test_random_speakers_are_people():
    speakers = [random_speaker(0, index, english=True) for index in range(300)]
    assert len(set(speakers)) == 300
    assert random_speaker(0, 7, english=True) == speakers[7] != random_speaker(1, 7, english=True)
    pitches = [int(speaker.split("pitch ")[1].split()[0]) for speaker in speakers]
    assert 80 <= min(pitches) < 100
    assert 250 < max(pitches) <= 280
    assert sum("replace" in speaker for speaker in speakers) > 80
    assert not any("replace" in random_speaker(0, index, english=False) for index in range(300))


def test_each_line_of_a_speaker_changes_the_recording():
    """A line that the library does not support would be ignored."""
    with open_espeak() as espeak:
        parameters = {"rate": 150, "volume": 100, "pitch": 50, "pitch_range": 50}

        def recording(*lines: str) -> bytes:
            text = "\n".join(["language variant", "flutter 0", *lines]) + "\n"
            return espeak.synthesize("three eight", "gmw/en-US", text, parameters, 0).tobytes()

        drawn = [line for index in range(20) for line in random_speaker(0, index, english=True).splitlines()[1:]]
        drawn = [line for line in drawn if not line.startswith(("replace", "roughness 2"))]  # the default is 2
        lines = {re.match(r"formant .|[a-zA-Z]+", line)[0]: line for line in drawn}  # one of each kind
        assert {line.split()[0] for line in lines.values()} >= {"pitch", "formant", "tone", "breath", "klatt"}
        plain = {recording() for _ in range(3)}
        for line in [
            *lines.values(),
            *(f"replace 00 {old} {new}" for old in ("T", "r", "eI") for new in FOREIGN[old]),
        ]:
            assert recording(line) not in plain, line


def test_room_reverberates_and_decays():
    generator = np.random.default_rng(0)
    tone = (10000 * np.sin(np.arange(16000) * 0.3)).astype(np.int16)
    faded = in_room(tone, 16000, 20, -60, generator)
    level = [np.abs(faded[part]).max() for part in (slice(0, 4000), slice(15900, 16000))]
    assert 20 * np.log10(level[0] / level[1]) == pytest.approx(20, abs=0.5)
    click = np.zeros(2000, np.int16)
    click[0] = 20000
    wet = in_room(click, 16000, 0, -10, generator).astype(float)
    assert wet[0] == 20000
    assert 10 * np.log10(np.sum(wet[1:] ** 2) / 20000**2) == pytest.approx(-10, abs=0.5)
    quarters = np.array_split(wet[1:-2000], 4)  # 15 dB each
    assert 10 * np.log10(np.sum(quarters[0] ** 2) / np.sum(quarters[2] ** 2)) == pytest.approx(30, abs=3)


@pytest.mark.parametrize(("fraction", "length"), [(0.25, 5000), (0.0, 10000), (-0.3, 16000)])
def test_word_is_cut_out_of_a_noisy_recording(fraction, length):
    generator = np.random.default_rng(0)
    tone = (8000 * np.sin(np.arange(10000) * 0.3)).astype(np.int16)
    recording = cut_out(tone, (fraction, fraction), -20, generator).astype(float)
    assert recording.size == length
    start = round(fraction * tone.size)
    word = tone[max(0, start) : tone.size - max(0, start)].astype(float)
    noise = recording.copy()
    noise[max(0, -start) :][: word.size] -= word
    assert 20 * np.log10(np.std(tone) / np.std(noise)) == pytest.approx(20, abs=0.1)
    spectrum = np.abs(np.fft.rfft(noise)) ** 2
    half = len(spectrum) // 2
    assert spectrum[:half].sum() > spectrum[half:].sum()  # between white and brown


def test_take_does_not_depend_on_other_words_and_takes(speech):
    accents = ["gmw/en-US", "gmw/en"]
    more = replace(speech, words=["seven", "four", "three"], takes=5)
    assert speech._draw("m1", "four", 0, accents) == more._draw("m1", "four", 0, accents)
    assert speech._draw("m1", "four", 0, accents) != speech._draw("m1", "four", 1, accents)


def test_accents_can_be_disabled(cached_speech, speech):
    assert contents(replace(speech, accents=False).clips()) != contents(cached_speech.clips())


def test_cached_recordings_are_used_without_the_library(cached_speech, monkeypatch):
    first = cached_speech.clips()
    times = [os.stat(clip.path).st_mtime_ns for clip in first]
    monkeypatch.setattr(espeakng_loader, "get_library_path", lambda: "/nowhere/libespeak-ng.so")
    assert cached_speech.clips() == first
    assert [os.stat(clip.path).st_mtime_ns for clip in first] == times
    with pytest.raises(UserError, match="eSpeak NG cannot be loaded"):
        replace(cached_speech, seed=1).clips()


def test_interrupted_synthesis_leaves_nothing(speech, monkeypatch):
    write, paths = soundfile.write, []

    def interrupted(path, *arguments, **options):
        paths.append(path)
        if len(paths) == 20:
            raise KeyboardInterrupt
        write(path, *arguments, **options)

    monkeypatch.setattr(soundfile, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        speech.clips()
    assert folders(speech) == []
    monkeypatch.undo()
    assert len(speech.clips()) > 180
    assert len(folders(speech)) == 1


def test_concurrent_process_may_finish_first(speech, monkeypatch):
    rename = os.rename

    def create_and_rename(source, target):
        (target / "voice").mkdir(parents=True)
        rename(source, target)

    monkeypatch.setattr(os, "rename", create_and_rename)
    speech.clips()
    assert [folder.name for folder in folders(speech)] == [speech._cache_key(speech.words)]


@pytest.mark.parametrize("deep_temporary_folder", [False, True])
def test_data_folder_with_a_long_path(cached_speech, speech, tmp_path, monkeypatch, deep_temporary_folder):
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    data = deep / "espeak-ng-data"
    data.symlink_to(espeakng_loader.get_data_path())
    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: str(data))
    if deep_temporary_folder:
        monkeypatch.setattr(tempfile, "tempdir", str(deep))
    assert contents(speech.clips()) == contents(cached_speech.clips())
    assert sorted(os.listdir(deep)) == ["espeak-ng-data"]


def test_words_in_another_script(tmp_path):
    few = ("data.takes=1", "data.speakers=2", "data.shipped_voices=false")
    clips = configured(tmp_path, 'data.words=["да", "нет"]', "data.language=ru", *few).clips()
    assert {clip.label for clip in clips} == {"да", "нет"}
    assert all(clip.path.removeprefix(str(tmp_path)).isascii() for clip in clips)


@pytest.mark.parametrize(
    ("language", "hint"), [("en-uss", "did you mean en-us"), ("russ", "did you mean ru"), ("qqqq", "known: af, am")]
)
def test_unknown_language_is_reported_with_similar_ones(speech, language, hint):
    message = rf"^data\.language={language}: eSpeak NG does not support this language; {hint}"
    with pytest.raises(UserError, match=message):
        replace(speech, language=language).clips()
    assert folders(speech) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["one"], "words: needs two words or more, or one and data.negatives or data.confusable"),
        ([], "words: needs two words or more, or one and data.negatives or data.confusable"),
        (["one", " "], "words: word 2 is empty"),
        (["one", "two", "one "], "words: one given twice; each word is one class"),
        (["one", "---"], "data.words: eSpeak NG has no audio for '---' in en-us"),
    ],
)
def test_invalid_words_are_reported(speech, words, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        replace(speech, words=words).clips()


def test_invalid_settings_are_reported(speech, tmp_path):
    with pytest.raises(UserError, match=r"^rate: the minimum should come first$"):
        replace(speech, rate=(200, 100)).clips()
    with pytest.raises(UserError, match=r"^decay: the minimum should come first$"):
        replace(speech, decay=(30.0, 10.0))
    with pytest.raises(UserError, match=r"^speakers: no voices; use 1 or more, or shipped_voices=true$"):
        replace(speech, speakers=0, shipped_voices=False)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^data\.cache=.*file: the recordings cannot be written: "):
        replace(speech, cache=str(tmp_path / "file")).clips()
    with pytest.raises(UserError, match=r"^data\.rate"):
        configured(tmp_path, "data.rate=[10, 20]")


def test_missing_package_is_reported_with_the_remedy(speech, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(UserError, match=r"pip install .*espeakng-loader"):
        speech.clips()

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(UserError, match=r"pip install .*espeakng-loader"):
        speech.clips()


def test_silence_is_trimmed_to_40_db_below_the_peak():
    samples = np.array([0, 99, -99, 150, 10000, -50, 100, 99, 0], dtype=np.int16)
    assert trim_silence(samples).tolist() == [150, 10000, -50, 100]
    assert trim_silence(np.full(100, 300, dtype=np.int16)).size == 0
    assert trim_silence(samples[:0]).size == 0
