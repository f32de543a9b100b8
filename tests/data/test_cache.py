"""The cache of decoded datasets: decoded once, identified by everything that changes a sample, complete or absent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import soundfile

from spectrnn.data import cache as module
from spectrnn.data import parallel
from spectrnn.data.cache import WaveformCache, clip_identities, open_cache
from spectrnn.data.cache_entries import decoded_entries, decoded_size, prune, prune_decoded
from spectrnn.data.clips import Clip
from spectrnn.errors import FileErrors, UserError

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
    decode, decoded = module.decode_clip, []

    def recording(path: str, *arguments: Any) -> tuple[np.ndarray, list[str]]:
        decoded.append(path)
        return decode(path, *arguments)

    monkeypatch.setattr(module, "decode_clip", recording)
    return decoded


def folders(cache: Path) -> list[str]:
    """Names of the segments and of temporary folders."""
    return sorted(os.listdir(cache / "datasets")) if (cache / "datasets").exists() else []


def samples(cache: WaveformCache) -> list[list[int]]:
    """Samples of each clip."""
    spans = zip(cache.offsets, cache.lengths, strict=True)
    return [cache.samples.read(int(start), int(length)).tolist() for start, length in spans]


def files(clips: Sequence[Clip]) -> list[list[int]]:
    """Samples of each clip as soundfile reads them."""
    return [soundfile.read(clip.path, dtype="int16")[0].tolist() for clip in clips]


def test_offsets_locate_every_clip(clips: list[Clip], tmp_path: Path):
    cache = open_cache(clips, RATE, tmp_path, "fail")
    assert cache.offsets.dtype == np.int64
    assert cache.offsets.tolist() == np.cumsum([0, *range(100, 1000, 100)]).tolist()
    assert cache.lengths.tolist() == list(range(100, 1001, 100))
    assert cache.sample_rate == RATE
    assert samples(cache) == files(clips)
    assert (cache.samples.size, cache.samples.longest) == (5500, 1000)
    assert len(cache.samples.layout.starts) == 1  # a single part


def test_parts_of_a_file_are_clips(clips: list[Clip], tmp_path: Path):
    parts = [clips[9]._replace(start=0.05, end=0.1), clips[9]._replace(end=0.025), clips[9]]
    whole = files(clips)[9]
    assert samples(open_cache(parts, RATE, tmp_path, "fail")) == [whole[400:800], whole[:200], whole]


def test_dataset_is_decoded_once(clips: list[Clip], tmp_path: Path, decodings: list[str]):
    first = open_cache(clips, RATE, tmp_path, "fail")
    assert decodings == [clip.path for clip in clips]
    second = open_cache(clips, RATE, tmp_path, "fail")
    assert len(decodings) == 10
    assert samples(first) == samples(second) == files(clips)
    assert first.offsets.tolist() == second.offsets.tolist()
    assert len(folders(tmp_path)) == 1


def test_labels_and_splits_do_not_change_the_identity(clips: list[Clip], tmp_path: Path, decodings: list[str]):
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
def test_only_what_changed_is_decoded(clips: list[Clip], tmp_path: Path, decodings: list[str], change: str):
    before = clip_identities(clips, RATE).tolist()
    open_cache(clips, RATE, tmp_path, "fail")
    decodings.clear()
    changed = CHANGES[change](list(clips))
    new = [
        clip for clip, row in zip(changed, clip_identities(changed, RATE).tolist(), strict=True) if row not in before
    ]
    assert len(new) == (change not in ("removed clip", "repeated clip", "order"))
    cache = open_cache(changed, RATE, tmp_path, "fail")
    assert decodings == [clip.path for clip in new]  # the others are reused
    assert len(folders(tmp_path)) == 1 + len(new)
    assert samples(cache) == [
        waveform[round(clip.start * RATE) : clip.end and round(clip.end * RATE)]
        for waveform, clip in zip(files(changed), changed, strict=True)
    ]


def test_sample_rates_are_decoded_separately(clips: list[Clip], tmp_path: Path):
    first, second = open_cache(clips, RATE, tmp_path, "fail"), open_cache(clips, 2 * RATE, tmp_path, "fail")
    assert len(folders(tmp_path)) == 2
    assert second.sample_rate == 2 * first.sample_rate
    assert second.lengths.tolist() == (2 * first.lengths).tolist()


def test_relative_paths_have_the_same_identity(clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    relative = [clip._replace(path=os.path.relpath(clip.path)) for clip in clips]
    assert clip_identities(relative, RATE).tolist() == clip_identities(clips, RATE).tolist()


def test_result_does_not_depend_on_the_number_of_processes(
    clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(parallel, "_MAX_CLIPS", 3)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 1)
    serial = open_cache(clips, RATE, tmp_path / "serial", "fail")
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    concurrent = open_cache(clips, RATE, tmp_path / "parallel", "fail")
    assert samples(concurrent) == samples(serial)
    assert concurrent.offsets.tolist() == serial.offsets.tolist()
    assert samples(concurrent) == files(clips)


def test_chunks_are_limited_by_file_size(clips: list[Clip], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parallel, "_MAX_BYTES", 3000)  # the files have 244, 444, ..., 2,044
    chunks = list(parallel._chunks(clips))
    assert [clip for chunk in chunks for clip in chunk] == clips
    assert [len(chunk) for chunk in chunks] == [5, 3, 2]


# Errors


def test_all_unreadable_files_are_reported_and_the_others_are_kept(
    clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decodings: list[str]
):
    monkeypatch.setattr(parallel, "_MAX_CLIPS", 3)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 1)
    Path(clips[2].path).write_bytes(b"")
    Path(clips[5].path).write_text("no audio")
    soundfile.write(clips[7].path, np.array([np.nan]), RATE, subtype="FLOAT")
    with pytest.raises(UserError) as error:
        open_cache(clips, RATE, tmp_path, "fail")
    assert str(error.value).splitlines() == [
        f"{clips[2].path}: is empty (0 bytes)",
        f"{clips[5].path}: cannot be read as audio (Format not recognised)",
        f"{clips[7].path}: contains values that are not finite (NaN or Inf), or far beyond full scale",
        f"  {FileErrors.REMEDY}",
    ]
    for number in (2, 5, 7):
        soundfile.write(clips[number].path, np.arange(number, dtype=np.int16), RATE)
    decodings.clear()
    assert samples(open_cache(clips, RATE, tmp_path, "fail")) == files(clips)
    assert decodings == [clips[number].path for number in (2, 5, 7)]


def test_all_missing_and_empty_files_are_reported(tmp_path: Path):
    paths = [tmp_path / f"{number:02d}.wav" for number in range(30)]
    for path in paths[::2]:
        path.touch()
    with pytest.raises(UserError) as error:
        open_cache([Clip(str(path), "x") for path in paths], RATE, tmp_path, "fail")
    assert isinstance(error.value, FileErrors)
    assert str(error.value).splitlines() == [
        *error.value.errors[:9],
        "... and 21 more files",
        f"  {FileErrors.REMEDY}",
    ]
    lines = error.value.errors
    assert lines[::2] == [f"{path}: is empty (0 bytes)" for path in paths[::2]]
    assert lines[1::2] == [f"{path}: no such file" for path in paths[1::2]]
    assert folders(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_interrupted_decoding_leaves_nothing(
    clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
):
    decode = module.decode_clip

    def interrupted(path: str, *arguments: Any) -> tuple[np.ndarray, list[str]]:
        if path == clips[6].path:
            raise error
        return decode(path, *arguments)

    monkeypatch.setattr(module, "decode_clip", interrupted)
    with pytest.raises(error):
        open_cache(clips, RATE, tmp_path, "fail")
    assert folders(tmp_path) == []
    monkeypatch.undo()
    assert samples(open_cache(clips, RATE, tmp_path, "fail")) == files(clips)


# Opens the cache (argument 2) of a folder of recordings (1), and waits for a file (3) before it decodes.
OPEN_CACHE = """
import logging, sys, time
from pathlib import Path
from typing import Any
import joblib
from spectrnn.data import cache
from spectrnn.data.cache_entries import decoded_entries, decoded_size, prune, prune_decoded
from spectrnn.data.clips import Clip

