"""The cache of decoded datasets: decoded once, identified by everything that changes a sample, complete or absent."""

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
    """Paths of the decoded files, in order."""
    decode, decoded = module.load_audio, []

    def recording(path: str, *arguments: float | None) -> np.ndarray:
        decoded.append(path)
        return decode(path, *arguments)

    monkeypatch.setattr(module, "load_audio", recording)
    return decoded


def folders(cache: Path) -> list[str]:
    """Names of the cached datasets and of temporary folders."""
    return sorted(os.listdir(cache / "datasets")) if (cache / "datasets").exists() else []


def samples(cache: WaveformCache) -> list[list[int]]:
    """Samples of each clip."""
    waveform = np.fromfile(cache.path, np.int16)
    return [waveform[start:end].tolist() for start, end in zip(cache.offsets, cache.offsets[1:], strict=False)]


def files(clips: Sequence[Clip]) -> list[list[int]]:
    """Samples of each clip as soundfile reads them."""
    return [soundfile.read(clip.path, dtype="int16")[0].tolist() for clip in clips]


def test_offsets_locate_every_clip(clips: list[Clip], tmp_path: Path):
    cache = open_cache(clips, RATE, tmp_path, "fail")
    assert cache.offsets.dtype == np.int64
    assert cache.offsets.tolist() == np.cumsum([0, *range(100, 1001, 100)]).tolist()
    assert cache.lengths.tolist() == list(range(100, 1001, 100))
    assert cache.sample_rate == RATE
    assert samples(cache) == files(clips)
    # Silence of the longest clip's length follows.
    assert np.fromfile(cache.path, np.int16)[cache.offsets[-1] :].tolist() == [0] * 1000


def test_parts_of_a_file_are_clips(clips: list[Clip], tmp_path: Path):
    parts = [clips[9]._replace(start=0.05, end=0.1), clips[9]._replace(end=0.025), clips[9]]
    whole = files(clips)[9]
    assert samples(open_cache(parts, RATE, tmp_path, "fail")) == [whole[400:800], whole[:200], whole]


def test_dataset_is_decoded_once(clips: list[Clip], tmp_path: Path, decodings: list[str]):
    first = open_cache(clips, RATE, tmp_path, "fail")
    assert decodings == [clip.path for clip in clips]
    second = open_cache(clips, RATE, tmp_path, "fail")
    assert len(decodings) == 10
    assert first.path == second.path
    assert first.offsets.tolist() == second.offsets.tolist()
    assert folders(tmp_path) == [cache_key(clips, RATE)]


def test_labels_and_splits_do_not_change_the_key(clips: list[Clip], tmp_path: Path, decodings: list[str]):
    open_cache(clips, RATE, tmp_path, "fail")
    open_cache([clip._replace(label="x", split="test", fold="3", group="g") for clip in clips], RATE, tmp_path, "fail")
    assert len(decodings) == 10
    assert len(folders(tmp_path)) == 1


