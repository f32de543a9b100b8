"""`spectrnn stream`, end to end on tones from standard input."""

import copy
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

from spectrnn.model import serialization
from spectrnn.model.ensemble import Ensemble

TONES = {"low": 300, "middle": 900, "high": 2700}  # Hz
LABELS = ["middle", "low", "high", "low"]  # of the tones in `samples`, 1 s each


@pytest.fixture(scope="module")
def causal_run(tones, tiny, tmp_path_factory):
    """Read-only folder of a run that trained a unidirectional GRU on `tones`."""
    folder = tmp_path_factory.mktemp("causal_run") / "run"
    settings = (*tiny, f"data.root={tones}", "experiment=streaming", "model=gru", "augment=[]", "trainer.epochs=12")
    command = [sys.executable, "-m", "spectrnn", "train", *settings, f"hydra.run.dir={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def samples():
    """One tone after another, int16 at 8 kHz."""
    time = np.arange(8000) / 8000
    return np.concatenate([16000 * np.sin(2 * np.pi * TONES[label] * time) for label in LABELS]).astype(np.int16)


@pytest.fixture
def stream(spectrnn, monkeypatch, tmp_path):
    """Runs the command: `stream(content, *arguments)` with these bytes on its standard input."""

    def run(content, *arguments):
        (tmp_path / "stdin").write_bytes(content)
        with (tmp_path / "stdin").open() as file:
            monkeypatch.setattr(sys, "stdin", file)
            return spectrnn("stream", *arguments)

    return run


def wav(samples, rate=8000):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def csv_rows(outcome):
    return [*csv.DictReader(outcome.out.splitlines())]


def assert_tones(events):
    """Checks that the events are the tones of `samples`, at about their times."""
    assert [event["label"] for event in events] == LABELS
    for second, event in enumerate(events):
        assert float(event["start"]) == pytest.approx(second, abs=0.35)
        assert float(event["end"]) == pytest.approx(second + 1, abs=0.35)
        assert 0.5 <= float(event["probability"]) <= 1


def test_events_are_reported_when_they_start_and_when_they_end(stream, causal_run, samples):
    outcome = stream(wav(samples), f"run={causal_run}", "format=jsonl", "threshold=0.6")
    assert outcome.code == 0, outcome.err
    updates = [json.loads(line) for line in outcome.out.splitlines()]
    assert_tones([update for update in updates if "end" in update])
    starts = {update["start"]: i for i, update in enumerate(updates) if "end" not in update}
    ends = {update["start"]: i for i, update in enumerate(updates) if "end" in update}
    assert [updates[i]["label"] for i in starts.values()] == LABELS
    assert starts.keys() == ends.keys()
    assert all(starts[start] < ends[start] for start in starts)


def test_ensemble_reports_the_events_of_the_mean(stream, causal_run, samples, tmp_path):
    classifier, config = serialization.load(causal_run / "model.safetensors")
    uninformed = copy.deepcopy(classifier)
    uninformed.temperature.fill_(1e6)  # all probabilities are 1 / 3
    path = tmp_path / "model.safetensors"
    serialization.save(Ensemble([classifier, uninformed]), config, path)
    single, ensemble = (
        csv_rows(stream(wav(samples), f"run={run}", "format=csv", "threshold=none")) for run in (causal_run, path)
    )
    assert len(single) > 20
    for row, expected in zip(ensemble, single, strict=True):
        assert {**row, "probability": ""} == {**expected, "probability": ""}
        mean = (float(expected["probability"]) + 1 / 3) / 2
        assert float(row["probability"]) == pytest.approx(mean, abs=1e-3)


def test_raw_samples_of_any_rate(stream, causal_run, samples):
    settings = (f"run={causal_run}", "format=csv", "threshold=0.6")
    assert_tones(csv_rows(stream(samples.astype("<i2").tobytes(), *settings)))
    upsampled = np.repeat(samples, 2).astype("<i2").tobytes()
    assert_tones(csv_rows(stream(upsampled, *settings, "raw_sample_rate=16000")))


def test_events_before_a_truncation_are_reported(stream, causal_run, samples):
    outcome = stream(wav(samples)[:-1000], f"run={causal_run}", "format=csv", "threshold=0.6")
    assert outcome.code == 0, outcome.err
    assert "-: is truncated; 0.062 of the 4.000 s in its header are missing\n" in outcome.err
    assert_tones(csv_rows(outcome))


def test_every_output_is_printed_without_a_threshold(stream, causal_run, samples):
    rows = csv_rows(stream(wav(samples), f"run={causal_run}", "format=csv", "threshold=none", "hop=0.2"))
    assert len(rows) == 19 + 1 + 1  # every 0.2 s, for the remaining samples, and from the last center to the end
    assert float(rows[-1]["end"]) == pytest.approx(4, abs=0.01)
    assert rows[0]["start"] == "0.000"
    assert all(previous["end"] == row["start"] for previous, row in itertools.pairwise(rows))


def test_text_format_and_background(stream, causal_run, samples):
    text = stream(wav(samples), f"run={causal_run}", "threshold=0.6", "background=[high]").out
    assert text.splitlines()[0].split()[2::2] == ["+", "middle"]
    assert "high" not in text


def test_bidirectional_model_is_rejected(stream, trained_run):
    outcome = stream(b"", f"run={trained_run}")
    assert outcome.error() == (
        "spectrnn: model.bidirectional=true: processes a clip from its end, which a stream does not have; "
        "model=gru and model=lstm do not"
    )
    assert "or train a causal one: spectrnn train experiment=streaming" in outcome.err


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        (["background=[hihg]"], "background: the model has no label 'hihg'; did you mean high?"),
        (["background=[1]"], "background: the model has no label '1'; known here: high, low, middle"),
        (
            ["background=[low,middle,high]"],
            "background: covers every label with a threshold, so nothing could be detected",
        ),
        ([], "-: standard input is empty"),
        (["threshold=1.5"], "threshold=1.5: should be 'model' or 'none' or less than or equal to 1"),
        (["hop=2", "window=1"], "hop=2: longer than the window of 1 s, so audio would be skipped"),
        (["num_replicas=0"], "num_replicas=0: should be greater than 0"),
        (["source=1"], "source=1: needs the package sounddevice (pip install 'spectrnn[live]')"),
    ],
)
def test_invalid_settings_are_reported(stream, causal_run, monkeypatch, settings, error):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert stream(b"", f"run={causal_run}", *settings).error().startswith(f"spectrnn: {error}")


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_ends_the_stream_and_its_last_event(causal_run, samples, interruptible):
    command = [sys.executable, "-m", "spectrnn", "stream", f"run={causal_run}", "format=jsonl", "threshold=0.6"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, **pipes, **interruptible) as process:
        process.stdin.write(samples[:8000].tobytes())
        process.stdin.flush()
        onset = json.loads(process.stdout.readline())  # printed while the event lasts
        assert (onset["label"], "end" in onset) == ("middle", False)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        errors = process.stderr.read().decode()
        process.stdin.close()
        assert process.wait(60) == 0, errors
    last = json.loads(rest.splitlines()[-1])
    assert onset["start"] < last["end"] <= 1
    assert "Traceback" not in errors