def wait_and_decode(*arguments):
    while not Path(sys.argv[3]).exists():
        time.sleep(0.01)
    return decode(*arguments)

joblib.cpu_count = lambda: 1
logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
decode, cache.decode_clip = cache.decode_clip, wait_and_decode
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
    assert len(folders(tmp_path)) == 1


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
    (name,) = folders(tmp_path)
    assert not name.endswith(".tmp")


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


@pytest.mark.parametrize("name", ["samples.int16", "clips.npy", "index.json"])
@pytest.mark.parametrize("kept", [0, 0.5, None])
def test_damaged_segment_is_decoded_again(
    clips: list[Clip], tmp_path: Path, decodings: list[str], name: str, kept: float | None
):
    open_cache(clips, RATE, tmp_path, "fail")
    (folder,) = (tmp_path / "datasets").iterdir()
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if kept is not None:
        (folder / name).write_bytes(content[: int(kept * len(content))])
    decodings.clear()
    assert samples(open_cache(clips, RATE, tmp_path, "fail")) == files(clips)
    assert len(decodings) == 10
    assert prune_decoded(tmp_path, 1.0) == 0
    removed = prune(decoded_entries(tmp_path), decoded_size(tmp_path) - 1)
    assert [entry.path for entry in removed] == [folder]  # although the other one was used before, it is damaged


