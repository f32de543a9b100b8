"""`spectrnn predict` for long recordings, for standard input, and resumed after an interruption."""

import csv
import errno
import io
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import wave
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
from filelock import FileLock

from spectrnn.data.audio import load_audio
from spectrnn.detection.thresholds import TunedThresholds
from spectrnn.inference import writers
from spectrnn.model import serialization

RATE = 8000
DETECTION = ("window=0.3", "hop=0.1", "smoothing_windows=1", "threshold=0.45")


def csv_rows(text, delimiter=","):
    return list(csv.DictReader(io.StringIO(text), delimiter=delimiter))


def synthesize(*parts):
    """Concatenates tones, given as (frequency in Hz, length in s)."""
    return np.concatenate(
        [0.5 * np.sin(2 * np.pi * frequency / RATE * np.arange(round(seconds * RATE))) for frequency, seconds in parts]
    )


@pytest.fixture
def recording(tmp_path):
    """File with 3 s of low, 2 s of high and 3 s of middle tones."""
    path = tmp_path / "recording.flac"
    soundfile.write(path, synthesize((300, 3), (2700, 2), (900, 3)), RATE)
    return path


@pytest.fixture(scope="session")
def tuned_model(trained_run, tmp_path_factory):
    """Copy of the trained model with tuned thresholds."""
    path = tmp_path_factory.mktemp("tuned") / "model.safetensors"
    classifier, config = serialization.load(trained_run / "model.safetensors")
    tuned = TunedThresholds(
        by_label={"low": 0.45, "high": 0.45},
        background=["middle"],
        max_false_alarms_per_hour=1,
        hours=2,
        window=0.3,
        hop=0.1,
        smoothing_windows=1,
        offset_ratio=0.8,
        min_event_seconds=0.5,
    )
    serialization.save(classifier, config, path, tuned_thresholds=asdict(tuned))
    return path


def test_events_match_the_sounds(spectrnn, trained_run, recording):
    outcome = spectrnn("predict", recording, f"run={trained_run}", *DETECTION, "min_event_seconds=1")
    assert outcome.code == 0, outcome.err
    rows = csv_rows(outcome.out)
    labels = ("low", "high", "middle")
    assert [(row["path"], row["label"]) for row in rows] == [(str(recording), label) for label in labels]
    for row, (start, end) in zip(rows, [(0, 3), (3, 5), (5, 8)], strict=True):
        assert float(row["start"]) == pytest.approx(start, abs=0.3)
        assert float(row["end"]) == pytest.approx(end, abs=0.3)
        assert 0.45 <= float(row["probability"]) <= 1


def test_every_window_is_labelled_without_a_threshold(spectrnn, trained_run, recording):
    outcome = spectrnn("predict", recording, f"run={trained_run}", "window=0.3", "hop=0.1", "threshold=none")
    rows = csv_rows(outcome.out)
    assert len(rows) == 78
    assert [row["start"] for row in rows[1:]] == [row["end"] for row in rows[:-1]]
    assert (rows[0]["start"], rows[-1]["end"]) == ("0.000", "8.000")
    assert [rows[index]["label"] for index in (10, 39, 70)] == ["low", "high", "middle"]


def test_all_formats_contain_the_same_events(spectrnn, trained_run, recording):
    command = ("predict", recording, f"run={trained_run}", *DETECTION)
    events = csv_rows(spectrnn(*command).out)
    objects = [json.loads(line) for line in spectrnn(*command, "format=jsonl").out.splitlines()]
    labels = [line.split("\t") for line in spectrnn(*command, "format=audacity").out.splitlines()]
    selections = csv_rows(spectrnn(*command, "format=raven").out, "\t")
    assert len(events) == len(objects) == len(labels) == len(selections) >= 3
    for number, (event, values, label, selection) in enumerate(
        zip(events, objects, labels, selections, strict=True), 1
    ):
        assert {name: float(event[name]) for name in ("start", "end", "probability")} == pytest.approx(
            {name: values[name] for name in ("start", "end", "probability")}
        )
        assert event["label"] == values["label"] == label[2] == selection["Label"]
        assert event["path"] == values["path"] == selection["Begin Path"] == str(recording)
        assert float(label[0]) == pytest.approx(float(event["start"]), abs=6e-4)
        assert float(label[1]) == float(selection["End Time (s)"])
        assert selection["Begin Time (s)"] == selection["File Offset (s)"] == label[0]
        assert (selection["Selection"], selection["View"], selection["Channel"]) == (str(number), "Spectrogram 1", "1")
        assert (selection["Low Freq (Hz)"], selection["High Freq (Hz)"]) == ("0.0", "4000.0")


