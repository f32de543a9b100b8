"""Unreadable recordings: skipped and listed by a run, reported otherwise."""

import csv
import shutil

import pytest

from fuzzing.mutations import mutant


@pytest.fixture
def damaged(tones, tmp_path):
    """A copy of the tones with two unreadable files."""
    root = shutil.copytree(tones, tmp_path / "tones")
    (root / "high" / "03.wav").write_text("no sound")
    (root / "low" / "05.wav").write_bytes(b"")
    return root


def messages(damaged):
    return [
        f"{damaged}/high/03.wav: cannot be read as audio (Format not recognised)",
        f"{damaged}/low/05.wav: is empty (0 bytes)",
    ]


def test_unreadable_files_are_skipped_and_listed(spectrnn, damaged, tiny, tmp_path):
    run = tmp_path / "run"
    outcome = spectrnn(
        "train", *tiny, f"data.root={damaged}", "data.on_error=skip", "trainer.epochs=1", f"hydra.run.dir={run}"
    )
    assert outcome.code == 0, outcome.err
    assert f"2 of 36 clips cannot be read and were skipped; see {run}/skipped.txt" in outcome.err
    assert (run / "skipped.txt").read_text().splitlines() == messages(damaged)
    outcome = spectrnn("eval", f"run={run}", "split=all")
    assert outcome.code == 0, outcome.err
    assert "all: 34 clips" in (run / "eval" / "all" / "report.txt").read_text()
    assert (run / "eval" / "all" / "skipped.txt").read_text().splitlines() == messages(damaged)
    assert "may contain clips that the model was trained on" not in outcome.err
    assert spectrnn("eval", f"run={run}", "split=all", "data.on_error=fail").code == 1


def test_all_unreadable_files_are_reported(spectrnn, damaged, tiny, tmp_path):
    outcome = spectrnn("train", *tiny, f"data.root={damaged}", f"hydra.run.dir={tmp_path}/run")
    assert outcome.error() == "spectrnn: several errors"
    *lines, remedy = outcome.err.splitlines()[-3:]
    assert lines == [f"  {line}" for line in messages(damaged)]
    assert remedy == "    data.on_error=skip leaves such files out, and spectrnn check examines them"
    assert not (tmp_path / "run").exists()


def test_mutated_recordings_are_predicted_or_reported(spectrnn, trained_run, tones, tmp_path):
    folder = tmp_path / "mutated"
    folder.mkdir()
    content = (tones / "low" / "00.wav").read_bytes()
    for number in range(60):
        (folder / f"{number}.wav").write_bytes(mutant(content, ".wav", str(number)).content)
    outcome = spectrnn("predict", folder, f"run={trained_run}")
    predicted = {row["path"] for row in csv.DictReader(outcome.out.splitlines())}
    first, *lines, _ = outcome.err.splitlines()
    assert first.startswith("computing on ")
    reported = {line.split(": ")[0].split()[-1] for line in lines}  # with warnings about some that were predicted
    assert predicted | reported == {str(path) for path in folder.iterdir()}
    assert len(predicted) > 10
    assert outcome.error() == f"spectrnn: {60 - len(predicted)} of 60 files could not be predicted; the others were"


def test_many_unreadable_files_are_summarized_and_listed(spectrnn, tones, tiny, tmp_path):
    root = shutil.copytree(tones, tmp_path / "tones")
    for number in range(12):
        (root / "high" / f"{number:02d}.wav").write_text("no sound")
    outcome = spectrnn("train", *tiny, f"data.root={root}", f"hydra.run.dir={tmp_path}/run")
    assert outcome.error() == "spectrnn: several errors"
    lines = outcome.err.splitlines()[-11:-1]
    assert lines[0] == f"  {root}/high/00.wav: cannot be read as audio (Format not recognised)"
    assert lines[-1] == f"  ... and 3 more files; all are listed in {tmp_path}/run/unreadable.txt"
    assert len((tmp_path / "run" / "unreadable.txt").read_text().splitlines()) == 12
    for number in range(12):
        shutil.copy(tones / "high" / f"{number:02d}.wav", root / "high")
    again = spectrnn("train", *tiny, f"data.root={root}", "trainer.epochs=1", f"hydra.run.dir={tmp_path}/run")
    assert again.code == 0, again.err
    assert not (tmp_path / "run" / "unreadable.txt").exists()


def test_what_a_folder_contains_besides_audio_is_reported(spectrnn, trained_run, tones, tmp_path):
    folder = shutil.copytree(tones / "low", tmp_path / "recordings")
    (folder / "notes.txt").touch()
    (folder / "00.wav").rename(folder / "00")  # its content decides
    (folder / "gone.wav").symlink_to("nowhere.wav")
    outcome = spectrnn("predict", folder, f"run={trained_run}")
    assert outcome.code == 0, outcome.err
    assert len(outcome.out.splitlines()) == 13
    assert f"{folder}: 1 file of other kinds was ignored: 1 .txt (such as {folder}/notes.txt)" in outcome.err
    assert f"{folder}: 1 broken link was ignored (such as {folder}/gone.wav)" in outcome.err


def test_relative_root_works_from_another_folder(spectrnn, tones, tiny, tmp_path, monkeypatch):
    (tmp_path / "tones").symlink_to(tones)
    assert spectrnn("train", *tiny, "data.root=tones", "trainer.epochs=1", "hydra.run.dir=run").code == 0
    assert "root: tones\n" in (tmp_path / "run" / "config.yaml").read_text()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    outcome = spectrnn("eval", "run=../run", "split=train", "report=false")
    assert outcome.code == 0, outcome.err
    assert "trained on" not in outcome.err  # it is the same dataset
    outcome = spectrnn("train", "resume=../run", "trainer.epochs=2")
    assert outcome.code == 0, outcome.err
    assert "resuming after epoch 1" in outcome.err + outcome.out