# Growth


def test_corpus_that_grows_needs_the_space_of_its_recordings(clips: list[Clip], tmp_path: Path, decodings: list[str]):
    table: list[Clip] = []
    generator = np.random.default_rng(0)
    for number in range(50):
        path = tmp_path / "growing" / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, generator.integers(-(2**15), 2**15, 200, dtype=np.int16), RATE)
        table.append(Clip(str(path), "noise"))
        cache = open_cache(table, RATE, tmp_path, "fail")
        assert samples(cache) == files(table)
        assert len(cache.samples.files) <= 16
        for file in cache.samples.files:
            file.close()  # as when the process ends
    assert decodings == [clip.path for clip in table]  # each once
    assert len(folders(tmp_path)) <= 16
    assert sum(file.stat().st_size for file in (tmp_path / "datasets").glob("*/samples.int16")) == 2 * 200 * 50


def test_segment_of_which_little_is_used_is_left(clips: list[Clip], tmp_path: Path, decodings: list[str]):
    open_cache(clips, RATE, tmp_path, "fail")
    (first,) = folders(tmp_path)
    changed = [clips[0]._replace(end=0.005), *clips[1:3]]
    assert len(open_cache(clips[1:3], RATE, tmp_path, "fail").samples.files) == 1
    assert folders(tmp_path) == [first]  # read from it
    cache = open_cache(changed, RATE, tmp_path, "fail")
    assert len(decodings) == 11
    (file,) = cache.samples.files  # all of it is in the new segment
    assert first not in str(file.name)
    assert samples(cache) == [files(clips)[0][:40], *files(clips)[1:3]]
    assert len(folders(tmp_path)) == 2


def test_repeated_clips_are_decoded_once(clips: list[Clip], tmp_path: Path, decodings: list[str]):
    table = [clips[3], clips[1], clips[3], clips[3], clips[4]]
    cache = open_cache(table, RATE, tmp_path, "fail")
    assert samples(cache) == files(table)
    assert decodings == [clips[number].path for number in (3, 1, 4)]


def test_errors_and_warnings_are_kept_with_their_clips(
    clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def decode(path: str, *arguments: Any) -> tuple[np.ndarray, list[str]]:
        number = int(Path(path).stem)
        if number % 4 == 1:
            raise UserError(f"{number}: unreadable")
        return np.full(number + 1, number, np.int16), [f"{number}: {text}" for text in ("a", "b")[: number % 3]]

    monkeypatch.setattr(module, "decode_clip", decode)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 1)
    warnings = {2: ["2: a", "2: b"], 4: ["4: a"], 7: ["7: a"], 8: ["8: a", "8: b"]}
    for rows in ([1, 2, 3], [3, 2, 1], [7, 5, 2, 8, 4, 1, 3], [2], [4, 7], [1, 0]):
        for _ in range(2):  # decoded, and from the cache
            cache = open_cache([clips[row] for row in rows], RATE, tmp_path, "skip")
            assert cache.errors == [f"{row}: unreadable" for row in rows if row % 4 == 1]
            assert cache.warnings == [text for row in rows for text in warnings.get(row, [])]
            assert cache.lengths.tolist() == [0 if row % 4 == 1 else row + 1 for row in rows]
    with pytest.raises(FileErrors, match=r"^5: unreadable\n1: unreadable\n  data"):
        open_cache([clips[row] for row in (5, 1, 2)], RATE, tmp_path, "fail")
    with pytest.raises(FileErrors, match=r"^5: unreadable\n9: unreadable\n  data"):
        open_cache([clips[row] for row in (5, 6, 9)], RATE, tmp_path, "fail")
    cache = open_cache([clips[row] for row in (6, 8)], RATE, tmp_path, "fail")
    assert cache.warnings == warnings[8]
    assert cache.drop_empty().lengths.tolist() == [7, 9]


# Limits


