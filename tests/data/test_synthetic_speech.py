"""The `synthetic_speech` source: eSpeak NG as an embedded dataset."""

import importlib
import os
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
from spectrnn.data.sources.published import DIGITS
from spectrnn.data.sources.synthetic_speech import SyntheticSpeech, trim_silence
from spectrnn.errors import UserError

espeakng_loader = pytest.importorskip("espeakng_loader")

TINY = ["data.words=[three, four]", "data.takes=1"]


@pytest.fixture
def spoken(tmp_path):
    """The source as the YAML describes it, with two words in one take, in an empty cache."""
    return configured(tmp_path / "cache", *TINY)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The same source, whose cache already holds its recordings: not to be written to."""
    source = configured(tmp_path_factory.mktemp("recorded"), *TINY)
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


def folders(source: SyntheticSpeech) -> list[Path]:
    return sorted(Path(source.cache, "synthetic_speech").iterdir())


def test_defaults_are_ten_digits_at_8_khz(tmp_path):
    source = configured(tmp_path)
    assert source.words == list(DIGITS)
    assert (source.sample_rate, source.language) == (8000, "en-us")


def voice(clip: Clip) -> str:
    return Path(clip.path).parent.name


def test_every_voice_speaks_every_word(recorded):
    clips = recorded.clips()
    voices = {voice(clip) for clip in clips}
    assert len(voices) >= 90
    for word in recorded.words:
        assert {voice(clip) for clip in clips if clip.label == word} == voices
    assert all(clip.split is None for clip in clips)  # drawn later, by group
    assert clips == sorted(clips, key=lambda clip: (voice(clip), recorded.words.index(clip.label)))


def test_voices_that_sound_alike_are_one_group(recorded):
    groups = {voice(clip): clip.group for clip in recorded.clips()}
    assert {groups[name] for name in groups if name.startswith("klatt")} == {"klatt"}
    assert len({groups[name] for name in ("f1", "f2", "f5", "m1", "m3")}) == 5
    assert 80 <= len(set(groups.values())) < len(groups)


def test_recordings_are_audible_words_of_a_plausible_length(recorded):
    for clip in recorded.clips():
        info = soundfile.info(clip.path)
        samples, _ = soundfile.read(clip.path)
        assert (info.subtype, info.channels, info.samplerate) == ("PCM_16", 1, 22050)
        assert 0.1 < info.duration < 1.5
        assert np.sqrt(np.mean(samples**2)) > 0.003


def test_voices_and_words_and_takes_differ(spoken):
    clips = replace(spoken, takes=2).clips()
    few = [clip for clip in clips if voice(clip) in ("f1", "m1", "klatt")]
    assert len(few) == 3 * 2 * 2
    assert all(a[2] != b[2] for a, b in combinations(contents(few), 2))


def test_the_same_seed_gives_the_same_bytes(recorded, spoken):
    first = contents(recorded.clips())
    assert contents(spoken.clips()) == first
    assert contents(replace(spoken, seed=1).clips()) != first


def test_a_take_does_not_depend_on_what_else_is_spoken(spoken):
    accents = ["gmw/en-US", "gmw/en"]
    more = replace(spoken, words=["seven", "four", "three"], takes=5)
    assert spoken._draw("m1", "four", 0, accents) == more._draw("m1", "four", 0, accents)
    assert spoken._draw("m1", "four", 0, accents) != spoken._draw("m1", "four", 1, accents)


def test_accents_can_be_left_out(recorded, spoken):
    assert contents(replace(spoken, accents=False).clips()) != contents(recorded.clips())


def test_a_finished_folder_is_reused_without_the_library(recorded, monkeypatch):
    first = recorded.clips()
    times = [os.stat(clip.path).st_mtime_ns for clip in first]
    monkeypatch.setattr(espeakng_loader, "get_library_path", lambda: "/nowhere/libespeak-ng.so")
    assert recorded.clips() == first
    assert [os.stat(clip.path).st_mtime_ns for clip in first] == times
    with pytest.raises(UserError, match="eSpeak NG cannot be loaded"):
        replace(recorded, seed=1).clips()


def test_a_half_written_folder_is_never_taken_for_whole(spoken, monkeypatch):
    write, written = soundfile.write, []

    def interrupted(path, *arguments, **options):
        written.append(path)
        if len(written) == 20:
            raise KeyboardInterrupt
        write(path, *arguments, **options)

    monkeypatch.setattr(soundfile, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        spoken.clips()
    assert folders(spoken) == []
    monkeypatch.undo()
    assert len(spoken.clips()) > 180
    assert len(folders(spoken)) == 1


def test_another_process_may_be_faster(spoken, monkeypatch):
    rename = os.rename

    def second(source, target):
        (target / "voice").mkdir(parents=True)
        rename(source, target)

    monkeypatch.setattr(os, "rename", second)
    spoken.clips()
    assert [folder.name for folder in folders(spoken)] == [spoken._fingerprint(spoken.words)]


@pytest.mark.parametrize("deep_temporary_folder", [False, True])
def test_a_deep_installation_folder(recorded, spoken, tmp_path, monkeypatch, deep_temporary_folder):
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    data = deep / "espeak-ng-data"
    data.symlink_to(espeakng_loader.get_data_path())
    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: str(data))
    if deep_temporary_folder:
        monkeypatch.setattr(tempfile, "tempdir", str(deep))
    assert contents(spoken.clips()) == contents(recorded.clips())
    assert sorted(os.listdir(deep)) == ["espeak-ng-data"]


def test_russian_words_of_any_script(tmp_path):
    source = configured(tmp_path, 'data.words=["да", "нет"]', "data.language=ru", "data.takes=1")
    clips = source.clips()
    assert {clip.label for clip in clips} == {"да", "нет"}
    assert all(clip.path.removeprefix(str(tmp_path)).isascii() for clip in clips)


@pytest.mark.parametrize(("language", "near"), [("en-uss", "en-us"), ("russ", "ru"), ("qqqq", "known are af, am")])
def test_an_unknown_language_names_its_neighbours(spoken, language, near):
    with pytest.raises(UserError, match=rf"^data\.language={language}: .*{near}"):
        replace(spoken, language=language).clips()
    assert folders(spoken) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["one"], "two words or more"),
        ([], "two words or more"),
        (["one", " "], "word 2 is empty"),
        (["one", "two", "one "], "one given twice"),
        (["one", "---"], "says nothing for '---'"),
    ],
)
def test_wrong_words_name_their_key(spoken, words, message):
    with pytest.raises(UserError, match=rf"^(data\.)?words.*{message}"):
        replace(spoken, words=words).clips()


def test_wrong_settings_name_their_key(spoken, tmp_path):
    with pytest.raises(UserError, match=r"^rate: the lowest should come first"):
        replace(spoken, rate=(200, 100)).clips()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^data\.cache="):
        replace(spoken, cache=str(tmp_path / "file")).clips()
    with pytest.raises(UserError, match=r"data\.rate"):
        configured(tmp_path, "data.rate=[10, 20]")


def test_a_missing_package_says_what_to_install(spoken, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(UserError, match=r"pip install .*espeakng-loader"):
        spoken.clips()

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(UserError, match=r"pip install .*espeakng-loader"):
        spoken.clips()


def test_trimming_cuts_what_is_below_40_db_of_the_peak():
    samples = np.array([0, 99, -99, 150, 10000, -50, 100, 99, 0], dtype=np.int16)
    assert trim_silence(samples).tolist() == [150, 10000, -50, 100]
    assert trim_silence(np.full(100, 300, dtype=np.int16)).size == 0
    assert trim_silence(samples[:0]).size == 0
