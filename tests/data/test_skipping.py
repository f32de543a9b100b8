"""Unreadable recordings: reported all at once, or skipped and listed."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from spectrnn.data.cache_entries import decoded_entries
from spectrnn.data.clips import DataSource
from spectrnn.data.dataset import Dataset, open_dataset, open_dataset_for_evaluation
from spectrnn.errors import FileErrors, UserError

Build = Callable[..., DataSource]
CPU = torch.device("cpu")
LABELS = ["high", "low", "middle"]
REASON = "Format not recognised"


@pytest.fixture
def root(tones: Path, tmp_path: Path) -> Path:
    """Writable copy of the tones."""
    return Path(shutil.copytree(tones, tmp_path / "tones"))


@pytest.fixture
def opened(source: Build, root: Path, tmp_path: Path) -> Callable[..., Dataset]:
    """Opens the tones with a separate cache: `opened(on_error)`."""
    return lambda on_error: open_dataset(
        source("folder", root=root, sample_rate=8000, on_error=on_error, cache=tmp_path / "cache"), CPU
    )


def damage(root: Path, *names: str) -> list[str]:
    """Overwrites files, and returns their paths."""
    for name in names:
        (root / name).write_text("not audio")
    return [str(root / name) for name in names]


def samples(dataset: Dataset) -> dict[str, list[int]]:
    """Samples of each clip by path."""
    cache = dataset.cache
    waveform, spans = (
        cache.samples.read(0, cache.samples.size),
        zip(cache.offsets, cache.offsets + cache.lengths, strict=True),
    )
    return {clip.path: waveform[start:end].tolist() for clip, (start, end) in zip(dataset.clips, spans, strict=True)}


def test_other_clips_are_not_changed(opened: Callable[..., Dataset], root: Path):
    whole = opened("skip")
    assert whole.skipped == []
    # The first clip, the last one, and two consecutive ones.
    paths = damage(root, "high/00.wav", "low/03.wav", "low/04.wav", "middle/11.wav")
    dataset = opened("skip")
    assert [line.split(": ")[0] for line in dataset.skipped] == paths
    assert dataset.clips == [clip for clip in whole.clips if clip.path not in paths]  # with the same splits
    assert samples(dataset) == {path: waveform for path, waveform in samples(whole).items() if path not in paths}
    assert dataset.labels == whole.labels
    rows = [
        row
        for split in ("train", "val", "test")
        for batch in dataset.batches(split, 4, CPU, seed=0).epoch()
        for row in batch.rows[batch.lengths > 0].tolist()
    ]
    assert sorted(rows) == list(range(32))


def test_fail_reports_all_files_and_keeps_the_others(opened: Callable[..., Dataset], root: Path, tmp_path: Path):
    paths = damage(root, *(f"{label}/{number:02d}.wav" for label in LABELS for number in range(8)))
    with pytest.raises(UserError) as error:
        opened("fail")
    lines = [f"{path}: cannot be read as audio ({REASON})" for path in paths]
    assert isinstance(error.value, FileErrors)
    assert error.value.errors == lines
    assert str(error.value).splitlines() == [*lines[:9], "... and 15 more files", f"  {FileErrors.REMEDY}"]
    (entry,) = decoded_entries(tmp_path / "cache")
    assert (entry.clips, entry.source) == (12, f"{root}/")


def test_fail_reports_files_that_an_earlier_run_skipped(opened: Callable[..., Dataset], root: Path):
    (path,) = damage(root, "low/03.wav")
    opened("skip")
    with pytest.raises(UserError, match=rf"^{path}: cannot be read as audio \({REASON}\); {FileErrors.REMEDY}$"):
        opened("fail")
    assert len(opened("skip").clips) == 35  # the cached dataset is kept


def test_repaired_file_is_used_again(opened: Callable[..., Dataset], root: Path, tones: Path):
    damage(root, "low/03.wav")
    assert len(opened("skip").clips) == 35
    shutil.copy(tones / "low" / "03.wav", root / "low")
    assert len(opened("skip").clips) == 36


@pytest.mark.usefixtures("root")
def test_missing_files_of_a_manifest_are_skipped(source: Build, tmp_path: Path):
    lines = ["path,label", *(f"tones/{label}/{number:02d}.wav,{label}" for label in LABELS for number in range(12))]
    (tmp_path / "table.csv").write_text("\n".join([*lines[:5], "missing.wav,low", *lines[5:]]))
    dataset = open_dataset(source("manifest", path=tmp_path / "table.csv", on_error="skip", sample_rate=8000), CPU)
    assert dataset.skipped == [f"{tmp_path / 'missing.wav'}: no such file"]
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
def test_class_or_split_without_readable_clips_is_reported(
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
    message = f"data.on_error=skip: no clip of {lost} can be read; data.on_error=fail names them"
    with pytest.raises(UserError, match=f"^{message}$"):
        open_dataset(built, CPU)


def test_evaluation_needs_readable_clips_of_its_split_only(source: Build, tone: Callable[..., Path], tmp_path: Path):
    for number in range(3):
        tone(tmp_path / f"{number}.wav")
    rows = ["path,split,label", "0.wav,test,a", "1.wav,test,b", "none.wav,train,a", "2.wav,val,a", "gone.wav,val,c"]
    (tmp_path / "table.csv").write_text("\n".join(rows))
    built = source("manifest", path=tmp_path / "table.csv", on_error="skip")
    dataset, _ = open_dataset_for_evaluation(built, "test", ["a", "b"], CPU)
    assert dataset.rows("test").tolist() == [0, 1]
    assert len(dataset.skipped) == 2
    dataset, _ = open_dataset_for_evaluation(built, "val", ["a", "b"], CPU)
    assert len(dataset.rows("val")) == 1  # the model does not know c
    message = r"no clip of label 'a', label 'a' in split train, split train can be read"
    with pytest.raises(UserError, match=f"^data.on_error=skip: {message}"):
        open_dataset_for_evaluation(built, "train", ["a", "b"], CPU)


def test_dataset_without_readable_clips_is_reported(opened: Callable[..., Dataset], root: Path, tmp_path: Path):
    paths = damage(root, *(f"{label}/{number:02d}.wav" for label in LABELS for number in range(12)))
    with pytest.raises(UserError, match=f"^data.on_error=skip: none of 36 clips can be read, such as {paths[0]}: "):
        opened("skip")
    assert list((tmp_path / "cache" / "datasets").iterdir()) == []


def test_skipped_clips_are_listed(
    opened: Callable[..., Dataset], root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    opened("skip").list_skipped(tmp_path)
    assert not (tmp_path / "skipped.txt").exists()
    damage(root, "low/03.wav", "low/05.wav")
    (root / "low" / "04.wav").rename(root / "low" / "caf\udce9.wav")
    damage(root, "low/caf\udce9.wav")
    dataset = opened("skip")
    dataset.list_skipped(tmp_path)
    assert (tmp_path / "skipped.txt").read_text(errors="surrogateescape").splitlines() == dataset.skipped
    assert caplog.messages[-1] == f"3 of 36 clips cannot be read and were skipped; see {tmp_path}/skipped.txt"


def test_what_was_ignored_is_warned_about_and_listed(
    opened: Callable[..., Dataset], root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (root / "low" / "notes.txt").touch()
    (root / "low" / ".hidden.wav").touch()
    (root / "empty").mkdir()
    opened("fail").list_skipped(tmp_path)
    assert caplog.messages[:3] == [
        f"data: 1 class folder without audio was ignored: {root}/empty",
        f"data: 1 file of other kinds was ignored: 1 .txt (such as {root}/low/notes.txt)",
        f"data: 1 hidden file or folder was ignored (such as {root}/low/.hidden.wav)",
    ]
    assert sorted((tmp_path / "ignored.txt").read_text().splitlines()) == [
        f"{root}/empty: class folder without audio",
        f"{root}/low/.hidden.wav: hidden",
        f"{root}/low/notes.txt: of another kind (.txt)",
    ]
    assert not (tmp_path / "skipped.txt").exists()


def test_labels_that_look_alike_are_warned_about(
    opened: Callable[..., Dataset], root: Path, caplog: pytest.LogCaptureFixture
):
    (root / "low").rename(root / "High")
    assert opened("fail").labels == ["High", "high", "middle"]
    message = (
        "1 sets of labels differ in case, blanks or Unicode form only, and are different classes: "
        "'High' and 'high'; data.labels={OLD: NEW} merges them"
    )
    assert message in caplog.messages
