"""A tiny copy of Speech Commands: the official lists, and the 12-class task with unknown and silence."""

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from spectrnn.data.clips import Clip, DataSource
from spectrnn.data.sources.published import COMMANDS, WORDS
from spectrnn.data.splits import assign_splits
from spectrnn.errors import UserError

Build = Callable[..., DataSource]


@pytest.mark.parametrize(("version", "classes"), [(1, 30), (2, 35)])
def test_all_words(dataset: Build, speech_commands: Callable, tmp_path: Path, version: int, classes: int):
    source = dataset("speech_commands", speech_commands(tmp_path, version), version=version, classes=classes)
    clips = source.clips()
    assert len({clip.label for clip in clips}) == classes
    assert set(Counter((clip.label, clip.split) for clip in clips).items()) == {
        ((word, split), count) for word in WORDS[version] for split, count in {"train": 8, "val": 1, "test": 3}.items()
    }
    for clip in clips:
        path = Path(clip.path)
        assert clip.label == path.parent.name
        assert clip.group == path.name[:8]
        assert clip.fold is None
        number = int(path.name[:8], 16)
        assert clip.split == ("train" if number < 8 else "val" if number == 8 else "test")
    assert assign_splits(clips, source) == clips


def test_twelve_classes(dataset: Build, commands: Path):
    source = dataset("speech_commands", commands, classes=12)
    clips = source.clips()
    assert {clip.label for clip in clips} == {*COMMANDS, "unknown", "silence"}
    for split, count in {"train": 8, "val": 1, "test": 3}.items():
        labels = Counter(clip.label for clip in clips if clip.split == split)
        assert labels == dict.fromkeys([*COMMANDS, "unknown", "silence"], count)
    unknown = [clip for clip in clips if clip.label == "unknown"]
    words = {clip.path: clip for clip in dataset("speech_commands", commands).clips()}
    assert len({clip.path for clip in unknown}) == len(unknown)
    for clip in unknown:
        assert words[clip.path].label not in COMMANDS
        assert words[clip.path]._replace(label="unknown") == clip
    assert assign_splits(clips, source) == clips


def test_unknown_and_silence_have_a_tenth_of_the_command_clips_rounded_up(dataset: Build, commands: Path):
    (commands / "yes" / f"{0:08x}_nohash_9.wav").write_bytes((commands / "yes" / f"{0:08x}_nohash_0.wav").read_bytes())
    clips = dataset("speech_commands", commands, classes=12).clips()
    labels = Counter(clip.label for clip in clips if clip.split == "train")
    assert labels["unknown"] == labels["silence"] == math.ceil(81 / 10) == 9


def test_unknown_words_depend_on_the_split_seed(dataset: Build, commands: Path):
    def unknown(seed: int) -> list[Clip]:
        source = dataset("speech_commands", commands, classes=12, split_seed=seed)
        return [clip for clip in source.clips() if clip.label == "unknown"]

    assert unknown(0) == unknown(0) != unknown(1)


def test_silence_of_different_splits_does_not_overlap(dataset: Build, commands: Path):
    noises = commands / "_background_noise_"
    for number in range(600):  # enough that the excerpts of one split overlap
        for split, speaker in {"train": 0, "val": 8, "test": 9}.items():
            name = f"go/{speaker:08x}_nohash_{number + 10}.wav"
            (commands / name).write_bytes((commands / "go" / f"{0:08x}_nohash_0.wav").read_bytes())
            if split != "train":
                with (commands / ("validation_list.txt" if split == "val" else "testing_list.txt")).open("a") as file:
                    file.write(f"{name}\n")
    clips = [clip for clip in dataset("speech_commands", commands, classes=12).clips() if clip.label == "silence"]
    assert Counter(clip.split for clip in clips) == {"train": 68, "val": 61, "test": 63}
    assert {Path(clip.path).name for clip in clips} == {"tap.wav", "bike.wav"}  # 2 s are too short
    for path, seconds in {str(noises / "tap.wav"): 61.0, str(noises / "bike.wav"): 30.5}.items():
        spans = {}
        for split in ("train", "val", "test"):
            rows = [clip for clip in clips if clip.path == path and clip.split == split]
            assert all(clip.end is not None and clip.end - clip.start == pytest.approx(1.0) for clip in rows)
            assert len({clip.start for clip in rows}) == len(rows)
            spans[split] = (min(clip.start for clip in rows), max(clip.end or 0 for clip in rows))
        assert 0 <= spans["train"][0] < spans["train"][1] <= spans["val"][0]
        assert spans["val"][1] <= spans["test"][0] < spans["test"][1] <= seconds
        assert spans["train"][1] == pytest.approx(0.8 * seconds, abs=1.0)  # the split's part of the file is used
        assert spans["test"][0] == pytest.approx(0.9 * seconds, abs=0.2)


def test_number_of_classes_depends_on_the_version(dataset: Build, tmp_path: Path):
    with pytest.raises(UserError, match=r"data.classes=35: data.version=1 has 12 or 30 classes"):
        dataset("speech_commands", tmp_path, version=1)
    with pytest.raises(UserError, match=r"data.classes=11"):
        dataset("speech_commands", tmp_path, classes=11)


def test_default_root_depends_on_the_version(source: Build, tmp_path: Path):
    built = source("speech_commands", version=1, classes=30, cache=tmp_path)
    assert built.root == f"{tmp_path}/speech_commands_v1"


def test_root_of_the_other_version_is_reported(dataset: Build, commands: Path):
    with pytest.raises(
        UserError, match=r"differ from those of data.version=1: backward, follow, forward, learn, visual"
    ):
        dataset("speech_commands", commands, version=1, classes=12).clips()


def test_missing_files_are_reported(dataset: Build, commands: Path):
    missing = commands / "wow" / f"{9:08x}_nohash_0.wav"
    missing.unlink()
    with pytest.raises(UserError, match=rf"1 file of its own lists is missing, such as wow/{missing.name}$"):
        dataset("speech_commands", commands).clips()
    (commands / "testing_list.txt").unlink()
    with pytest.raises(
        UserError, match=r"data.root=.*: contains no testing_list.txt; data.download=true downloads Speech Commands V2"
    ):
        dataset("speech_commands", commands).clips()


def test_wrong_file_name_is_reported(dataset: Build, recording: Callable, commands: Path):
    recording(commands / "bed" / "mine.wav")
    with pytest.raises(UserError, match=r"bed/mine.wav: the name should be <speaker>_nohash_<number>.wav"):
        dataset("speech_commands", commands).clips()


def test_unusable_noise_is_reported(dataset: Build, commands: Path):
    noises = commands / "_background_noise_"
    (noises / "tap.wav").unlink(), (noises / "bike.wav").unlink()
    with pytest.raises(UserError, match=r"_background_noise_: contains no recording of 10 s or more"):
        dataset("speech_commands", commands, classes=12).clips()
    (noises / "click.wav").write_text("no audio")
    with pytest.raises(UserError, match=r"click.wav: cannot be read as audio"):
        dataset("speech_commands", commands, classes=12).clips()
    (noises / "click.wav").unlink()
    with pytest.raises(UserError, match=r"contains no _background_noise_/\*.wav"):
        dataset("speech_commands", commands, classes=12).clips()
    assert len(dataset("speech_commands", commands).clips()) == 35 * 12
