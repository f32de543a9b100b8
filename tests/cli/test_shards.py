"""`spectrnn predict shard=2/3`: several processes write, byte for byte, what one process would have written."""

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import soundfile

from spectrnn.inference import shards, writers
from spectrnn.inference.pipeline import predict_recordings
from spectrnn.inference.predictor import load
from spectrnn.inference.shards import work_units
from spectrnn.inference.tasks import ClipTask

RATE = 8000
DETECTION = ("window=0.3", "hop=0.1", "smoothing_windows=1", "threshold=0.45")
FORMATS = [
    pytest.param("labels.csv", (), id="csv"),
    pytest.param("labels.jsonl", ("format=jsonl", "threshold=0.9"), id="jsonl"),
    pytest.param("events.csv", DETECTION, id="events"),
    pytest.param("events.txt", ("format=raven", *DETECTION), id="raven"),
    pytest.param("events.txt", ("format=raven", *DETECTION[:3], "threshold=none"), id="windows"),
]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Folder of 40 files of 0.1 to 2 s, whose lengths are not multiples of a µs."""
    root, generator = tmp_path_factory.mktemp("recordings"), np.random.default_rng(0)
    for number in range(40):
        length = int(generator.integers(1100, 22050))
        tone = 0.5 * np.sin(2 * np.pi * generator.choice([300, 900, 2700]) / 11025 * np.arange(length))
        soundfile.write(root / f"{number:02}.flac", tone, 11025)
    return root


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    monkeypatch.setattr(shards, "_UNIT_RECORDINGS", 5)


@pytest.fixture
def predict(spectrnn, trained_run, recordings):
    """Runs the command on all recordings: `predict("out=labels.csv", ...)`."""
    return lambda *arguments: spectrnn("predict", recordings, f"run={trained_run}", *arguments)


def test_units_are_batched_on_their_own(trained_run, recordings):
    predictor, units = load(trained_run), work_units(map(str, sorted(recordings.iterdir())))
    assert len(units) == 8
    groups = predict_recordings(predictor, ClipTask(predictor, None), units, 64)
    assert [[result.path for result in group] for group in groups] == units


@pytest.mark.parametrize(("name", "settings"), FORMATS)
def test_merged_table_is_that_of_one_process(predict, tmp_path, name, settings):
    assert predict(f"out={tmp_path / 'one' / name}", *settings).code == 0
    expected = (tmp_path / "one" / name).read_bytes()
    out = tmp_path / "several" / name
    for number in (2, 3, 1):
        assert not out.exists()
        outcome = predict(f"out={out}", f"shard={number}/3", *settings)
        assert outcome.code == 0, outcome.err
    assert f"{out}: merged from 3 shards" in outcome.err
    assert out.read_bytes() == expected
    assert len(expected.splitlines()) >= 40
    assert [path.name for path in out.parent.iterdir()] == [name]


def test_each_part_is_a_table_of_its_own(predict, tmp_path):
    out = tmp_path / "labels.csv"
    whole = predict().out.splitlines()
    parts = []
    for number in (1, 2):
        assert predict(f"out={out}", f"shard={number}/3").code == 0
        parts.append((tmp_path / f"labels.{number}-of-3.csv").read_text().splitlines())
        assert predict(f"shard={number}/3").out.splitlines() == parts[-1]  # standard output
    assert parts[0][0] == parts[1][0] == whole[0]
    assert [*parts[0], *parts[1][1:]] == whole[: len(parts[0]) + len(parts[1]) - 1]
    assert min(map(len, parts)) > 1


def test_folder_of_outputs_is_shared(predict, tmp_path):
    settings = ("format=audacity", *DETECTION)
    assert predict(f"out={tmp_path / 'one'}", *settings).code == 0
    several = tmp_path / "several"
    counts = []
    for number in (1, 2, 3):
        assert predict(f"out={several}", f"shard={number}/3", *settings).code == 0
        counts.append(len([*several.iterdir()]))
    assert 0 < counts[0] < counts[1] < counts[2] == 40
    for path in (tmp_path / "one").iterdir():
        assert (several / path.name).read_bytes() == path.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"one", "several"}


def test_resumed_shard_keeps_temporaries_of_others(predict, tmp_path, monkeypatch):
    settings, out = ("format=audacity", *DETECTION, "batch_size=1", f"out={tmp_path / 'out'}"), tmp_path / "out"
    commit, count = writers.ResumeJournal.commit, itertools.count()

    def limited(self, position):
        if next(count) == 1:
            raise KeyboardInterrupt
        commit(self, position)

    monkeypatch.setattr(writers.ResumeJournal, "commit", limited)
    assert predict("shard=1/2", *settings).code == 130
    monkeypatch.setattr(writers.ResumeJournal, "commit", commit)
    own, foreign = out / ".00.flac.txt.99.tmp", out / ".39.flac.txt.99.tmp"
    for path in (own, foreign):
        path.write_text("half")
    assert predict("shard=1/2", *settings).code == 0
    assert not own.exists()
    assert foreign.exists()


def test_one_recording_and_more_shards_than_units(spectrnn, trained_run, recordings, tmp_path):
    out = tmp_path / "events.txt"
    command = ("predict", recordings / "00.flac", f"run={trained_run}", "format=audacity", *DETECTION)
    expected = spectrnn(*command).out
    for number in (1, 2):
        assert spectrnn(*command, f"out={out}", f"shard={number}/2").code == 0
    assert out.read_text() == expected != ""


def test_unreadable_files_are_reported_by_their_shard(spectrnn, trained_run, recordings, tmp_path):
    bad, out = tmp_path / "bad.wav", tmp_path / "labels.csv"
    bad.write_text("not audio")
    command = ("predict", recordings, bad, f"run={trained_run}", f"out={out}")
    assert spectrnn(*command, "shard=1/2").code == 0
    for _ in range(2):  # a completed shard is not repeated
        outcome = spectrnn(*command, "shard=3/3")
        assert "files could not be predicted; the others were" in outcome.error()
    for number in (1, 2):
        assert spectrnn(*command, f"shard={number}/3").code == 0
    text = out.read_text()
    assert len(text.splitlines()) == 41
    assert spectrnn(*command).code == 1
    assert out.read_text() == text


def test_previous_table_is_kept_if_no_shard_can_read_anything(spectrnn, trained_run, tmp_path):
    out = tmp_path / "labels.csv"
    out.write_text("finished")
    command = ("predict", tmp_path / "gone.wav", f"run={trained_run}", f"out={out}")
    assert {spectrnn(*command, f"shard={number}/2").code for number in (1, 2)} == {0, 1}
    assert out.read_text() == "finished"
    assert [path.name for path in tmp_path.iterdir()] == ["labels.csv"]


def test_shards_of_different_commands_are_not_merged(predict, recordings, tmp_path, spectrnn, trained_run):
    out = tmp_path / "labels.csv"
    assert predict(f"out={out}", "shard=1/2").code == 0
    part, journal = tmp_path / "labels.1-of-2.csv", tmp_path / ".labels.1-of-2.csv.journal"
    assert predict(f"out={out}", "shard=2/2", "top_k=1").error() == (
        f"spectrnn: out={part}: was started with top_k=3, but this command has top_k=1; "
        f"rerun the original command, or delete {journal} to start over"
    )
    error = spectrnn("predict", recordings / "00.flac", f"run={trained_run}", f"out={out}", "shard=1/2").error()
    assert error.startswith(f"spectrnn: out={part}: was started with recordings=40 files (")
    assert "but this command has recordings=1 files (" in error
    assert not out.exists()


def test_changed_part_is_not_merged(predict, tmp_path):
    out, part = tmp_path / "labels.csv", tmp_path / "labels.1-of-2.csv"
    assert predict(f"out={out}", "shard=1/2").code == 0
    part.write_text(part.read_text() + "another row\n")
    error = predict(f"out={out}", "shard=2/2").error()
    assert error.startswith(f"spectrnn: out={part}: was changed after it was written; delete ")
    assert not out.exists()


@pytest.mark.parametrize("shard", ["0/16", "17/16", "abc"])
def test_invalid_shards_are_reported(predict, shard):
    assert predict(f"shard={shard}").error() == (
        f"spectrnn: shard={shard}: should be NUMBER/COUNT with a number from 1 to COUNT, such as 3/16"
    )


def test_standard_input_has_no_shards(spectrnn, trained_run):
    assert spectrnn("predict", "-", f"run={trained_run}", "shard=1/2").error() == (
        "spectrnn: shard=1/2: standard input cannot be shared by several processes"
    )


@pytest.mark.study
@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL")
def test_killed_shards_are_resumed_side_by_side(spectrnn, trained_run, recordings, tmp_path, monkeypatch):
    monkeypatch.undo()  # the other processes have units of the usual size
    many = tmp_path / "many"
    many.mkdir()
    for number, path in enumerate(sorted(recordings.iterdir()) * 30):
        os.link(path, many / f"{number:04}.flac")
    settings = ("predict", many, f"run={trained_run}", "format=raven", "batch_size=2", *DETECTION)
    expected, out, generator = tmp_path / "expected.txt", tmp_path / "events.txt", random.Random(0)
    assert spectrnn(*settings, f"out={expected}").code == 0

    def run(number, kills):
        command = [sys.executable, "-m", "spectrnn", *map(str, settings), f"out={out}", f"shard={number}/3"]
        journal = tmp_path / f".events.{number}-of-3.txt.journal"
        for size in kills:
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            while process.poll() is None:
                if journal.exists() and journal.stat().st_size >= size:
                    process.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.002)
            codes[number].append(process.wait())
        codes[number].append(subprocess.run(command, capture_output=True, check=False).returncode)

    codes = {1: [], 2: [], 3: []}
    kills = {1: [], 2: [generator.randrange(500, 5000)], 3: [generator.randrange(500, 3000)]}
    threads = [threading.Thread(target=run, args=item) for item in kills.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == {1: [0], 2: [-signal.SIGKILL, 0], 3: [-signal.SIGKILL, 0]}
    assert out.read_bytes() == expected.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"expected.txt", "events.txt", "many"}
