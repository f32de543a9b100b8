"""Broken recordings, from the command line: a run without them, a report of them, or a sentence that names them."""

import csv
import shutil

import pytest

from fuzzing.mutations import mutant


@pytest.fixture
def damaged(tones, tmp_path):
    """The tones, two of which are broken."""
    root = shutil.copytree(tones, tmp_path / "tones")
    (root / "high" / "03.wav").write_text("no sound")
    (root / "low" / "05.wav").write_bytes(b"")
    return root


def listed(damaged):
    return [
        f"{damaged}/high/03.wav: cannot be read as audio (Format not recognised)",
        f"{damaged}/low/05.wav: is empty (0 bytes)",
    ]


def test_they_are_skipped_and_listed_in_the_run(spectrnn, damaged, tiny, tmp_path):
    run = tmp_path / "run"
    outcome = spectrnn(
        "train", *tiny, f"data.root={damaged}", "data.on_error=skip", "trainer.epochs=1", f"hydra.run.dir={run}"
    )
    assert outcome.code == 0, outcome.err
    assert f"2 of 36 clips cannot be read and are left out; they are listed in {run}/skipped.txt" in outcome.err
    assert (run / "skipped.txt").read_text().splitlines() == listed(damaged)
    outcome = spectrnn("eval", f"run={run}", "split=all")
    assert outcome.code == 0, outcome.err
    assert "all: 34 clips" in (run / "eval" / "all" / "report.txt").read_text()
    assert (run / "eval" / "all" / "skipped.txt").read_text().splitlines() == listed(damaged)
    assert "split may hold" not in outcome.err
    assert spectrnn("eval", f"run={run}", "split=all", "data.on_error=fail").code == 1


def test_they_are_all_named(spectrnn, damaged, tiny, tmp_path):
    outcome = spectrnn("train", *tiny, f"data.root={damaged}", f"hydra.run.dir={tmp_path}/run")
    assert outcome.mistake() == "spectrnn: several mistakes"
    assert outcome.err.splitlines()[-2:] == [f"  {line}" for line in listed(damaged)]
    assert not (tmp_path / "run").exists()


def test_nothing_is_said_of_a_whole_corpus(trained):
    assert not (trained / "skipped.txt").exists()


def test_broken_recordings_are_predicted_or_named(spectrnn, trained, tones, tmp_path):
    folder = tmp_path / "broken"
    folder.mkdir()
    content = (tones / "low" / "00.wav").read_bytes()
    for number in range(60):
        (folder / f"{number}.wav").write_bytes(mutant(content, ".wav", str(number)).content)
    outcome = spectrnn("predict", folder, f"run={trained}")
    predicted = {row["path"] for row in csv.DictReader(outcome.out.splitlines())}
    named = {line.split(": ")[0].split()[-1] for line in outcome.err.splitlines()[:-1]}
    assert predicted | named == {str(path) for path in folder.iterdir()}
    assert not predicted & named
    assert len(predicted) > 10
    assert outcome.mistake() == f"spectrnn: {len(named)} of 60 files could not be predicted; the others were"