@pytest.fixture
def parts(clips: list[Clip], tmp_path: Path) -> list[Path]:
    """Segments of one clip each, of 800, 900 and 1000 samples, last used in another order: 900, 1000, 800."""
    segments = []
    for number, used in ((7, 30), (8, 10), (9, 20)):
        before = {*folders(tmp_path)}
        open_cache([clips[number]], RATE, tmp_path, "fail").samples.files[0].close()
        (name,) = {*folders(tmp_path)} - before
        segments.append(tmp_path / "datasets" / name)
        os.utime(segments[-1] / "samples.int16", (used, used))
    return segments


def test_least_recently_used_segments_are_removed(clips: list[Clip], tmp_path: Path, parts: list[Path]):
    sizes = [sum(file.stat().st_size for file in part.iterdir()) for part in parts]
    total = decoded_size(tmp_path)
    assert total == sum(sizes)
    assert prune_decoded(tmp_path, None) == prune_decoded(tmp_path, "auto") == prune_decoded(tmp_path, total / 1e9) == 0
    assert prune_decoded(tmp_path, (total - 1) / 1e9) > 0
    assert folders(tmp_path) == sorted(part.name for part in (parts[0], parts[2]))
    open_cache([clips[9]], RATE, tmp_path, "fail").samples.files[0].close()
    prune_decoded(tmp_path, (decoded_size(tmp_path) - 1) / 1e9)
    assert folders(tmp_path) == [parts[2].name]


@pytest.mark.skipif(os.name == "nt", reason="needs locks of open files")
def test_segment_in_use_is_not_removed(clips: list[Clip], tmp_path: Path, parts: list[Path]):
    cache = open_cache([clips[8]], RATE, tmp_path, "fail")
    os.utime(parts[1] / "samples.int16", (1, 1))  # the least recently used
    assert prune_decoded(tmp_path, 1e-9) > 0
    assert folders(tmp_path) == [parts[1].name]
    assert samples(cache) == files([clips[8]])
    cache.samples.files[0].close()
    prune_decoded(tmp_path, 1e-9)
    assert folders(tmp_path) == []


def test_limit_applies_when_clips_are_decoded(clips: list[Clip], tmp_path: Path, parts: list[Path]):
    cache = open_cache(clips[:1], RATE, tmp_path, "fail", max_gb=1e-9)
    (name,) = folders(tmp_path)  # its own, which is larger than the limit
    assert name in str(cache.samples.files[0].name)


def test_outdated_and_incomplete_folders_are_removed_first(clips: list[Clip], tmp_path: Path, parts: list[Path]):
    old, killed, written = (tmp_path / "datasets" / name for name in ("0" * 32, ".1.x.tmp", ".2.x.tmp"))
    for folder in (old, killed, written):
        folder.mkdir()
        (folder / "samples.int16").write_bytes(bytes(1000))
    os.utime(killed / "samples.int16", (1000, 1000))
    (old / "offsets.npy").touch()
    kinds = {entry.path: entry.kind for entry in decoded_entries(tmp_path)}
    assert kinds == dict.fromkeys((old, killed, written), "outdated") | dict.fromkeys(parts, "decoded")
    prune_decoded(tmp_path, (decoded_size(tmp_path) - 1500) / 1e9)
    assert not old.exists()
    assert not killed.exists()
    assert written.exists()  # it may be written just now
    assert all(part.exists() for part in parts)


# Folders that cannot be written


def test_read_only_cache_is_read_and_else_the_temporary_folder_is_used(
    clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def refuse(**arguments: Any) -> None:
        raise PermissionError(13, "Permission denied")

    caplog.set_level("WARNING")  # an earlier command of the same process may have lowered it
    cache = tmp_path / "cache"
    open_cache(clips[:5], RATE, cache, "fail")
    before = folders(cache)
    monkeypatch.setattr("spectrnn.files.tempfile.TemporaryFile", refuse)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (own,) = {*tmp_path.glob("spectrnn-*")} or {tmp_path / f"spectrnn-{os.getuid()}"}
    assert samples(open_cache(clips[:5], RATE, cache, "fail")) == files(clips[:5])
    assert not own.exists()
    for _ in range(2):
        assert samples(open_cache(clips, RATE, cache, "fail")) == files(clips)
    assert folders(cache) == before
    assert len(folders(own)) == 1
    assert caplog.messages == [f"data.cache: {cache} cannot be written (Permission denied); using {own}"]
    assert own.stat().st_mode & 0o077 == 0
