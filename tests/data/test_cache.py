"""The store: built once, found again, never taken for another's, and there as a whole or not at all."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import joblib
import numpy as np
import pytest
import soundfile

from spectrnn.data import cache as module
from spectrnn.data import parallel
from spectrnn.data.cache import WaveformCache, cache_key, open_cache
from spectrnn.data.clips import Clip
from spectrnn.errors import UserError

RATE = 8000


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    """Ten clips of noise, of 100 to 1000 samples."""
    generator = np.random.default_rng(0)
    table = []
    for number in range(10):
        path = tmp_path / "sound" / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, generator.integers(-(2**15), 2**15, 100 * (number + 1), dtype=np.int16), RATE)
        table.append(Clip(str(path), "noise"))
    return table


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files decoded so far."""
    decode, decoded = module.load_audio, []

    def counting(path: str, *arguments: float | None) -> np.ndarray:
        decoded.append(path)
        return decode(path, *arguments)

    monkeypatch.setattr(module, "load_audio", counting)
    return decoded


def folders(cache: Path) -> list[str]:
    """What lies among the stores, hidden or not."""
    return sorted(os.listdir(cache / "stores")) if (cache / "stores").exists() else []


def samples(store: WaveformCache) -> list[list[int]]:
    wave = np.fromfile(store.path, np.int16)
    return [wave[a:b].tolist() for a, b in zip(store.offsets, store.offsets[1:], strict=False)]


def files(clips: Sequence[Clip]) -> list[list[int]]:
    """The same read by soundfile."""
    return [soundfile.read(clip.path, dtype="int16")[0].tolist() for clip in clips]


def test_every_clip_lies_where_the_offsets_say(clips: list[Clip], tmp_path: Path):
    store = open_cache(clips, RATE, tmp_path, "fail")
    assert store.offsets.dtype == np.int64
    assert store.offsets.tolist() == np.cumsum([0, *range(100, 1001, 100)]).tolist()
    assert store.lengths.tolist() == list(range(100, 1001, 100))
    assert store.sample_rate == RATE
    assert samples(store) == files(clips)


def test_parts_of_one_file_are_clips(clips: list[Clip], tmp_path: Path):
    parts = [clips[9]._replace(start=0.05, end=0.1), clips[9]._replace(end=0.025), clips[9]]
    whole = files(clips)[9]
    assert samples(open_cache(parts, RATE, tmp_path, "fail")) == [whole[400:800], whole[:200], whole]


def test_it_is_built_once_and_found_again(clips: list[Clip], tmp_path: Path, decodings: list[str]):
    first = open_cache(clips, RATE, tmp_path, "fail")
    assert decodings == [clip.path for clip in clips]
    second = open_cache(clips, RATE, tmp_path, "fail")
    assert len(decodings) == 10
    assert first.path == second.path
    assert first.offsets.tolist() == second.offsets.tolist()
    assert folders(tmp_path) == [cache_key(clips, RATE)]


def test_a_silence_as_long_as_the_longest_clip_comes_last(clips: list[Clip], tmp_path: Path):
    store = open_cache(clips, RATE, tmp_path, "fail")
    assert np.fromfile(store.path, np.int16)[store.offsets[-1] :].tolist() == [0] * 1000


def test_labels_and_splits_may_change(clips: list[Clip], tmp_path: Path, decodings: list[str]):
    open_cache(clips, RATE, tmp_path, "fail")
    open_cache([clip._replace(label="x", split="test", fold="3", group="g") for clip in clips], RATE, tmp_path, "fail")
    assert len(decodings) == 10
    assert len(folders(tmp_path)) == 1


def swapped(clips: list[Clip]) -> list[Clip]:
    return [clips[1], clips[0], *clips[2:]]


