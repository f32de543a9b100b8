"""`spectrnn stream`, end to end on tones that come through standard input."""

import csv
import io
import itertools
import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import soundfile

TONES = {"low": 300, "middle": 900, "high": 2700}
SUNG = ["middle", "low", "high", "low"]  # a second each


@pytest.fixture(scope="module")
def causal(tones, tiny, tmp_path_factory):
    """The folder of a run of a forward GRU on the tones."""
    folder = tmp_path_factory.mktemp("causal") / "run"
    command = [
        sys.executable,
        "-m",
        "spectrnn",
        "train",
        *tiny,
        f"data.root={tones}",
        f"hydra.run.dir={folder}",
        "experiment=streaming",
        "augment=[]",
        "trainer.epochs=12",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def song():
    """int16 samples at 8 kHz."""
    time = np.arange(8000) / 8000
    return np.concatenate([16000 * np.sin(2 * np.pi * TONES[label] * time) for label in SUNG]).astype(np.int16)


@pytest.fixture
def piped(spectrnn, monkeypatch, tmp_path):
    """`piped(content, *arguments)`: the command with these bytes on its standard input."""

    def run(content, *arguments):
        (tmp_path / "piped").write_bytes(content)
        with (tmp_path / "piped").open() as file:
            monkeypatch.setattr(sys, "stdin", file)
            return spectrnn("stream", *arguments)

    return run


def wav(samples, rate=8000):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def assert_heard(events):
    """Each tone in its turn, and about where it sounds."""
    assert [event["label"] for event in events] == SUNG
    for second, event in enumerate(events):
        assert float(event["start"]) == pytest.approx(second, abs=0.35)
        assert float(event["end"]) == pytest.approx(second + 1, abs=0.35)
        assert 0.5 <= float(event["probability"]) <= 1


def test_tones_are_heard_as_they_come(piped, causal, song):
    outcome = piped(wav(song), f"run={causal}", "format=jsonl", "threshold=0.6")
    assert outcome.code == 0, outcome.err
    told = [json.loads(line) for line in outcome.out.splitlines()]
    assert_heard([event for event in told if "end" in event])
    begun = [event for event in told if "end" not in event]
    assert [event["label"] for event in begun] == SUNG
    # Each is told of when it begins, and not only when it is over.
    for event in begun:
        over = next(i for i, other in enumerate(told) if "end" in other and other["start"] == event["start"])
        assert told.index(event) < over


def test_samples_without_a_header_and_another_rate(piped, causal, song):
    raw = piped(song.astype("<i2").tobytes(), f"run={causal}", "format=csv", "threshold=0.6")
    assert_heard([*csv.DictReader(raw.out.splitlines())])
    wide = np.repeat(song, 2).astype("<i2").tobytes()
    told = piped(wide, f"run={causal}", "format=csv", "threshold=0.6", "raw_sample_rate=16000")
    assert_heard([*csv.DictReader(told.out.splitlines())])


def test_of_a_sound_that_breaks_off_all_is_told(piped, causal, song):
    outcome = piped(wav(song)[:-1000], f"run={causal}", "format=csv", "threshold=0.6")
    assert "standard input is truncated" in outcome.mistake()
    assert_heard([*csv.DictReader(outcome.out.splitlines())])


def test_every_answer_and_text(piped, causal, song):
    every = piped(wav(song), f"run={causal}", "format=csv", "threshold=none", "hop=0.2")
    rows = [*csv.DictReader(every.out.splitlines())]
    assert len(rows) == 19 + 1 + 1  # answers every 0.2 s, one for the rest, and the last one for the end of its stretch
    assert float(rows[-1]["end"]) == pytest.approx(4, abs=0.01)
    assert rows[0]["start"] == "0.000"
    assert all(before["end"] == row["start"] for before, row in itertools.pairwise(rows))
    text = piped(wav(song), f"run={causal}", "threshold=0.6", "background=[high]").out
    assert text.splitlines()[0].split()[2::2] == ["+", "middle"]
    assert "high" not in text


def test_a_model_that_looks_back_is_refused(piped, trained):
    mistake = piped(b"", f"run={trained}").mistake()
    assert "model.bidirectional=true: reads a clip backward" in mistake


def test_mistakes_are_told(piped, causal, song, monkeypatch):
    run = f"run={causal}"
    assert (
        "background: the model has no label 'hihg'; did you mean high?"
        in piped(b"", run, "background=[hihg]").mistake()
    )
    assert "standard input holds no samples" in piped(b"", run).mistake()
    assert "threshold=1.5: " in piped(wav(song), run, "threshold=1.5").mistake()
    assert "hop=2: is longer than window=1" in piped(b"", run, "hop=2", "window=1").mistake()
    assert "background: holds all" in piped(b"", run, "background=[low,middle,high]").mistake()
    assert "background: the model has no label '1'" in piped(b"", run, "background=[1]").mistake()
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert "source=1: needs the package sounddevice" in piped(b"", run, "source=1").mistake()
    assert "listeners=0: should be greater than 0" in piped(wav(song), run, "listeners=0").mistake()


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_ends_it_and_what_was_heard_is_told(causal, song, listening):
    command = [sys.executable, "-m", "spectrnn", "stream", f"run={causal}", "format=jsonl", "threshold=0.6"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, **pipes, **listening) as process:
        process.stdin.write(song[:8000].tobytes())
        process.stdin.flush()
        begun = json.loads(process.stdout.readline())  # told while the sound goes on
        assert (begun["label"], "end" in begun) == ("middle", False)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        errors = process.stderr.read().decode()
        process.stdin.close()
        assert process.wait(60) == 0, errors
    last = json.loads(rest.splitlines()[-1])
    assert begun["start"] < last["end"] <= 1
    assert "Traceback" not in errors