def test_raven_times_of_several_recordings_are_consecutive(spectrnn, trained_run, recording, tmp_path):
    other = shutil.copy(recording, tmp_path / "other.flac")
    outcome = spectrnn("predict", recording, other, f"run={trained_run}", *DETECTION, "format=raven")
    rows = csv_rows(outcome.out, "\t")
    first, second = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    assert {row["Begin Path"] for row in second} == {str(other)}
    assert [row["File Offset (s)"] for row in first] == [row["File Offset (s)"] for row in second]
    shifts = [float(b["Begin Time (s)"]) - float(a["Begin Time (s)"]) for a, b in zip(first, second, strict=True)]
    assert shifts == pytest.approx([8.0] * len(first))
    assert [row["Selection"] for row in rows] == [str(number + 1) for number in range(len(rows))]


def test_audacity_writes_one_file_per_recording(spectrnn, trained_run, tones, tmp_path):
    command = ("predict", tones, f"run={trained_run}", *DETECTION, "format=audacity")
    assert spectrnn(*command).error() == (
        "spectrnn: format=audacity: writes one file per recording; for several recordings set out=FOLDER"
    )
    out = tmp_path / "labels"
    outcome = spectrnn(*command, f"out={out}")
    assert outcome.code == 0, outcome.err
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert names == {f"{label}/{number:02d}.wav.txt" for label in ("low", "middle", "high") for number in range(12)}
    start, end, label = (out / "high" / "11.wav.txt").read_text().rstrip("\n").split("\t")
    assert (float(start), float(end), label) == (0, pytest.approx(0.42), "high")
    assert not [*tmp_path.glob(".*")]


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        (["format=raven"], "format=raven: requires event detection; set window and hop, as in window=2 hop=0.5"),
        (["window=2", "hop=3"], "hop=3: longer than the window of 2 s, so audio would be skipped"),
        (["window=model"], "window=model: the model file has no tuned thresholds, and so no window; give it in s"),
        (
            ["window=1", "background=[noise]"],
            "background: the model has no label 'noise'; known here: high, low, middle",
        ),
        (
            ["window=1", "background=[low,middle,high]"],
            "background: covers every label with a threshold, so nothing could be detected",
        ),
        (["threshold=some"], "threshold=some: should be 'model' or 'none' or a valid number"),
        (["window=1", "-"], "-: standard input cannot be combined with other paths"),
    ],
)
def test_invalid_settings_are_reported(spectrnn, trained_run, recording, settings, error):
    assert spectrnn("predict", recording, f"run={trained_run}", *settings).error() == f"spectrnn: {error}"


def test_detection_settings_default_to_those_of_the_tuning(spectrnn, tuned_model, recording):
    command = ("predict", recording, f"run={tuned_model}")
    tuned = spectrnn(*command, "window=model")
    assert [row["label"] for row in csv_rows(tuned.out)] == ["low", "high"]  # middle is background
    other = spectrnn(*command, "window=0.4", "hop=0.1")
    warning = "the model's thresholds were tuned with window=0.3, and may not be valid for window=0.4"
    assert warning in other.err
    own = spectrnn(*command, *DETECTION)
    for outcome in (tuned, own):
        assert "were tuned with" not in outcome.err


