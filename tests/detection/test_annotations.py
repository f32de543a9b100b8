"""Tables of true events, in all formats that `predict` writes, and as Raven and Audacity write them."""

import math
import os
from pathlib import Path

import pytest

from spectrnn.detection.annotations import Annotation, read_annotations
from spectrnn.detection.events import Event
from spectrnn.errors import UserError
from spectrnn.inference.formats import RowContext, event_format

EVENTS = [Event(0.5, 1.25, "cat", 0.9), Event(2.0, 2.5, "big dog", 0.8)]
TRUE = [Annotation(*event[:3]) for event in EVENTS]


@pytest.fixture
def night(tmp_path, monkeypatch, tone):
    """A recording in the working directory."""
    monkeypatch.chdir(tmp_path)
    tone(Path("nights/night.wav"))
    return "nights/night.wav"


@pytest.mark.parametrize(("name", "ending"), [("csv", "csv"), ("jsonl", "jsonl"), ("raven", "txt")])
def test_formats_of_predictions_are_read(night, name, ending):
    layout = event_format(name, 4000)
    offset = 7_000_000 if name == "raven" else 0  # another recording comes before it
    lines = [layout.line(RowContext(night, number, offset), event) for number, event in enumerate(EVENTS, 1)]
    Path(f"table.{ending}").write_text(layout.header + "".join(lines))
    found = read_annotations([Path(f"table.{ending}")], {})
    assert [(os.path.realpath(path), events) for path, events in found.items()] == [(os.path.realpath(night), TRUE)]


def test_label_track_is_of_the_recording_of_its_name(night):
    text = "0.5\t1.25\tcat\n\\\t100\t4000\n2,0\t2,5\tbig dog\n"
    Path("nights/night.txt").write_text(text)
    assert read_annotations([Path("nights/night.txt")], {}) == {night: TRUE}
    Path("labels").mkdir()
    Path("labels/night.txt").write_text(text)
    assert read_annotations([Path("labels/night.txt")], {night: Path("nights")}) == {night: TRUE}


def test_selection_table_of_a_single_recording_counts_each_view_once(night):
    header = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tSpecies\n"
    rows = [f"1\t{view}\t1\t0.5\t1.25\t0.0\tcat\n" for view in ("Waveform 1", "Spectrogram 1")]
    Path("night.Table.1.selections.txt").write_text(header + "".join(rows))
    assert read_annotations([Path("night.Table.1.selections.txt")], {night: Path("nights")}) == {night: TRUE[:1]}


def test_table_with_durations_and_recordings_without_events(night, tone):
    quiet = str(tone(Path("nights/quiet.wav")))
    Path("nights/table.tsv").write_text("filename\tonset\tduration\tevent_label\nnight.wav\t0.5\t0.75\tcat\n")
    assert read_annotations([Path("nights/table.tsv")], {quiet: Path("nights")}) == {quiet: [], night: TRUE[:1]}
    Path("table.tsv").write_text("filename\tonset\toffset\tevent_label\nelsewhere/night.wav\t0.5\t1.25\tcat\n")
    assert read_annotations([Path("table.tsv")], dict.fromkeys([night, quiet], Path("nights"))) == {
        night: TRUE[:1],
        quiet: [],
    }


def test_folder_of_label_files(night, tone, caplog):
    """Files at the places of their recordings, which differ in their folder only, or beside them."""
    other, quiet, new = (str(tone(Path("nights", name))) for name in ("far/night.wav", "quiet.wav", "new.wav"))
    Path("labels/far").mkdir(parents=True)
    tracks = {"night.txt": "0.5\t1.25\tcat\n2,0\t2,5\tbig dog\n", "quiet.wav.txt": "", "notes.txt": "text"}
    for name, text in tracks.items():
        Path("labels", name).write_text(text)
    table = "Selection\tBegin Time (s)\tEnd Time (s)\tSpecies\n1\t0.5\t1.25\tcat\n"
    Path("labels/far/night.Table.1.selections.txt").write_text(table)
    expected = {night: TRUE, other: TRUE[:1], quiet: [], new: []}
    recordings = dict.fromkeys(expected, Path("nights"))
    assert read_annotations([Path("labels")], recordings) == expected
    assert "events=labels: 1 label file without a recording left out: labels/notes.txt" in caplog.text
    assert f"1 recording without a label file, counted as without events: {new}" in caplog.text
    for path in Path("labels").rglob("*.txt"):
        path.rename("nights" / path.relative_to("labels"))
    assert read_annotations([Path("nights")], {}) == {path: expected[path] for path in (night, other, quiet)}
    assert f"1 recording without a label file left out: {new}" in caplog.text
    with pytest.raises(UserError, match="events=labels: contains no label file with the name of a recording; recordi"):
        read_annotations([Path("labels")], recordings)


def test_rows_without_times_are_of_whole_recordings(night, tone):
    quiet = str(tone(Path("nights/quiet.wav")))
    Path("a.csv").write_text(f"path,start,end,label\n{night},0.5,1.25,cat\n{quiet},,,\n{night},,,rain\n")
    assert read_annotations([Path("a.csv")], {}) == {night: [Annotation(0, math.inf, "rain"), TRUE[0]], quiet: []}
    Path("a.csv").write_text(f"path,label\n{quiet},\n")
    assert read_annotations([Path("a.csv")], {}) == {quiet: []}


@pytest.mark.usefixtures("night")
@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "path,label,start,end\nx.wav,cat,1,2\n", "a.csv, line 2: no recording x.wav; recordings=[FOLDER] "),
        ("a.csv", "path,label,start,end\nnights/night.wav,cat,2,1\n", "a.csv, line 2: end '1' is not after start 2"),
        ("a.csv", "path,label,start\nnights/night.wav,cat,2\n", "a.csv, line 2: end '' is not after start 2"),
        (
            "a.csv",
            "path,label,start,end\nnights/night.wav,cat,x,1\n",
            "a.csv, line 2: start 'x' is not a time in seconds",
        ),
        ("a.doc", "x", "a.doc: the name of a table of events should end in .csv, .tsv, .txt or .jsonl"),
    ],
)
def test_invalid_table_is_reported(name, text, message):
    Path(name).write_text(text)
    with pytest.raises(UserError) as error:
        read_annotations([Path(name)], {})
    assert str(error.value).startswith(message)


def test_missing_table_is_reported():
    with pytest.raises(UserError, match=r"^events=none.csv: no such file$"):
        read_annotations([Path("none.csv")], {})
