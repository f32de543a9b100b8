"""`spectrnn cache`: what it lists and removes; folders and terminals that are not as usual."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from spectrnn.data.cache import open_cache
from spectrnn.data.clips import Clip


@pytest.fixture
def cache(tones, tmp_path) -> Path:
    """A cache with two datasets, the second one used last, an outdated one, and a fetched recording."""
    folder = tmp_path / "cache"
    for number, label in enumerate(("low", "high")):
        clips = [Clip(str(path), label) for path in sorted((tones / label).iterdir())]
        (file,) = open_cache(clips, 8000, folder, "fail").samples.files
        file.close()
        os.utime(file.name, (1e9 + number, 1e9 + number))
    for name in ("datasets/0123/samples.int16", "remote/ab/cd"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(bytes(1_000_000))
    return folder


def rows(text):
    """Kind, recordings, clips and size of each line of a table."""
    header, *lines, _ = [line for line in text.splitlines() if not line.startswith("removed ")]
    assert header.split() == ["kind", "clips", "Hz", "size", "last", "used", "recordings", "in"]
    pattern = r"(\w+) +([\d,]*) +(\d*) +(\d+ \w+)  ([-\d]+ [:\d]+)(?:  (\S+))?"
    cells = [re.fullmatch(pattern, line).groups("") for line in lines]
    return {(kind, place): values for kind, *values, place in cells}


def test_cache_lists_what_it_contains(spectrnn, cache, tones):
    outcome = spectrnn("cache", f"cache={cache}")
    assert (outcome.code, outcome.err) == (0, "")
    table = rows(outcome.out)
    assert [*table][2:] == [("decoded", f"{tones}/high/"), ("decoded", f"{tones}/low/")]  # most recently used first
    clips, rate, size, used = table["decoded", f"{tones}/low/"]
    assert (clips, rate) == ("12", "8000")
    assert re.fullmatch(r"\d+ kB", size)
    assert used.startswith("2001-09-0")
    assert {kind for kind, _ in table} == {"decoded", "outdated", "remote"}
    assert outcome.out.splitlines()[-1] == f"2 MB in {cache}"


def test_prune_removes_the_least_recently_used(spectrnn, cache, tones):
    outcome = spectrnn("cache", f"cache={cache}", "prune=0.0003")
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[0] == "removed 1 MB"
    assert {kind for kind, _ in rows(outcome.out)} == {"decoded", "remote"}
    outcome = spectrnn("cache", f"cache={cache}", "prune=0.0001")
    assert [place for kind, place in rows(outcome.out) if kind == "decoded"] == [f"{tones}/high/"]
    outcome = spectrnn("cache", f"cache={cache}", "prune=0", "kinds=[decoded,remote]")
    assert outcome.out.splitlines()[-1] == f"0 B in {cache}"
    assert not list(cache.glob("datasets/*"))
    assert not (cache / "remote").exists()


def test_invalid_prune_is_reported(spectrnn, cache):
    assert "prune=-1: should be greater than or equal to 0" in spectrnn("cache", "prune=-1").error()
    message = "kinds=remot: not in the cache; did you mean remote?"
    assert spectrnn("cache", f"cache={cache}", "prune=1", "kinds=[remot]").error() == f"spectrnn: {message}"


def test_missing_and_unreadable_folders_are_reported(spectrnn, tmp_path):
    outcome = spectrnn("cache", f"cache={tmp_path}/none")
    assert (outcome.code, outcome.out) == (0, f"the cache is empty: {tmp_path}/none\n")
    (tmp_path / "file").touch()
    message = f"cache={tmp_path}/file: cannot be read (Not a directory)"
    assert spectrnn("cache", f"cache={tmp_path}/file").error() == f"spectrnn: {message}"


def test_many_unreadable_recordings_are_summarized_and_listed(spectrnn, tiny, tmp_path):
    for number in range(40):
        path = tmp_path / "data" / "ab"[number % 2] / f"{number:02d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("no sound")
    run = tmp_path / "run"
    outcome = spectrnn("train", *tiny, f"data.root={tmp_path}/data", f"hydra.run.dir={run}")
    assert outcome.error() == "spectrnn: several errors"
    lines = outcome.err.splitlines()
    lines = lines[lines.index("spectrnn: several errors") + 1 :]
    assert len(lines) == 11
    assert lines[-2] == f"  ... and 31 more files; all are listed in {run}/unreadable.txt"
    assert "data.on_error=skip" in lines[-1]
    assert len((run / "unreadable.txt").read_text().splitlines()) == 40


def run_process(*arguments, **environment):
    command = [sys.executable, "-m", "spectrnn", *map(str, arguments)]
    variables = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, check=False, env=variables)


def test_any_text_is_printed_in_any_encoding(tone, cache, tmp_path):
    path = tone(tmp_path / "日本" / "a.wav")
    open_cache([Clip(str(path), "x")], 8000, cache, "fail")
    for encoding, name in (("latin-1", r"\u65e5\u672c"), ("ascii", r"\u65e5\u672c"), ("utf-8", "日本")):
        done = run_process("cache", f"cache={cache}", PYTHONIOENCODING=encoding)
        assert done.returncode == 0
        assert name.encode() in done.stdout


@pytest.mark.skipif(sys.platform == "win32" or os.getuid() == 0, reason="needs a user whose permissions are checked")
def test_folder_that_cannot_be_written_is_reported(spectrnn, tones, tiny, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    for flags in ((f"hydra.run.dir={tmp_path}/locked/run",), ("-m", f"hydra.sweep.dir={tmp_path}/locked/run")):
        outcome = spectrnn("train", *tiny, f"data.root={tones}", *flags)
        assert outcome.error() == f"spectrnn: {tmp_path}/locked/run: Permission denied"


def test_folder_below_a_file_is_reported(spectrnn, tones, tiny, tmp_path):
    (tmp_path / "file").touch()
    for flags in ((f"hydra.run.dir={tmp_path}/file/run",), ("-m", f"hydra.sweep.dir={tmp_path}/file/run")):
        outcome = spectrnn("train", *tiny, f"data.root={tones}", *flags)
        assert outcome.error() == f"spectrnn: {tmp_path}/file/run: Not a directory"


def test_closed_output_causes_no_traceback(cache):
    for redirection in (">&-", "| true"):
        line = f"{sys.executable} -m spectrnn cache cache={cache} {redirection}"
        done = subprocess.run(["bash", "-c", line], capture_output=True, check=False)
        assert done.stderr == b""