def test_decision_is_the_label_that_reaches_its_threshold(spectrnn, trained_run, tuned_model, tones):
    path = tones / "middle" / "05.wav"
    (plain,) = csv_rows(spectrnn("predict", path, f"run={trained_run}").out)
    assert "decision" not in plain
    (certain,) = csv_rows(spectrnn("predict", path, f"run={trained_run}", "threshold=0").out)
    assert certain == {**plain, "decision": plain["label"]}
    line = json.loads(spectrnn("predict", path, f"run={trained_run}", "threshold=1", "format=jsonl").out)
    assert line["decision"] is None
    (background,) = csv_rows(spectrnn("predict", path, f"run={tuned_model}").out)
    assert background == {**plain, "decision": ""}
    (event,) = csv_rows(spectrnn("predict", tones / "low" / "05.wav", f"run={tuned_model}").out)
    assert event["decision"] == event["label"] == "low"


def predict_command(*arguments):
    return [sys.executable, "-m", "spectrnn", "predict", *map(str, arguments)]


@pytest.mark.slow
def test_standard_input_is_processed_like_a_file(spectrnn, trained_run, recording):
    samples = soundfile.read(recording, dtype="int16")[0]
    expected = spectrnn("predict", recording, f"run={trained_run}", *DETECTION).out.replace(str(recording), "-")
    header = io.BytesIO()
    with wave.open(header, "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(b"")
    endless_wav = header.getvalue()[:-4] + b"\xff\xff\xff\xff" + samples.tobytes()
    for content in (samples.tobytes(), endless_wav):
        command = predict_command("-", f"run={trained_run}", *DETECTION)
        done = subprocess.run(command, input=content, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.decode() == expected


def test_events_of_standard_input_are_written_when_they_end(trained_run):
    command = predict_command("-", f"run={trained_run}", *DETECTION, "format=jsonl")
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        process.stdin.write((32767 * synthesize((300, 2), (2700, 2))).astype("<i2").tobytes())
        process.stdin.flush()
        event = json.loads(process.stdout.readline())  # while standard input stays open
        assert event["label"] == "low"
        rest, _ = process.communicate()
        assert [json.loads(line)["label"] for line in rest.splitlines()][-1] == "high"
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def many_recordings(tmp_path_factory):
    """Folder of 300 short files."""
    root = tmp_path_factory.mktemp("many")
    generator = np.random.default_rng(0)
    for number in range(300):
        tone = synthesize((generator.uniform(200, 3500), generator.uniform(0.1, 0.3)))
        soundfile.write(root / f"{number:03}.wav", tone, RATE)
    return root


@pytest.mark.slow
def test_killed_command_resumes_without_missing_or_repeated_rows(many_recordings, trained_run, tmp_path):
    def command(out):
        # The rows of this format are numbered, and their times count from the first recording.
        settings = ("format=raven", "batch_size=2", *DETECTION)
        return predict_command(many_recordings, f"run={trained_run}", f"out={out}", *settings)

    expected, out = tmp_path / "expected.txt", tmp_path / "killed.txt"
    assert subprocess.run(command(expected), capture_output=True, check=False).returncode == 0
    journal, generator = tmp_path / ".killed.txt.journal", random.Random(0)
    sizes = [0]
    for _ in range(2):
        process = subprocess.Popen(command(out), stderr=subprocess.DEVNULL)
        size = sizes[-1] + generator.randrange(1, 4000)
        while process.poll() is None:  # killed at a size of the journal, not after a time: the same on any machine
            if journal.exists() and journal.stat().st_size >= size:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        assert process.wait() == -signal.SIGKILL
        sizes.append(journal.stat().st_size)
    assert sizes == sorted(set(sizes))  # each command resumed
    done = subprocess.run(command(out), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(expected.read_text().splitlines()) > 150
    assert out.read_bytes() == expected.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"expected.txt", "killed.txt"}


@pytest.fixture
def interrupt(spectrnn):
    """Runs a command that is interrupted within its output: `interrupt(commits, *arguments)`."""

    def run(commits, *arguments):
        commit, count = writers.ResumeJournal.commit, itertools.count()

        def limited(self, position):
            if next(count) == commits:
                raise KeyboardInterrupt
            commit(self, position)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(writers.ResumeJournal, "commit", limited)
            outcome = spectrnn(*arguments)
        assert outcome.code == 130
        assert "spectrnn: interrupted; rerun the same command to resume" in outcome.err

    return run


def test_only_the_same_settings_are_resumed(spectrnn, trained_run, tones, tmp_path, interrupt):
    out, journal = tmp_path / "labels.csv", tmp_path / ".labels.csv.journal"
    command = ("predict", tones, f"run={trained_run}", f"out={out}", "batch_size=1")
    spectrnn(*command)
    expected = out.read_text()
    interrupt(2, *command)
    assert spectrnn(*command, "top_k=1").error() == (
        f"spectrnn: out={out}: was started with top_k=3, but this command has top_k=1; "
        f"rerun the original command, or delete {journal} to start over"
    )
    journal.write_text(journal.read_text() + '{"done": ["half a li')  # as a kill leaves it
    outcome = spectrnn(*command)
    assert "resuming: 16 of 36 recordings already done" in outcome.err
    assert out.read_text() == expected
    assert not journal.exists()


def test_damaged_journal_is_reported(spectrnn, trained_run, tones, tmp_path, interrupt):
    out, journal = tmp_path / "labels.csv", tmp_path / ".labels.csv.journal"
    command = ("predict", tones, f"run={trained_run}", f"out={out}", "batch_size=1")
    interrupt(2, *command)
    journal.write_text(journal.read_text() + "{}\n")
    assert spectrnn(*command).error() == f"spectrnn: {journal}: is damaged; delete {journal} to start over"


def test_truncated_output_is_not_resumed(spectrnn, trained_run, tones, tmp_path, interrupt):
    out = tmp_path / "labels.csv"
    command = ("predict", tones, f"run={trained_run}", f"out={out}", "batch_size=1")
    interrupt(2, *command)
    out.write_text("path\n")
    assert spectrnn(*command).error() == (
        f"spectrnn: out={out}: is shorter than recorded in its journal; "
        f"delete {tmp_path / '.labels.csv.journal'} to start over"
    )
    out.unlink()
    assert spectrnn(*command).code == 0
    assert len(csv_rows(out.read_text())) == 36


def test_folder_of_outputs_is_resumed(spectrnn, trained_run, tones, tmp_path, interrupt):
    out = tmp_path / "labels"
    command = ("predict", tones, f"run={trained_run}", *DETECTION, "format=audacity", f"out={out}", "batch_size=1")
    interrupt(1, *command)
    first = out / "high" / "00.wav.txt"
    assert first.read_text().endswith("high\n")
    first.write_text("changed")
    (out / "high" / ".05.wav.txt.99.tmp").write_text("half")
    assert spectrnn(*command).code == 0
    assert first.read_text() == "changed"  # done before
    assert len([*out.rglob("*.txt")]) == 36
    assert not [*out.rglob(".*")]


def test_recording_that_is_damaged_near_its_end_has_no_events(spectrnn, trained_run, tones, tmp_path):
    samples = synthesize((300, 160)).astype(np.float32)
    samples[-10] = np.nan
    soundfile.write(tmp_path / "bad.wav", samples, RATE, subtype="FLOAT")
    good, out = tones / "low" / "11.wav", tmp_path / "events.csv"
    paths = (good, tmp_path / "bad.wav", tones / "high")
    outcome = spectrnn("predict", *paths, f"run={trained_run}", *DETECTION, f"out={out}")
    assert outcome.error() == "spectrnn: 1 of 14 files could not be predicted; the others were"
    assert "bad.wav: contains values that are not finite (NaN or Inf), or far beyond full scale" in outcome.err
    expected = {str(good), *map(str, (tones / "high").glob("*.wav"))}
    assert {row["path"] for row in csv_rows(out.read_text())} == expected


def test_previous_output_is_kept_if_nothing_can_be_read(spectrnn, trained_run, tmp_path):
    out = tmp_path / "labels.csv"
    out.write_text("finished")
    command = ("predict", tmp_path / "gone.wav", f"run={trained_run}", f"out={out}")
    assert spectrnn(*command).error() == "spectrnn: the recording could not be predicted"
    assert out.read_text() == "finished"
    out.unlink()
    assert spectrnn(*command).code == 1
    assert not [*tmp_path.iterdir()]


def test_full_disk_is_reported_and_the_command_can_be_resumed(spectrnn, trained_run, tones, tmp_path, monkeypatch):
    out = tmp_path / "labels.csv"
    command = ("predict", tones, f"run={trained_run}", f"out={out}", "batch_size=1")
    sync, count = os.fsync, itertools.count(1)

    def fail(descriptor):
        if next(count) == 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(writers.os, "fsync", fail)
    assert spectrnn(*command).error() == f"spectrnn: out={out}: cannot be written (No space left on device)"
    assert (tmp_path / ".labels.csv.journal").exists()
    monkeypatch.setattr(writers.os, "fsync", sync)
    outcome = spectrnn(*command, "batch_size=2")  # does not determine the rows
    assert outcome.code == 0
    assert "resuming: " in outcome.err
    assert [row["path"] for row in csv_rows(out.read_text())] == [str(path) for path in sorted(tones.rglob("*.wav"))]


def test_unwritable_output_is_reported(spectrnn, trained_run, tones, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for out in (tmp_path / "file" / "labels.csv", tmp_path / "folder"):
        error = spectrnn("predict", tones / "low", f"run={trained_run}", f"out={out}").error()
        assert error.startswith(f"spectrnn: out={out}: cannot be written (")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}


def test_device_is_written_without_a_journal(spectrnn, trained_run, tones):
    assert spectrnn("predict", tones / "low", f"run={trained_run}", f"out={os.devnull}").code == 0
    assert not Path("/dev/.null.journal").exists()
    if Path("/dev/full").exists():
        error = spectrnn("predict", tones / "low", f"run={trained_run}", "out=/dev/full").error()
        assert error == "spectrnn: out=/dev/full: cannot be written (No space left on device)"


def test_output_of_another_process_is_not_written(spectrnn, trained_run, tones, tmp_path):
    with FileLock(tmp_path / ".labels.csv.lock"):
        error = spectrnn("predict", tones, f"run={trained_run}", f"out={tmp_path / 'labels.csv'}").error()
    assert error == f"spectrnn: out={tmp_path / 'labels.csv'}: another process is writing it"


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_ends_standard_input(trained_run, tones, tmp_path, interruptible):
    samples = np.concatenate([load_audio(path, RATE) for path in sorted((tones / "low").glob("*.wav"))])
    out = tmp_path / "events.csv"
    command = predict_command("-", f"run={trained_run}", f"out={out}", "window=0.3", "hop=0.1", "threshold=none")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, **interruptible) as process:
        process.stdin.write(samples.tobytes())
        process.stdin.flush()
        while not out.exists() or out.read_text().count("\n") < 5:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, process.stderr.read()
    assert float(csv_rows(out.read_text())[-1]["end"]) == pytest.approx(len(samples) / RATE, abs=1e-3)
    assert list(tmp_path.glob(".events*")) == []


def test_inputs_are_not_overwritten(spectrnn, trained_run, tones, tmp_path):
    recording = Path(shutil.copy(tones / "low" / "00.wav", tmp_path / "a.wav"))
    model = Path(shutil.copy(trained_run / "model.safetensors", tmp_path / "model.safetensors"))
    for out in (recording, model):
        before = out.read_bytes()
        error = spectrnn("predict", recording, f"run={model}", f"out={out}").error()
        assert error == f"spectrnn: out={out}: is also an input; choose another file"
        assert out.read_bytes() == before
