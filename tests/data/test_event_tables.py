"""Tables of events in the formats of other tools, and the recordings that they belong to."""

import csv
import re

import numpy as np
import pytest
import soundfile
import torch

from spectrnn.data.dataset import list_clips, open_dataset
from spectrnn.data.labels import LABEL_SET
from spectrnn.data.sources.event_tables import read_events
from spectrnn.errors import UserError

RAVEN = (
    "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\tSpecies\n"
    "1\tWaveform 1\t1\t0.5\t1.25\t0\t4000\tGreat tit\n"
    "1\tSpectrogram 1\t1\t0.5\t1.25\t0\t4000\tGreat tit\n"
    '2\tSpectrogram 1\t1\t2.0\t2.5\t0\t4000\t"rain"\n'
)


@pytest.fixture
def events_in(tmp_path):
    """Writes a table, and returns its events: `events_in("a.txt", text)` -> (path, start, end, label) of each."""

    def read(name, text, **settings):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return [tuple(event[:4]) for event in read_events(tmp_path / name, **settings)]

    return read


def test_selection_table_of_raven(events_in):
    expected = [(None, 0.5, 1.25, "Great tit"), (None, 2.0, 2.5, '"rain"')]
    assert events_in("a.txt", RAVEN) == expected
    assert events_in("a.txt", RAVEN.replace("\n", "\r\n").encode("utf-16")) == expected


def test_label_column_of_a_selection_table(events_in):
    named = RAVEN.replace("Species", "Sp")
    assert events_in("a.txt", named, columns={"label": "Sp"}) == events_in("b.txt", RAVEN)
    assert events_in("a.txt", named.partition("\n")[0].removesuffix("\tSp") + "\n") == []


def test_selection_table_of_several_recordings(events_in):
    text = (
        "Selection\tBegin Time (s)\tEnd Time (s)\tBegin File\tFile Offset (s)\tAnnotation\n"
        "1\t1.0\t2.0\ta.wav\t1.0\tcat\n2\t61.5\t62.0\tb.wav\t1.5\t\n"
    )
    assert events_in("all.txt", text) == [("a.wav", 1.0, 2.0, "cat"), ("b.wav", 1.5, 2.0, "")]


def test_label_track_of_audacity(events_in):
    text = "0.500000\t1.250000\tGreat tit\n\\\t100.0\t4000.0\n2,5\t2,5\train\n3\t4\n"
    expected = [(None, 0.5, 1.25, "Great tit"), (None, 2.5, 2.5, "rain"), (None, 3.0, 4.0, "")]
    assert events_in("a.txt", text) == expected
    assert events_in("a.txt", "") == []


def test_csv_and_jsonl(events_in):
    expected = [("a.wav", 0.5, 1.25, "cat"), ("a.wav", 2.0, 3.0, "")]
    text = "filename,onset,offset,event_label\na.wav,0.5,1.25,cat\na.wav,2,3,\n"
    assert events_in("t.csv", text) == expected
    text = (
        '{"path": "a.wav", "start": 0.5, "end": 1.25, "label": "cat"}\n{"path": "a.wav", "start": 2, "duration": 1}\n'
    )
    assert events_in("t.jsonl", text) == expected
    columns = {"start": "from", "end": "to", "label": "what"}
    assert events_in("t.tsv", "from\tto\twhat\n1\t2\tcat\n", columns=columns) == [(None, 1.0, 2.0, "cat")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.doc", "", "a.doc: the name of a table of events should end in .csv, .tsv, .txt or .jsonl"),
        ("a.txt", "1\t0.5\tcat\n", "a.txt, line 1: end '0.5' is not after start 1"),
        ("a.txt", "1\tx\tcat\n", "a.txt: no column label"),
        ("a.txt", "0\t1\tcat\n1\tx\tcat\n", "a.txt, line 2: end 'x' is not a time in seconds"),
        ("a.txt", RAVEN.replace("End Time (s)", "Stop"), "a.txt: no column End Time"),
        ("a.csv", "start,end,label\n,1,cat\n", "a.csv, line 2: start is empty"),
        (
            "a.csv",
            "start,end,bird\n0,1,cat\n",
            "a.csv: no column label (found: start, end, bird); data",
        ),
        ("a.txt", RAVEN.replace("Species", "Sp"), "High Freq (Hz), Sp); data.columns={label: NAME} names it"),
    ],
)
def test_tables_that_are_wrong(events_in, name, text, message):
    with pytest.raises(UserError) as error:
        events_in(name, text)
    assert message in str(error.value)


