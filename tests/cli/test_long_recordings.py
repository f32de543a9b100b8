"""`spectrnn predict` over long recordings, from standard input, and over many files that a kill interrupts."""

import csv
import errno
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile
from filelock import FileLock

from spectrnn.data.audio import load_audio
from spectrnn.detection.thresholds import TunedThresholds
from spectrnn.inference import journal as journals
from spectrnn.model import serialization as model_file

RATE = 8000
SCAN = ("window=0.3", "hop=0.1", "smoothing_windows=1", "threshold=0.45")


def rows(text):
    return list(csv.DictReader(text.splitlines()))


def sound(*parts):
    """Tones one after another: (Hz, s); of 0 Hz silence."""
    return np.concatenate(
        [0.5 * np.sin(2 * np.pi * frequency / RATE * np.arange(round(seconds * RATE))) for frequency, seconds in parts]
    )


@pytest.fixture
def night(tmp_path):
    """Three seconds of low, two of high, and three of middle tones."""
    path = tmp_path / "night.flac"
    soundfile.write(path, sound((300, 3), (2700, 2), (900, 3)), RATE)
    return path


@pytest.fixture(scope="session")
def decided(trained, tmp_path_factory):
    """A copy of the trained model with thresholds in its file."""
    path = tmp_path_factory.mktemp("decided") / "model.safetensors"
    classifier, config = model_file.load(trained / "model.safetensors")
    tuned_thresholds = TunedThresholds(
        thresholds={"low": 0.45, "high": 0.45},
        background=["middle"],
        max_false_alarms_per_hour=1,
        hours=2,
        window=0.3,
        hop=0.1,
        smoothing_windows=1,
        offset_ratio=0.8,
        min_event_seconds=0.5,
    )
    model_file.save(classifier, config, path, tuned_thresholds=tuned_thresholds)
    return path


def test_events_are_where_the_sounds_are(spectrnn, trained, night):
    outcome = spectrnn("predict", night, f"run={trained}", *SCAN, "min_event_seconds=1")
    assert outcome.code == 0, outcome.err
    table = rows(outcome.out)
    assert [(row["path"], row["label"]) for row in table] == [
        (str(night), label) for label in ("low", "high", "middle")
    ]
    for row, (start, end) in zip(table, [(0, 3), (3, 5), (5, 8)], strict=True):
        assert float(row["start"]) == pytest.approx(start, abs=0.3)
        assert float(row["end"]) == pytest.approx(end, abs=0.3)
        assert 0.45 <= float(row["probability"]) <= 1


def test_without_a_threshold_every_window_has_a_label(spectrnn, trained, night):
    table = rows(spectrnn("predict", night, f"run={trained}", "window=0.3", "hop=0.1", "threshold=none").out)
    assert len(table) == 78
    assert [row["start"] for row in table[1:]] == [row["end"] for row in table[:-1]]
    assert (table[0]["start"], table[-1]["end"]) == ("0.000", "8.000")
    said = [row["label"] for row in table]
    assert [said[10], said[39], said[70]] == ["low", "high", "middle"]


def test_all_formats_say_the_same(spectrnn, trained, night, tmp_path):
    common = ("predict", night, f"run={trained}", *SCAN)
    events = rows(spectrnn(*common).out)
    objects = [json.loads(line) for line in spectrnn(*common, "format=jsonl").out.splitlines()]
    labels = [line.split("\t") for line in spectrnn(*common, "format=audacity").out.splitlines()]
    table = list(csv.DictReader(io.StringIO(spectrnn(*common, "format=raven").out), delimiter="\t"))
    assert len(events) == len(objects) == len(labels) == len(table) >= 3
    for number, (event, found, label, selection) in enumerate(zip(events, objects, labels, table, strict=True), 1):
        assert {name: float(event[name]) for name in ("start", "end", "probability")} == pytest.approx(
            {name: found[name] for name in ("start", "end", "probability")}
        )
        assert event["label"] == found["label"] == label[2] == selection["Label"]
        assert float(label[0]) == pytest.approx(float(event["start"]), abs=6e-4)
        assert float(label[1]) == float(selection["End Time (s)"])
        assert selection["Begin Time (s)"] == selection["File Offset (s)"] == label[0]
        assert (selection["Selection"], selection["View"], selection["Channel"]) == (str(number), "Spectrogram 1", "1")
        assert (selection["Low Freq (Hz)"], selection["High Freq (Hz)"]) == ("0.0", "4000.0")
        assert selection["Begin Path"] == str(night)


