"""A dataset from files to batches: labels, splits, samples, and what a model that exists already makes of it."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from spectrnn.data.clips import DataSource
from spectrnn.data.dataset import Dataset, cache_folder, open_dataset, open_for_evaluation
from spectrnn.errors import UserError

Build = Callable[..., DataSource]
CPU = torch.device("cpu")


def opened(source: DataSource) -> Dataset:
    return open_dataset(source, CPU)


def for_evaluation(source: DataSource, part: str, labels: list[str]) -> tuple[Dataset, Counter[str]]:
    return open_for_evaluation(source, part, labels, CPU)


@pytest.fixture
def manifest(source: Build, tone: Callable[..., Path], tmp_path: Path) -> Callable[..., DataSource]:
    """`manifest("train cat", "test dog", ...)`: a source of one tone a word pair, and of one file each."""

    def built(*rows: str, **settings: object) -> DataSource:
        lines = ["path,split,label"]
        for number, row in enumerate(rows):
            tone(tmp_path / f"{number}.wav", 0.1)
            lines.append(f"{number}.wav,{row.replace(' ', ',')}")
        (tmp_path / "table.csv").write_text("\n".join(lines))
        return source("manifest", path=tmp_path / "table.csv", sample_rate=8000, **settings)

    return built


def test_a_corpus_is_its_clips_samples_and_sorted_labels(source: Build, tones: Path):
    dataset = opened(source("folder", root=tones, sample_rate=8000))
    assert dataset.labels == ["high", "low", "middle"]
    assert len(dataset.clips) == 36
    for row, clip in enumerate(dataset.clips):
        expected, _ = soundfile.read(clip.path, dtype="int16")
        (samples,) = dataset.wave.gather([(dataset.store.offsets[[row]], len(expected))])
        assert dataset.store.lengths[row] == len(expected)
        assert samples[0].tolist() == expected.tolist()


def test_rows_are_those_of_the_split_and_all_is_all(source: Build, tones: Path):
    dataset = opened(source("folder", root=tones, sample_rate=8000))
    rows = {part: dataset.rows(part) for part in ("train", "val", "test", "all")}
    assert all(array.dtype == np.int64 for array in rows.values())
    assert {part: len(array) for part, array in rows.items()} == {"train": 27, "val": 3, "test": 6, "all": 36}
    assert sorted(np.concatenate([rows["train"], rows["val"], rows["test"]])) == rows["all"].tolist() == list(range(36))
    assert {dataset.clips[row].split for row in rows["val"]} == {"val"}


def test_batches_carry_the_right_classes(source: Build, tones: Path):
    dataset = opened(source("folder", root=tones, sample_rate=8000, max_seconds=0.3))
    heard = Counter[str]()
    for batch in dataset.batches("train", 4, CPU, seed=1).epoch():
        assert batch.lengths.max() <= 2400
        for wave, length, target in zip(batch.waveform, batch.lengths, batch.targets, strict=True):
            peak = torch.fft.rfft(wave[:length]).abs().argmax() * 8000 / length  # Hz
            label = "low" if peak < 600 else "middle" if peak < 1800 else "high"
            assert dataset.labels[int(target.argmax())] == label
            heard[label] += 1
    assert heard == {"low": 9, "middle": 9, "high": 9}


def test_a_description_counts_clips_splits_classes_and_minutes(source: Build, tones: Path, manifest: Build):
    dataset = opened(source("folder", root=tones, sample_rate=8000))
    assert dataset.describe() == "36 clips (27 train, 3 val, 6 test) of 3 classes, 0.2 minutes at 8000 Hz"
    assert (
        "4 clips (2 train, 2 test) of 2 classes"
        in opened(manifest("train a", "train b", "test a", "test b", val_fraction=0)).describe()
    )
    unsplit, _ = for_evaluation(source("folder", root=tones, sample_rate=8000), "all", ["low", "high"])
    assert unsplit.describe().startswith("36 clips (no splits) of 2 classes")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["train cat", "train cat", "test cat"], "a single class"),
        (["train cat", "train cat", "train dog"], "label 'dog': has one clip only"),
        (["train cat", "train cat", "train cat", "test dog", "test dog"], "no training clips of 'dog'"),
    ],
)
def test_a_corpus_that_cannot_train_is_refused(manifest: Build, rows: list[str], message: str):
    with pytest.raises(UserError, match=message):
        opened(manifest(*rows))


def test_the_store_lies_in_the_cache(source: Build, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    opened(source("folder", root=tones, sample_rate=8000, cache=tmp_path / "mine"))
    assert len(list((tmp_path / "mine" / "stores").iterdir())) == 1
    monkeypatch.setenv("SPECTRNN_CACHE", str(tmp_path / "environment"))
    assert cache_folder(source("folder", root=tones)) == tmp_path / "environment"
    monkeypatch.delenv("SPECTRNN_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder(source("folder", root=tones)) == tmp_path / ".cache" / "spectrnn"


# For a model that exists already

ROWS = ("train cat", "train dog", "train owl", "val cat", "test dog", "test cat", "test owl", "test owl")


def test_evaluation_numbers_the_labels_as_the_model_does(manifest: Build):
    dataset, foreign = for_evaluation(manifest(*ROWS), "test", ["owl", "dog", "cat"])
    assert not foreign
    assert dataset.labels == ["owl", "dog", "cat"]
    assert dataset.rows("test").tolist() == [4, 5, 6, 7]
    assert dataset.targets(dataset.rows("test")).tolist() == [1, 2, 0, 0]
    (batch,) = dataset.batches("test", 8, CPU).epoch()
    assert batch.targets.argmax(1).tolist() == [[1, 2, 0, 0][row - 4] for row in batch.rows.tolist()]


def test_labels_that_the_model_does_not_know_are_counted_and_left_out(manifest: Build):
    dataset, foreign = for_evaluation(manifest(*ROWS), "test", ["cat", "hen", "dog"])
    assert foreign == {"owl": 2}
    assert dataset.rows("test").tolist() == [4, 5]
    assert dataset.targets(dataset.rows("test")).tolist() == [2, 0]
    _, foreign = for_evaluation(manifest(*ROWS), "all", ["cat", "dog"])
    assert foreign == {"owl": 3}
    _, foreign = for_evaluation(manifest(*ROWS), "val", ["cat"])
    assert not foreign  # dogs and owls are elsewhere


def test_all_needs_no_splits_and_no_second_class(manifest: Build):
    dataset, foreign = for_evaluation(manifest(" cat", " cat", " hen"), "all", ["cat", "dog"])
    assert foreign == {"hen": 1}
    assert dataset.rows("all").tolist() == [0, 1]


def test_drawn_splits_are_those_of_training(source: Build, tones: Path):
    built = source("folder", root=tones, sample_rate=8000)
    dataset, _ = for_evaluation(built, "test", ["high", "low", "middle"])
    assert dataset.rows("test").tolist() == opened(built).rows("test").tolist()


def test_a_model_that_knows_nothing_of_it(manifest: Build):
    labels = [f"class {number}" for number in range(12)]
    with pytest.raises(
        UserError, match=r"knows none of the dataset's labels \('dog', 'cat', 'owl'\); it knows 'class 0'"
    ):
        for_evaluation(manifest(*ROWS), "test", labels)
    with pytest.raises(UserError, match=r"'class 9', \.\.\.$"):
        for_evaluation(manifest(*ROWS), "test", labels)


@pytest.mark.parametrize("part", ["val", "tset"])
def test_a_split_without_clips_is_named(manifest: Build, part: str):
    with pytest.raises(UserError, match=rf"^split={part}: "):
        for_evaluation(manifest(*(2 * ["train a", "train b", "test a"]), val_fraction=0), part, ["a"])


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_corpus_made_for_testing_needs_nothing_to_train_on(manifest: Build, part: str):
    dataset, foreign = for_evaluation(manifest(f"{part} cat", f"{part} hen"), part, ["cat", "dog"])
    assert dataset.rows(part).tolist() == [0]
    assert foreign == {"hen": 1}


def test_training_clips_are_those_that_were_left_to_train(manifest: Build):
    built = manifest(*(10 * ["train cat", "train dog"]), "test cat")
    dataset, _ = for_evaluation(built, "train", ["cat", "dog"])
    assert len(dataset.rows("train")) == 18
    assert dataset.rows("train").tolist() == opened(built).rows("train").tolist()


# The real digits


def test_the_real_digits_decode_as_published(source: Build, real_digits: Path):
    dataset = opened(source("fsdd", root=real_digits))
    assert dataset.labels == sorted(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
    assert [len(dataset.rows(part)) for part in ("train", "val", "test")] == [2430, 270, 300]
    for row in (0, 1234, 2999):
        expected, rate = soundfile.read(dataset.clips[row].path, dtype="int16")
        assert rate == dataset.store.sample_rate == 8000
        (samples,) = dataset.wave.gather([(dataset.store.offsets[[row]], len(expected))])
        assert dataset.store.lengths[row] == len(expected)
        assert samples[0].tolist() == expected.tolist()
    padded = used = 0
    for batch in dataset.batches("train", 64, CPU, seed=0).epoch():
        padded, used = padded + batch.waveform.numel(), used + int(batch.lengths.sum())
    assert 1 - used / padded < 0.13


def test_groups_that_a_corpus_splits_are_told(source: Build, tone: Callable[..., Path], tmp_path: Path, caplog: Any):
    rows = ["path, label, split, group"]
    for number, split in enumerate(["train", "train", "val", "test"]):
        for label in ("cat", "dog"):
            tone(tmp_path / f"{label}{number}.wav")
            rows.append(f"{label}{number}.wav,{label},{split},{'ann' if number in (0, 3) else f'someone {number}'}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    opened(source("manifest", path=tmp_path / "table.csv"))
    assert "1 of 3 groups are in more than one split" in caplog.text
    assert "'ann'" in caplog.text