@pytest.fixture
def recordings(tmp_path):
    """Folder of 12 recordings of 4 s; in each, `cat` from 1 to 2 s and `dog` from 1.5 to 3 s, in labels files."""
    for number in range(12):
        samples = np.random.default_rng(number).integers(-1000, 1000, 32000).astype(np.int16)
        folder = tmp_path / f"place{number % 3}"
        folder.mkdir(exist_ok=True)
        soundfile.write(folder / f"{number}.wav", samples, 8000)
        (folder / f"{number}.txt").write_text("1\t2\tcat\n1.5\t3\tdog\n")
    return tmp_path


@pytest.fixture
def annotated(source, recordings):
    def build(**settings):
        return source("annotations", **({"root": recordings, "sample_rate": 8000, "window": 0.5} | settings))

    return build


def opened(built):
    return open_dataset(built, torch.device("cpu"), LABEL_SET)


def test_windows_are_parts_of_the_decoded_recordings(annotated, recordings):
    dataset = opened(annotated())
    assert dataset.labels == ["cat", "dog"]
    assert len(dataset.clips) == 12 * 15
    by_recording = {}
    for row, clip in enumerate(dataset.clips):
        samples = soundfile.read(clip.path, dtype="int16")[0]
        start, end = round(clip.start * 8000), round(clip.end * 8000)
        offset, length = dataset.cache.offsets[row], dataset.cache.lengths[row]
        found = dataset.cache.samples.read(int(offset), int(length))
        assert (found == samples[start:end]).all()
        expected = [
            name for name, a, b in (("cat", 1, 2), ("dog", 1.5, 3)) if min(clip.end, b) - max(clip.start, a) >= 0.25
        ]
        assert clip.label == ";".join(expected)
        by_recording.setdefault(clip.path, set()).add(clip.split)
    assert all(len(splits) == 1 for splits in by_recording.values())
    assert dataset.cache.samples.size == 12 * 32000  # decoded once


def test_training_windows_are_drawn_anew_each_epoch(annotated):
    dataset = opened(annotated())
    batches = dataset.batches("train", 8, torch.device("cpu"), seed=3)
    recordings = {clip.path for clip in dataset.clips if clip.split == "train"}
    assert len(batches.rows) == 4 * len(recordings) == dataset.num_training_clips
    first, again, second = ([*batches.epoch(number)] for number in (0, 0, 1))
    assert all(torch.equal(a.waveform, b.waveform) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a.waveform, b.waveform) for a, b in zip(first, second, strict=True))
    targets = torch.cat([batch.targets for batch in first])
    assert targets.any(1).sum() == 2 * len(recordings)
    assert {dataset.clips[row].path for batch in first for row in batch.rows.tolist()} == recordings


