"""The published datasets: tiny copies, and the real spoken digits if available."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from spectrnn.data.clips import Clip, DataSource
from spectrnn.data.sources import published
from spectrnn.data.sources.download import Archive
from spectrnn.data.sources.published import DIGITS
from spectrnn.data.splits import assign_splits
from spectrnn.errors import UserError

Build = Callable[..., DataSource]


def by_split(clips: list[Clip]) -> dict[str | None, list[Clip]]:
    return {split: [clip for clip in clips if clip.split == split] for split in {clip.split for clip in clips}}


# Free Spoken Digit Dataset


def test_fsdd_test_split_has_recordings_0_to_4(dataset: Build, digits: Path):
    clips = dataset("fsdd", digits).clips()
    assert len(clips) == 120
    assert {clip.label for clip in clips} == set(DIGITS)
    for clip in clips:
        digit, _, index = Path(clip.path).stem.split("_")
        assert clip.label == DIGITS[int(digit)]
        assert clip.split == ("test" if index in "04" else "train")
        assert clip.fold == clip.path.split("_")[-2]
        assert clip.group is None
        assert clip.group is None


def test_fsdd_fold_is_a_speaker(dataset: Build, digits: Path):
    source = dataset("fsdd", digits, fold="bob")
    clips = source.clips()
    assert all(clip.fold == clip.group == Path(clip.path).stem.split("_")[1] and clip.split is None for clip in clips)
    splits = by_split(assign_splits(clips, source))
    speakers = {split: {clip.group for clip in rows} for split, rows in splits.items()}
    assert speakers["test"] == {"bob"}
    assert speakers["val"] == speakers["train"] == {"ann", "cid"}


def test_fsdd_unknown_speaker_is_reported(dataset: Build, digits: Path):
    source = dataset("fsdd", digits, fold="dan")
    with pytest.raises(UserError, match=r"data.fold=dan: no such fold; its folds are ann, bob, cid"):
        assign_splits(source.clips(), source)


def test_fsdd_files_are_in_recordings_or_in_the_root(dataset: Build, recording: Callable, digits: Path):
    recording(digits / "other" / "noise.wav")
    recording(digits / "recordings" / "._0_ann_0.wav")
    deep, flat = dataset("fsdd", digits).clips(), dataset("fsdd", digits / "recordings").clips()
    assert deep == flat
    assert len(flat) == 120


@pytest.mark.parametrize("name", ["ten_ann_0.wav", "10_ann_0.wav", "1_ann.wav", "1_ann_x.wav", "1_ann_b_2.wav"])
def test_fsdd_wrong_file_name_is_reported(dataset: Build, recording: Callable, digits: Path, name: str):
    recording(digits / "recordings" / name)
    with pytest.raises(UserError, match=rf"recordings/{name}: the name should be <digit>_<speaker>_<index>.wav"):
        dataset("fsdd", digits).clips()


def test_fsdd_without_recordings_is_reported(dataset: Build, recording: Callable, tmp_path: Path):
    recording(tmp_path / "elsewhere" / "0_ann_0.wav")
    with pytest.raises(UserError, match=r"data.root=.*contains no recordings/\*.wav and no \*.wav"):
        dataset("fsdd", tmp_path).clips()


def test_real_fsdd(dataset: Build, real_digits: Path):
    source = dataset("fsdd", real_digits)
    assert source.sample_rate == 8000 == soundfile.info(source.clips()[0].path).samplerate
    clips = source.clips()
    assert Counter(clip.split for clip in clips) == {"train": 2700, "test": 300}
    assert set(Counter((clip.label, clip.split) for clip in clips).values()) == {270, 30}
    counts = Counter(clip.split for clip in assign_splits(clips, source))
    assert counts == {"train": 2430, "val": 270, "test": 300}
    jackson = dataset("fsdd", real_digits, fold="jackson", val_groups="disjoint")
    splits = by_split(assign_splits(jackson.clips(), jackson))
    assert len(splits["test"]) == 500
    assert {clip.group for clip in splits["test"]} == {"jackson"}
    assert not {clip.group for clip in splits["train"]} & {clip.group for clip in splits["val"]}


# ESC-50 and UrbanSound8K


@pytest.mark.parametrize(("name", "folds"), [("esc50", 5), ("urbansound8k", 10)])
def test_datasets_with_folds(dataset: Build, request: pytest.FixtureRequest, name: str, folds: int):
    source = dataset(name, request.getfixturevalue(name), val_groups="disjoint")
    clips = source.clips()
    assert source.fold == 1
    assert len(clips) == 4 * folds
    assert {clip.fold for clip in clips} == {str(fold) for fold in range(1, folds + 1)}
    assert all(Path(clip.path).is_file() and clip.split is None for clip in clips)
    splits = by_split(assign_splits(clips, source))
    assert {clip.fold for clip in splits["test"]} == {"1"}
    assert len(splits["test"]) == 4
    groups = [{clip.group for clip in rows} for rows in splits.values()]
    assert len(groups) == 3
    assert sum(map(len, groups)) == len(set.union(*groups)) == 2 * folds
    with pytest.raises(UserError, match=r"data.fold=11: no such fold; its folds are 1, "):
        assign_splits(clips, dataset(name, Path(source.root), fold=11))


def test_esc50_rows(dataset: Build, esc50: Path):
    first, second, third, *_ = dataset("esc50", esc50).clips()
    assert first == Clip(str(esc50 / "audio" / "1-10-A-0.wav"), "dog", fold="1", group="10")
    assert second.group == "10"
    assert (third.label, third.group) == ("rain", "11")


def test_urbansound8k_rows(dataset: Build, urbansound8k: Path):
    last = dataset("urbansound8k", urbansound8k).clips()[-1]
    path = urbansound8k / "audio" / "fold10" / "101-1-0-1.wav"
    assert last == Clip(str(path), "drilling", fold="10", group="101")


def test_damaged_table_is_reported(dataset: Build, esc50: Path):
    path = esc50 / "meta" / "esc50.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1], "1-10-B-0.wav,1,0"]))
    with pytest.raises(UserError, match=r"esc50.csv, line 3: is incomplete$"):
        dataset("esc50", esc50).clips()
    path.write_text(lines[0])
    with pytest.raises(UserError, match=r"esc50.csv: contains no clips$"):
        dataset("esc50", esc50).clips()
    path.write_text("filename,category\na.wav,dog\n")
    with pytest.raises(UserError, match=r"esc50.csv: no column fold and no column src_file"):
        dataset("esc50", esc50).clips()


# All published datasets

CONTENTS = {
    "fsdd": (r"\*\*/\*.wav", "the Free Spoken Digit Dataset", "12 MB"),
    "speech_commands": ("validation_list.txt and no testing_list.txt", "Speech Commands V2", "2,429 MB"),
    "esc50": (r"meta/esc50.csv and no audio/\*.wav", "ESC-50", "647 MB"),
    "urbansound8k": (r"metadata/UrbanSound8K.csv and no audio/fold\*/\*.wav", "UrbanSound8K", "6,024 MB"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_missing_contents_are_reported_with_the_download(dataset: Build, tmp_path: Path, name: str):
    missing, title, size = CONTENTS[name]
    offer = rf"data.download=true downloads {title} \({size}\)"
    with pytest.raises(UserError, match=rf"^data.root=.*/none: no such folder; {offer}$"):
        dataset(name, tmp_path / "none").clips()
    message = rf"^data.root={tmp_path}: contains no {missing}; {offer} into a new folder$"
    with pytest.raises(UserError, match=message):
        dataset(name, tmp_path).clips()
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UserError, match=message):  # a folder with other contents is not filled
        dataset(name, tmp_path, download=True).clips()


@pytest.mark.parametrize("name", CONTENTS)
def test_only_a_missing_root_is_downloaded(
    dataset: Build, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    fixtures = {"fsdd": "digits", "speech_commands": "commands"}
    complete = request.getfixturevalue(fixtures.get(name, name))
    requested: list[tuple[str, Path]] = []

    def fetch(archive: Archive, folder: Path) -> None:
        requested.append((archive.name, folder))
        folder.symlink_to(complete)

    monkeypatch.setattr(published, "fetch", fetch)
    expected = dataset(name, complete, download=True).clips()
    assert requested == []
    fetched = dataset(name, tmp_path / "new", download=True).clips()
    assert requested == [(CONTENTS[name][1], tmp_path / "new")]
    assert [clip._replace(path="") for clip in fetched] == [clip._replace(path="") for clip in expected]


def test_every_archive_has_a_checksum():
    for archive in (
        published._FSDD_ARCHIVE,
        *published.SPEECH_COMMANDS.values(),
        published._ESC50_ARCHIVE,
        published.URBANSOUND8K,
    ):
        algorithm, _, digest = archive.checksum.partition(":")
        assert archive.url.startswith("https://")
        assert len(bytes.fromhex(digest)) == {"sha256": 32, "md5": 16}[algorithm]