def touched(clips: list[Clip]) -> list[Clip]:
    stat = os.stat(clips[3].path)
    os.utime(clips[3].path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    return clips


def longer(clips: list[Clip]) -> list[Clip]:
    stat = os.stat(clips[3].path)
    soundfile.write(clips[3].path, np.zeros(401, np.int16), RATE)
    os.utime(clips[3].path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # so that only the size differs
    return clips


def in_another_folder(clips: list[Clip]) -> list[Clip]:
    path = Path(clips[0].path).parent / "other" / "0.wav"
    path.parent.mkdir()
    stat = os.stat(clips[0].path)
    path.write_bytes(Path(clips[0].path).read_bytes()[:-2] + b"\1\2")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return [Clip(str(path), "noise"), *clips[1:]]


def chmodded(clips: list[Clip]) -> list[Clip]:
    os.chmod(clips[3].path, 0o600)  # it may have been unreadable before
    return clips


CHANGES: dict[str, Callable[[list[Clip]], list[Clip]]] = {
    "modification time": touched,
    "file size": longer,
    "permissions": chmodded,
    "another file of the same name, size and time": in_another_folder,
    "removed clip": lambda clips: clips[:-1],
    "repeated clip": lambda clips: [*clips, clips[0]],
    "order": lambda clips: [clips[1], clips[0], *clips[2:]],
    "start": lambda clips: [clips[0]._replace(start=0.001), *clips[1:]],
    "end": lambda clips: [clips[0]._replace(end=0.01), *clips[1:]],
}


@pytest.mark.parametrize("change", CHANGES)
def test_key_changes_with_the_samples(clips: list[Clip], tmp_path: Path, change: str):
    before = cache_key(clips, RATE)
    open_cache(clips, RATE, tmp_path, "fail")
    changed = CHANGES[change](list(clips))
    assert cache_key(changed, RATE) != before
    cache = open_cache(changed, RATE, tmp_path, "fail")
    assert len(folders(tmp_path)) == 2
    assert samples(cache) == [
        waveform[round(clip.start * RATE) : clip.end and round(clip.end * RATE)]
        for waveform, clip in zip(files(changed), changed, strict=True)
    ]


def test_key_changes_with_the_sample_rate(clips: list[Clip], tmp_path: Path):
    first, second = open_cache(clips, RATE, tmp_path, "fail"), open_cache(clips, 2 * RATE, tmp_path, "fail")
    assert len(folders(tmp_path)) == 2
    assert second.sample_rate == 2 * first.sample_rate
    assert second.lengths.tolist() == (2 * first.lengths).tolist()


def test_relative_paths_have_the_same_key(clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    relative = [clip._replace(path=os.path.relpath(clip.path)) for clip in clips]
    assert cache_key(relative, RATE) == cache_key(clips, RATE)


def test_result_does_not_depend_on_the_number_of_processes(
    clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(parallel, "_MAX_CLIPS", 3)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 1)
    serial = open_cache(clips, RATE, tmp_path / "serial", "fail")
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    concurrent = open_cache(clips, RATE, tmp_path / "parallel", "fail")
    assert concurrent.path.read_bytes() == serial.path.read_bytes()
    assert concurrent.offsets.tolist() == serial.offsets.tolist()
    assert samples(concurrent) == files(clips)


def test_chunks_are_limited_by_file_size(clips: list[Clip], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parallel, "_MAX_BYTES", 3000)  # the files have 244, 444, ..., 2,044
    chunks = list(parallel._chunks(clips))
    assert [clip for chunk in chunks for clip in chunk] == clips
    assert [len(chunk) for chunk in chunks] == [5, 3, 2]


# Errors


def test_all_unreadable_files_are_reported_and_nothing_is_kept(
    clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(parallel, "_MAX_CLIPS", 3)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 1)
    Path(clips[2].path).write_bytes(b"")
    Path(clips[5].path).write_text("no audio")
    Path(clips[7].path).write_bytes(Path(clips[7].path).read_bytes()[:-50])
    with pytest.raises(UserError) as error:
        open_cache(clips, RATE, tmp_path, "fail")
    assert str(error.value).splitlines() == [
        f"{clips[2].path}: is empty (0 bytes)",
        f"{clips[5].path}: cannot be read as audio (Format not recognised)",
        f"{clips[7].path}: is truncated; its header announces more samples than it contains",
    ]
    assert folders(tmp_path) == []


def test_all_missing_and_empty_files_are_reported(tmp_path: Path):
    paths = [tmp_path / f"{number:02d}.wav" for number in range(30)]
    for path in paths[::2]:
        path.touch()
    with pytest.raises(UserError) as error:
        open_cache([Clip(str(path), "x") for path in paths], RATE, tmp_path, "fail")
    lines = str(error.value).splitlines()
    assert lines[::2] == [f"{path}: is empty (0 bytes)" for path in paths[::2]]
    assert lines[1::2] == [f"{path}: no such file" for path in paths[1::2]]
    assert folders(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_interrupted_decoding_leaves_nothing(
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


# Opens the cache (argument 2) of a folder of recordings (1), and waits for a file (3) before it decodes.
OPEN_CACHE = """
import logging, sys, time
from pathlib import Path
import joblib
from spectrnn.data import cache
from spectrnn.data.clips import Clip

def wait_and_decode(*arguments):
    while not Path(sys.argv[3]).exists():
        time.sleep(0.01)
    return decode(*arguments)

joblib.cpu_count = lambda: 1
logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
decode, cache.load_audio = cache.load_audio, wait_and_decode
clips = [Clip(str(path), "noise") for path in sorted(Path(sys.argv[1]).iterdir())]
cache.open_cache(clips, 8000, Path(sys.argv[2]), "fail")
"""


@pytest.fixture
def open_in_process(clips: list[Clip], tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts a process that opens the cache of the clips, and decodes them when the file ``go`` exists."""
    command = [sys.executable, "-c", OPEN_CACHE, str(Path(clips[0].path).parent), str(tmp_path), str(tmp_path / "go")]
    started = []

    def start() -> subprocess.Popen[str]:
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for_decoding(tmp_path: Path) -> None:
    """Waits until a dataset is being decoded."""
    deadline = time.monotonic() + 30
    while not any(name.endswith(".tmp") for name in folders(tmp_path)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_of_two_processes_decodes_and_the_other_waits(
    clips: list[Clip], tmp_path: Path, open_in_process: Callable[[], subprocess.Popen[str]]
):
    first = open_in_process()
    wait_for_decoding(tmp_path)
    second = open_in_process()
    assert second.stdout is not None
    assert second.stdout.readline() == "another process is decoding this dataset; waiting for it\n"
    (tmp_path / "go").touch()
    assert "decoded 10 clips" in first.communicate(timeout=30)[0]
    assert second.communicate(timeout=30)[0] == ""
    assert (first.returncode, second.returncode) == (0, 0)
    assert folders(tmp_path) == [cache_key(clips, RATE)]


def test_leftover_of_a_killed_process_is_removed(
    clips: list[Clip], tmp_path: Path, open_in_process: Callable[[], subprocess.Popen[str]]
):
    process = open_in_process()
    wait_for_decoding(tmp_path)
    process.kill()
    process.wait()
    (stale,) = folders(tmp_path)
    assert stale.endswith(".tmp")
    assert samples(open_cache(clips, RATE, tmp_path, "fail")) == files(clips)
    assert folders(tmp_path) == [cache_key(clips, RATE)]


def test_killed_decoding_process_is_reported(clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parallel, "_MAX_CLIPS", 3)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    monkeypatch.setattr(module, "_decode", lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    message = (
        f"{clips[0].path}: a decoding process was killed, by lack of memory or by a broken file, while reading this "
        f"file or one up to {clips[9].path}"
    )
    with pytest.raises(UserError, match=f"^{message}$"):
        open_cache(clips, RATE, tmp_path, "fail")
    assert folders(tmp_path) == []


def test_unwritable_cache_is_reported(clips: list[Clip], tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^data.cache: cannot be written to .*/file/datasets: Not a directory$"):
        open_cache(clips, RATE, tmp_path / "file", "fail")


@pytest.mark.parametrize("name", ["samples.int16", "offsets.npy", "hashes.npy", "errors.json"])
@pytest.mark.parametrize("kept", [0, 0.5, None])
def test_damaged_cache_is_reported(clips: list[Clip], tmp_path: Path, name: str, kept: float | None):
    open_cache(clips, RATE, tmp_path, "fail")
    folder = tmp_path / "datasets" / cache_key(clips, RATE)
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if kept is not None:
        (folder / name).write_bytes(content[: int(kept * len(content))])
    message = f"{folder}: the cached dataset is damaged; delete the folder to decode it again"
    with pytest.raises(UserError, match=f"^{message}$"):
        open_cache(clips, RATE, tmp_path, "fail")