def test_raven_shows_recordings_one_after_another(spectrnn, trained, night, tmp_path):
    shutil.copy(night, tmp_path / "other.flac")
    outcome = spectrnn("predict", night, tmp_path / "other.flac", f"run={trained}", *SCAN, "format=raven")
    table = list(csv.DictReader(io.StringIO(outcome.out), delimiter="\t"))
    first, second = table[: len(table) // 2], table[len(table) // 2 :]
    assert {row["Begin Path"] for row in second} == {str(tmp_path / "other.flac")}
    assert [row["File Offset (s)"] for row in first] == [row["File Offset (s)"] for row in second]
    shifts = [float(b["Begin Time (s)"]) - float(a["Begin Time (s)"]) for a, b in zip(first, second, strict=True)]
    assert shifts == pytest.approx([8.0] * len(first))
    assert [row["Selection"] for row in table] == [str(number + 1) for number in range(len(table))]


def test_audacity_has_a_file_for_each_of_several_recordings(spectrnn, trained, tones, tmp_path):
    assert "out=FOLDER" in spectrnn("predict", tones, f"run={trained}", *SCAN, "format=audacity").mistake()
    labels = tmp_path / "labels"
    outcome = spectrnn("predict", tones, f"run={trained}", *SCAN, "format=audacity", f"out={labels}")
    assert outcome.code == 0, outcome.err
    names = {str(path.relative_to(labels)) for path in labels.rglob("*") if path.is_file()}
    assert names == {f"{label}/{number:02d}.wav.txt" for label in ("low", "middle", "high") for number in range(12)}
    start, end, label = (labels / "high" / "11.wav.txt").read_text().rstrip("\n").split("\t")
    assert (float(start), float(end), label) == (0, pytest.approx(0.42), "high")
    assert not [*tmp_path.glob(".*")]


def test_formats_of_events_need_a_window(spectrnn, trained, night):
    assert "format=raven: is of events" in spectrnn("predict", night, f"run={trained}", "format=raven").mistake()


def test_settings_that_do_not_fit(spectrnn, trained, night, tmp_path):
    def mistake(*settings):
        return spectrnn("predict", night, f"run={trained}", *settings).mistake()

    assert "hop=3: is longer than window=2" in mistake("window=2", "hop=3")
    assert "window=model: the model file has no thresholds" in mistake("window=model")
    assert "background: the model has no label 'noise'; known here: high, low, middle" in mistake(
        "background=[noise]", "window=1"
    )
    assert "so that nothing could be heard" in mistake("window=1", "background=[low,middle,high]")
    assert "threshold=some: should be" in mistake("threshold=some")
    assert "leave out the other paths" in mistake("-", "window=1")


def test_the_model_file_says_how_to_scan(spectrnn, decided, night):
    outcome = spectrnn("predict", night, f"run={decided}", "window=model")
    assert [row["label"] for row in rows(outcome.out)] == ["low", "high"]  # middle is background
    assert "chosen with" not in outcome.err
    other = spectrnn("predict", night, f"run={decided}", "window=0.4", "hop=0.1")
    assert "thresholds were chosen with window=0.3, and may not hold for window=0.4" in other.err
    own = spectrnn("predict", night, f"run={decided}", *SCAN)
    assert "chosen with" not in own.err


def test_a_decision_is_the_label_that_reaches_its_threshold(spectrnn, trained, decided, tones):
    path = tones / "middle" / "05.wav"
    (plain,) = rows(spectrnn("predict", path, f"run={trained}").out)
    assert "decision" not in plain
    (sure,) = rows(spectrnn("predict", path, f"run={trained}", "threshold=0").out)
    assert sure == {**plain, "decision": plain["label"]}
    line = json.loads(spectrnn("predict", path, f"run={trained}", "threshold=1", "format=jsonl").out)
    assert line["decision"] is None
    (background,) = rows(spectrnn("predict", path, f"run={decided}").out)
    assert background == {**plain, "decision": ""}
    (known,) = rows(spectrnn("predict", tones / "low" / "05.wav", f"run={decided}").out)
    assert known["decision"] == known["label"] == "low"


def piped(content, *arguments):
    command = [sys.executable, "-m", "spectrnn", "predict", "-", *map(str, arguments)]
    return subprocess.run(command, input=content, capture_output=True, check=False)


def test_standard_input_is_heard_like_a_file(spectrnn, trained, night):
    samples = soundfile.read(night, dtype="int16")[0]
    file = spectrnn("predict", night, f"run={trained}", *SCAN).out.replace(str(night), "-")
    header = io.BytesIO()
    with wave.open(header, "wb") as written:
        written.setparams((1, 2, RATE, 0, "NONE", ""))
        written.writeframes(b"")
    endless = header.getvalue()[:-4] + b"\xff\xff\xff\xff" + samples.tobytes()
    for content in (samples.tobytes(), endless):
        done = piped(content, f"run={trained}", *SCAN)
        assert done.returncode == 0, done.stderr
        assert done.stdout.decode() == file


def test_events_come_as_soon_as_they_are_over(trained):
    command = [sys.executable, "-m", "spectrnn", "predict", "-", f"run={trained}", *SCAN, "format=jsonl"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        low, high = ((32767 * sound((frequency, 2))).astype("<i2").tobytes() for frequency in (300, 2700))
        process.stdin.write(low + high)
        process.stdin.flush()
        event = json.loads(process.stdout.readline())  # while standard input stays open
        assert event["label"] == "low"
        rest, _ = process.communicate()
        assert [json.loads(line)["label"] for line in rest.splitlines()][-1] == "high"
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """300 tiny files."""
    root = tmp_path_factory.mktemp("many")
    generator = np.random.default_rng(0)
    for number in range(300):
        tone = sound((generator.uniform(200, 3500), generator.uniform(0.1, 0.3)))
        soundfile.write(root / f"{number:03}.wav", tone, RATE)
    return root


def test_a_kill_loses_and_doubles_no_line(many, trained, tmp_path):
    def command(out):
        settings = ("format=raven", "batch_size=2", *SCAN)  # whose lines are numbered, and count the time
        return [sys.executable, "-m", "spectrnn", "predict", str(many), f"run={trained}", f"out={out}", *settings]

    whole, out = tmp_path / "whole.txt", tmp_path / "killed.txt"
    assert subprocess.run(command(whole), capture_output=True, check=False).returncode == 0
    journal, moments = tmp_path / ".killed.txt.journal", random.Random(0)
    sizes = [0]
    for _ in range(3):
        process = subprocess.Popen(command(out), stderr=subprocess.DEVNULL)
        wanted = sizes[-1] + moments.randrange(1, 4000)
        while process.poll() is None:  # until so much is done, which no slow machine changes
            if journal.exists() and journal.stat().st_size >= wanted:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        assert process.wait() == -signal.SIGKILL
        sizes.append(journal.stat().st_size)
    assert sizes == sorted(set(sizes))  # it went on each time, and did not begin anew
    done = subprocess.run(command(out), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(whole.read_text().splitlines()) > 150
    assert out.read_bytes() == whole.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"whole.txt", "killed.txt"}


class Killed(BaseException):
    """What ends a process here in the midst of its writing."""


@pytest.fixture
def killed_after(monkeypatch):
    """Lets so many entries into a journal, and then kills."""

    def after(count):
        left = [count]
        add = journals.ResumeJournal.add

        def limited(self, done, position):
            if not left[0]:
                raise Killed
            left[0] -= 1
            add(self, done, position)

        monkeypatch.setattr(journals.ResumeJournal, "add", limited)

    return after


def test_it_goes_on_with_the_same_settings_only(spectrnn, trained, tones, tmp_path, killed_after, monkeypatch):
    command = ("predict", tones, f"run={trained}", f"out={tmp_path / 'labels.csv'}", "batch_size=1")
    spectrnn(*command)
    whole = (tmp_path / "labels.csv").read_text()
    killed_after(2)
    with pytest.raises(Killed):
        spectrnn(*command)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    journal = tmp_path / ".labels.csv.journal"
    text = spectrnn(*command, "top_k=1").mistake()
    assert "was begun with top_k=3, and this command has top_k=1" in text
    assert f"delete {journal} to begin anew" in text
    journal.write_text(journal.read_text() + '{"done": ["half a li')  # as a kill leaves it
    outcome = spectrnn(*command)
    assert "16 of 36 recordings are done" in outcome.out + outcome.err
    assert (tmp_path / "labels.csv").read_text() == whole
    assert not journal.exists()


def test_a_shortened_output_is_not_gone_on_with(spectrnn, trained, tones, tmp_path, killed_after, monkeypatch):
    out = tmp_path / "labels.csv"
    command = ("predict", tones, f"run={trained}", f"out={out}", "batch_size=1")
    killed_after(2)
    with pytest.raises(Killed):
        spectrnn(*command)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    out.write_text("path\n")
    assert "is shorter than its journal says" in spectrnn(*command).mistake()
    out.unlink()
    assert spectrnn(*command).code == 0
    assert len(rows(out.read_text())) == 36


def test_a_folder_of_labels_goes_on(spectrnn, trained, tones, tmp_path, killed_after, monkeypatch):
    labels = tmp_path / "labels"
    command = ("predict", tones, f"run={trained}", *SCAN, "format=audacity", f"out={labels}", "batch_size=1")
    killed_after(1)
    with pytest.raises(Killed):
        spectrnn(*command)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    first = labels / "high" / "00.wav.txt"
    content = first.read_text()
    first.write_text("mine")
    (labels / "high" / ".05.wav.txt.99.tmp").write_text("half")
    assert spectrnn(*command).code == 0
    assert first.read_text() == "mine"  # done before
    assert content.endswith("high\n")
    assert len([*labels.rglob("*.txt")]) == 36
    assert not [*labels.rglob(".*")]


def test_a_recording_that_breaks_off_leaves_no_events(spectrnn, trained, tones, tmp_path):
    noise = np.concatenate([sound((300, 80))] * 2).astype(np.float32)
    noise[-10] = np.nan
    soundfile.write(tmp_path / "bad.wav", noise, RATE, subtype="FLOAT")
    good, out = tones / "low" / "11.wav", tmp_path / "events.csv"
    outcome = spectrnn("predict", good, tmp_path / "bad.wav", tones / "high", f"run={trained}", *SCAN, f"out={out}")
    assert outcome.mistake() == "spectrnn: 1 of 14 files could not be predicted; the others were"
    assert "bad.wav: holds values that are not finite" in outcome.err
    assert {row["path"] for row in rows(out.read_text())} == {str(good), *map(str, (tones / "high").glob("*.wav"))}


def test_the_output_that_was_there_stays_where_nothing_can_be_read(spectrnn, trained, tmp_path):
    out = tmp_path / "labels.csv"
    out.write_text("finished")
    outcome = spectrnn("predict", tmp_path / "gone.wav", f"run={trained}", f"out={out}")
    assert outcome.mistake() == "spectrnn: the recording could not be predicted"
    assert out.read_text() == "finished"
    out.unlink()
    spectrnn("predict", tmp_path / "gone.wav", f"run={trained}", f"out={out}")
    assert not [*tmp_path.iterdir()]


def test_a_full_disk_ends_in_a_sentence_and_goes_on_later(spectrnn, trained, tones, tmp_path, monkeypatch):
    out = tmp_path / "labels.csv"
    command = ("predict", tones, f"run={trained}", f"out={out}", "batch_size=1")
    sync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(journals.os, "fsync", full)
    text = spectrnn(*command).mistake()
    assert f"out={out}: cannot be written (No space left on device)" in text
    assert (tmp_path / ".labels.csv.journal").exists()
    monkeypatch.setattr(journals.os, "fsync", sync)
    assert spectrnn(*command, "batch_size=2").code == 0  # which may be why it ended
    assert [row["path"] for row in rows(out.read_text())] == [str(path) for path in sorted(tones.rglob("*.wav"))]


def test_an_output_that_cannot_be_written(spectrnn, trained, tones, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for out in (tmp_path / "file" / "labels.csv", tmp_path / "folder"):
        text = spectrnn("predict", tones / "low", f"run={trained}", f"out={out}").mistake()
        assert f"out={out}: cannot be written" in text
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}


def test_a_device_is_written_to_without_a_journal(spectrnn, trained, tones):
    assert spectrnn("predict", tones / "low", f"run={trained}", f"out={os.devnull}").code == 0
    assert not Path("/dev/.null.journal").exists()
    if Path("/dev/full").exists():
        text = spectrnn("predict", tones / "low", f"run={trained}", "out=/dev/full").mistake()
        assert text == "spectrnn: out=/dev/full: cannot be written (No space left on device)"


def test_two_processes_do_not_write_the_same_output(spectrnn, trained, tones, tmp_path):
    with FileLock(tmp_path / ".labels.csv.lock"):
        text = spectrnn("predict", tones, f"run={trained}", f"out={tmp_path / 'labels.csv'}").mistake()
    assert text == f"spectrnn: out={tmp_path / 'labels.csv'}: another process is writing it"


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_is_the_end_of_standard_input(trained, tones, tmp_path, listening):
    sound = np.concatenate([load_audio(path, 8000) for path in sorted((tones / "low").glob("*.wav"))])
    out = tmp_path / "events.csv"
    command = [
        sys.executable,
        "-m",
        "spectrnn",
        "predict",
        "-",
        f"run={trained}",
        f"out={out}",
        "window=0.3",
        "hop=0.1",
        "threshold=none",
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, **listening) as process:
        process.stdin.write(sound.tobytes())
        process.stdin.flush()
        while not out.exists() or out.read_text().count("\n") < 5:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, process.stderr.read()
    rows = list(csv.DictReader(out.open()))
    assert float(rows[-1]["end"]) == pytest.approx(len(sound) / 8000, abs=1e-3)
    assert list(tmp_path.glob(".events*")) == []


def test_what_is_read_is_not_written_over(spectrnn, trained, tones, tmp_path):
    recording = Path(shutil.copy(tones / "low" / "00.wav", tmp_path / "a.wav"))
    model = Path(shutil.copy(trained / "model.safetensors", tmp_path / "model.safetensors"))
    for out in (recording, model):
        before = out.read_bytes()
        mistake = spectrnn("predict", recording, f"run={model}", f"out={out}").mistake()
        assert f"out={out}: is read, and would be lost" in mistake
        assert out.read_bytes() == before
