"""A dataset from files to batches: labels, splits and samples, for training and for an existing model."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from spectrnn.data.clips import DataSource
from spectrnn.data.dataset import Dataset, open_dataset, open_dataset_for_evaluation
from spectrnn.errors import UserError

Build = Callable[..., DataSource]
CPU = torch.device("cpu")


@pytest.fixture
def manifest(source: Build, tone: Callable[..., Path], tmp_path: Path) -> Build:
    """`manifest("train cat", "test dog", ...)`: source of one tone per row with this split and label."""

    def build(*rows: str, **settings: object) -> DataSource:
        lines = ["path,split,label"]
        for number, row in enumerate(rows):
            tone(tmp_path / f"{number}.wav", 0.1)
            lines.append(f"{number}.wav,{row.replace(' ', ',')}")
        (tmp_path / "table.csv").write_text("\n".join(lines))
        return source("manifest", path=tmp_path / "table.csv", sample_rate=8000, **settings)

    return build


def assert_samples_equal_the_file(dataset: Dataset, row: int) -> None:
    expected, rate = soundfile.read(dataset.clips[row].path, dtype="int16")
    assert rate == dataset.cache.sample_rate == 8000
    assert dataset.cache.lengths[row] == len(expected)
    (samples,) = dataset.samples.gather([(dataset.cache.offsets[[row]], len(expected))])
    assert samples[0].tolist() == expected.tolist()


def test_clips_samples_and_sorted_labels(source: Build, tones: Path):
    dataset = open_dataset(source("folder", root=tones, sample_rate=8000), CPU)
    assert dataset.labels == ["high", "low", "middle"]
    assert len(dataset.clips) == 36
    for row in range(36):
        assert_samples_equal_the_file(dataset, row)


def test_rows_of_splits(source: Build, tones: Path):
    dataset = open_dataset(source("folder", root=tones, sample_rate=8000), CPU)
    rows = {split: dataset.rows(split) for split in ("train", "val", "test", "all")}
    assert all(array.dtype == np.int64 for array in rows.values())
    assert {split: len(array) for split, array in rows.items()} == {"train": 27, "val": 3, "test": 6, "all": 36}
    assert sorted(np.concatenate([rows["train"], rows["val"], rows["test"]])) == rows["all"].tolist() == list(range(36))
    assert {dataset.clips[row].split for row in rows["val"]} == {"val"}


def test_batches_of_a_split_have_the_classes_of_their_clips(source: Build, tones: Path):
    dataset = open_dataset(source("folder", root=tones, sample_rate=8000, max_seconds=0.3), CPU)
    counts = Counter[str]()
    for batch in dataset.batches("train", 4, CPU, seed=1).epoch():
        assert batch.lengths.max() <= 2400
        for waveform, length, target in zip(batch.waveform, batch.lengths, batch.targets.tolist(), strict=True):
            frequency = torch.fft.rfft(waveform[:length]).abs().argmax() * 8000 / length  # Hz
            label = "low" if frequency < 600 else "middle" if frequency < 1800 else "high"
            assert dataset.labels[target] == label
            counts[label] += 1
    assert counts == {"low": 9, "middle": 9, "high": 9}


@pytest.mark.parametrize(
    ("settings", "cats"),
    [
        ({}, 2),
        ({"sampling": "balanced"}, 5),
        ({"sampling": "power", "sampling_power": 0.5}, 10 * 2**0.5 / (8**0.5 + 2**0.5)),
    ],
)
def test_sampling_determines_the_draws_of_training_only(manifest: Build, settings: dict[str, object], cats: float):
    source = manifest(*["train dog"] * 8, *["train cat"] * 2, "test cat", "val cat", **settings)
    dataset = open_dataset(source, CPU)
    train = dataset.batches("train", 4, CPU, seed=0)
    targets = [target for batch in train.epoch() for target in batch.targets.tolist()]
    assert len(targets) == 10
    assert abs(targets.count(0) - cats) < 1
    assert train.draws[train.targets == 0].sum() == pytest.approx(cats)
    for split, count in {"train": 10, "test": 1}.items():
        rows = [row for batch in dataset.batches(split, 4, CPU).epoch() for row in batch.rows.tolist()]
        assert sorted(rows) == dataset.rows(split).tolist()
        assert len(rows) == count


def test_batches_of_rows(source: Build, tones: Path):
    dataset = open_dataset(source("folder", root=tones, sample_rate=8000), CPU)
    rows = np.array([3, 14, 15, 35])
    labels = {
        row: dataset.labels[target]
        for batch in dataset.batches(rows, 8, CPU).epoch()
        for row, target in zip(batch.rows.tolist(), batch.targets.tolist(), strict=True)
    }
    assert labels == {row: dataset.clips[row].label for row in rows}


def test_description_counts_clips_splits_classes_and_minutes(source: Build, tones: Path, manifest: Build):
    built = source("folder", root=tones, sample_rate=8000)
    assert open_dataset(built, CPU).describe() == (
        "36 clips (27 train, 3 val, 6 test) of 3 classes, 0.2 minutes at 8000 Hz"
    )
    without_validation = open_dataset(manifest("train a", "train b", "test a", "test b", val_fraction=0), CPU)
    assert without_validation.describe() == "4 clips (2 train, 2 test) of 2 classes, 0.0 minutes at 8000 Hz"
    unsplit, _ = open_dataset_for_evaluation(built, "all", ["low", "high"], CPU)
    assert unsplit.describe() == "36 clips (no splits) of 2 classes, 0.2 minutes at 8000 Hz"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["train cat", "train cat", "test cat"], r"the dataset has a single class \('cat'\)"),
        (["train cat", "train cat", "train dog"], "label 'dog': has a single clip"),
        (["train cat", "train cat", "train cat", "test dog", "test dog"], "no training clips of 'dog'"),
    ],
)
def test_dataset_that_is_unfit_for_training_is_rejected(manifest: Build, rows: list[str], message: str):
    with pytest.raises(UserError, match=f"^{message}"):
        open_dataset(manifest(*rows), CPU)


def test_dataset_is_decoded_into_the_cache_folder(
    source: Build, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    open_dataset(source("folder", root=tones, sample_rate=8000, cache=tmp_path / "mine"), CPU)
    assert len(list((tmp_path / "mine" / "datasets").iterdir())) == 1
    monkeypatch.setenv("SPECTRNN_CACHE", str(tmp_path / "environment"))
    assert source("folder", root=tones).cache == str(tmp_path / "environment")
    monkeypatch.delenv("SPECTRNN_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    open_dataset(source("folder", root=tones, sample_rate=8000), CPU)
    assert len(list((tmp_path / ".cache" / "spectrnn" / "datasets").iterdir())) == 1


def test_groups_in_several_splits_are_reported(
    source: Build, tone: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    rows = ["path, label, split, group"]
    for number, split in enumerate(["train", "train", "val", "test"]):
        for label in ("cat", "dog"):
            tone(tmp_path / f"{label}{number}.wav", frequency=100 * number + len(rows))
            rows.append(f"{label}{number}.wav,{label},{split},{'ann' if number in (0, 3) else f'person {number}'}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    open_dataset(source("manifest", path=tmp_path / "table.csv"), CPU)
    assert [message for message in caplog.messages if "decoded" not in message] == [
        "1 of 3 groups is in the test split and another one, so test metrics may be optimistic: 'ann'",
        "2 classes have fewer than 10 clips, so their metrics are unreliable: 'cat', 'dog'",
    ]


def test_groups_that_training_and_validation_share_are_logged(
    source: Build, tone: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    rows = ["path, label, split, group"]
    for number in range(12):
        for label in ("cat", "dog"):
            tone(tmp_path / f"{label}{number}.wav", frequency=100 + 10 * len(rows))
            rows.append(f"{label}{number}.wav,{label},{'train' if number < 9 else 'test'},speaker {number // 3}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    open_dataset(source("manifest", path=tmp_path / "table.csv"), CPU)
    assert [m for m in caplog.messages if m.startswith("validation")] == [
        "validation: 2 clips of the same 3 groups as training, too few to hold some out; its scores are optimistic"
    ]


def test_recordings_in_several_splits_are_reported(manifest: Build, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    open_dataset(manifest("train cat", "train dog", "test cat", "val dog"), CPU)  # all have the same samples
    assert caplog.messages[-1] == (
        "1 recording is in more than one split, so test metrics may be optimistic: "
        f"'{tmp_path}/0.wav', '{tmp_path}/1.wav' and 2 more; "
        "spectrnn check out=clean.csv writes a manifest without them"
    )


# For an existing model

ROWS = ("train cat", "train dog", "train owl", "val cat", "test dog", "test cat", "test owl", "test owl")


def test_evaluation_uses_the_label_order_of_the_model(manifest: Build):
    dataset, unknown = open_dataset_for_evaluation(manifest(*ROWS), "test", ["owl", "dog", "cat"], CPU)
    assert not unknown
    assert dataset.labels == ["owl", "dog", "cat"]
    assert dataset.rows("test").tolist() == [4, 5, 6, 7]
    assert dataset.targets(dataset.rows("test")).tolist() == [1, 2, 0, 0]
    (batch,) = dataset.batches("test", 8, CPU).epoch()
    assert batch.targets.tolist() == dataset.targets(batch.rows.numpy()).tolist()


def test_unknown_labels_are_counted_and_omitted(manifest: Build):
    dataset, unknown = open_dataset_for_evaluation(manifest(*ROWS), "test", ["cat", "hen", "dog"], CPU)
    assert unknown == {"owl": 2}
    assert dataset.rows("test").tolist() == [4, 5]
    assert dataset.targets(dataset.rows("test")).tolist() == [2, 0]
    _, unknown = open_dataset_for_evaluation(manifest(*ROWS), "all", ["cat", "dog"], CPU)
    assert unknown == {"owl": 3}
    _, unknown = open_dataset_for_evaluation(manifest(*ROWS), "val", ["cat"], CPU)
    assert not unknown  # dogs and owls are in other splits


def test_split_all_needs_no_splits_and_no_second_class(manifest: Build):
    dataset, unknown = open_dataset_for_evaluation(manifest(" cat", " cat", " hen"), "all", ["cat", "dog"], CPU)
    assert unknown == {"hen": 1}
    assert dataset.rows("all").tolist() == [0, 1]


def test_drawn_splits_equal_those_of_training(source: Build, tones: Path, manifest: Build):
    built = source("folder", root=tones, sample_rate=8000)
    dataset, _ = open_dataset_for_evaluation(built, "test", ["high", "low", "middle"], CPU)
    assert dataset.rows("test").tolist() == open_dataset(built, CPU).rows("test").tolist()
    built = manifest(*(10 * ["train cat", "train dog"]), "test cat")  # whose validation split is drawn
    dataset, _ = open_dataset_for_evaluation(built, "train", ["cat", "dog"], CPU)
    assert len(dataset.rows("train")) == 18
    assert dataset.rows("train").tolist() == open_dataset(built, CPU).rows("train").tolist()


def test_model_without_any_label_of_the_dataset_is_rejected(manifest: Build):
    labels = [f"class {number}" for number in range(12)]
    known = ", ".join(f"'{label}'" for label in labels[:10])
    message = rf"^the model knows none of the dataset's labels \('dog', 'cat', 'owl'\); it knows {known} and 2 more; "
    message += r"data\.labels={THEIRS: OURS} renames them$"
    with pytest.raises(UserError, match=message):
        open_dataset_for_evaluation(manifest(*ROWS), "test", labels, CPU)


@pytest.mark.parametrize("split", ["val", "tset"])
def test_split_without_clips_is_reported(manifest: Build, split: str):
    with pytest.raises(UserError, match=rf"^split={split}: the dataset has no such clips$"):
        open_dataset_for_evaluation(
            manifest(*(2 * ["train a", "train b", "test a"]), val_fraction=0), split, ["a"], CPU
        )


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_needs_no_training_clips(manifest: Build, split: str):
    dataset, unknown = open_dataset_for_evaluation(manifest(f"{split} cat", f"{split} hen"), split, ["cat", "dog"], CPU)
    assert dataset.rows(split).tolist() == [0]
    assert unknown == {"hen": 1}


# The real digits


def test_real_digits(source: Build, real_digits: Path):
    dataset = open_dataset(source("fsdd", root=real_digits), CPU)
    assert dataset.labels == sorted(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
    assert [len(dataset.rows(split)) for split in ("train", "val", "test")] == [2430, 270, 300]
    for row in (0, 1234, 2999):
        assert_samples_equal_the_file(dataset, row)
    sizes = [
        (batch.waveform.numel(), int(batch.lengths.sum())) for batch in dataset.batches("train", 64, CPU, 0).epoch()
    ]
    assert 1 - sum(used for _, used in sizes) / sum(size for size, _ in sizes) < 0.13
