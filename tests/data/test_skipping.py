"""Recordings that cannot be read: all named at once, or left out and listed, whatever else is in the dataset."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from spectrnn.data.clips import DataSource
from spectrnn.data.dataset import Dataset, open_dataset, open_for_evaluation
from spectrnn.errors import UserError

Build = Callable[..., DataSource]
CPU = torch.device("cpu")
LABELS = ["high", "low", "middle"]


@pytest.fixture
def root(tones: Path, tmp_path: Path) -> Path:
    """Tones, of which nothing is broken yet."""
    return Path(shutil.copytree(tones, tmp_path / "tones"))


@pytest.fixture
def opened(source: Build, root: Path, tmp_path: Path) -> Callable[..., Dataset]:
    """Opens the tones with `on_error`, in a cache of their own."""
    return lambda on_error: open_dataset(
        source("folder", root=root, sample_rate=8000, on_error=on_error, cache=tmp_path / "cache"), CPU
    )


def broken(root: Path, *names: str) -> list[str]:
    for name in names:
        (root / name).write_text("no sound")
    return [str(root / name) for name in names]


def samples(dataset: Dataset) -> dict[str, list[int]]:
    """The clips of a dataset by their paths."""
    wave = np.fromfile(dataset.store.path, np.int16)
    bounds = zip(dataset.store.offsets, dataset.store.offsets[1:], strict=False)
    return {clip.path: wave[a:b].tolist() for clip, (a, b) in zip(dataset.clips, bounds, strict=True)}


def test_the_rest_is_as_if_nothing_were_broken(opened: Callable[..., Dataset], root: Path):
    whole = opened("skip")
    assert whole.skipped == []
    # the first clip, the last, two in a row
    paths = broken(root, "high/00.wav", "low/03.wav", "low/04.wav", "middle/11.wav")
    dataset = opened("skip")
    assert [line.split(": ")[0] for line in dataset.skipped] == paths
    assert dataset.clips == [clip for clip in whole.clips if clip.path not in paths]  # their splits too
    assert samples(dataset) == {path: wave for path, wave in samples(whole).items() if path not in paths}
    assert dataset.labels == whole.labels
    drawn = [
        row
        for part in ("train", "val", "test")
        for batch in dataset.batches(part, 4, CPU, seed=0).epoch()
        for row in batch.rows[batch.lengths > 0].tolist()
    ]
    assert sorted(drawn) == list(range(32))


def test_failing_names_all_and_leaves_nothing(opened: Callable[..., Dataset], root: Path, tmp_path: Path):
    paths = broken(root, *(f"{label}/{number:02d}.wav" for label in LABELS for number in range(8)))
    with pytest.raises(UserError) as caught:
        opened("fail")
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == paths
    assert list((tmp_path / "cache" / "stores").iterdir()) == []


def test_failing_finds_what_an_earlier_run_skipped(opened: Callable[..., Dataset], root: Path):
    (path,) = broken(root, "low/03.wav")
    opened("skip")
    with pytest.raises(UserError, match=rf"^{path}: cannot be read as audio"):
        opened("fail")
    assert len(opened("skip").clips) == 35  # and leaves it where it is


def test_a_mended_recording_is_there_again(opened: Callable[..., Dataset], root: Path, tones: Path):
    broken(root, "low/03.wav")
    assert len(opened("skip").clips) == 35
    shutil.copy(tones / "low" / "03.wav", root / "low")
    assert len(opened("skip").clips) == 36


@pytest.mark.usefixtures("root")
def test_a_manifest_may_name_files_that_are_gone(source: Build, tmp_path: Path):
    lines = ["path,label", *(f"tones/{label}/{number:02d}.wav,{label}" for label in LABELS for number in range(12))]
    (tmp_path / "table.csv").write_text("\n".join([*lines[:5], "gone.wav,low", *lines[5:]]))
    dataset = open_dataset(source("manifest", path=tmp_path / "table.csv", on_error="skip", sample_rate=8000), CPU)
    assert dataset.skipped == [f"{tmp_path / 'gone.wav'}: no such file"]
    assert len(dataset.clips) == 36


@pytest.mark.parametrize(
    ("table", "lost"),
    [
        (["train a", "train a", "train b", "train b", "test a", "test !b"], None),
        (["train a", "train a", "train !b", "train !b", "test a"], "label 'b', label 'b' in split train"),
        (["train a", "train a", "train !b", "test b", "test a"], "label 'b' in split train"),
        (["train a", "train b", "train b", "test !b", "test !a"], "split test"),
    ],
)
def test_a_class_or_split_that_loses_all_is_named(
    source: Build, tone: Callable[..., Path], tmp_path: Path, table: list[str], lost: str | None
):
    lines = ["path,split,label"]
    for number, row in enumerate(table):
        split, label = row.split()
        lines.append(f"{number}.wav,{split},{label.strip('!')}")
        if "!" not in label:
            tone(tmp_path / f"{number}.wav")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    built = source("manifest", path=tmp_path / "table.csv", on_error="skip", val_fraction=0)
    if lost is None:
        assert len(open_dataset(built, CPU).clips) == len(table) - 1
        return
    with pytest.raises(UserError, match=rf"^data.on_error=skip: no clip of {lost} can be read"):
        open_dataset(built, CPU)


def test_evaluation_minds_its_own_part(source: Build, tone: Callable[..., Path], tmp_path: Path):
    for number in range(3):
        tone(tmp_path / f"{number}.wav")
    rows = ["path,split,label", "0.wav,test,a", "1.wav,test,b", "gone.wav,train,a", "2.wav,val,a", "lost.wav,val,c"]
    (tmp_path / "table.csv").write_text("\n".join(rows))
    built = source("manifest", path=tmp_path / "table.csv", on_error="skip")
    dataset, _ = open_for_evaluation(built, "test", ["a", "b"], CPU)
    assert dataset.rows("test").tolist() == [0, 1]
    assert len(dataset.skipped) == 2
    assert len(open_for_evaluation(built, "val", ["a", "b"], CPU)[0].rows("val")) == 1  # of c it knows nothing
    with pytest.raises(UserError, match=r"no clip of label 'a'.*, split train can be read"):
        open_for_evaluation(built, "train", ["a", "b"], CPU)


def test_nothing_that_can_be_read_is_an_error(opened: Callable[..., Dataset], root: Path, tmp_path: Path):
    paths = broken(root, *(f"{label}/{number:02d}.wav" for label in LABELS for number in range(12)))
    with pytest.raises(UserError, match=f"^data.on_error=skip: none of the 36 clips can be read, such as {paths[0]}: "):
        opened("skip")
    assert list((tmp_path / "cache" / "stores").iterdir()) == []


def test_what_was_skipped_is_listed(opened: Callable[..., Dataset], root: Path, tmp_path: Path, caplog):
    opened("skip").list_skipped(tmp_path)
    assert not (tmp_path / "skipped.txt").exists()
    broken(root, "low/03.wav", "low/05.wav")
    (root / "low" / "04.wav").rename(root / "low" / "caf\udce9.wav")
    broken(root, "low/caf\udce9.wav")
    dataset = opened("skip")
    dataset.list_skipped(tmp_path)
    assert (tmp_path / "skipped.txt").read_text(errors="surrogateescape").splitlines() == dataset.skipped
    assert f"3 of 36 clips cannot be read and are left out; they are listed in {tmp_path}/skipped.txt" in caplog.text