def test_all_formats_give_the_same_windows(annotated, recordings, tmp_path_factory):
    expected = opened(annotated()).clips
    tables = tmp_path_factory.mktemp("tables")
    rows = [["path", "start", "end", "label"]]
    for path in sorted(recordings.glob("*/*.wav")):
        name = path.relative_to(recordings)
        rows += [[name, 1, 2, "cat"], [name, 1.5, 3, "dog"]]
        table = tables / "raven" / name.with_suffix(".Table.1.selections.txt")
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text("Begin Time (s)\tEnd Time (s)\tLabel\n1\t2\tcat\n1.5\t3\tdog\n")
    with (tables / "events.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    assert opened(annotated(annotations=tables / "events.csv")).clips == expected
    assert opened(annotated(annotations=tables / "raven")).clips == expected


def test_groups_are_in_one_split(annotated):
    clips = opened(annotated(group="(place[0-9])", val_groups="shared")).clips
    groups = {clip.group for clip in clips}
    assert groups == {"place0", "place1", "place2"}
    tested = {clip.group for clip in clips if clip.split == "test"}
    assert not tested & {clip.group for clip in clips if clip.split != "test"}


def test_recordings_without_annotations_are_left_out(annotated, recordings, caplog):
    (recordings / "place0" / "0.txt").unlink()
    (recordings / "place0" / "3.txt").write_text("")  # annotated: nothing sounds
    clips = list_clips(annotated(), LABEL_SET)
    assert len(clips) == 11
    assert "1 recording without annotations is left out: " in caplog.text
    assert [clip.label for clip in clips if clip.path.endswith("place0/3.wav")] == [""]


def test_rows_without_times_are_of_quiet_recordings(annotated, tmp_path_factory):
    table = tmp_path_factory.mktemp("tables") / "events.csv"
    table.write_text("path,start,end,label\nplace0/0.wav,1,2,cat\nplace1/1.wav,,,nothing\n")
    built = annotated(annotations=table, unannotated="unknown")
    clips = list_clips(built, LABEL_SET)
    assert [clip.label for clip in clips] == ["cat", ""]
    timeline = built.timeline(clips, np.array([0, 32000]), np.array([32000, 32000]), ["cat"])
    assert timeline.quiet.tolist() == [[1, 32000, 64000]]  # all of it
    message = "line 3: 'nothing' has no start and end; only what is quiet (data.quiet_labels) may be without"
    with pytest.raises(UserError, match=re.escape(message)):
        list_clips(annotated(annotations=table, quiet_labels=[]), LABEL_SET)


def test_event_of_an_unknown_recording(annotated, recordings, tmp_path_factory):
    table = tmp_path_factory.mktemp("tables") / "events.csv"
    table.write_text("path,start,end,label\nplace0/0.wav,0,1,cat\nelsewhere.wav,0,1,cat\n")
    with pytest.raises(UserError, match=r"1 event is of recordings that are not in .*, such as line 3: elsewhere.wav"):
        list_clips(annotated(annotations=table), LABEL_SET)
    assert len(list_clips(annotated(annotations=table, on_error="skip"), LABEL_SET)) == 1


def test_annotations_outside_of_their_recordings(annotated, recordings, caplog):
    for path in recordings.glob("*/*.txt"):
        path.write_text("3.5\t9\tcat\n4\t5\tdog\n")  # the recordings end at 4 s
    labels = {clip.label for clip in opened(annotated()).clips}
    assert "12 annotations without any sample in the recordings left out" in caplog.text
    assert labels == {"", "cat"}
    for path in recordings.glob("*/*.txt"):
        path.write_text("4\t5\tdog\n")
    with pytest.raises(UserError, match="no annotation of a class is within its recording"):
        opened(annotated())


def test_negatives_beside_annotated_recordings(annotated, recordings, tmp_path_factory):
    """Rows of windows of the negatives are of none of the recordings, of which there are more."""
    negatives = tmp_path_factory.mktemp("negatives") / "quiet.wav"
    soundfile.write(negatives, np.ones(300 * 8000, np.int16), 8000)  # of as many windows
    dataset, alone = opened(annotated(negatives=[str(negatives)])), opened(annotated())
    assert dataset.clips[: len(alone.clips)] == alone.clips
    assert {clip.path for clip in dataset.clips[len(alone.clips) :]} == {str(negatives)}
    for batch in dataset.batches("train", 8, torch.device("cpu"), seed=0).epoch():
        for waveform, length, row in zip(batch.waveform, batch.lengths, batch.rows.tolist(), strict=True):
            samples = (waveform[:length] * 32768).round().short()
            assert dataset.clip(row).split in ("train", None)
            assert (dataset.clip(row).path == str(negatives)) == (samples == 1).all()


def test_annotations_need_a_task_of_label_sets(annotated):
    with pytest.raises(UserError, match="any number of labels, or none; set task=multi_label"):
        list_clips(annotated())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"annotations": "/none"}, "data.annotations=/none: no such file or folder"),
        ({"unannotated": "maybe"}, "data.unannotated=maybe: should be quiet or unknown"),
        ({"group": "place"}, "data.group=place: contains no group"),
        ({"max_seconds": 0.4}, "data.max_seconds=0.4: is less than the length of the clips, data.window=0.5"),
    ],
)
def test_settings_that_are_wrong(annotated, settings, message):
    with pytest.raises(UserError) as error:
        annotated(**settings)
    assert message in str(error.value)