def touched(clips: list[Clip]) -> list[Clip]:
    stat = os.stat(clips[3].path)
    os.utime(clips[3].path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    return clips


def longer(clips: list[Clip]) -> list[Clip]:
    stat = os.stat(clips[3].path)
    soundfile.write(clips[3].path, np.zeros(401, np.int16), RATE)
    os.utime(clips[3].path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # only the size tells
    return clips


def elsewhere(clips: list[Clip]) -> list[Clip]:
    moved = Path(clips[0].path).parent / "elsewhere" / "0.wav"
    moved.parent.mkdir()
    stat = os.stat(clips[0].path)
    moved.write_bytes(Path(clips[0].path).read_bytes()[:-2] + b"\1\2")
    os.utime(moved, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return [Clip(str(moved), "noise"), *clips[1:]]


def chmodded(clips: list[Clip]) -> list[Clip]:
    os.chmod(clips[3].path, 0o600)  # a file that could not be read, perhaps
    return clips


CHANGES: dict[str, Callable[[list[Clip]], list[Clip]]] = {
    "the time of a file": touched,
    "the size of a file": longer,
    "the permissions of a file": chmodded,
    "another file of the same name, size and time": elsewhere,
    "one clip less": lambda clips: clips[:-1],
    "one clip twice": lambda clips: [*clips, clips[0]],
    "the order": swapped,
    "a start": lambda clips: [clips[0]._replace(start=0.001), *clips[1:]],
    "an end": lambda clips: [clips[0]._replace(end=0.01), *clips[1:]],
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_a_sample_makes_another_store(clips: list[Clip], tmp_path: Path, change: str):
    before = cache_key(clips, RATE)
    open_cache(clips, RATE, tmp_path, "fail")
    changed = CHANGES[change](list(clips))
    assert cache_key(changed, RATE) != before
    store = open_cache(changed, RATE, tmp_path, "fail")
    assert len(folders(tmp_path)) == 2
    stops = [clip.end and round(clip.end * RATE) for clip in changed]
    expected = [
        wave[round(clip.start * RATE) : stop] for wave, clip, stop in zip(files(changed), changed, stops, strict=True)
    ]
    assert samples(store) == expected


def test_another_rate_makes_another_store(clips: list[Clip], tmp_path: Path):
    first, second = open_cache(clips, RATE, tmp_path, "fail"), open_cache(clips, 2 * RATE, tmp_path, "fail")
    assert len(folders(tmp_path)) == 2
    assert second.sample_rate == 2 * first.sample_rate
    assert second.lengths.tolist() == (2 * first.lengths).tolist()


def test_a_relative_path_is_the_same_file(clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    relative = [clip._replace(path=os.path.relpath(clip.path)) for clip in clips]
    assert cache_key(relative, RATE) == cache_key(clips, RATE)


def test_all_cores_decode_to_the_same_as_one(clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parallel, "_CLIPS", 3)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 1)
    serial = open_cache(clips, RATE, tmp_path / "serial", "fail")
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    found = open_cache(clips, RATE, tmp_path / "parallel", "fail")
    assert found.path.read_bytes() == serial.path.read_bytes()
    assert found.offsets.tolist() == serial.offsets.tolist()
    assert samples(found) == files(clips)


def test_large_files_are_shared_out_by_size(clips: list[Clip], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parallel, "_BYTES", 3000)  # of files of 244, 444, ..., 2,044
    chunks = list(parallel._parts(clips))
    assert [clip for chunk in chunks for clip in chunk] == clips
    assert [len(chunk) for chunk in chunks] == [5, 3, 2]


# What cannot be built


def test_broken_files_are_all_named_and_nothing_stays(
    clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(parallel, "_CLIPS", 3)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 1)
    Path(clips[2].path).write_bytes(b"")
    Path(clips[5].path).write_text("no audio")
    Path(clips[7].path).write_bytes(Path(clips[7].path).read_bytes()[:-50])
    with pytest.raises(UserError) as caught:
        open_cache(clips, RATE, tmp_path, "fail")
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == [clips[2].path, clips[5].path, clips[7].path]
    assert [any(word in line for word in ("empty", "audio", "truncated")) for line in lines] == [True] * 3
    assert folders(tmp_path) == []


def test_all_broken_files_are_named_missing_ones_too(tmp_path: Path):
    paths = [tmp_path / f"{number:02d}.wav" for number in range(30)]
    for path in paths[::2]:
        path.touch()
    with pytest.raises(UserError) as caught:
        open_cache([Clip(str(path), "x") for path in paths], RATE, tmp_path, "fail")
    lines = str(caught.value).splitlines()
    assert lines[::2] == [f"{path}: is empty (0 bytes)" for path in paths[::2]]
    assert lines[1::2] == [f"{path}: no such file" for path in paths[1::2]]
    assert folders(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_build_leaves_nothing(
    clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
):
    decode = module.load_audio

    def interrupted(path: str, *arguments: float | None) -> np.ndarray:
        if path == clips[6].path:
            raise error
        return decode(path, *arguments)

    monkeypatch.setattr(module, "load_audio", interrupted)
    with pytest.raises(error):
        open_cache(clips, RATE, tmp_path, "fail")
    assert folders(tmp_path) == []
    monkeypatch.undo()
    assert samples(open_cache(clips, RATE, tmp_path, "fail")) == files(clips)


# Opens the store of a folder's recordings in a folder, and decodes none before a file lets it.
OPENING = """
import logging, sys, time
from pathlib import Path
import joblib
from spectrnn.data import cache
from spectrnn.data.clips import Clip

def waiting(*arguments):
    while not Path(sys.argv[3]).exists():
        time.sleep(0.01)
    return decode(*arguments)

joblib.cpu_count = lambda: 1
logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
decode, cache.load_audio = cache.load_audio, waiting
clips = [Clip(str(path), "noise") for path in sorted(Path(sys.argv[1]).iterdir())]
cache.open_cache(clips, 8000, Path(sys.argv[2]), "fail")
"""


@pytest.fixture
def opening(clips: list[Clip], tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts a process that opens the store of the clips, and builds it when the file ``go`` exists."""
    command = [sys.executable, "-c", OPENING, str(Path(clips[0].path).parent), str(tmp_path), str(tmp_path / "go")]
    started = []

    def start() -> subprocess.Popen[str]:
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def begun(tmp_path: Path) -> None:
    """Waits until a store is being built."""
    until = time.monotonic() + 30
    while not any(name.endswith(".tmp") for name in folders(tmp_path)):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_of_two_processes_one_builds_and_one_waits(
    clips: list[Clip], tmp_path: Path, opening: Callable[[], subprocess.Popen[str]]
):
    first = opening()
    begun(tmp_path)
    second = opening()
    assert second.stdout is not None
    assert second.stdout.readline() == "another run is decoding this dataset; waiting for it\n"
    (tmp_path / "go").touch()
    assert "decoded 10 clips" in first.communicate(timeout=30)[0]
    assert second.communicate(timeout=30)[0] == ""
    assert (first.returncode, second.returncode) == (0, 0)
    assert folders(tmp_path) == [cache_key(clips, RATE)]


def test_a_killed_build_leaves_nothing_that_counts(
    clips: list[Clip], tmp_path: Path, opening: Callable[[], subprocess.Popen[str]]
):
    process = opening()
    begun(tmp_path)
    process.kill()
    process.wait()
    (stale,) = folders(tmp_path)
    assert stale.endswith(".tmp")
    assert samples(open_cache(clips, RATE, tmp_path, "fail")) == files(clips)
    assert folders(tmp_path) == [cache_key(clips, RATE)]


def test_a_decoding_process_that_dies_is_told(clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parallel, "_CLIPS", 3)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    monkeypatch.setattr(module, "_decode", lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(UserError, match=rf"^{clips[0].path}: a decoding process died") as caught:
        open_cache(clips, RATE, tmp_path, "fail")
    assert "\n" not in str(caught.value)
    assert folders(tmp_path) == []


def test_a_cache_that_cannot_be_written_is_named(clips: list[Clip], tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^data.cache: the store cannot be written to .*/file/stores: "):
        open_cache(clips, RATE, tmp_path / "file", "fail")


@pytest.mark.parametrize("name", ["wave.int16", "offsets.npy", "digests.npy"])
@pytest.mark.parametrize("kept", [0, 0.5, None])
def test_a_damaged_store_is_refused(clips: list[Clip], tmp_path: Path, name: str, kept: float | None):
    open_cache(clips, RATE, tmp_path, "fail")
    folder = tmp_path / "stores" / cache_key(clips, RATE)
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if kept is not None:
        (folder / name).write_bytes(content[: int(kept * len(content))])
    with pytest.raises(UserError, match=rf"{folder.name}: the store is damaged; delete the folder") as caught:
        open_cache(clips, RATE, tmp_path, "fail")
    assert "\n" not in str(caught.value)
