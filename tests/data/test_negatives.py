"""Negatives: recordings in which no class sounds, held out in part, and drawn again each epoch."""

import csv

import numpy as np
import pytest
import soundfile
import torch

from spectrnn.data.dataset import open_dataset
from spectrnn.data.labels import LABEL_SET
from spectrnn.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture
def table(tmp_path):
    """40 clips of 0.2 s, each of which has the label a or b, and samples that are 1."""
    rows = [["path", "label"]]
    for number in range(40):
        soundfile.write(tmp_path / f"{number}.wav", np.ones(1600 + 8 * number, np.int16), 8000)
        rows.append([f"{number}.wav", "ab"[number % 2]])
    with (tmp_path / "clips.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return tmp_path / "clips.csv"


@pytest.fixture
def opened(source, table, tmp_path_factory):
    """`opened(recordings=3)`: dataset with negatives of 10 s, whose samples count from 1000."""

    def build(recordings=3, **settings):
        folder = tmp_path_factory.mktemp("negatives")
        for number in range(recordings):
            samples = (1000 + np.arange(80_000) // 4).astype(np.int16)
            soundfile.write(folder / f"{number:02d}.wav", samples, 8000)
        settings = {"path": table, "sample_rate": 8000, "negatives": [str(folder)]} | settings
        return open_dataset(source("manifest", **settings), CPU, LABEL_SET)

    return build


def drawn(dataset, epoch=0, seed=0):
    """Waveforms of the negatives of an epoch, as integers, with their rows."""
    found = []
    for batch in dataset.batches("train", 8, CPU, seed=seed).epoch(epoch):
        for waveform, length, row, target in zip(*batch[:2], batch.rows, batch.targets, strict=True):
            if row >= len(dataset.clips):
                assert not target.any()
                found.append(((waveform[:length] * 32768).round().int().tolist(), int(row)))
            else:
                assert target.any()
    return found


@pytest.mark.parametrize("recordings", [3, 12])
def test_splits_have_parts_of_their_own(opened, recordings):
    dataset = opened(recordings)
    assert [clip.label for clip in dataset.clips[40:]] == [""] * (len(dataset.clips) - 40)
    covered = {}
    for clip in dataset.clips[40:]:
        covered.setdefault(clip.split, []).append((clip.path, clip.start, clip.end))
    assert covered.keys() == {"val", "test"}
    seconds = {split: sum(end - start for _, start, end in parts) for split, parts in covered.items()}
    share = {"val": 0.1, "test": 0.2}
    for split, value in seconds.items():
        assert value >= 0.95 * share[split] * 10 * recordings - 10 * (recordings >= 10)
    if recordings >= 10:
        paths = {split: {path for path, *_ in parts} for split, parts in covered.items()}
        assert len(paths["val"]) == 1
        assert len(paths["test"]) == 2
        assert not paths["val"] & paths["test"]
    held_out = {(path, start) for parts in covered.values() for path, start, _ in parts}
    for samples, row in drawn(dataset):
        path = dataset.clip(row).path
        for other, start in held_out:
            first = 1000 + int(start * 8000) // 4
            assert other != path or samples[-1] < first or samples[0] > first + 500


def test_share_and_lengths_of_drawn_windows(opened):
    dataset = opened(negative_share=0.5)
    own = len(dataset.rows("train")) - sum(clip.split == "train" for clip in dataset.clips[40:])
    windows = drawn(dataset)
    assert len(windows) == own
    lengths = sorted(dataset.cache.lengths[[row for row in dataset.rows("train") if row < 40]].tolist())
    assert sorted(len(samples) for samples, _ in windows) == lengths
    assert drawn(dataset) == windows
    assert drawn(dataset, epoch=1) != windows
    assert drawn(dataset, seed=1) != windows
    assert dataset.num_training_clips == 2 * own


def test_windows_are_drawn_near_hard_ones(opened):
    dataset = opened(negative_share=0.5, hard_share=0.75)
    negatives = dataset.negatives
    hard = int(negatives.starts[1]) + 20_000
    negatives.hard = np.array([hard])
    near = total = 0
    for epoch in range(10):
        for samples, row in drawn(dataset, epoch):
            total += 1
            near += row == len(dataset.clips) + 1 and abs(samples[0] - (1000 + 20_000 // 4)) <= negatives.size / 2
    assert near / total == pytest.approx(0.75, abs=0.1)


def test_hard_windows_stay_within_the_training_part(opened):
    negatives = opened().negatives
    last = int(negatives.starts[2]) + 80_000
    windows = negatives.windows(np.array([0, last]))
    assert windows.starts[0] == negatives.starts[0]
    assert windows.starts[1] + windows.lengths[1] == last - 8000 - 16_000  # before the ends for val and test
    assert (windows.lengths == negatives.size).all()


def test_negatives_need_a_task_of_label_sets(source, table):
    with pytest.raises(UserError, match=r"data.negatives: clips have any number of labels, or none; set task="):
        open_dataset(source("manifest", path=table, sample_rate=8000, negatives=[str(table.parent)]), CPU)


@pytest.mark.parametrize("name", ["none", "empty"])
def test_negatives_that_are_missing(opened, tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"data.negatives=.*/(none: no such file|empty: contains no recordings)"):
        opened(negatives=[str(tmp_path / name)])


def test_copies_of_labelled_clips_are_warned_about(opened, table, tmp_path_factory, caplog):
    """In another format, with more silence around it; not a copy of a clip without a label."""
    folder = tmp_path_factory.mktemp("copies")
    with table.open("a") as file:
        for number in range(10):
            file.write(f"quiet{number}.wav,\n")
            soundfile.write(table.parent / f"quiet{number}.wav", np.full(800, 2 + number, np.int16), 8000)
    soundfile.write(folder / "quiet.wav", np.full(800, 2, np.int16), 8000)
    soundfile.write(folder / "call.flac", np.pad(np.ones(1600 + 8 * 7, np.int16), 50), 8000)
    opened()
    assert "labelled clip" not in caplog.text
    opened(negatives=[str(folder)])
    expected = (
        "data.negatives: 1 recording is a copy of a labelled clip, taken for sounds of no class; remove such copies"
    )
    assert f"{expected}: {folder}/call.flac ({table.parent}/7.wav)" in caplog.text


def test_clips_longer_than_the_limit_are_cropped_at_random(opened):
    dataset = opened(max_seconds=0.1)
    batches = dataset.batches("train", 8, CPU, seed=0)
    assert {int(length) for batch in batches.epoch() for length in batch.lengths} == {800}
